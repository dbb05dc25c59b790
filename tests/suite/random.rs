//! The random numbers: what the keep bits and RReLU's slopes look like, and that no two calls share any.
//! The CPU backend draws the bits; the other backends draw the same.

use drop_activation::{DropActivation, MaskKey, RRelu, cpu};
use rayon::prelude::*;

use crate::data::Rng;
use crate::statistics::{assert_chi_square, assert_mean, assert_normal, assert_uniform};

/// Bits that should be 1 with probability `p`, each on its own.
struct Bits {
    words: Vec<u64>,
    p: f64,
    /// After so many a bit's place comes again: those of two mask words, or of a slope. It divides three words.
    period: usize,
    ones: u64,
    name: String,
}

impl Bits {
    fn new(words: Vec<u64>, p: f64, period: usize, name: String) -> Self {
        let ones = ones(&words);
        Self { words, p, period, ones, name }
    }

    /// Keep bits and the exact probability of each: p rounded to a multiple of 2^-32.
    fn keep(p: f64, key: MaskKey, len: usize) -> Self {
        let op = DropActivation::relu(p).unwrap();
        let mask = cpu::keep_mask(&op, key, len).unwrap();
        let words = mask.as_chunks::<2>().0.iter().map(|&[a, b]| u64::from(a) | u64::from(b) << 32).collect();
        Self::new(words, op.threshold() as f64 / 2f64.powi(32), 64, format!("keep bits, p = {p}, {key:?}"))
    }

    /// The 24 random bits of each slope.
    fn slopes(key: MaskKey, len: usize) -> Self {
        let integers = slope_integers(key, len / 24);
        let pack = |slopes: &[u32; 8]| {
            let shifted_in =
                |[a, b, c]: [u64; 3], slope: &u32| [a << 24 | u64::from(*slope), b << 24 | a >> 40, c << 24 | b >> 40];
            slopes.iter().rev().fold([0; 3], shifted_in)
        };
        let words = integers.as_chunks::<8>().0.iter().flat_map(pack).collect();
        Self::new(words, 0.5, 24, format!("slopes, {key:?}"))
    }

    fn len(&self) -> f64 {
        64.0 * self.words.len() as f64
    }

    /// How often bits are set, over all and by their place.
    fn frequencies(&self) {
        let spread = (self.p * (1.0 - self.p)).sqrt();
        let what = || format!("{}: frequency", self.name);
        assert_normal(&what, self.ones as f64, self.p * self.len(), spread * self.len().sqrt());
        let mut set = vec![0; self.period];
        let whole = self.words.as_chunks::<3>().0;
        for i in 0..3 * 64 {
            set[i % self.period] += whole.iter().map(|words| words[i / 64] >> (i % 64) & 1).sum::<u64>();
        }
        let n = 192.0 / self.period as f64 * whole.len() as f64;
        for (place, set) in set.into_iter().enumerate() {
            let what = || format!("{}: frequency at bit {place}", self.name);
            assert_normal(&what, set as f64, self.p * n, spread * n.sqrt());
        }
    }

    /// Covariance of bit i with bit i + lag of another stream of the same p, which may be this one.
    fn correlation(&self, other: &Self, lag: usize) {
        let (skip, shift) = (lag / 64, lag % 64);
        let words = self.words.len() - skip - 1;
        let later = |pair: &[u64]| pair[0] >> shift | pair[1] << 1 << (63 - shift);
        let pairs = self.words[..words].iter().zip(other.words[skip..].windows(2));
        let both = pairs.map(|(a, pair)| u64::from((a & later(pair)).count_ones())).sum::<u64>();
        let first = self.ones - ones(&self.words[words..]);
        let (last, end) = (other.words[other.words.len() - 1], other.words[skip] & ((1 << shift) - 1));
        let second = other.ones - ones(&other.words[..skip]) - ones(&[end, last >> shift]);
        let n = 64.0 * words as f64;
        let covariance = both as f64 - self.p * (first + second) as f64 + self.p * self.p * n;
        let what = || format!("{} with {}: correlation at lag {lag}", self.name, other.name);
        assert_normal(&what, covariance, 0.0, self.p * (1.0 - self.p) * n.sqrt());
    }

