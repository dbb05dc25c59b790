//! The two types that arithmetic is done in.

use crate::activation::Activation;

/// [`f32`] or [`f64`]: what [`Element::Real`](crate::Element::Real) may be.
pub trait Real:
    Copy
    + PartialOrd
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::Div<Output = Self>
    + std::fmt::Debug
    + Default
    + Send
    + Sync
    + 'static
{
    /// +0.
    const ZERO: Self;

    /// Rounds once.
    fn from_f64(value: f64) -> Self;

    /// Exact.
    fn from_f32(value: f32) -> Self;

    /// Exact.
    fn to_f64(self) -> f64;

    /// `self * a + b`, rounded once.
    fn mul_add(self, a: Self, b: Self) -> Self;

    /// Whether it is not a number.
    fn is_nan(self) -> bool;

    /// σ(x), within the bounds stated in [`crate::activation`].
    fn sigma(self, activation: Activation) -> Self;

    /// σ'(x), within the bounds stated in [`crate::activation`]; ReLU's is 0 at 0.
    fn derivative(self, activation: Activation) -> Self;
}

macro_rules! real {
    ($type:ty: $value:ident $derivative:ident) => {
        impl Real for $type {
            const ZERO: Self = 0.0;

            #[inline(always)]
            fn from_f64(value: f64) -> Self {
                value as Self
            }

            #[inline(always)]
            fn from_f32(value: f32) -> Self {
                value.into()
            }

            #[inline(always)]
            fn to_f64(self) -> f64 {
                self.into()
            }

            #[inline(always)]
            fn mul_add(self, a: Self, b: Self) -> Self {
                <$type>::mul_add(self, a, b)
            }

            #[inline(always)]
            fn is_nan(self) -> bool {
                <$type>::is_nan(self)
            }

            #[inline(always)]
            fn sigma(self, activation: Activation) -> Self {
                activation.$value(self)
            }

            #[inline(always)]
            fn derivative(self, activation: Activation) -> Self {
                activation.$derivative(self)
            }
        }
    };
}

real!(f32: value_f32 derivative_f32);
real!(f64: value_f64 derivative_f64);
