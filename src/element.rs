//! The element types and the arithmetic each is done in.

use half::{bf16, f16};

use crate::real::Real;

mod sealed {
    pub trait Sealed {}
}

/// An element type: [`f32`], [`f64`], [`half::f16`] or [`half::bf16`].
///
/// Arithmetic is done in [`Element::Real`] (f64 for f64, f32 for the others) and rounded once to the
/// element type.
pub trait Element: sealed::Sealed + Copy + Default + PartialEq + Send + Sync + std::fmt::Debug + 'static {
    /// The type that arithmetic is done in.
    type Real: Real;

    /// The type's code.
    const DTYPE: Dtype;

    /// Exact.
    fn to_real(self) -> Self::Real;

    /// Rounds once, to nearest, ties to even.
    fn from_real(value: Self::Real) -> Self;
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
    ($type:ty, $real:ty, $dtype:ident, $to:expr, $from:expr) => {
        impl sealed::Sealed for $type {}
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

element!(f32, f32, F32, std::convert::identity, std::convert::identity);
element!(f64, f64, F64, std::convert::identity, std::convert::identity);
element!(f16, f32, F16, f16::to_f32, f16::from_f32);
element!(bf16, f32, Bf16, bf16::to_f32, bf16::from_f32);