    /// How many runs of equal bits there are, and how long they are: with an end after each bit that is as
    /// likely as the other value.
    fn runs(&self) {
        let mut lengths = [Vec::new(), Vec::new()];
        let (mut bit, mut length) = (self.words[0] as usize & 1, 0);
        for &word in &self.words {
            let (mut word, mut left) = (word, 64);
            while left != 0 {
                let same = left.min(if bit == 1 { word.trailing_ones() } else { word.trailing_zeros() });
                length += same as usize;
                left -= same;
                if left != 0 {
                    word >>= same;
                    let lengths: &mut Vec<u64> = &mut lengths[bit];
                    lengths.resize(lengths.len().max(length + 1), 0);
                    lengths[length] += 1;
                    (bit, length) = (1 - bit, 0);
                }
            }
        }
        let pq = self.p * (1.0 - self.p);
        // Neighbouring pairs share a bit: their changes have covariance pq - 4 (pq)^2.
        let deviation = (4.0 * pq * (1.0 - 3.0 * pq) * self.len()).sqrt();
        let count = lengths.each_ref().map(|of_bit| of_bit.iter().sum::<u64>());
        let runs = (count[0] + count[1]) as f64;
        assert_normal(&|| format!("{}: runs", self.name), runs, 2.0 * pq * self.len(), deviation);

        for (bit, goes_on) in [1.0 - self.p, self.p].into_iter().enumerate() {
            let mut cells = Vec::new();
            let (mut left, mut expected_left) = (count[bit], count[bit] as f64);
            for &given in lengths[bit].iter().skip(1) {
                let expected = expected_left * (1.0 - goes_on);
                if expected.min(expected_left - expected) < RARE {
                    break;
                }
                cells.push((given, expected));
                left -= given;
                expected_left -= expected;
            }
            cells.push((left, expected_left));
            assert!(cells.len() > 1, "{}", self.name);
            assert_chi_square(&|| format!("{}: lengths of runs of {bit}", self.name), &cells);
        }
    }

    /// How often eight bits have each of their 256 values.
    fn patterns(&self, what: &dyn Fn() -> String, counts: &[u64; 256]) {
        let n = counts.iter().sum::<u64>() as f64;
        let expected = |byte: usize| {
            let ones = (byte as u8).count_ones() as i32;
            n * self.p.powi(ones) * (1.0 - self.p).powi(8 - ones)
        };
        let (mut cells, mut rare) = (Vec::new(), (0, 0.0));
        for (byte, &count) in counts.iter().enumerate() {
            if expected(byte) >= RARE {
                cells.push((count, expected(byte)));
            } else {
                rare = (rare.0 + count, rare.1 + expected(byte));
            }
        }
        if rare.1 >= RARE {
            cells.push(rare);
        }
        assert!(cells.len() > 8, "{}", self.name);
        assert_chi_square(&|| format!("{}: {}", self.name, what()), &cells);
    }

    /// The bytes of all words.
    fn bytes(&self) {
        let mut counts = [0; 256];
        self.words.iter().flat_map(|w| w.to_le_bytes()).for_each(|byte| counts[usize::from(byte)] += 1);
        self.patterns(&|| "bytes".to_owned(), &counts);
    }

    /// Each four bits of a mask word together with each four bits of the next.
    fn consecutive_words(&self) {
        let even: &mut dyn Iterator<Item = u64> = &mut self.words.iter().copied();
        let odd = &mut self.words.windows(2).map(|pair| pair[0] >> 32 | pair[1] << 32);
        for pairs in [even, odd] {
            let mut counts = vec![[0; 256]; 64];
            for pair in pairs {
                for (place, counts) in counts.iter_mut().enumerate() {
                    let (low, high) = (pair >> (4 * (place % 8)) & 15, pair >> (32 + 4 * (place / 8)) & 15);
                    counts[(high << 4 | low) as usize] += 1;
                }
            }
            for (place, counts) in counts.iter().enumerate() {
                let (low, high) = (4 * (place % 8), 4 * (place / 8));
                let what = || format!("the four bits from {low} on with those from {high} on of the next mask word");
                self.patterns(&what, counts);
            }
        }
    }
}

