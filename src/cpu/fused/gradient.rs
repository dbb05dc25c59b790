//! z and dz of a block, in the type of the arithmetic.

use super::channels::{Place, Vector, Vectors};
use crate::activation::Activation;
use crate::cpu::lane::Lane;
use crate::cpu::simd::{Simd, Task};
use crate::cpu::smooth::{self, Smooth};
use crate::dz::Dz;
use crate::operands::Operands;
use crate::operation::{DropActivation, Mixture};
use crate::real::Real;

/// How z comes from x.
#[derive(Clone, Copy)]
pub(super) struct Z<'a, T> {
    /// Whether there is a scale or a shift.
    affine: bool,
    residual: Option<&'a [T]>,
}

impl<'a, T: Lane> Z<'a, T> {
    pub(super) fn new(vectors: &Vectors<'_, T::Real>, residual: Option<&'a [T]>) -> Self {
        let affine = [Vector::Scale, Vector::Shift].iter().any(|vector| vectors[*vector as usize].is_some());
        Self { affine, residual }
    }

    /// The vectors that it takes.
    pub(super) fn vectors(&self) -> &'static [Vector] {
        if self.affine { &[Vector::Scale, Vector::Shift] } else { &[] }
    }

    #[inline(always)]
    pub(super) fn block<S: Simd, P: Place<T::Real>>(&self, simd: S, place: P, x: &[T; 32]) -> [T::Real; 32] {
        let mut z = T::to_reals(simd, x);
        if self.affine {
            // An absent vector is 1 or -0: the sum or product that is left has the same bits.
            let (scale, shift) = (place.vector(Vector::Scale), place.vector(Vector::Shift));
            for i in 0..32 {
                z[i] = scale[i].mul_add(z[i], shift[i]);
            }
        }
        if let Some(residual) = self.residual {
            let residual = T::to_reals(simd, &place.tensor(simd, residual));
            for i in 0..32 {
                z[i] = z[i] + residual[i];
            }
        }
        z
    }
}

/// Where dz comes from.
#[derive(Clone, Copy)]
pub(super) enum Source<'a, T> {
    /// It is dy.
    Given,
    /// ReLU in training: dy or zero.
    Selected,
    /// From z too.
    OfZ(OfZ<'a, T>),
}

impl<'a, T: Lane<Real: Lane>> Source<'a, T> {
    pub(super) fn new(dz: &Dz, vectors: &Vectors<'_, T::Real>, operands: &Operands<'a, T>) -> Self {
        let (op, training) = match dz {
            Dz::Given => return Self::Given,
            Dz::Training(op) if !dz.needs_z() => {
                debug_assert_eq!(op.activation(), Activation::Relu);
                return Self::Selected;
            }
            Dz::Training(op) => (*op, true),
            Dz::Inference(op) => (*op, false),
        };
        let z = Z::new(vectors, operands.residual);
        Self::OfZ(OfZ { x: operands.x.unwrap_or_default(), z, op, training })
    }

    /// The vectors that it takes.
    pub(super) fn vectors(&self) -> &'static [Vector] {
        match self {
            Self::OfZ(of_z) => of_z.z.vectors(),
            _ => &[],
        }
    }

    /// `bits` are the mask's of the block.
    #[inline(always)]
    pub(super) fn block<S: Simd, P: Place<T::Real>>(
        &self,
        simd: S,
        place: P,
        dy: &[T; 32],
        bits: u32,
    ) -> [T::Real; 32] {
        match self {
            Self::Given => T::to_reals(simd, dy),
            Self::Selected => T::to_reals(simd, &simd.blend(bits, dy, &[T::default(); 32])),
            Self::OfZ(of_z) => {
                // Bound by arithmetic: a function of its own, of which there is one copy for many callers.
                let mut dz = [T::Real::ZERO; 32];
                simd.outlined(Evaluate { of_z, place, dy, bits, dz: &mut dz });
                dz
            }
        }
    }
}

/// A smooth nonlinearity in training, or any at inference.
#[derive(Clone, Copy)]
pub(super) struct OfZ<'a, T> {
    x: &'a [T],
    z: Z<'a, T>,
    op: DropActivation,
    training: bool,
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
        let dy = T::to_reals(simd, dy);
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
