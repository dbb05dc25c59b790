//! The value by which a network chooses its nonlinearity.

use std::fmt;

use candle_core::{Error, Result};
use drop_activation::{Activation, DropActivation, RRelu};

/// Which nonlinearity an [`ActivationLayer`](crate::ActivationLayer) applies: the three that the paper compares.
///
/// ```
/// use drop_activation_candle::{Activation, DropActivation, Nonlinearity};
/// let ours = Nonlinearity::drop_activation(Activation::Relu, 0.95)?;
/// assert_eq!(ours, Nonlinearity::from(DropActivation::default())); // the paper's choice
/// assert_eq!(ours.to_string(), "Drop-Activation(relu, p = 0.95)");
/// assert!(Nonlinearity::rrelu(0.5, 0.25).is_err());
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Nonlinearity {
    /// Plain ReLU, in training and at inference.
    Relu,
    /// Randomised Leaky ReLU (the paper's equation 6).
    RRelu(RRelu),
    /// Drop-Activation (the paper's equations 3 and 5), with ReLU or another σ.
    DropActivation(DropActivation),
}

impl Nonlinearity {
    /// Drop-Activation with σ = `activation`, kept with probability `p`.
    ///
    /// # Errors
    /// Unless 0 <= p <= 1.
    pub fn drop_activation(activation: Activation, p: f64) -> Result<Self> {
        DropActivation::new(activation, p).map(Self::DropActivation).map_err(Error::wrap)
    }

    /// RReLU with slopes drawn between `lower` and `upper`.
    ///
    /// # Errors
    /// Unless 0 < lower <= upper <= 1.
    pub fn rrelu(lower: f32, upper: f32) -> Result<Self> {
        RRelu::new(lower, upper).map(Self::RRelu).map_err(Error::wrap)
    }

    /// Whether its second derivative is zero wherever it has one.
    pub(crate) fn is_piecewise_linear(&self) -> bool {
        !matches!(self, Self::DropActivation(op) if op.activation() != Activation::Relu)
    }
}

/// The nonlinearities that draw a mask.
#[derive(Clone, Copy)]
pub(crate) enum Random {
    RRelu(RRelu),
    DropActivation(DropActivation),
}

impl From<DropActivation> for Nonlinearity {
    fn from(op: DropActivation) -> Self {
        Self::DropActivation(op)
    }
}

impl From<RRelu> for Nonlinearity {
    fn from(op: RRelu) -> Self {
        Self::RRelu(op)
    }
}

impl fmt::Display for Nonlinearity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Relu => f.write_str("ReLU"),
            Self::RRelu(op) => op.fmt(f),
            Self::DropActivation(op) => op.fmt(f),
        }
    }
}
