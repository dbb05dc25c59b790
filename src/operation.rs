//! The operations and their parameters: Drop-Activation, and the RReLU it is compared with.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::float_environment::in_default;
use crate::real::Real;

/// An elementwise nonlinearity σ.
///
/// The paper names ReLU, sigmoid and tanh (section 3); GELU and SiLU are this crate's addition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Activation {
    /// `x <= 0 ? +0 : x`; σ'(0) = 0.
    Relu,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// The hyperbolic tangent.
    Tanh,
    /// `x Φ(x)` with the normal distribution function Φ (the exact form, by erf).
    Gelu,
    /// `x sigmoid(x)`.
    Silu,
}

impl Activation {
    /// All of them, in the order of their codes.
    pub const ALL: [Self; 5] = [Self::Relu, Self::Sigmoid, Self::Tanh, Self::Gelu, Self::Silu];

    /// The lower-case name: `relu`, `sigmoid`, `tanh`, `gelu` or `silu`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Relu => "relu",
            Self::Sigmoid => "sigmoid",
            Self::Tanh => "tanh",
            Self::Gelu => "gelu",
            Self::Silu => "silu",
        }
    }

    /// Whether the training backward pass reads x again. ReLU's needs its mask only.
    pub const fn backward_needs_input(self) -> bool {
        !matches!(self, Self::Relu)
    }
}

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Activation {
    type Err = Error;

    /// # Errors
    /// [`Error::UnknownActivation`] for anything but the five lower-case names.
    fn from_str(name: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|a| a.name() == name)
            .ok_or_else(|| Error::UnknownActivation { name: name.to_owned() })
    }
}

/// Drop-Activation: a nonlinearity σ that is kept with probability p and replaced by the identity
/// otherwise, for each element on its own (the paper's equations 3 and 5).
///
/// ```
/// use drop_activation::{Activation, DropActivation};
/// let op = DropActivation::new(Activation::Relu, 0.95)?;
/// assert_eq!(op, DropActivation::default());
/// assert!(DropActivation::new(Activation::Relu, 1.5).is_err());
/// # Ok::<(), drop_activation::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct DropActivation {
    activation: Activation,
    p: f64,
}

impl DropActivation {
    /// σ and the probability p of **keeping** it.
    ///
    /// # Errors
    /// [`Error::Probability`] unless 0 <= p <= 1.
    pub fn new(activation: Activation, p: f64) -> Result<Self> {
        if in_default(p, |p| (0.0..=1.0).contains(&p)) {
            // `abs` makes -0 the 0 it stands for, so that equal operations have equal bits.
            Ok(Self { activation, p: p.abs() })
        } else {
            Err(Error::Probability { p })
        }
    }

    /// With ReLU, whose inference is the Leaky ReLU of slope 1 - p.
    ///
    /// # Errors
    /// [`Error::Probability`] unless 0 <= p <= 1.
    pub fn relu(p: f64) -> Result<Self> {
        Self::new(Activation::Relu, p)
    }

    /// The nonlinearity.
    pub const fn activation(&self) -> Activation {
        self.activation
    }

    /// The probability of keeping the nonlinearity.
    pub const fn p(&self) -> f64 {
        self.p
    }

    /// T of the keep stream: an element keeps σ when its 32-bit uniform is below T, so the
    /// probability is p rounded to a multiple of 2^-32. In \[0, 2^32\].
    pub fn threshold(&self) -> u64 {
        // `(p * 2^32 + 0.5).floor()` from the bits of p, for which no floating-point environment makes a difference.
        // p is `significand / 2^(32 + shift)`.
        let bits = self.p.to_bits();
        let (exponent, fraction) = (bits >> 52, bits & ((1 << 52) - 1));
        let shift = 1075 - 32 - exponent;
        let significand = fraction | 1 << 52;
        match shift {
            0..=53 => (significand + (1 << (shift - 1))) >> shift,
            // The sum of 1/2 and the number before it is rounded to 1.
            54 if significand == (1 << 53) - 1 => 1,
            _ => 0,
        }
    }

