//! A mask drawn in the usual way, from one 32-bit number for each element: what `keep_words` is measured against.
//! No pass uses it. It is here since it needs the vector code of this folder: plain loops in the benches took three times
//! as long, which would have flattered what is measured.

use crate::cpu::engine::{Philox, Pool, TASK, share};
use crate::cpu::simd::{self, Simd, Task};
use crate::error::Result;
use crate::float_environment::DefaultEnvironment;
use crate::key::MaskKey;
use crate::mask::clear_unused;
use crate::operation::DropActivation;
use crate::pass::word_count;

/// Bit i: the upper 24 bits of element i's number, of those that an [`RRelu`](crate::RRelu) makes its slopes of, are at
/// most p as a fraction, p being rounded to f32.
///
/// # Errors
/// As [`keep_words`](super::keep_words) has them.
pub fn uniform_words(op: &DropActivation, key: MaskKey, len: usize, words: &mut [u32]) -> Result<()> {
    const WORDS: usize = TASK / 32;
    key.check_covers(len)?;
    word_count(words.len(), len)?;
    let _environment = DefaultEnvironment::enter();
    let philox = Philox::new(key.seed(), key.offset());
    let count = words.len().div_ceil(WORDS);
    share(&Pool::for_tasks(count), words.chunks_mut(WORDS).enumerate(), count, |(i, words)| {
        let first = key.first() + (i * TASK) as u64;
        simd::dispatch(Uniform { philox, first, p: op.p() as f32, words });
    });
    clear_unused(words, len);
    Ok(())
}

struct Uniform<'a> {
    philox: Philox,
    first: u64,
    p: f32,
    words: &'a mut [u32],
}

impl Task for Uniform<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let mut e = self.first;
        for word in self.words {
            let mut differences = [0.0; 32];
            for (difference, number) in differences.iter_mut().zip(self.philox.uniforms(simd, e)) {
                // 24 bits, which a float holds. No difference is rounded to zero, so it has the exact one's sign.
                *difference = (number >> 8) as i32 as f32 / 16_777_216.0 - self.p;
            }
            *word = simd.at_most_zero(u32::MAX, &differences);
            // The last word's elements may be the last that there are.
            e = e.wrapping_add(32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::tests::sets;
    use crate::reference;

    fn check(len: usize) {
        let (op, key) = (DropActivation::relu(0.75).unwrap(), MaskKey::new(3, 4).shard(96).unwrap());
        let mut expected = vec![0; len.div_ceil(32)];
        for i in 0..len {
            let e = key.first() + i as u64;
            let r = reference::philox4x32_10([(e / 4) as u32, 0, 4, 0], [3, 0])[(e % 4) as usize];
            expected[i / 32] |= u32::from(r >> 8 <= 3 << 22) << (i % 32);
        }
        let mut words = vec![u32::MAX; expected.len()];
        uniform_words(&op, key, len, &mut words).unwrap();
        assert!(words == expected, "{len} elements");
    }

    #[test]
    fn the_last_element_has_the_last_index() {
        let (op, key) = (DropActivation::relu(0.75).unwrap(), MaskKey::new(3, 4).shard(u64::MAX - 31).unwrap());
        let mut words = [0];
        uniform_words(&op, key, 32, &mut words).unwrap();
        let r = |e: u64| reference::philox4x32_10([(e / 4) as u32, (e >> 34) as u32, 4, 0], [3, 0])[(e % 4) as usize];
        let bit = |i: u32| u32::from(r(u64::MAX - 31 + u64::from(i)) >> 8 <= 3 << 22) << i;
        assert_eq!(words[0], (0..32).fold(0, |word, i| word | bit(i)));
    }

    #[test]
    fn bits_are_comparisons_of_the_slopes_numbers() {
        for set in sets() {
            set.force(|| check(1000));
        }
        check(2 * TASK + 37);
    }
}
