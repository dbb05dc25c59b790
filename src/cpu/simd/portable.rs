//! For every machine: plain loops, of the kind that compilers make vectors of.

use std::hint::black_box;

use half::f16;

use super::{BlockOps, CacheLines, MemoryOps, Simd, Task};
#[cfg(not(all(target_arch = "aarch64", target_endian = "little")))]
use super::{MAX_LANES, VectorOps};
use crate::element::Element;

#[derive(Clone, Copy)]
pub(super) struct Portable;

/// Runs the task; never inlined, so that there is one copy of each.
#[inline(never)]
pub(super) fn run(task: impl Task) {
    task.run(Portable);
}

/// As many lanes as fill the registers that most machines have, twice.
#[cfg(not(all(target_arch = "aarch64", target_endian = "little")))]
const LANES: usize = 4;

/// [`VectorOps::compress`] for so many words, one after the other.
#[inline(always)]
pub(super) fn compress<const WORDS: usize>(
    words: &[u32],
    others: &[u32],
    to: &mut [u32],
    others_to: &mut [u32],
) -> usize {
    let mut count = 0;
    for i in 0..WORDS {
        (to[count], others_to[count]) = (words[i], others[i]);
        count += usize::from(words[i] != 0);
    }
    count
}

/// The bits of an element.
trait Plain: Sized {
    fn at_most_zero(block: &[Self; 32], negative_infinity: Self) -> u32;

    /// The element if `saved` is neither zero nor between zero and negative infinity, else zero.
    fn pass_if_not_at_most_zero(self, saved: Self, negative_infinity: Self) -> Self;

    /// The element if `saved` is not zero, else zero.
    fn pass_if_not_zero(self, saved: Self) -> Self;

    /// Replaces those whose bit is set.
    fn blend(bits: u32, set: &[Self; 32], out: &mut [Self; 32]);
}

macro_rules! plain {
    ($unsigned:ty, $signed:ty) => {
        impl Plain for $unsigned {
            #[inline(always)]
            fn at_most_zero(block: &[Self; 32], negative_infinity: Self) -> u32 {
                // Of words, or of their halves.
                const WIDTH: usize = if size_of::<$unsigned>() == 2 { 16 } else { 32 };
                let mut each = [0; 32];
                for i in 0..32 {
                    let le = (block[i] as $signed <= negative_infinity as $signed) | (block[i] == 0);
                    each[i] = <$unsigned>::from(le).wrapping_neg() & 1 << (i % WIDTH);
                }
                let mut bits = 0;
                for (k, each) in each.as_chunks::<WIDTH>().0.iter().enumerate() {
                    let mut eight = [0; 8];
                    for i in 0..WIDTH {
                        eight[i % 8] |= each[i];
                    }
                    bits |= (eight.iter().fold(0, |bits, bit| bits | bit) as u32) << (WIDTH * k);
                }
                bits
            }

            #[inline(always)]
            fn pass_if_not_at_most_zero(self, saved: Self, negative_infinity: Self) -> Self {
                let pass = (saved as $signed > negative_infinity as $signed) & (saved != 0);
                self & <$unsigned>::from(pass).wrapping_neg()
            }

            #[inline(always)]
            fn pass_if_not_zero(self, saved: Self) -> Self {
                self & <$unsigned>::from(saved << 1 != 0).wrapping_neg()
            }

            #[inline(always)]
            fn blend(bits: u32, set: &[Self; 32], out: &mut [Self; 32]) {
                for i in 0..32 {
                    let chosen = <$unsigned>::from(bits >> i & 1 == 1).wrapping_neg();
                    out[i] ^= (out[i] ^ set[i]) & chosen;
                }
            }
        }
    };
}

plain!(u16, i16);
plain!(u32, i32);
plain!(u64, i64);

