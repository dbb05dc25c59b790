//! The fused passes on the CPU, shared by rayon's threads.
//!
//! Results are those of [`reference`](super::reference), bit for bit, whatever the number of threads, the instruction
//! set or the floating-point environment of the calling thread.

use super::{Before, Centred, Dz, Gradient, Linear, Operands, Preactivation, Shape, Statistics, Sums};
use crate::cpu::{Mask, call_fused};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::io::InOut;
use crate::key::MaskKey;
use crate::mask::{MaskOrigin, PackedMask};
use crate::operation::DropActivation;
use crate::pass::Pass;
use crate::real::Real;

/// Training forward, from x to y: `y = keep ? σ(z) : z`. Returns the mask.
///
/// # Errors
/// Lengths that do not fit the shape; [`Error::IndexRange`];
/// [`Error::MaskMemory`].
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
    let pass = Pass::FusedForward { op: *op, key, shape };
    call_fused(&pass, io.into(), before.operands(), Mask::Make(mask))
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
    call_fused(&Pass::FusedInfer { op: *op, shape }, io.into(), before.operands(), Mask::None)
}

/// Backward, elementwise, from dy to dx: `dx = α[c] dz + (β[c] (x - μ[c]) + γ[c])`. Without any of these dx is dz,
/// which is the gradient of a residual.
///
/// # Errors
/// Lengths that do not fit the shape; a mask of another operation or length;
/// [`Error::MissingInput`]; [`Error::AnotherX`].
pub fn backward<'a, T: Element>(
    shape: Shape,
    by: &Gradient<'_, T>,
    linear: &Linear<'_, T>,
    io: impl Into<InOut<'a, T>>,
) -> Result<()> {
    let Linear { alpha, rest } = *linear;
    let mut operands = Operands { alpha, ..by.operands() };
    if let Some(rest) = rest {
        (operands.beta, operands.gamma) = (Some(rest.beta), Some(rest.gamma));
        operands.x = Some(by.only_x(rest.centred.x)?);
        operands.mean = Some(rest.centred.mean);
    }
    call_fused(&Pass::FusedBackward { dz: by.dz(), shape }, io.into(), operands, by.mask())
}

/// Mean and biased variance of each channel.
///
/// # Errors
/// [`Error::ShapeLength`]; [`Error::NoElements`];
/// [`Error::SumMemory`].
pub fn statistics<T: Element>(shape: Shape, x: &[T]) -> Result<Statistics<T::Real>> {
    let (mut mean, mut variance) = (zeros(shape)?, zeros(shape)?);
    let operands = Operands { results: [Some(&mut mean[..]), Some(&mut variance[..])], ..Operands::default() };
    call_fused(&Pass::Statistics { shape }, InOut::OutOfPlace(x, &mut []), operands, Mask::None)?;
    Ok(Statistics { mean, variance })
}

/// Backward, the sums: `Σ dz`, and `Σ dz (x - μ)` where `centred` is given. dr = dz is written to `dr`, rounded to the
/// element type, if that is given.
///
/// # Errors
/// Lengths that do not fit the shape; a mask of another operation or length;
/// [`Error::MissingInput`]; [`Error::AnotherX`];
/// [`Error::SumMemory`].
pub fn reduce<T: Element>(
    shape: Shape,
    dy: &[T],
    by: &Gradient<'_, T>,
    centred: Option<&Centred<'_, T>>,
    dr: Option<&mut [T]>,
) -> Result<Sums<T::Real>> {
    let mut gradient = zeros(shape)?;
    let mut product = centred.map(|_| zeros(shape)).transpose()?;
    let mut operands = by.operands();
    if let Some(centred) = centred {
        operands.x = Some(by.only_x(centred.x)?);
        operands.mean = Some(centred.mean);
    }
    operands.results = [Some(&mut gradient[..]), product.as_deref_mut()];
    let io = InOut::OutOfPlace(
        dy,
        match dr {
            Some(dr) => {
                shape.holds("dr", dr.len())?;
                dr
            }
            None => &mut [],
        },
    );
    call_fused(&Pass::FusedSums { dz: by.dz(), shape }, io, operands, by.mask())?;
    Ok(Sums { gradient, product })
}

/// A vector with a value for each channel.
pub(super) fn zeros<R: Real>(shape: Shape) -> Result<Vec<R>> {
    let mut vector = Vec::new();
    let (values, len) = (shape.channels(), shape.len());
    vector.try_reserve_exact(values).map_err(|_| Error::SumMemory { values, len })?;
    vector.resize(values, R::ZERO);
    Ok(vector)
}

impl<'a, T: Element> Before<'a, T> {
    /// What it says to a pass.
    fn operands(&self) -> Operands<'a, T> {
        let Self { scale, shift, residual } = *self;
        Operands { scale, shift, residual, ..Operands::default() }
    }
}

impl<'a, T: Element> Gradient<'a, T> {
    fn dz(&self) -> Dz {
        match self {
            Self::Given => Dz::Given,
            Self::Training(op, ..) => Dz::Training(**op),
            Self::Inference(op, _) => Dz::Inference(**op),
        }
    }

    fn mask(&self) -> Mask<'a> {
        match self {
            Self::Training(_, mask, _) => Mask::Made(mask),
            _ => Mask::None,
        }
    }

    fn preactivation(&self) -> Option<Preactivation<'a, T>> {
        match self {
            Self::Given => None,
            Self::Training(.., z) => *z,
            Self::Inference(_, z) => Some(*z),
        }
    }

    /// What it says to a pass.
    fn operands(&self) -> Operands<'a, T> {
        self.preactivation().map_or_else(Operands::default, |z| Operands { x: Some(z.x), ..z.before.operands() })
    }

    /// `x`, if it is the one that z is computed from.
    fn only_x<'b>(&self, x: &'b [T]) -> Result<&'b [T]> {
        match self.preactivation() {
            Some(z) if self.dz().needs_z() && !std::ptr::eq(z.x, x) => Err(Error::AnotherX),
            _ => Ok(x),
        }
    }
}