    /// How inference mixes identity and nonlinearity (the paper's equation 5), in arithmetic of type R. A p
    /// that is zero there is the identity's: times an infinite σ it would be NaN. Callers have entered the default
    /// floating-point environment.
    pub(crate) fn mixture<R: Real>(&self) -> Mixture {
        if R::from_f64(self.p) == R::ZERO {
            Mixture::Identity
        } else if self.p == 1.0 {
            Mixture::Sigma
        } else {
            Mixture::Mixed { p: self.p, slope: 1.0 - self.p }
        }
    }
}

/// Compares bits: it takes part in no arithmetic, whose environment might hold two numbers for equal.
impl PartialEq for DropActivation {
    fn eq(&self, other: &Self) -> bool {
        (self.activation, self.p.to_bits()) == (other.activation, other.p.to_bits())
    }
}

impl Default for DropActivation {
    /// The paper's choice: ReLU, p = 0.95.
    fn default() -> Self {
        Self { activation: Activation::Relu, p: 0.95 }
    }
}

impl fmt::Display for DropActivation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Drop-Activation({}, p = {:?})", self.activation, self.p)
    }
}

/// `(1-p) x + p σ(x)`, with its two ends exact.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mixture {
    Identity,
    Sigma,
    Mixed { p: f64, slope: f64 },
}

/// Randomised Leaky ReLU (the paper's equation 6): a negative element is scaled by a slope drawn
/// uniformly between lower and upper in training and by (lower + upper) / 2 at inference.
#[derive(Clone, Copy, Debug)]
pub struct RRelu {
    lower: f32,
    upper: f32,
}

impl RRelu {
    /// # Errors
    /// [`Error::Slopes`] unless 0 < lower <= upper <= 1.
    pub fn new(lower: f32, upper: f32) -> Result<Self> {
        if in_default((lower, upper), |(lower, upper)| 0.0 < lower && lower <= upper && upper <= 1.0) {
            Ok(Self { lower, upper })
        } else {
            Err(Error::Slopes { lower, upper })
        }
    }

    /// The smallest slope.
    pub const fn lower(&self) -> f32 {
        self.lower
    }

    /// The bound that slopes stay at or below.
    pub const fn upper(&self) -> f32 {
        self.upper
    }

    /// The mean slope, used at inference.
    pub fn inference_slope(&self) -> f64 {
        in_default((self.lower, self.upper), |(lower, upper)| (f64::from(lower) + f64::from(upper)) / 2.0)
    }
}

/// Compares bits, as for [`DropActivation`].
impl PartialEq for RRelu {
    fn eq(&self, other: &Self) -> bool {
        (self.lower.to_bits(), self.upper.to_bits()) == (other.lower.to_bits(), other.upper.to_bits())
    }
}

impl Default for RRelu {
    /// The paper's choice (section 4.1.1): lower = 1/8, upper = 1/3.
    fn default() -> Self {
        Self { lower: 1.0 / 8.0, upper: 1.0 / 3.0 }
    }
}

impl fmt::Display for RRelu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RReLU({}, {})", self.lower, self.upper)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Around every power of two, around halves between thresholds, and elsewhere.
    #[test]
    fn the_threshold_is_that_of_f64_arithmetic() {
        let check = |p: f64| {
            let expected = (p * 4_294_967_296.0 + 0.5).floor() as u64;
            assert_eq!(DropActivation::relu(p).unwrap().threshold(), expected, "p = {p:?}, {:#x}", p.to_bits());
        };
        let around = |p: f64| {
            for bits in (p.to_bits() - 3..=p.to_bits() + 3).filter(|bits| *bits <= 1f64.to_bits()) {
                check(f64::from_bits(bits));
            }
        };
        check(0.0);
        (0..=1022).for_each(|i| around(2f64.powi(-i)));
        let mut state = 1u64;
        for _ in 0..100_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let threshold = (state >> 32 >> (state % 32)) as f64;
            around((threshold + 0.5) / 4_294_967_296.0);
            check((state >> 11) as f64 / (1u64 << 53) as f64);
        }
    }
}