/// A cell that is expected to hold fewer is put together with others.
const RARE: f64 = 20.0;

fn ones(words: &[u64]) -> u64 {
    words.iter().map(|w| u64::from(w.count_ones())).sum()
}

/// All tests on one stream and on its neighbours in offset and seed.
fn examine(draw: impl Fn(MaskKey) -> Bits, lags: &[usize]) {
    let key = MaskKey::new(91, 92);
    let bits = draw(key);
    bits.frequencies();
    bits.runs();
    bits.bytes();
    bits.consecutive_words();
    lags.par_iter().for_each(|&lag| bits.correlation(&bits, lag));
    for neighbour in
        [MaskKey::new(91, 93), MaskKey::new(91, 92 + (1 << 32)), MaskKey::new(92, 92), MaskKey::new(92, 91)]
    {
        let other = draw(neighbour);
        for lag in [0, 1, 32, 1024] {
            bits.correlation(&other, lag);
            other.correlation(&bits, lag);
        }
    }
    // The lag at which a counter that is too short would come round: a stream 2^34 and 2^37 bits away,
    // where the slope's and the keep bit's first counter word wraps.
    for first in [1 << 34, 1 << 37] {
        bits.correlation(&draw(key.shard(first).unwrap()), 0);
    }
}

fn all_lags() -> Vec<usize> {
    (1..=4096).collect()
}

/// Two hundred of them: the short ones, those around powers of two, and others.
fn some_lags() -> Vec<usize> {
    let around = |k: usize| [k - 1, k, k + 1];
    let mut rng = Rng::new(93);
    let others = (0..64).map(|_| 1 + rng.below(4096));
    (1..=128).chain((8..=12).map(|e| 1 << e).flat_map(around)).chain(others).collect()
}

/// 2^22 bits for each p.
#[test]
fn keep_bits() {
    for p in [0.5, 0.95, 1.0 / 3.0] {
        examine(|key| Bits::keep(p, key, 1 << 22), &all_lags());
    }
}

/// 2^30 bits for each p. Minutes: `cargo test --release --test suite -- --ignored random`.
#[test]
#[ignore = "takes minutes"]
fn keep_bits_thoroughly() {
    for p in [0.5, 0.95, 1.0 / 3.0, 0.999] {
        examine(|key| Bits::keep(p, key, 1 << 30), &some_lags());
    }
}

/// With slopes from (almost) 0 to 1 each is the fraction `R >> 8` of 2^24 that it was drawn as.
fn slope_integers(key: MaskKey, len: usize) -> Vec<u32> {
    let op = RRelu::new(f32::MIN_POSITIVE, 1.0).unwrap();
    let mut y = vec![-1.0f32; len];
    cpu::rrelu_forward(&op, key, &mut y).unwrap();
    y.into_iter().map(|y| (-y * 2f32.powi(24)) as u32).collect()
}

/// 3 * 2^20 bits.
#[test]
fn slope_bits() {
    examine(|key| Bits::slopes(key, 3 << 20), &all_lags());
}

/// 3 * 2^29 bits.
#[test]
#[ignore = "takes minutes"]
fn slope_bits_thoroughly() {
    examine(|key| Bits::slopes(key, 3 << 29), &some_lags());
}

/// RReLU's slopes, brought to [0, 1).
fn uniforms(key: MaskKey, len: usize) -> Vec<f64> {
    let op = RRelu::default();
    let (lower, upper) = (f64::from(op.lower()), f64::from(op.upper()));
    let mut y = vec![-1.0f32; len];
    cpu::rrelu_forward(&op, key, &mut y).unwrap();
    y.into_iter().map(|y| (f64::from(-y) - lower) / (upper - lower)).collect()
}

