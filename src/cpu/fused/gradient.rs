//! z and dz of a block, in the type of the arithmetic.

use super::channels::{Place, Vector};
use crate::activation::Activation;
use crate::cpu::lane::Lane;
use crate::cpu::simd::{Simd, Task};
use crate::cpu::smooth::{self, Smooth};
use crate::dz::Dz;
use crate::operands::Operands;
use crate::operation::{DropActivation, Mixture};
use crate::real::Real;

/// How z comes from x, by scale and shift: an absent one is 1 or -0, and what is left has the same bits.
#[derive(Clone, Copy)]
pub(super) struct Z<'a, T> {
    pub(super) residual: Option<&'a [T]>,
}

/// The vectors that it takes.
pub(super) const OF_Z: &[Vector] = &[Vector::Scale, Vector::Shift];

impl<T: Lane> Z<'_, T> {
    #[inline(always)]
    pub(super) fn block<S: Simd, P: Place<T::Real>>(&self, simd: S, place: P, x: &[T; 32]) -> [T::Real; 32] {
        let (scale, shift) = (place.vector(simd, Vector::Scale), place.vector(simd, Vector::Shift));
        let z = simd.times_plus(&scale, &T::to_numbers(simd, x), &shift);
        match self.residual {
            Some(residual) => simd.plus(&z, &T::to_numbers(simd, &place.tensor(simd, residual))),
            None => z,
        }
    }
}

/// Where dz comes from.
pub(super) trait Source<T: Lane>: Sync {
    /// Whether it takes so long that it need not be compiled for each kind of [`Channels`](super::channels::Channels).
    const LONG: bool;

    /// The vectors that it takes.
    fn vectors(&self) -> &'static [Vector];

    /// `bits` are the mask's of the block; all of them where there is none.
    fn block<S: Simd, P: Place<T::Real>>(&self, simd: S, place: P, dy: &[T; 32], bits: u32) -> [T::Real; 32];
}

/// ReLU in training: dy or zero. So it is dy that was given too, with all bits.
pub(super) struct Selected;

impl<T: Lane> Source<T> for Selected {
    const LONG: bool = false;

    fn vectors(&self) -> &'static [Vector] {
        &[]
    }

    #[inline(always)]
    fn block<S: Simd, P: Place<T::Real>>(&self, simd: S, _: P, dy: &[T; 32], bits: u32) -> [T::Real; 32] {
        T::to_numbers(simd, &simd.blend(bits, dy, &[T::default(); 32]))
    }
}

/// From z too: a smooth nonlinearity in training, or any at inference.
pub(super) struct OfZ<'a, T> {
    x: &'a [T],
    z: Z<'a, T>,
    op: DropActivation,
    training: bool,
}

impl<'a, T: Lane> OfZ<'a, T> {
    /// If it [`Dz::needs_z`].
    pub(super) fn new(dz: &Dz, operands: &Operands<'a, T>) -> Option<Self> {
        let (op, training) = match dz {
            Dz::Training(op) if dz.needs_z() => (*op, true),
            Dz::Inference(op) => (*op, false),
            _ => return None,
        };
        let z = Z { residual: operands.residual };
        Some(Self { x: operands.x.unwrap_or_default(), z, op, training })
    }
}

impl<T: Lane<Real: Lane>> Source<T> for OfZ<'_, T> {
    const LONG: bool = true;

    fn vectors(&self) -> &'static [Vector] {
        OF_Z
    }

    #[inline(always)]
    fn block<S: Simd, P: Place<T::Real>>(&self, simd: S, place: P, dy: &[T; 32], bits: u32) -> [T::Real; 32] {
        // Bound by arithmetic: a function of its own, of which there is one copy for many callers.
        let mut dz = [T::Real::ZERO; 32];
        simd.outlined(Evaluate { of_z: self, place, dy, bits, dz: &mut dz });
        dz
    }
}

struct Evaluate<'a, T: Lane, P> {
    of_z: &'a OfZ<'a, T>,
    place: P,
    dy: &'a [T; 32],
    bits: u32,
    dz: &'a mut [T::Real; 32],
}

impl<T: Lane<Real: Lane>, P: Place<T::Real>> Task for Evaluate<'_, T, P> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { of_z: OfZ { x, z, op, training }, place, dy, bits, dz } = self;
        let dy = T::to_numbers(simd, dy);
        let mixture = if *training { Mixture::Sigma } else { op.mixture::<T::Real>() };
        let (p, slope) = match mixture {
            Mixture::Identity => {
                *dz = dy;
                return;
            }
            Mixture::Sigma => (None, T::Real::ZERO),
            Mixture::Mixed { p, slope } => (Some(T::Real::from_f64(p)), T::Real::from_f64(slope)),
        };
        let mut z = z.block(simd, place, &place.tensor(simd, x));
        if op.activation() == Activation::Relu {
            let mut scaled = [T::Real::ZERO; 32];
            if p.is_some() {
                for i in 0..32 {
                    scaled[i] = slope * dy[i];
                }
            }
            *dz = simd.blend(simd.at_most_zero(u32::MAX, &z), &scaled, &dy);
            return;
        }
        smooth::evaluate(simd, Smooth::Derivative(op.activation()), &mut z);
        if let Some(p) = p {
            for z in &mut z {
                *z = p.mul_add(*z, slope);
            }
        }
        for i in 0..32 {
            z[i] = dy[i] * z[i];
        }
        *dz = simd.blend(if *training { bits } else { u32::MAX }, &z, &dy);
    }
}
