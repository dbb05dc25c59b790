//! The keep stream of the CPU backend: 16 mask words at a time. The reference says what is compared.

use rayon::prelude::*;

use crate::cpu::philox::philox;
use crate::cpu::simd::{self, Simd, Task};
use crate::cpu::tuning::{SEQUENTIAL, TASK};
use crate::key::MaskKey;
use crate::operation::DropActivation;

/// Words drawn together.
pub(crate) const LANES: usize = 16;

/// The keep stream of one call.
#[derive(Clone, Copy, Debug)]
pub struct KeepStream {
    key: MaskKey,
    /// T, when it is neither 0 nor 2^32.
    threshold: u32,
    /// How many of T's bits matter: 32 less its trailing zeros. With 0 every word is `settled`.
    planes: u32,
    settled: u32,
}

impl KeepStream {
    pub(crate) fn new(op: &DropActivation, key: MaskKey) -> Self {
        let (threshold, planes, settled) = match op.threshold() {
            0 => (0, 0, 0),
            0x1_0000_0000 => (0, 0, u32::MAX),
            t => (t as u32, 32 - t.trailing_zeros(), 0),
        };
        Self { key, threshold, planes, settled }
    }

    /// The keep words `first..first + words.len()` of the tensor.
    #[inline(always)]
    pub(crate) fn draw(&self, first: u64, words: &mut [u32]) {
        if self.planes == 0 {
            words.fill(self.settled);
            return;
        }
        let first = self.key.first_word() + first;
        let (whole, rest) = words.as_chunks_mut::<LANES>();
        for (i, group) in whole.iter_mut().enumerate() {
            *group = self.group(first.wrapping_add((LANES * i) as u64));
        }
        if !rest.is_empty() {
            let drawn = self.group(first.wrapping_add((LANES * whole.len()) as u64));
            rest.copy_from_slice(&drawn[..rest.len()]);
        }
    }

    /// The keep words `w..w + LANES` of the stream.
    #[inline(always)]
    fn group(&self, w: u64) -> [u32; LANES] {
        let offset = self.key.offset();
        let index: [u64; LANES] = std::array::from_fn(|i| w.wrapping_add(i as u64));
        let mut keep = [0u32; LANES];
        let mut undecided = [u32::MAX; LANES];
        let mut block = 0;
        loop {
            let high: [u64; LANES] = std::array::from_fn(|i| (index[i] >> 32) | u64::from(block << 29));
            let r = philox(index, high, offset & 0xFFFF_FFFF, offset >> 32, self.key.seed());
            for (j, r) in r.iter().enumerate() {
                let plane = self.threshold << (4 * block + j as u32);
                let t = ((plane as i32) >> 31) as u32;
                for i in 0..LANES {
                    let r = r[i] as u32;
                    keep[i] |= undecided[i] & t & !r;
                    undecided[i] &= !(t ^ r);
                }
            }
            block += 1;
            if 4 * block >= self.planes || undecided.iter().fold(0, |any, u| any | u) == 0 {
                return keep;
            }
        }
    }
}

/// All of a tensor's keep words, shared by threads.
pub(crate) fn fill(stream: KeepStream, words: &mut [u32]) {
    const WORDS: usize = TASK / 32;
    if words.len() <= SEQUENTIAL / 32 {
        return simd::dispatch(Fill { stream, first: 0, words });
    }
    words.par_chunks_mut(WORDS).enumerate().for_each(|(i, words)| {
        simd::dispatch(Fill { stream, first: (i * WORDS) as u64, words });
    });
}

struct Fill<'a> {
    stream: KeepStream,
    first: u64,
    words: &'a mut [u32],
}

impl Task for Fill<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        self.stream.draw(self.first, self.words);
    }
}
