//! The random numbers: what the keep bits and RReLU's slopes look like, and that no two calls share any.
//! Bits are the CPU backend's, which are everybody's.

use drop_activation::{DropActivation, MaskKey, RRelu, cpu};

use crate::data::Rng;
use crate::statistics::{assert_chi_square, assert_mean, assert_normal, assert_uniform};

/// Keep bits and the exact probability of each: p rounded to a multiple of 2^-32.
struct Bits {
    words: Vec<u32>,
    p: f64,
    name: String,
}

impl Bits {
    fn draw(p: f64, key: MaskKey, words: usize) -> Self {
        let op = DropActivation::relu(p).unwrap();
        let name = format!("p = {p}, {key:?}");
        Self { words: cpu::keep_mask(&op, key, 32 * words).unwrap(), p: op.threshold() as f64 / 2f64.powi(32), name }
    }

    fn len(&self) -> f64 {
        32.0 * self.words.len() as f64
    }

    fn count(&self, of_word: impl Fn(u32) -> u32) -> f64 {
        self.words.iter().map(|w| u64::from(of_word(*w))).sum::<u64>() as f64
    }

    /// How often each bit is set, over all and by its place in the word.
    fn frequencies(&self) {
        let spread = (self.p * (1.0 - self.p)).sqrt();
        let what = || format!("{}: frequency", self.name);
        assert_normal(&what, self.count(u32::count_ones), self.p * self.len(), spread * self.len().sqrt());
        let n = self.words.len() as f64;
        for place in 0..32 {
            let what = || format!("{}: frequency at bit {place}", self.name);
            assert_normal(&what, self.count(|w| w >> place & 1), self.p * n, spread * n.sqrt());
        }
    }

    /// Covariance of bit i with bit i + lag of another stream of the same p, which may be this one.
    fn correlation(&self, other: &Self, lag: usize) {
        let (skip, shift) = (lag / 32, lag % 32);
        let words = self.words.len() - skip - 1;
        // In 64 bits, so that the words shifted by may straddle two.
        let later = |i: usize| {
            let pair = u64::from(other.words[i + skip]) | u64::from(other.words[i + skip + 1]) << 32;
            (pair >> shift) as u32
        };
        let (mut both, mut first, mut second) = (0u64, 0u64, 0u64);
        for i in 0..words {
            let (a, b) = (self.words[i], later(i));
            both += u64::from((a & b).count_ones());
            first += u64::from(a.count_ones());
            second += u64::from(b.count_ones());
        }
        let n = 32.0 * words as f64;
        let covariance = both as f64 - self.p * (first + second) as f64 + self.p * self.p * n;
        let what = || format!("{} with {}: correlation at lag {lag}", self.name, other.name);
        assert_normal(&what, covariance, 0.0, self.p * (1.0 - self.p) * n.sqrt());
    }

    /// How many runs of equal bits there are.
    fn runs(&self) {
        let changes = |pair: &[u32]| ((pair[0] ^ (pair[0] >> 1 | pair[1] << 31)).count_ones()) as u64;
        let given = self.words.windows(2).map(changes).sum::<u64>() as f64;
        let n = 32.0 * (self.words.len() - 1) as f64;
        let pq = self.p * (1.0 - self.p);
        // Neighbouring pairs share a bit: their changes have covariance pq - 4 (pq)^2.
        let deviation = (4.0 * pq * (1.0 - 3.0 * pq) * n).sqrt();
        assert_normal(&|| format!("{}: runs", self.name), given, 2.0 * pq * n, deviation);
    }

    /// The four bytes of every word, over the 256 values; those that are hardly expected are one cell.
    fn bytes(&self) {
        let mut counts = [0u64; 256];
        self.words.iter().flat_map(|w| w.to_le_bytes()).for_each(|byte| counts[usize::from(byte)] += 1);
        let expected = |byte: usize| {
            let ones = (byte as u8).count_ones() as i32;
            self.len() / 8.0 * self.p.powi(ones) * (1.0 - self.p).powi(8 - ones)
        };
        let (mut cells, mut rare) = (Vec::new(), (0, 0.0));
        for (byte, count) in counts.into_iter().enumerate() {
            if expected(byte) >= 20.0 {
                cells.push((count, expected(byte)));
            } else {
                rare = (rare.0 + count, rare.1 + expected(byte));
            }
        }
        if rare.1 >= 20.0 {
            cells.push(rare);
        }
        assert!(cells.len() > 8, "{}", self.name);
        assert_chi_square(&|| format!("{}: bytes", self.name), &cells);
    }
}

/// All tests on one stream and on its neighbours in offset and seed.
fn examine(p: f64, words: usize, lags: &[usize]) {
    let key = MaskKey::new(91, 92);
    let bits = Bits::draw(p, key, words);
    bits.frequencies();
    bits.runs();
    bits.bytes();
    lags.iter().for_each(|&lag| bits.correlation(&bits, lag));
    for neighbour in
        [MaskKey::new(91, 93), MaskKey::new(91, 92 + (1 << 32)), MaskKey::new(92, 92), MaskKey::new(92, 91)]
    {
        let other = Bits::draw(p, neighbour, words);
        for lag in [0, 1, 32, 1024] {
            bits.correlation(&other, lag);
            other.correlation(&bits, lag);
        }
    }
    // The lag at which a counter that is too short would come round: a stream 2^34 and 2^37 bits away,
    // where the slope's and the keep bit's first counter word wraps.
    for first in [1 << 34, 1 << 37] {
        bits.correlation(&Bits::draw(p, key.shard(first).unwrap(), words), 0);
    }
}

/// 2^22 bits for each p.
#[test]
fn keep_bits() {
    for p in [0.5, 0.95, 1.0 / 3.0] {
        examine(p, 1 << 17, &[1, 2, 7, 8, 31, 32, 33, 64, 1024, 4096]);
    }
}

/// 2^30 bits for each p, at some two hundred lags up to 4096. Minutes: `cargo test --release -- --ignored`.
#[test]
#[ignore = "takes minutes"]
fn keep_bits_thoroughly() {
    let around = |k: usize| [k - 1, k, k + 1];
    let mut lags: Vec<usize> = (1..=128).chain((6..=12).map(|e| 1 << e).flat_map(around)).collect();
    let mut rng = Rng::new(93);
    lags.extend((0..64).map(|_| 1 + rng.below(4096)));
    for p in [0.5, 0.95, 1.0 / 3.0, 0.999] {
        examine(p, 1 << 25, &lags);
    }
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
            let output = drop_activation::reference::philox4x32_10(counter, key);
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
}