fn examine_slopes(len: usize) {
    let key = MaskKey::new(94, 95);
    let u = uniforms(key, len);
    for lane in 0..4 {
        let mut of_lane: Vec<f64> = u.iter().skip(lane).step_by(4).copied().collect();
        assert_uniform(&|| format!("slopes {lane} modulo 4"), &mut of_lane);
    }
    assert_uniform(&|| "slopes".to_owned(), &mut u.clone());

    // Products of independent deviations have mean 0.
    let products = |a: &[f64], b: &[f64]| -> Vec<f64> { a.iter().zip(b).map(|(a, b)| (a - 0.5) * (b - 0.5)).collect() };
    for lag in [1, 2, 3, 4, 5, 31, 32, 33, 1024] {
        assert_mean(&|| format!("slopes at lag {lag}"), &products(&u, &u[lag..]), 0.0);
    }
    for neighbour in [MaskKey::new(94, 96), MaskKey::new(95, 95), key.shard(1 << 34).unwrap()] {
        let other = uniforms(neighbour, len);
        for lag in [0, 1, 4] {
            let what = || format!("slopes with {neighbour:?}, lag {lag}");
            assert_mean(&what, &products(&u, &other[lag..]), 0.0);
            assert_mean(&what, &products(&other, &u[lag..]), 0.0);
        }
    }
}

#[test]
fn slopes() {
    examine_slopes(1 << 19);
}

#[test]
#[ignore = "takes minutes"]
fn slopes_thoroughly() {
    examine_slopes(1 << 26);
}

/// The counters themselves. From the masks of one word under many thresholds follow its 32 uniform
/// integers, from these the generator's 32 output words, and from those, since Philox can be run
/// backwards, the eight counters that the call really used.
mod counters {
    use std::collections::HashSet;

    use drop_activation::reference::philox4x32_10;

    use super::*;

    /// The 32 uniform integers of global mask word `w`: each is the largest threshold that it is not below.
    fn uniform_integers(key: MaskKey) -> [u32; 32] {
        let mut found = [0u32; 32];
        for bit in (0..32).rev() {
            for (i, u) in found.iter_mut().enumerate() {
                let threshold = *u | 1 << bit;
                let op = DropActivation::relu(f64::from(threshold) / 2f64.powi(32)).unwrap();
                assert_eq!(op.threshold(), u64::from(threshold));
                let keep = cpu::keep_mask(&op, key, 32).unwrap()[0];
                if keep >> i & 1 == 0 {
                    *u = threshold;
                }
            }
        }
        found
    }

    /// What x must be for `factor * x` to be `product` modulo 2^32 (Newton's iteration for the inverse).
    fn divide(product: u32, factor: u32) -> u32 {
        let inverse = (0..5).fold(factor, |x, _| x.wrapping_mul(2u32.wrapping_sub(factor.wrapping_mul(x))));
        product.wrapping_mul(inverse)
    }

    /// The counter that Philox4x32-10 made `output` from.
    fn philox_backwards(output: [u32; 4], seed: u64) -> [u32; 4] {
        const FACTORS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
        let high = |a: u32, b: u32| ((u64::from(a) * u64::from(b)) >> 32) as u32;
        (0..10).rev().fold(output, |[c0, c1, c2, c3], round: u32| {
            let key0 = (seed as u32).wrapping_add(round.wrapping_mul(0x9E37_79B9));
            let key1 = ((seed >> 32) as u32).wrapping_add(round.wrapping_mul(0xBB67_AE85));
            let (before0, before2) = (divide(c3, FACTORS[0]), divide(c1, FACTORS[1]));
            [before0, c0 ^ high(FACTORS[1], before2) ^ key0, before2, c2 ^ high(FACTORS[0], before0) ^ key1]
        })
    }

    /// The eight counters, as 128-bit numbers, of mask word `w` under this seed and offset.
    fn used(seed: u64, offset: u64, w: u64) -> [u128; 8] {
        let integers = uniform_integers(MaskKey::new(seed, offset).shard(32 * w).unwrap());
        let plane = |k: usize| (0..32).fold(0, |word, i| word | (integers[i] >> (31 - k) & 1) << i);
        std::array::from_fn(|block| {
            let output = std::array::from_fn(|j| plane(4 * block + j));
            philox_backwards(output, seed).iter().rev().fold(0, |number, word| number << 32 | u128::from(*word))
        })
    }

