//! The keep stream of the CPU backend: 16 mask words at a time.
//!
//! The generator runs for 16 counters side by side. Each 32-bit word sits in a 64-bit lane of its
//! own, so that a lane's multiplication is the full 32 x 32 -> 64 product that Philox wants and
//! vector units have (pmuludq), with the high half one shift away and no shuffles. Written as plain
//! loops over arrays: the compiler turns each into one or two vector instructions for the
//! instruction set that the caller is compiled for.

use rayon::prelude::*;

use crate::cpu::simd::{self, Simd, Task};
use crate::cpu::tuning::{SEQUENTIAL, TASK};
use crate::key::MaskKey;
use crate::operation::DropActivation;

/// Words drawn together.
pub(crate) const LANES: usize = 16;

type Wide = [u64; LANES];

/// Philox4x32-10 for [`LANES`] counters. Only the low half of a lane counts, in and out.
#[inline(always)]
fn philox(mut c0: Wide, mut c1: Wide, c2: u64, c3: u64, seed: u64) -> [Wide; 4] {
    let (mut c2, mut c3) = ([c2; LANES], [c3; LANES]);
    let (mut k0, mut k1) = (seed as u32, (seed >> 32) as u32);
    for _ in 0..10 {
        for i in 0..LANES {
            let p0 = (c0[i] & 0xFFFF_FFFF) * 0xD251_1F53;
            let p1 = (c2[i] & 0xFFFF_FFFF) * 0xCD9E_8D57;
            c0[i] = (p1 >> 32) ^ c1[i] ^ u64::from(k0);
            c2[i] = (p0 >> 32) ^ c3[i] ^ u64::from(k1);
            c1[i] = p1;
            c3[i] = p0;
        }
        k0 = k0.wrapping_add(0x9E37_79B9);
        k1 = k1.wrapping_add(0xBB67_AE85);
    }
    [c0, c1, c2, c3]
}

/// The keep stream of one call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeepStream {
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

    /// The keep words `w..w + LANES` of the stream: see the reference for the comparison itself.
    #[inline(always)]
    fn group(&self, w: u64) -> [u32; LANES] {
        let offset = self.key.offset();
        let index: Wide = std::array::from_fn(|i| w.wrapping_add(i as u64));
        let mut keep = [0u32; LANES];
        let mut undecided = [u32::MAX; LANES];
        let mut block = 0;
        loop {
            let high: Wide = std::array::from_fn(|i| (index[i] >> 32) | u64::from(block << 29));
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
