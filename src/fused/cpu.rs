//! The fused passes on the CPU, shared by rayon's threads.
//!
//! Results are those of [`reference`](super::reference), bit for bit, whatever the number of threads, the instruction set
//! or the floating-point environment of the calling thread.

use super::{Centred, Gradient, Shape, Statistics, Sums};
use crate::element::Element;
use crate::error::Result;

/// Mean and biased variance of each channel.
///
/// # Errors
/// [`Error::ShapeLength`](crate::Error::ShapeLength); [`Error::NoElements`](crate::Error::NoElements);
/// [`Error::SumMemory`](crate::Error::SumMemory).
pub fn statistics<T: Element>(shape: Shape, x: &[T]) -> Result<Statistics<T::Real>> {
    T::statistics(shape, x)
}

/// Backward, the sums: `Σ dz`, and `Σ dz (x - μ)` where `centred` is given.
///
/// # Errors
/// Lengths that do not fit the shape; a mask of another operation or length;
/// [`Error::MissingInput`](crate::Error::MissingInput); [`Error::SumMemory`](crate::Error::SumMemory).
pub fn reduce<T: Element>(
    shape: Shape,
    dy: &[T],
    by: &Gradient<'_, T>,
    centred: Option<&Centred<'_, T>>,
) -> Result<Sums<T::Real>> {
    T::reduce(shape, dy, by, centred)
}
