//! What is summed, as the layouts see it: blocks of it go to accumulators, and these become one.

use std::ops::Range;

use super::counts::Shares;
use super::row_accumulators::RowAccumulators;
use super::values::Values;
use crate::cpu::fused::channels::{Place, Vector, part_of, prefetch};
use crate::cpu::lane::Lane;
use crate::cpu::simd::Simd;
use crate::real::Real;

/// What is summed, in N sums that go together.
pub(super) trait Summand<T: Lane, const N: usize>: Sync {
    /// Whether the first elements of accumulators are taken in another way. If not, accumulators begin at zero.
    const FIRST: bool;

    /// The vectors with a value for each channel that it looks at.
    fn vectors(&self) -> Vec<Vector>;

    /// Takes up the elements of a block, as many as there are, into as many accumulators. In the others it leaves
    /// anything. FIRST: these elements are the accumulators' first.
    fn take<S: Simd, V: Values<T::Real>, const FIRST: bool>(
        &self,
        simd: S,
        here: &Here<'_, V>,
        accumulators: &mut [[T::Real; 32]; N],
    );

    /// Makes one of the accumulators of a chunk of one channel.
    fn merged<S: Simd>(&self, simd: S, accumulators: &[[T::Real; 32]; N], shares: &Shares<T::Real>) -> [T::Real; N];

    /// The same for all channels of rows.
    fn merge_rows(
        &self,
        accumulators: &mut RowAccumulators<T::Real, N>,
        shares: &Shares<T::Real>,
        out: &mut [[T::Real; N]],
    );

    /// The results of a channel from those of its chunks, of which there are so many elements.
    fn total(&self, count: usize, chunks: impl Iterator<Item = [T::Real; N]>) -> [T::Real; N];
}

/// The place of a block, of which lanes go to accumulators.
pub(super) struct Here<'a, V> {
    /// The element of lane 0.
    pub(super) start: usize,
    /// Those that count: of the others, which are another channel's or nobody's, anything may come out.
    pub(super) lanes: Range<usize>,
    /// Whether some of the others may lie behind the tensor.
    pub(super) at_end: bool,
    /// The place of lane 0 among the values.
    pub(super) at: usize,
    pub(super) values: &'a V,
    /// How many bytes further on memory is asked for; 0 where a cache holds the tensors.
    pub(super) ahead: usize,
}

impl<V> Here<'_, V> {
    /// The elements that count.
    #[inline(always)]
    pub(super) fn elements(&self) -> Range<usize> {
        self.start + self.lanes.start..self.start + self.lanes.end
    }

    #[inline(always)]
    pub(super) fn block<S: Simd, T: Lane>(&self, simd: S, tensor: &[T]) -> [T; 32] {
        if self.at_end {
            // Mostly there are as many, if not all of this channel.
            return match tensor.get(self.start..).and_then(|rest| rest.first_chunk()) {
                Some(block) => *block,
                None => part_of(tensor, self.start),
            };
        }
        let block = tensor[self.start..].first_chunk().expect("not at the end");
        if self.ahead > 0 {
            prefetch(simd, block, self.ahead);
        }
        *block
    }
}

impl<R: Real, V: Values<R>> Place<R> for &Here<'_, V> {
    #[inline(always)]
    fn tensor<S: Simd, T: Lane>(&self, simd: S, tensor: &[T]) -> [T; 32] {
        self.block(simd, tensor)
    }

    #[inline(always)]
    fn vector<S: Simd>(&self, simd: S, vector: Vector) -> [R; 32] {
        self.values.block(simd, vector, self.at)
    }
}

/// The bits of elements `i` to `i + 31`, as far as there are any.
#[inline(always)]
pub(super) fn bits(words: &[u32], i: usize) -> u32 {
    let low = words.get(i / 32).copied().unwrap_or(0);
    let high = words.get(i / 32 + 1).copied().unwrap_or(0);
    ((u64::from(high) << 32 | u64::from(low)) >> (i % 32)) as u32
}

/// Those of lanes.
#[inline(always)]
pub(super) fn bits_of(lanes: &Range<usize>) -> u32 {
    ((1_u64 << lanes.end) - (1_u64 << lanes.start)) as u32
}