    /// What section 3 of the mask stream says they are.
    fn specified(offset: u64, w: u64) -> [u128; 8] {
        std::array::from_fn(|block| u128::from(w) | (block as u128) << 61 | u128::from(offset) << 64)
    }

    #[test]
    fn philox_runs_backwards() {
        let mut rng = Rng::new(96);
        for _ in 0..1000 {
            let (a, b, seed) = (rng.bits(), rng.bits(), rng.bits());
            let counter = [a as u32, (a >> 32) as u32, b as u32, (b >> 32) as u32];
            let key = [seed as u32, (seed >> 32) as u32];
            let output = philox4x32_10(counter, key);
            assert_eq!(philox_backwards(output, seed), counter);
        }
    }

    /// The three parts of a counter, the word's index, the block and the offset, stand side by side and
    /// fill its 128 bits: each single bit of each part is a bit of its own. So two calls with different
    /// offsets, two words, two blocks never meet in a counter, however far apart they are.
    #[test]
    fn every_bit_of_word_block_and_offset_has_a_place_of_its_own() {
        let zero = used(97, 0, 0);
        assert_eq!(zero, specified(0, 0));
        let mut places: HashSet<u128> = (0..3).map(|bit| zero[0] ^ zero[1 << bit]).collect();
        places.extend((0..59).map(|bit| zero[0] ^ used(97, 0, 1 << bit)[0]));
        places.extend((0..64).map(|bit| zero[0] ^ used(97, 1 << bit, 0)[0]));
        assert!(places.iter().all(|difference| difference.is_power_of_two()));
        // Elements have 64-bit indices and words 32 elements, so two bits of the word's 61 are never used.
        assert_eq!(places.len(), 3 + 59 + 64);
    }

    #[test]
    fn they_are_what_the_text_says() {
        let mut rng = Rng::new(98);
        for _ in 0..10 {
            let (seed, offset, w) = (rng.bits(), rng.bits(), rng.bits() >> 5);
            assert_eq!(used(seed, offset, w), specified(offset, w));
        }
        let last_word = (1 << 59) - 1;
        assert_eq!(used(u64::MAX, u64::MAX, last_word), specified(u64::MAX, last_word));
    }

    /// A handful of calls and shards that lie close together: no counter twice.
    #[test]
    fn neighbours_share_none() {
        let mut seen = HashSet::new();
        for offset in [0, 1, 2, 1 << 32] {
            for w in [0, 1, 2, 1 << 32, (1 << 32) + 1] {
                assert!(used(99, offset, w).into_iter().all(|counter| seen.insert(counter)));
            }
        }
        assert_eq!(seen.len(), 4 * 5 * 8);
    }

    /// Those of the slopes, from 96 bits of each output: a counter of its own for each four elements and each
    /// offset. Where a part of the counter has one bit set, the slopes show that very bit.
    #[test]
    fn slopes_use_their_index_and_their_offset() {
        let check = |seed: u64, offset: u64, q: u64| {
            let first = (4 * q) & !31;
            let from = (4 * q - first) as usize;
            let given = slope_integers(MaskKey::new(seed, offset).shard(first).unwrap(), from + 4);
            let counter = [q as u32, (q >> 32) as u32, offset as u32, (offset >> 32) as u32];
            let output = philox4x32_10(counter, [seed as u32, (seed >> 32) as u32]);
            assert_eq!(given[from..], output.map(|word| word >> 8), "seed {seed}, offset {offset}, q = {q}");
        };
        check(97, 0, 0);
        (0..62).for_each(|bit| check(97, 0, 1 << bit));
        (0..64).for_each(|bit| check(97, 1 << bit, 0));
        (0..64).for_each(|bit| check(1 << bit, 0, 0));
        check(u64::MAX, u64::MAX, (1 << 62) - 1);
    }
}
