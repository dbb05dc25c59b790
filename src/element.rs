//! The element types and the arithmetic each is done in.

use std::convert::identity;
use std::fmt::Debug;
use std::ops::Neg;

use half::{bf16, f16};

use crate::real::Real;

/// What is done by code of its own for each element type: compiled once, with this crate, and not for every caller.
pub trait ForEachType {
    /// What it takes.
    type Argument<T: Element>;
    /// What it returns.
    type Output;

    /// For f32.
    fn f32(argument: Self::Argument<f32>) -> Self::Output;
    /// For f16.
    fn f16(argument: Self::Argument<f16>) -> Self::Output;
    /// For bf16.
    fn bf16(argument: Self::Argument<bf16>) -> Self::Output;
    /// For f64.
    fn f64(argument: Self::Argument<f64>) -> Self::Output;
}

mod sealed {
    use super::{Element, ForEachType};

    /// What the backends need of an element type and nobody else.
    pub trait Sealed: Sized {
        /// The bits of negative infinity: read as unsigned integers, what lies beyond is NaN.
        const NEGATIVE_INFINITY: u64;

        /// Does it for this type.
        fn choose<F: ForEachType>(argument: F::Argument<Self>) -> F::Output
        where
            Self: Element;
    }
}

/// An element type: [`f32`], [`f64`], [`half::f16`] or [`half::bf16`].
///
/// Arithmetic is done in [`Element::Real`] (f64 for f64, f32 for the others) and rounded once to the
/// element type.
pub trait Element:
    sealed::Sealed + Copy + Default + PartialEq + Neg<Output = Self> + Send + Sync + Debug + 'static
{
    /// The type that arithmetic is done in.
    type Real: Real;

    /// The type's code.
    const DTYPE: Dtype;

    /// Exact.
    fn to_real(self) -> Self::Real;

    /// Rounds once, to nearest, ties to even.
    fn from_real(value: Self::Real) -> Self;

    /// Whether ReLU makes it zero: `x <= 0`, which NaN is not.
    #[doc(hidden)]
    #[inline(always)]
    fn at_most_zero(self) -> bool {
        self.to_real() <= Self::Real::ZERO
    }
}

/// The element types as values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of a binary32.
    Bf16,
    /// IEEE binary64.
    F64,
}

impl Dtype {
    /// The lower-case name: `f32`, `f16`, `bf16` or `f64`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::F64 => "f64",
        }
    }

    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }
}

macro_rules! element {
    ($type:ident, $real:ty, $dtype:ident, $to:expr, $from:expr) => {
        impl sealed::Sealed for $type {
            const NEGATIVE_INFINITY: u64 = <$type>::NEG_INFINITY.to_bits() as u64;

            #[inline(always)]
            fn choose<F: ForEachType>(argument: F::Argument<Self>) -> F::Output {
                F::$type(argument)
            }
        }

        impl Element for $type {
            type Real = $real;
            const DTYPE: Dtype = Dtype::$dtype;

            #[inline(always)]
            fn to_real(self) -> $real {
                $to(self)
            }

            #[inline(always)]
            fn from_real(value: $real) -> Self {
                $from(value)
            }
        }
    };
}

element!(f32, f32, F32, identity, identity);
element!(f64, f64, F64, identity, identity);
element!(f16, f32, F16, f16::to_f32, f16::from_f32);
element!(bf16, f32, Bf16, bf16::to_f32, bf16::from_f32);
