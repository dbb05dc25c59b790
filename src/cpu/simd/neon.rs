//! Drawing on AArch64, all of whose processors have these vectors: four 64-bit lanes in two of them. All else is the
//! portable code, which compilers make vectors of. Of products of 64-bit lanes they do not, since there is no
//! instruction for these.

use std::arch::aarch64::*;

use super::portable::{Portable, compress};
use super::{MAX_LANES, VectorOps};

type Vector = [uint64x2_t; 2];

// The contract that each block below leans on:
// 1. All processors of this target have the instructions.

/// What the function makes of each half.
#[inline(always)]
fn each(a: Vector, b: Vector, f: impl Fn(uint64x2_t, uint64x2_t) -> uint64x2_t) -> Vector {
    [f(a[0], b[0]), f(a[1], b[1])]
}

/// The low halves of the lanes, in turn from either.
#[inline(always)]
fn low_halves(a: uint64x2_t, b: uint64x2_t) -> uint32x4_t {
    // SAFETY: 1.
    unsafe { vtrn1q_u32(vreinterpretq_u32_u64(a), vreinterpretq_u32_u64(b)) }
}

/// Writes four words.
#[inline(always)]
fn store(to: &mut [u32], words: uint32x4_t) {
    let to: &mut [u32; 4] = to.first_chunk_mut().expect("the caller's words are as many as the trait says");
    // SAFETY: 1; room for four words, at any address of words.
    unsafe { vst1q_u32(to.as_mut_ptr(), words) }
}

impl VectorOps for Portable {
    type Vector = Vector;
    const LANES: usize = 4;
    const CALLS_IN_FLIGHT: usize = 1;

    #[inline(always)]
    fn splat(self, value: u64) -> Vector {
        // SAFETY: 1.
        unsafe { [vdupq_n_u64(value); 2] }
    }

    #[inline(always)]
    fn lanes(self, values: &[u64; MAX_LANES]) -> Vector {
        // SAFETY: 1; the first two and the next two of eight numbers.
        unsafe { [vld1q_u64(values.as_ptr()), vld1q_u64(values.as_ptr().add(2))] }
    }

    #[inline(always)]
    fn add(self, a: Vector, b: Vector) -> Vector {
        // SAFETY: 1.
        each(a, b, |a, b| unsafe { vaddq_u64(a, b) })
    }

    #[inline(always)]
    fn multiply(self, a: Vector, b: Vector) -> Vector {
        // SAFETY: 1.
        each(a, b, |a, b| unsafe { vmull_u32(vmovn_u64(a), vmovn_u64(b)) })
    }

    #[inline(always)]
    fn high(self, a: Vector) -> Vector {
        // SAFETY: 1.
        a.map(|a| unsafe { vshrq_n_u64::<32>(a) })
    }

    #[inline(always)]
    fn xor(self, a: Vector, b: Vector) -> Vector {
        // SAFETY: 1.
        each(a, b, |a, b| unsafe { veorq_u64(a, b) })
    }

    #[inline(always)]
    fn xor3(self, a: Vector, b: Vector, c: Vector) -> Vector {
        self.xor(self.xor(a, b), c)
    }

    #[inline(always)]
    fn or_and_not(self, a: Vector, b: Vector, c: Vector) -> Vector {
        // SAFETY: 1, of both.
        let (or, and_not) = (|a, b| unsafe { vorrq_u64(a, b) }, |b, c| unsafe { vbicq_u64(b, c) });
        each(a, each(b, c, and_not), or)
    }

    #[inline(always)]
    fn compare(self, plane: u64, r: [Vector; 2], not_less: &mut [Vector; 2], equal: &mut [Vector; 2]) {
        // As in AVX2's.
        for i in 0..2 {
            if plane != 0 {
                // SAFETY: 1.
                let and = |a, r| unsafe { vandq_u64(a, r) };
                (not_less[i], equal[i]) = (each(not_less[i], r[i], and), each(equal[i], r[i], and));
            } else {
                // SAFETY: 1, of both.
                let (or, and_not) = (|a, r| unsafe { vorrq_u64(a, r) }, |a, r| unsafe { vbicq_u64(a, r) });
                (not_less[i], equal[i]) = (each(not_less[i], r[i], or), each(equal[i], r[i], and_not));
            }
        }
    }

    #[inline(always)]
    fn pairs(self, words: &[u32]) -> Vector {
        let words: &[u32; 8] = words.first_chunk().expect("two words for each lane");
        // SAFETY: 1; the first four and the next four of eight words.
        unsafe {
            [vld1q_u32(words.as_ptr()), vld1q_u32(words.as_ptr().add(4))].map(|words| vreinterpretq_u64_u32(words))
        }
    }

    #[inline(always)]
    fn compress(self, words: &[u32], others: &[u32], to: &mut [u32], others_to: &mut [u32]) -> usize {
        compress::<{ 2 * <Self as VectorOps>::LANES }>(words, others, to, others_to)
    }

    #[inline(always)]
    fn interleave(self, even: Vector, odd: Vector, to: &mut [u32]) {
        for i in 0..2 {
            store(&mut to[4 * i..], low_halves(even[i], odd[i]));
        }
    }

    #[inline(always)]
    fn quads(self, [a, b, c, d]: &[Vector; 4], to: &mut [u32]) {
        for i in 0..2 {
            // SAFETY: 1.
            let (first, second) = unsafe {
                let ab = vreinterpretq_u64_u32(low_halves(a[i], b[i]));
                let cd = vreinterpretq_u64_u32(low_halves(c[i], d[i]));
                (vreinterpretq_u32_u64(vtrn1q_u64(ab, cd)), vreinterpretq_u32_u64(vtrn2q_u64(ab, cd)))
            };
            store(&mut to[8 * i..], first);
            store(&mut to[8 * i + 4..], second);
        }
    }
}
