//! For every machine: plain loops.

use half::f16;

use super::Simd;
use crate::cpu::smooth::{self, Smooth};
use crate::element::Element;
use crate::real::Real;

#[derive(Clone, Copy)]
pub(super) struct Portable;

/// [`smooth::evaluate`], not inlined: one copy for all passes.
#[inline(never)]
fn evaluate<R: Real>(function: Smooth, values: &mut [R; 32]) {
    smooth::evaluate(function, values);
}

impl Simd for Portable {
    #[inline(always)]
    fn at_most_zero<T: Element>(self, block: &[T; 32]) -> u32 {
        let mut bits = 0;
        for (i, x) in block.iter().enumerate() {
            bits |= u32::from(x.at_most_zero()) << i;
        }
        bits
    }

    #[inline(always)]
    fn blend<T: Element>(self, bits: u32, set: &[T; 32], clear: &[T; 32]) -> [T; 32] {
        std::array::from_fn(|i| if bits >> i & 1 == 1 { set[i] } else { clear[i] })
    }

    #[inline(always)]
    fn widen(self, block: &[f16; 32]) -> [f32; 32] {
        block.map(f16::to_f32)
    }

    #[inline(always)]
    fn narrow(self, block: &[f32; 32]) -> [f16; 32] {
        block.map(f16::from_f32)
    }

    #[inline(always)]
    fn evaluate<R: Real>(self, function: Smooth, values: &mut [R; 32]) {
        evaluate(function, values);
    }

    #[inline(always)]
    fn stream<T: Element>(self, from: &[T], to: &mut [T]) {
        to.copy_from_slice(from);
    }

    #[inline(always)]
    fn fence(self) {}
}
