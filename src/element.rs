//! The element types and the arithmetic each is done in.

use std::convert::identity;
use std::fmt::Debug;
use std::ops::Neg;

use half::{bf16, f16};

use crate::cpu::job::Words;
use crate::cpu::passes::{self, Pass};
use crate::cpu::simd::{self, Simd};
use crate::io::InOut;
use crate::real::Real;

mod sealed {
    use super::Real;
    use crate::cpu::job::Words;
    use crate::cpu::passes::Pass;
    use crate::cpu::simd::Simd;
    use crate::io::InOut;

    /// What the backends need of an element type and nobody else.
    pub trait Sealed: Sized {
        /// What [`Element::Real`](super::Element::Real) is.
        type Arithmetic: Real;

        /// The bits of negative infinity: read as unsigned integers, what lies beyond is NaN.
        const NEGATIVE_INFINITY: u64;

        /// [`Element::to_real`](super::Element::to_real) for the elements of a block.
        fn to_reals<S: Simd>(simd: S, block: &[Self; 32]) -> [Self::Arithmetic; 32];

        /// [`Element::from_real`](super::Element::from_real) for the elements of a block.
        fn from_reals<S: Simd>(simd: S, block: &[Self::Arithmetic; 32]) -> [Self; 32];

        /// `factor`, positive and finite, times each element of a block, rounded once; anything where the element is
        /// NaN.
        fn scale<S: Simd>(simd: S, block: &[Self; 32], factor: Self::Arithmetic) -> [Self; 32];

        /// Runs a pass of the CPU backend. Not generic, so that its vector code is compiled once, with this
        /// crate, and not in every crate that calls it.
        fn run(pass: Pass, io: InOut<'_, Self>, second: Option<&[Self]>, words: Words<'_>);
    }
}

/// An element type: [`f32`], [`f64`], [`half::f16`] or [`half::bf16`].
///
/// Arithmetic is done in [`Element::Real`] (f64 for f64, f32 for the others) and rounded once to the
/// element type.
pub trait Element:
    sealed::Sealed<Arithmetic = Self::Real>
    + Copy
    + Default
    + PartialEq
    + Neg<Output = Self>
    + Send
    + Sync
    + Debug
    + 'static
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
    ($type:ty, $real:ty, $dtype:ident, $to:expr, $from:expr, $to_block:expr, $from_block:expr, $scale:expr) => {
        impl sealed::Sealed for $type {
            type Arithmetic = $real;
            const NEGATIVE_INFINITY: u64 = <$type>::NEG_INFINITY.to_bits() as u64;

            #[inline(always)]
            fn to_reals<S: Simd>(simd: S, block: &[Self; 32]) -> [$real; 32] {
                $to_block(simd, block)
            }

            #[inline(always)]
            fn from_reals<S: Simd>(simd: S, block: &[$real; 32]) -> [Self; 32] {
                $from_block(simd, block)
            }

            #[inline(always)]
            fn scale<S: Simd>(simd: S, block: &[Self; 32], factor: $real) -> [Self; 32] {
                $scale(simd, block, factor)
            }

            fn run(pass: Pass, io: InOut<'_, Self>, second: Option<&[Self]>, words: Words<'_>) {
                pass.run(io, second, words);
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

element!(f32, f32, F32, identity, identity, |_, block: &_| *block, |_, block: &_| *block, scale);
element!(f64, f64, F64, identity, identity, |_, block: &_| *block, |_, block: &_| *block, scale);
element!(f16, f32, F16, f16::to_f32, f16::from_f32, Simd::widen, Simd::narrow, scale);
element!(bf16, f32, Bf16, bf16::to_f32, bf16::from_f32, |_, block| widen(block), |_, block| narrow(block), scale_pairs);

/// [`bf16::to_f32`] of each, without branches and without `array::map`, so that it becomes vector code.
#[inline(always)]
fn widen(block: &[bf16; 32]) -> [f32; 32] {
    let mut out = [0.0; 32];
    for (out, x) in out.iter_mut().zip(block) {
        let bits = u32::from(x.to_bits()) << 16;
        let quiet = if bits << 1 > 0xFF00_0000 { 1 << 22 } else { 0 };
        *out = f32::from_bits(bits | quiet);
    }
    out
}

/// [`sealed::Sealed::scale`] by way of the whole block in the type of the arithmetic.
#[inline(always)]
fn scale<S: Simd, T: Element>(simd: S, block: &[T; 32], factor: T::Real) -> [T; 32] {
    passes::map(simd, block, |_, value| factor * value)
}

/// [`sealed::Sealed::scale`] for two elements in a lane of 32 bits, one at a time: no lane changes its place.
#[inline(always)]
fn scale_pairs<S: Simd>(_: S, block: &[bf16; 32], factor: f32) -> [bf16; 32] {
    let mut out = [0; 16];
    for (out, x) in out.iter_mut().zip(block.as_chunks::<2>().0) {
        let bits = u32::from(x[0].to_bits()) | u32::from(x[1].to_bits()) << 16;
        let (low, high) = (f32::from_bits(bits << 16), f32::from_bits(bits & 0xFFFF_0000));
        *out = rounded(factor * low) >> 16 | rounded(factor * high) & 0xFFFF_0000;
    }
    simd::halves(out)
}

/// Its bits, of which the upper half is rounded to bf16; not for NaN.
#[inline(always)]
fn rounded(value: f32) -> u32 {
    let bits = value.to_bits();
    // Half a unit less the smallest part, and that too where the last bit is odd: ties go to even.
    bits.wrapping_add(0x7FFF + (bits >> 16 & 1))
}

/// [`bf16::from_f32`] of each, without branches and without `array::map` too.
#[inline(always)]
fn narrow(block: &[f32; 32]) -> [bf16; 32] {
    let mut out = [bf16::ZERO; 32];
    for (out, x) in out.iter_mut().zip(block) {
        let bits = x.to_bits();
        let rounded = rounded(*x) >> 16;
        let quiet = bits >> 16 | 0x40;
        *out = bf16::from_bits(if bits << 1 > 0xFF00_0000 { quiet } else { rounded } as u16);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bf16_is_widened() {
        for first in (0..=u16::MAX).step_by(32) {
            let block = std::array::from_fn(|i| bf16::from_bits(first + i as u16));
            assert_eq!(widen(&block).map(f32::to_bits), block.map(|x| x.to_f32().to_bits()), "from {first:#x}");
        }
    }

    #[test]
    fn narrowing_to_bf16_rounds_to_even() {
        // Around every bf16: itself, the middle to the next one, and the neighbours of both.
        let mut values: Vec<u32> = Vec::new();
        for bits in 0..=u32::from(u16::MAX) {
            for low in [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF] {
                values.push(bits << 16 | low);
            }
        }
        for chunk in values.as_chunks::<32>().0 {
            let block = chunk.map(f32::from_bits);
            let expected = block.map(|x| bf16::from_f32(x).to_bits());
            assert_eq!(narrow(&block).map(bf16::to_bits), expected, "{block:?}");
        }
    }
}
