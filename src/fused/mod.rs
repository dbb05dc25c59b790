//! Drop-Activation fused with its neighbours: a scale and a shift for each channel, as batch normalisation and biases
//! are, a residual, and the sums that their gradients need. `docs/fused.md` is the text that this follows.

mod batch_norm;
pub mod reference;

pub use crate::dz::Dz;
pub use crate::operands::Operands;
pub use crate::shape::Shape;
pub use batch_norm::{BatchNorm, LinearVectors, Normalised, ParameterGradients, Running};

/// The rayon backend's.
pub mod cpu;

use crate::activation::Activation;
use crate::element::Element;
use crate::error::{Error, Result};
use crate::mask::{MaskOrigin, PackedMask};
use crate::operation::DropActivation;

/// What is done to x before the activation: `z = scale[c] x + shift[c]`, fused, and the residual added to that.
#[derive(Clone, Copy, Debug)]
pub struct Before<'a, T: Element> {
    /// a: for each channel. None is 1.
    pub scale: Option<&'a [T::Real]>,
    /// b: for each channel. None is 0.
    pub shift: Option<&'a [T::Real]>,
    /// r: as long as x. None is 0.
    pub residual: Option<&'a [T]>,
}

impl<T: Element> Default for Before<'_, T> {
    /// Nothing.
    fn default() -> Self {
        Self { scale: None, shift: None, residual: None }
    }
}

impl<T: Element> Before<'_, T> {
    pub(crate) fn check(&self, shape: Shape) -> Result<()> {
        self.scale.map_or(Ok(()), |scale| shape.has_channels_of("scale", scale.len()))?;
        self.shift.map_or(Ok(()), |shift| shape.has_channels_of("shift", shift.len()))?;
        self.residual.map_or(Ok(()), |residual| shape.holds("residual", residual.len()))
    }
}

/// What the activation is applied to, z, by what it is computed from.
#[derive(Clone, Copy, Debug)]
pub struct Preactivation<'a, T: Element> {
    /// The tensor x.
    pub x: &'a [T],
    /// What is done to it.
    pub before: Before<'a, T>,
}

impl<'a, T: Element> Preactivation<'a, T> {
    /// x itself.
    pub fn of(x: &'a [T]) -> Self {
        Self { x, before: Before::default() }
    }

    pub(crate) fn check(&self, shape: Shape) -> Result<()> {
        shape.holds("x", self.x.len())?;
        self.before.check(shape)
    }
}

/// How the gradient of z comes from that of y.
#[derive(Clone, Copy, Debug)]
pub enum Gradient<'a, T: Element> {
    /// It was computed before: `dz = dy`.
    Given,
    /// As in training: `dz = keep ? dy σ'(z) : dy`, and for ReLU `dz = pass ? dy : +0`, for which z is not looked at.
    Training(&'a DropActivation, &'a PackedMask, Option<Preactivation<'a, T>>),
    /// As at inference: `dz = dy ((1-p) + p σ'(z))`.
    Inference(&'a DropActivation, Preactivation<'a, T>),
}

impl<T: Element> Gradient<'_, T> {
    pub(crate) fn check(&self, shape: Shape) -> Result<()> {
        match self {
            Self::Given => Ok(()),
            Self::Training(op, mask, z) => {
                let (given, expected) = (mask.origin(), MaskOrigin::DropActivation(**op));
                if given != expected {
                    return Err(Error::MaskOrigin { given, expected: expected.to_string() });
                }
                if mask.len() != shape.len() {
                    return Err(Error::MaskLength { given: mask.len(), other: "dy", expected: shape.len() });
                }
                match z {
                    Some(z) => z.check(shape),
                    None if op.activation() == Activation::Relu => Ok(()),
                    None => Err(Error::MissingInput { activation: op.activation() }),
                }
            }
            Self::Inference(_, z) => z.check(shape),
        }
    }
}

/// x and the value of each channel that it is taken relative to: `x - mean[c]`.
#[derive(Clone, Copy, Debug)]
pub struct Centred<'a, T: Element> {
    /// The tensor x: the slice that a [`Preactivation`] has, where the same call is given one.
    pub x: &'a [T],
    /// μ: for each channel.
    pub mean: &'a [T::Real],
}

impl<T: Element> Centred<'_, T> {
    pub(crate) fn check(&self, shape: Shape) -> Result<()> {
        shape.holds("x", self.x.len())?;
        shape.has_channels_of("mean", self.mean.len())
    }
}

/// What makes the gradient of x of that of z: `dx = α[c] dz + (β[c] (x - μ[c]) + γ[c])`.
#[derive(Clone, Copy, Debug)]
pub struct Linear<'a, T: Element> {
    /// α: for each channel. None is 1.
    pub alpha: Option<&'a [T::Real]>,
    /// β and γ, each for each channel, and what x is relative to. None is 0, and x is not read.
    pub rest: Option<Rest<'a, T>>,
}

/// The part of [`Linear`] that comes from the statistics' dependence on x.
#[derive(Clone, Copy, Debug)]
pub struct Rest<'a, T: Element> {
    /// β: for each channel.
    pub beta: &'a [T::Real],
    /// γ: for each channel.
    pub gamma: &'a [T::Real],
    /// x and μ.
    pub centred: Centred<'a, T>,
}

impl<T: Element> Linear<'_, T> {
    pub(crate) fn check(&self, shape: Shape) -> Result<()> {
        self.alpha.map_or(Ok(()), |alpha| shape.has_channels_of("alpha", alpha.len()))?;
        let Some(rest) = &self.rest else { return Ok(()) };
        shape.has_channels_of("beta", rest.beta.len())?;
        shape.has_channels_of("gamma", rest.gamma.len())?;
        rest.centred.check(shape)
    }
}

/// Mean and biased variance of each channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics<R> {
    /// The means.
    pub mean: Vec<R>,
    /// The mean squared distances from them.
    pub variance: Vec<R>,
}

/// The sums of a backward pass for each channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Sums<R> {
    /// s1: `Σ dz`.
    pub gradient: Vec<R>,
    /// s2: `Σ dz (x - μ)`, where x was given.
    pub product: Option<Vec<R>>,
}
