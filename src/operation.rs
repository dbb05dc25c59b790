//! The operations and their parameters: Drop-Activation, and the RReLU it is compared with.

use std::fmt;

use crate::activation::Activation;
use crate::error::{Error, Result};
use crate::float_environment::in_default;
use crate::real::Real;

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

    /// How many calls of the generator 32 keep bits take where many words are drawn together, as on a GPU: 0 for a p
    /// that is 0 or 1 after rounding to 2^-32, 1 for a multiple of 1/16, 2 for one of 1/256, and 3 for any other (one
    /// warp in four makes a fourth). `docs/gpu-prediction.md` says what a call costs.
    ///
    /// ```
    /// use drop_activation::DropActivation;
    /// assert_eq!(DropActivation::relu(0.95)?.generator_calls(), 3);
    /// assert_eq!(DropActivation::relu(0.95)?.with_p_in_256ths().generator_calls(), 2);
    /// assert_eq!(DropActivation::relu(0.9375)?.generator_calls(), 1);
    /// # Ok::<(), drop_activation::Error>(())
    /// ```
    pub fn generator_calls(&self) -> u32 {
        let planes = 32 - self.threshold().trailing_zeros().min(32);
        planes.div_ceil(4).min(3)
    }

    /// The same operation with p rounded to the nearest multiple of 1/16 (ties to the even one): one call of the
    /// generator instead of three. 0.95 becomes 0.9375.
    pub fn with_p_in_16ths(self) -> Self {
        self.with_p_in(16.0)
    }

    /// The same operation with p rounded to the nearest multiple of 1/256 (ties to the even one): two calls of the
    /// generator instead of three. 0.95 becomes 0.94921875, which is 243/256.
    pub fn with_p_in_256ths(self) -> Self {
        self.with_p_in(256.0)
    }

    fn with_p_in(self, parts: f64) -> Self {
        let p = in_default(self.p, |p| (p * parts).round_ties_even() / parts);
        Self { p, ..self }
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

    #[test]
    fn calls_of_the_generator_follow_the_bits_of_p() {
        let calls = |p: f64| DropActivation::relu(p).unwrap().generator_calls();
        assert_eq!([0.0, 1e-12, 1.0 - 1e-12, 1.0].map(calls), [0; 4]);
        assert_eq!([0.5, 0.25, 1.0 / 16.0, 15.0 / 16.0].map(calls), [1; 4]);
        assert_eq!([1.0 / 32.0, 243.0 / 256.0, 1.0 / 256.0].map(calls), [2; 3]);
        assert_eq!([0.95, 1.0 / 512.0, 0.6, 1.0 - 2f64.powi(-32)].map(calls), [3; 4]);
        let op = DropActivation::new(Activation::Gelu, 0.95).unwrap();
        assert_eq!((op.with_p_in_16ths().p(), op.with_p_in_256ths().p()), (0.9375, 243.0 / 256.0));
        assert_eq!(op.with_p_in_16ths().activation(), Activation::Gelu);
        let ends = [0.0, 1.0].map(|p| DropActivation::relu(p).unwrap().with_p_in_16ths().p());
        assert_eq!(ends, [0.0, 1.0]);
    }

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
