//! The vector operations that plain loops do not compile well to, and the choice of an instruction
//! set at run time.
//!
//! A [`Task`] is written once, generic over [`Simd`], and compiled for each instruction set.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;
#[cfg(test)]
mod tests;

use half::f16;

use crate::cpu::smooth::Smooth;
use crate::element::Element;
use crate::real::Real;

/// Operations on a block, the 32 elements of one mask word.
///
/// ReLU's passes only compare with zero and select, so they are done on the elements' bits: a value
/// is at most zero when, read as a two's complement integer, it is not positive, and, read as an
/// unsigned one, it is not beyond negative infinity (what is beyond are the negative NaNs). That is
/// the same for all four types, and independent of the floating-point environment.
pub trait Simd: Copy {
    /// Bit i: element i is at most zero (and so not NaN).
    fn at_most_zero<T: Element>(self, block: &[T; 32]) -> u32;

    /// Element i of `set` where bit i is set, of `clear` elsewhere.
    fn blend<T: Element>(self, bits: u32, set: &[T; 32], clear: &[T; 32]) -> [T; 32];

    /// Exact.
    fn widen(self, block: &[f16; 32]) -> [f32; 32];

    /// Rounds each once, to nearest, ties to even.
    fn narrow(self, block: &[f32; 32]) -> [f16; 32];

    /// Replaces each value by the function's.
    fn evaluate<R: Real>(self, function: Smooth, values: &mut [R; 32]);

    /// Copies past the cache. `to` is as long as `from`.
    fn stream<T: Element>(self, from: &[T], to: &mut [T]);

    /// Makes what was streamed visible to other threads in the order of the program.
    fn fence(self);
}

/// Work that is compiled for each instruction set.
pub(crate) trait Task {
    /// Must be `#[inline(always)]`, so that it takes on the instruction set of the caller.
    fn run<S: Simd>(self, simd: S);
}

/// Runs the task with the best instruction set of this machine.
pub(crate) fn dispatch(task: impl Task) {
    #[cfg(test)]
    if let Some(set) = tests::FORCED.get() {
        return set.run(task);
    }
    #[cfg(target_arch = "x86_64")]
    {
        if avx512::Avx512::available() {
            // SAFETY: `available` has just said that the machine has the instructions.
            return unsafe { avx512::run(task) };
        }
        if avx2::Avx2::available() {
            // SAFETY: as above.
            return unsafe { avx2::run(task) };
        }
    }
    task.run(portable::Portable);
}