/// Makes each element of a block from the one of another block in the same place and its own, by their bits.
macro_rules! each {
    ($type:ident, $saved:ident, $block:ident, |$s:ident, $v:ident| $made:expr) => {{
        // A compiler that sees the blocks behind this one makes vectors of the first elements of many blocks, of the
        // second elements and so on, and gathers them.
        let mut out = *black_box($block);
        let (saved, to) = ($saved.as_ptr(), out.as_mut_ptr());
        macro_rules! loop_over {
            ($bits:ty) => {{
                // SAFETY: elements are 2, 4 or 8 bytes of plain bits (the trait is sealed), aligned to as many.
                let (saved, out) = unsafe { (&*saved.cast::<[$bits; 32]>(), &mut *to.cast::<[$bits; 32]>()) };
                for i in 0..32 {
                    let ($s, $v) = (saved[i], out[i]);
                    out[i] = $made;
                }
            }};
        }
        match size_of::<$type>() {
            2 => loop_over!(u16),
            4 => loop_over!(u32),
            _ => loop_over!(u64),
        }
        out
    }};
}

impl Simd for Portable {
    // There is hardly such a machine without AVX2, and this was half of the machine code.
    const SMALL_CODE: bool = cfg!(target_arch = "x86_64");

    #[inline(always)]
    fn outlined(self, task: impl Task) {
        run(task);
    }
}

impl BlockOps for Portable {
    #[inline(always)]
    fn at_most_zero<T: Element>(self, among: u32, block: &[T; 32]) -> u32 {
        let at = block.as_ptr();
        // SAFETY: elements are 2, 4 or 8 bytes of plain bits (the trait is sealed), aligned to as many.
        let bits = unsafe {
            match size_of::<T>() {
                2 => <u16 as Plain>::at_most_zero(&*at.cast(), T::NEGATIVE_INFINITY as u16),
                4 => <u32 as Plain>::at_most_zero(&*at.cast(), T::NEGATIVE_INFINITY as u32),
                _ => <u64 as Plain>::at_most_zero(&*at.cast(), T::NEGATIVE_INFINITY),
            }
        };
        // A compiler that sees through the word makes a branch for each element of what is done with it.
        black_box(bits) & among
    }

    #[inline(always)]
    fn clear_at_most_zero<T: Element>(self, block: &[T; 32]) -> [T; 32] {
        self.clear_where_at_most_zero(block, block)
    }

    #[inline(always)]
    fn clear_where_at_most_zero<T: Element>(self, saved: &[T; 32], block: &[T; 32]) -> [T; 32] {
        each!(T, saved, block, |saved, v| v.pass_if_not_at_most_zero(saved, T::NEGATIVE_INFINITY as _))
    }

    #[inline(always)]
    fn clear_where_zero<T: Element>(self, saved: &[T; 32], block: &[T; 32]) -> [T; 32] {
        each!(T, saved, block, |saved, v| v.pass_if_not_zero(saved))
    }

    #[inline(always)]
    fn blend<T: Element>(self, bits: u32, set: &[T; 32], clear: &[T; 32]) -> [T; 32] {
        let mut out = *clear;
        let (set, to) = (set.as_ptr(), out.as_mut_ptr());
        // SAFETY: elements are 2, 4 or 8 bytes of plain bits (the trait is sealed), aligned to as many.
        unsafe {
            match size_of::<T>() {
                2 => <u16 as Plain>::blend(bits, &*set.cast(), &mut *to.cast()),
                4 => <u32 as Plain>::blend(bits, &*set.cast(), &mut *to.cast()),
                _ => <u64 as Plain>::blend(bits, &*set.cast(), &mut *to.cast()),
            }
        }
        out
    }

    #[inline(always)]
    fn optimizer_barrier<T: Element>(self, block: [T; 32]) -> [T; 32] {
        black_box(block)
    }

    #[inline(always)]
    fn widen(self, block: &[f16; 32]) -> [f32; 32] {
        block.map(f16::to_f32)
    }

