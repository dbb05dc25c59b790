//! The vectors' values for the elements of a block, by how the tensor lies in memory.

use std::ops::Range;

use crate::cpu::fused::channels::{VECTORS, Vector, Vectors, absent, again_and_again};
use crate::cpu::simd::Simd;
use crate::real::Real;

/// The vectors' values for the elements of a block.
pub(super) trait Values<R>: Sync {
    /// Those of a vector. `at` is the place of the block's first element.
    fn block<S: Simd>(&self, simd: S, vector: Vector, at: usize) -> [R; 32];
}

/// One channel's.
#[derive(Clone, Copy)]
pub(super) struct OfChannel<R>(pub(super) [R; VECTORS]);

impl<R: Real> OfChannel<R> {
    pub(super) fn new(vectors: &Vectors<'_, R>, c: usize) -> Self {
        Self(std::array::from_fn(|i| vectors[i].map_or(absent(i), |vector| vector[c])))
    }
}

impl<R: Real> Values<R> for OfChannel<R> {
    #[inline(always)]
    fn block<S: Simd>(&self, simd: S, vector: Vector, _: usize) -> [R; 32] {
        simd.repeat(self.0[vector as usize])
    }
}

/// Those of neighbouring channels, again and again, as they follow each other in rows.
pub(super) struct OfRows<R> {
    /// Behind which it begins again; no less than a block.
    pub(super) period: usize,
    pub(super) tiles: [Vec<R>; VECTORS],
}

impl<R: Real> OfRows<R> {
    pub(super) fn new(vectors: &Vectors<'_, R>, wanted: &[Vector], channels: &Range<usize>) -> Self {
        let width = channels.len();
        let period = width * 32_usize.div_ceil(width);
        let mut tiles: [Vec<R>; VECTORS] = Default::default();
        for vector in wanted.iter().map(|vector| *vector as usize) {
            tiles[vector] = match vectors[vector] {
                Some(vector) => again_and_again(&vector[channels.clone()], period + 32),
                None => vec![absent(vector); period + 32],
            };
        }
        Self { period, tiles }
    }
}

impl<R: Real> Values<R> for OfRows<R> {
    #[inline(always)]
    fn block<S: Simd>(&self, _: S, vector: Vector, at: usize) -> [R; 32] {
        *self.tiles[vector as usize][at..].first_chunk().expect("32 values follow each place within the period")
    }
}
