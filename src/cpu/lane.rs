//! Blocks of 32 elements in the type of their arithmetic.

use half::{bf16, f16};

use crate::cpu::simd::bf16::rounded;
use crate::cpu::simd::{self, Simd};
use crate::element::Element;

/// An element type, with its conversions for whole blocks.
pub(crate) trait Lane: Element {
    /// [`Element::to_real`] for the elements of a block.
    fn to_reals<S: Simd>(simd: S, block: &[Self; 32]) -> [Self::Real; 32];

    /// The same, but a signalling NaN may stay one: for what arithmetic is done with.
    #[inline(always)]
    fn to_numbers<S: Simd>(simd: S, block: &[Self; 32]) -> [Self::Real; 32] {
        Self::to_reals(simd, block)
    }

    /// [`Element::from_real`] for the elements of a block.
    fn from_reals<S: Simd>(simd: S, block: &[Self::Real; 32]) -> [Self; 32];

    /// `factor`, positive and finite, times each element of a block, rounded once; anything where the element is
    /// NaN.
    #[inline(always)]
    fn scale<S: Simd>(simd: S, block: &[Self; 32], factor: Self::Real) -> [Self; 32] {
        map(simd, block, |_, value| factor * value)
    }
}

/// Applies `f` to the values of a block, in the type of the arithmetic.
#[inline(always)]
pub(crate) fn map<S: Simd, T: Lane>(simd: S, x: &[T; 32], f: impl Fn(usize, T::Real) -> T::Real) -> [T; 32] {
    let mut values = T::to_reals(simd, x);
    for (i, value) in values.iter_mut().enumerate() {
        *value = f(i, *value);
    }
    T::from_reals(simd, &values)
}

macro_rules! computed_in_itself {
    ($($type:ty)*) => {$(
        impl Lane for $type {
            #[inline(always)]
            fn to_reals<S: Simd>(_: S, block: &[Self; 32]) -> [Self; 32] {
                *block
            }

            #[inline(always)]
            fn from_reals<S: Simd>(_: S, block: &[Self; 32]) -> [Self; 32] {
                *block
            }
        }
    )*};
}

computed_in_itself!(f32 f64);

impl Lane for f16 {
    #[inline(always)]
    fn to_reals<S: Simd>(simd: S, block: &[Self; 32]) -> [f32; 32] {
        simd.widen(block)
    }

    #[inline(always)]
    fn from_reals<S: Simd>(simd: S, block: &[f32; 32]) -> [Self; 32] {
        simd.narrow(block)
    }
}

impl Lane for bf16 {
    #[inline(always)]
    fn to_reals<S: Simd>(simd: S, block: &[Self; 32]) -> [f32; 32] {
        simd.widen_bf16(block)
    }

    #[inline(always)]
    fn to_numbers<S: Simd>(simd: S, block: &[Self; 32]) -> [f32; 32] {
        simd.widen_bf16_to_compute(block)
    }

    #[inline(always)]
    fn from_reals<S: Simd>(simd: S, block: &[f32; 32]) -> [Self; 32] {
        simd.narrow_bf16(block)
    }

    #[inline(always)]
    fn scale<S: Simd>(_: S, block: &[Self; 32], factor: f32) -> [Self; 32] {
        scale_pairs(block, factor)
    }
}

/// [`Lane::scale`] for two elements in a lane of 32 bits, one at a time: no lane changes its place.
#[inline(always)]
fn scale_pairs(block: &[bf16; 32], factor: f32) -> [bf16; 32] {
    let mut out = [0; 16];
    for (out, x) in out.iter_mut().zip(block.as_chunks::<2>().0) {
        let bits = u32::from(x[0].to_bits()) | u32::from(x[1].to_bits()) << 16;
        let (low, high) = (f32::from_bits(bits << 16), f32::from_bits(bits & 0xFFFF_0000));
        *out = rounded(factor * low) >> 16 | rounded(factor * high) & 0xFFFF_0000;
    }
    simd::halves(out)
}
