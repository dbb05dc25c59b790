//! Blocks of 32 elements in the type of their arithmetic.

use half::{bf16, f16};

use crate::cpu::simd::{self, Simd};
use crate::element::Element;

/// An element type, with its conversions for whole blocks.
pub(crate) trait Lane: Element {
    /// [`Element::to_real`] for the elements of a block.
    fn to_reals<S: Simd>(simd: S, block: &[Self; 32]) -> [Self::Real; 32];

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
    fn to_reals<S: Simd>(_: S, block: &[Self; 32]) -> [f32; 32] {
        widen(block)
    }

    #[inline(always)]
    fn from_reals<S: Simd>(_: S, block: &[f32; 32]) -> [Self; 32] {
        narrow(block)
    }

    #[inline(always)]
    fn scale<S: Simd>(_: S, block: &[Self; 32], factor: f32) -> [Self; 32] {
        scale_pairs(block, factor)
    }
}

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
