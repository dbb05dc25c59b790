//! The fused passes on the CPU, shared by rayon's threads.
//!
//! Results are those of [`reference`](super::reference), bit for bit, whatever the number of threads, the instruction set
//! or the floating-point environment of the calling thread.

use super::{Before, Centred, Gradient, Linear, Shape, Statistics, Sums};
use crate::element::Element;
use crate::error::Result;
use crate::io::InOut;
use crate::key::MaskKey;
use crate::mask::{MaskOrigin, PackedMask};
use crate::operation::DropActivation;

/// Training forward, from x to y: `y = keep ? σ(z) : z`. Returns the mask.
///
/// # Errors
/// Lengths that do not fit the shape; [`Error::IndexRange`](crate::Error::IndexRange);
/// [`Error::MaskMemory`](crate::Error::MaskMemory).
pub fn forward<'a, T: Element>(
    op: &DropActivation,
    key: MaskKey,
    shape: Shape,
    before: &Before<'_, T>,
    io: impl Into<InOut<'a, T>>,
) -> Result<PackedMask> {
    let mut mask = PackedMask::assemble(MaskOrigin::DropActivation(*op), 0, Vec::new());
    forward_into(op, key, shape, before, io, &mut mask)?;
    Ok(mask)
}

/// [`forward`] into a mask of the caller's, whose buffer is used again where it is large enough.
///
/// # Errors
/// Those of [`forward`].
pub fn forward_into<'a, T: Element>(
    op: &DropActivation,
    key: MaskKey,
    shape: Shape,
    before: &Before<'_, T>,
    io: impl Into<InOut<'a, T>>,
    mask: &mut PackedMask,
) -> Result<()> {
    T::fused_forward(op, key, shape, before, io.into(), mask)
}

/// Inference forward, from x to y: `y = (1-p) z + p σ(z)`, and for ReLU `z <= 0 ? (1-p) z : z`.
///
/// # Errors
/// Lengths that do not fit the shape.
pub fn infer<'a, T: Element>(
    op: &DropActivation,
    shape: Shape,
    before: &Before<'_, T>,
    io: impl Into<InOut<'a, T>>,
) -> Result<()> {
    T::fused_infer(op, shape, before, io.into())
}

/// Backward, elementwise, from dy to dx: `dx = α[c] dz + (β[c] (x - μ[c]) + γ[c])`. Without any of these dx is dz, which
/// is the gradient of a residual.
///
/// # Errors
/// Lengths that do not fit the shape; a mask of another operation or length;
/// [`Error::MissingInput`](crate::Error::MissingInput).
pub fn backward<'a, T: Element>(
    shape: Shape,
    by: &Gradient<'_, T>,
    linear: &Linear<'_, T>,
    io: impl Into<InOut<'a, T>>,
) -> Result<()> {
    T::fused_backward(shape, by, linear, io.into())
}

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
