//! The vector operations that plain loops do not compile well to. A [`Task`] is written once, generic over [`Simd`],
//! and compiled for each instruction set.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod bf16;
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod neon;
mod numbers;
mod portable;
pub(crate) mod set;
#[cfg(test)]
pub(crate) mod tests;

use half::f16;

use numbers::NumberOps;
use set::Set;

use crate::element::Element;

/// Bytes that memory and caches exchange.
pub(crate) const LINE: usize = 64;

/// No set has more 64-bit lanes.
pub(crate) const MAX_LANES: usize = 8;

/// An instruction set: whoever has a value of such a type may use the instructions.
pub(crate) trait Simd: BlockOps + NumberOps + VectorOps + MemoryOps {
    /// Whether small code matters more than fast code. Tasks then call what they do with a block, and do not draw meanwhile.
    const SMALL_CODE: bool = false;

    /// Runs the task in a function of its own, compiled for the instruction set: one copy for all callers.
    fn outlined(self, task: impl Task);
}

/// Operations on a block, 32 elements in a row.
///
/// ReLU's passes only compare with zero and select, so they are done on the elements' bits: a value
/// is at most zero when, read as a two's complement integer, it is not positive, and, read as an
/// unsigned one, it is not beyond negative infinity (what is beyond are the negative NaNs). That is
/// the same for all four types, and independent of the floating-point environment.
///
/// Read as two's complement alone, -0 is the least of all and negative infinity the greatest that is at most zero, but
/// for +0. So one comparison with it tells what ReLU clears: it makes no difference that +0 is passed, as itself.
pub(crate) trait BlockOps: Copy {
    /// Bit i: bit i of `among` is set and element i is at most zero (and so not NaN).
    fn at_most_zero<T: Element>(self, among: u32, block: &[T; 32]) -> u32;

    /// +0 where bit i of `among` is set and element i is at most zero, elsewhere the element itself; and a set bit for
    /// each of these others.
    #[inline(always)]
    fn clear_among_at_most_zero<T: Element>(self, among: u32, block: &[T; 32]) -> ([T; 32], u32) {
        clear_by_bits(self, among, block)
    }

    /// +0 where an element is at most zero, elsewhere the element itself.
    fn clear_at_most_zero<T: Element>(self, block: &[T; 32]) -> [T; 32];

    /// +0 where the element of `saved` is at most zero, elsewhere that of `block`.
    fn clear_where_at_most_zero<T: Element>(self, saved: &[T; 32], block: &[T; 32]) -> [T; 32];

    /// +0 where the element of `saved` is a zero, elsewhere that of `block`.
    fn clear_where_zero<T: Element>(self, saved: &[T; 32], block: &[T; 32]) -> [T; 32];

    /// Element i of `set` where bit i is set, of `clear` elsewhere.
    fn blend<T: Element>(self, bits: u32, set: &[T; 32], clear: &[T; 32]) -> [T; 32];

    /// The block itself, but the compiler does not see what it is made of. For a choice between products and their
    /// factors it would otherwise put the product of the factor and a choice, of which a signalling NaN comes out quiet.
    fn optimizer_barrier<T: Element>(self, block: [T; 32]) -> [T; 32];

    /// Exact.
    fn widen(self, block: &[f16; 32]) -> [f32; 32];

    /// Rounds each once, to nearest, ties to even.
    fn narrow(self, block: &[f32; 32]) -> [f16; 32];

    /// Exact. A loop that is vector code by itself is not always so in the midst of other code.
    #[inline(always)]
    fn widen_bf16(self, block: &[half::bf16; 32]) -> [f32; 32] {
        bf16::widen(block)
    }

    /// The same, but a signalling NaN may stay one: for what arithmetic is done with.
    #[inline(always)]
    fn widen_bf16_to_compute(self, block: &[half::bf16; 32]) -> [f32; 32] {
        bf16::widen_to_compute(block)
    }

    /// Rounds each once, to nearest, ties to even.
    #[inline(always)]
    fn narrow_bf16(self, block: &[f32; 32]) -> [half::bf16; 32] {
        bf16::narrow(block)
    }
}

/// [`BlockOps::clear_among_at_most_zero`] in two steps.
#[inline(always)]
fn clear_by_bits<T: Element>(simd: impl BlockOps, among: u32, block: &[T; 32]) -> ([T; 32], u32) {
    let others = !simd.at_most_zero(among, block);
    (simd.blend(others, block, &[T::default(); 32]), others)
}

/// Operations on vectors of 64-bit lanes. In what is made from one, only the low half of each lane counts.
pub(crate) trait VectorOps: Copy {
    type Vector: Copy;

    /// How many lanes a vector has: 4 or 8, which is [`MAX_LANES`].
    const LANES: usize;

    /// For how many calls of a random number generator, with two vectors each, there are registers: 1 or 2.
    const CALLS_IN_FLIGHT: usize;

    /// The value in every lane.
    fn splat(self, value: u64) -> Self::Vector;

    /// The first [`VectorOps::LANES`] of the values.
    fn lanes(self, values: &[u64; MAX_LANES]) -> Self::Vector;

    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;

