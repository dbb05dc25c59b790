//! A tensor in parts, each of some channels and chunks, which threads share; and the results of their sums.

use std::ops::Range;

use super::summand::Summand;
use crate::cpu::engine::{Pool, READ_PREFETCH, TASK, share};
use crate::cpu::fused::channels::{Vectors, no_cache_holds};
use crate::cpu::lane::Lane;
use crate::cpu::simd::{self, Fence, Simd, Task};
use crate::error::{Error, Result};
use crate::real::Real;
use crate::shape::Shape;
use crate::sum_order::{CHUNK, chunks};

/// Channels whose chunks are summed together, where a tensor has more and a channel's elements are next to each other:
/// their accumulators fit the first cache.
const CHANNELS: usize = 64;

/// Fewer are enough where so many elements of one channel, or of several, are next to each other.
const RUN: usize = 1 << 14;

/// The same where channels are next to each other. Rows are read faster the more of them is read in one piece: with 64
/// channels of 160 a sum took five times as long. These accumulators fit the second cache.
const CHANNELS_OF_ROWS: usize = 512;

/// Elements of the largest part of a tensor that one thread sums at a time.
const LARGEST_PART: usize = 1 << 18;

/// Chunks of neighbouring channels.
pub(super) struct Part<'a, R, const N: usize> {
    pub(super) channels: Range<usize>,
    pub(super) chunks: Range<usize>,
    /// Gets their sums, chunk after chunk.
    pub(super) out: &'a mut [[R; N]],
}

/// Sums all channels and hands over their results.
pub(super) fn sum<T: Lane<Real: Lane>, const N: usize>(
    shape: Shape,
    summand: &impl Summand<T, N>,
    vectors: &Vectors<'_, T::Real>,
    mut result: impl FnMut(usize, [T::Real; N]),
) -> Result<()> {
    // A single channel is a row, however it was divided.
    let shape = match shape.channels() {
        1 => Shape::new(1, 1, shape.len())?,
        _ => shape,
    };
    let (channels, chunks) = (shape.channels(), chunks(shape.count()));
    let values = channels * chunks;
    let mut partial = Vec::new();
    partial.try_reserve_exact(values).map_err(|_| Error::SumMemory { values: values * N, len: shape.len() })?;
    partial.resize(values, [T::Real::ZERO; N]);

    // The groups of channels, one after the other, have the sums of their chunks.
    let pool = Pool::of_caller();
    let group = channels.min(match shape.inner() {
        1 => CHANNELS_OF_ROWS,
        inner => (RUN / inner.max(1)).clamp(8, CHANNELS),
    });
    let part = (shape.len() / (8 * pool.threads())).clamp(TASK, LARGEST_PART);
    let together = (part / (CHUNK * group)).max(1);
    let mut rest = &mut partial[..];
    let mut next = (0, 0);
    let parts = std::iter::from_fn(move || {
        let (c, k) = next;
        if c == channels || chunks == 0 {
            return None;
        }
        let (c_end, k_end) = (channels.min(c + group), chunks.min(k + together));
        next = if k_end == chunks { (c_end, 0) } else { (c, k_end) };
        let (out, others) = std::mem::take(&mut rest).split_at_mut((c_end - c) * (k_end - k));
        rest = others;
        Some(Part { channels: c..c_end, chunks: k..k_end, out })
    });
    let count = channels.div_ceil(group) * chunks.div_ceil(together);
    let run = |part| simd::dispatch(SumOfPart::<T, _, N> { shape, summand, vectors, part });
    if shape.len() <= TASK {
        parts.for_each(run);
    } else {
        share(&pool, parts.collect::<Vec<_>>().into_iter(), count, run);
    }

    for first in (0..channels).step_by(group) {
        let width = group.min(channels - first);
        let of_group = &partial[first * chunks..];
        for c in 0..width {
            let of_channel = (0..chunks).map(|k| of_group[k * width + c]);
            result(first + c, summand.total(shape.count(), of_channel));
        }
    }
    Ok(())
}

/// The sums of a part, on an instruction set.
pub(super) struct SumOfPart<'a, T: Lane, P, const N: usize> {
    pub(super) shape: Shape,
    pub(super) summand: &'a P,
    pub(super) vectors: &'a Vectors<'a, T::Real>,
    pub(super) part: Part<'a, T::Real, N>,
}

impl<T: Lane<Real: Lane>, P: Summand<T, N>, const N: usize> Task for SumOfPart<'_, T, P, N> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let _fence = Fence(simd); // for what a summand writes
        if self.shape.inner() == 1 { self.channels_last(simd) } else { self.channels_first(simd) }
    }
}

impl<T: Lane<Real: Lane>, P: Summand<T, N>, const N: usize> SumOfPart<'_, T, P, N> {
    /// How many bytes further on to ask for memory: what is read next, or what is read in the next round through a row that
    /// has so many elements of the part, or through several of them.
    pub(super) fn ahead(&self, run: usize, round: usize) -> usize {
        let size = size_of::<T>();
        match no_cache_holds(self.shape, size) {
            false => 0,
            true if run * size >= 4 * READ_PREFETCH => READ_PREFETCH,
            true => round * size,
        }
    }
}