    #[inline(always)]
    fn narrow(self, block: &[f32; 32]) -> [f16; 32] {
        block.map(f16::from_f32)
    }
}

#[cfg(not(all(target_arch = "aarch64", target_endian = "little")))]
impl VectorOps for Portable {
    type Vector = [u64; LANES];
    const LANES: usize = LANES;
    const CALLS_IN_FLIGHT: usize = 1;

    #[inline(always)]
    fn splat(self, value: u64) -> Self::Vector {
        [value; LANES]
    }

    #[inline(always)]
    fn lanes(self, values: &[u64; MAX_LANES]) -> Self::Vector {
        std::array::from_fn(|i| values[i])
    }

    #[inline(always)]
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        std::array::from_fn(|i| a[i].wrapping_add(b[i]))
    }

    #[inline(always)]
    fn multiply(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        std::array::from_fn(|i| (a[i] & 0xFFFF_FFFF) * (b[i] & 0xFFFF_FFFF))
    }

    #[inline(always)]
    fn high(self, a: Self::Vector) -> Self::Vector {
        a.map(|a| a >> 32)
    }

    #[inline(always)]
    fn xor(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        std::array::from_fn(|i| a[i] ^ b[i])
    }

    #[inline(always)]
    fn xor3(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
        std::array::from_fn(|i| a[i] ^ b[i] ^ c[i])
    }

    #[inline(always)]
    fn or_and_not(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
        std::array::from_fn(|i| a[i] | (b[i] & !c[i]))
    }

    #[inline(always)]
    fn compare(
        self,
        plane: u64,
        r: [Self::Vector; 2],
        not_less: &mut [Self::Vector; 2],
        equal: &mut [Self::Vector; 2],
    ) {
        let (r, not_less, equal) = (r.as_flattened(), not_less.as_flattened_mut(), equal.as_flattened_mut());
        // As in AVX2's.
        if plane != 0 {
            for i in 0..2 * LANES {
                not_less[i] &= r[i];
                equal[i] &= r[i];
            }
        } else {
            for i in 0..2 * LANES {
                not_less[i] |= r[i];
                equal[i] &= !r[i];
            }
        }
    }

    #[inline(always)]
    fn pairs(self, words: &[u32]) -> Self::Vector {
        std::array::from_fn(|i| u64::from(words[2 * i]) | u64::from(words[2 * i + 1]) << 32)
    }

    #[inline(always)]
    fn compress(self, words: &[u32], others: &[u32], to: &mut [u32], others_to: &mut [u32]) -> usize {
        compress::<{ 2 * LANES }>(words, others, to, others_to)
    }

    #[inline(always)]
    fn interleave(self, even: Self::Vector, odd: Self::Vector, to: &mut [u32]) {
        for (i, pair) in to[..2 * LANES].as_chunks_mut::<2>().0.iter_mut().enumerate() {
            *pair = [even[i] as u32, odd[i] as u32];
        }
    }

    #[inline(always)]
    fn quads(self, r: &[Self::Vector; 4], to: &mut [u32]) {
        for (i, to) in to[..4 * LANES].as_chunks_mut::<4>().0.iter_mut().enumerate() {
            *to = [r[0][i] as u32, r[1][i] as u32, r[2][i] as u32, r[3][i] as u32];
        }
    }
}

impl MemoryOps for Portable {
    const CONTROLS_CACHES: bool = false;

    #[inline(always)]
    fn prefetch<T>(self, _: *const T) {}

    #[inline(always)]
    fn prefetch_near<T>(self, _: *const T) {}

    #[inline(always)]
    fn prefetch_to_write<T>(self, _: *const T) {}

    #[inline(always)]
    fn store_non_temporal<T: Element>(self, block: &[T; 32], to: &mut CacheLines<'_, T>, k: usize) {
        to.0[k] = *block;
    }

    #[inline(always)]
    fn fence(self) {}
}