    /// The whole products of the low halves.
    fn multiply(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;

    /// The upper half of each lane in the place of the lower one.
    fn high(self, a: Self::Vector) -> Self::Vector;

    fn xor(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;

    fn xor3(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;

    /// `a | (b & !c)`.
    fn or_and_not(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;

    /// One bit plane, all ones or zero, of 32 comparisons `r < plane` in each lane of two vectors. `not_less` becomes
    /// `plane ? not_less & r : not_less | r`; and `equal`, set where all planes so far are, becomes
    /// `plane ? equal & r : equal & !r`.
    fn compare(self, plane: u64, r: [Self::Vector; 2], not_less: &mut [Self::Vector; 2], equal: &mut [Self::Vector; 2]);

    /// Does nothing; but the first and the third words of both are computed by then, and so are the products of which
    /// they were made, the second and fourth. Without it, compilers undo an order of instructions that goes back and
    /// forth between independent computations.
    #[inline(always)]
    fn order_barrier(self, _: &mut [[Self::Vector; 4]; 2]) {}

    /// 2 [`VectorOps::LANES`] words two by two, the first of each in the low half of a lane.
    fn pairs(self, words: &[u32]) -> Self::Vector;

    /// Moves those of 2 [`VectorOps::LANES`] words that are not zero to the front of `to`, in order, and what `others`
    /// has in the same places to that of `others_to`. Returns how many there are. Both have room for all 2
    /// [`VectorOps::LANES`], and behind what was moved they hold anything.
    fn compress(self, words: &[u32], others: &[u32], to: &mut [u32], others_to: &mut [u32]) -> usize;

    /// The low halves, in turn from either; `to` has room for these 2 [`VectorOps::LANES`].
    fn interleave(self, even: Self::Vector, odd: Self::Vector, to: &mut [u32]);

    /// The low halves of all four, lane by lane: lane i's are words 4 i to 4 i + 3; `to` has room for these 4
    /// [`VectorOps::LANES`].
    fn quads(self, r: &[Self::Vector; 4], to: &mut [u32]);
}

/// Operations on caches and memory.
pub(crate) trait MemoryOps: Copy {
    /// Whether there is anything in prefetches and non-temporal stores. Where there is not, one copy of a task serves all
    /// ways to access memory.
    const CONTROLS_CACHES: bool;

    /// Asks for the line of an address, which need not be anybody's, to be brought into the second-level cache.
    fn prefetch<T>(self, at: *const T);

    /// The same, into the first-level cache.
    fn prefetch_near<T>(self, at: *const T);

    /// The same for a line that is about to be written.
    fn prefetch_to_write<T>(self, at: *const T);

    /// Writes block `k` by non-temporal (streaming) stores. Others may see it only after a [`MemoryOps::fence`]: see
    /// [`Fence`].
    fn store_non_temporal<T: Element>(self, block: &[T; 32], to: &mut CacheLines<'_, T>, k: usize);

    /// Writes some of a block's elements, of which the first would be at `to`. No more than 32.
    ///
    /// # Safety
    /// These elements are memory that may be written.
    #[inline(always)]
    unsafe fn store_lanes<T: Element>(self, lanes: std::ops::Range<usize>, block: &[T; 32], to: *mut T) {
        let from = &block[lanes.clone()];
        // SAFETY: as many elements on either side, by this function's contract.
        unsafe { to.wrapping_add(lanes.start).copy_from_nonoverlapping(from.as_ptr(), from.len()) };
    }

    /// Makes what was stored so visible to other threads in the order of the program.
    fn fence(self);
}

/// The lower half of each, then the upper one, as elements: no work where memory has it so.
#[inline(always)]
pub(crate) fn halves(mut words: [u32; 16]) -> [half::bf16; 32] {
    if cfg!(target_endian = "big") {
        for word in &mut words {
            *word = word.rotate_left(16);
        }
    }
    // SAFETY: 64 bytes on both sides, and all of them are elements: bf16 is 16 plain bits.
    unsafe { std::mem::transmute(words) }
}

/// Blocks of which each begins on a [`LINE`].
pub(crate) struct CacheLines<'a, T>(&'a mut [[T; 32]]);

impl<'a, T: Element> CacheLines<'a, T> {
    /// Gives the blocks back if they begin elsewhere.
    #[inline(always)]
    pub(crate) fn new(blocks: &'a mut [[T; 32]]) -> Result<Self, &'a mut [[T; 32]]> {
        // A block is one line or more.
        if blocks.as_ptr().addr().is_multiple_of(LINE) { Ok(Self(blocks)) } else { Err(blocks) }
    }
}

/// Sees to it that whatever was stored by non-temporal stores meanwhile is seen by all, however its scope is left.
pub(crate) struct Fence<S: Simd>(pub(crate) S);

impl<S: Simd> Drop for Fence<S> {
    fn drop(&mut self) {
        self.0.fence();
    }
}

/// Work that is compiled for each instruction set.
pub(crate) trait Task {
    /// Must be `#[inline(always)]`, so that it takes on the instruction set of the caller.
    fn run<S: Simd>(self, simd: S);
}

/// Runs the task with the instruction set that was chosen.
#[inline(always)]
pub(crate) fn dispatch(task: impl Task) {
    #[cfg(test)]
    if let Some(set) = tests::FORCED.get() {
        return set.run(task);
    }
    Set::run_chosen(task);
}
