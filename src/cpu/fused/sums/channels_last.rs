//! Parts of rows that have the channels next to each other: inner == 1.

use std::ops::Range;

use super::counts::Shares;
use super::parts::{Part, SumOfPart};
use super::row_accumulators::RowAccumulators;
use super::summand::{Here, Summand, bits_of};
use super::values::OfRows;
use crate::cpu::lane::Lane;
use crate::cpu::simd::Simd;
use crate::real::Real;
use crate::sum_order::{ACCUMULATORS, CHUNK};

/// How many rows, 32 apart, an accumulator takes something of before it is stored.
const SETS: usize = 4;

impl<T: Lane<Real: Lane>, P: Summand<T, N>, const N: usize> SumOfPart<'_, T, P, N> {
    /// Where a row of the tensor has the channels next to each other.
    #[inline(always)]
    pub(super) fn channels_last<S: Simd>(self, simd: S) {
        let (width, of_row) = (self.part.channels.len(), self.shape.channels());
        let ahead = if width == of_row {
            self.ahead(ACCUMULATORS * of_row, SETS * ACCUMULATORS * of_row)
        } else {
            self.ahead(width, of_row)
        };
        let Self { shape, summand, vectors, part: Part { channels, chunks, out } } = self;
        let mut accumulators = RowAccumulators::new(channels.len());
        let values = OfRows::new(vectors, &summand.vectors(), &channels);
        let of_whole = Shares::new(CHUNK);
        for (k, out) in chunks.zip(out.chunks_exact_mut(channels.len())) {
            let chunk = k * CHUNK..shape.count().min((k + 1) * CHUNK);
            if !P::FIRST {
                accumulators.sums.iter_mut().for_each(|sums| sums.fill(T::Real::ZERO));
            }
            let length = chunk.len();
            Rows { summand, values: &values, accumulators: &mut accumulators, of_row, first: channels.start, ahead }
                .chunk::<T, S>(simd, chunk);
            if length == CHUNK {
                summand.merge_rows(&mut accumulators, &of_whole, out);
            } else {
                summand.merge_rows(&mut accumulators, &Shares::new(length), out);
            }
        }
    }
}

/// Rows of the tensor, in the accumulators of a chunk.
struct Rows<'a, R, P, const N: usize> {
    summand: &'a P,
    values: &'a OfRows<R>,
    accumulators: &'a mut RowAccumulators<R, N>,
    /// Channels of a row, and which of these is the first of the accumulators'.
    of_row: usize,
    first: usize,
    ahead: usize,
}

impl<R: Lane + Real, P, const N: usize> Rows<'_, R, P, N> {
    #[inline(always)]
    fn chunk<T: Lane<Real = R>, S: Simd>(&mut self, simd: S, chunk: Range<usize>)
    where
        P: Summand<T, N>,
    {
        let mut row = chunk.start;
        while row < chunk.end {
            let rows = chunk.end - row;
            let first = P::FIRST && row == chunk.start;
            let sets = if first || rows < SETS * ACCUMULATORS { 1 } else { SETS };
            self.sets::<T, S>(simd, row, rows.min(ACCUMULATORS), sets, first);
            row += sets * ACCUMULATORS;
        }
    }

    /// So many rows, and as many of each set that follows.
    #[inline(always)]
    fn sets<T: Lane<Real = R>, S: Simd>(&mut self, simd: S, row: usize, rows: usize, sets: usize, first: bool)
    where
        P: Summand<T, N>,
    {
        let width = self.accumulators.channels;
        // Whole rows follow each other without a gap: as if they were one.
        let (runs, run) = if width == self.of_row { (1, rows * width) } else { (rows, width) };
        for r in 0..runs {
            let mut start = (row + r) * self.of_row + self.first;
            let (mut at, mut place) = (r * width, 0);
            let end = start + run;
            while start + 32 <= end {
                if first {
                    self.block::<T, S, 1, true>(simd, start, at, place);
                } else if sets == SETS {
                    self.block::<T, S, SETS, false>(simd, start, at, place);
                } else {
                    self.block::<T, S, 1, false>(simd, start, at, place);
                }
                (start, at, place) = (start + 32, at + 32, place + 32);
                if place >= self.values.period {
                    place -= self.values.period;
                }
            }
            if start < end {
                let len = end - start;
                for set in 0..sets {
                    let start = start + set * ACCUMULATORS * self.of_row;
                    self.some::<T, S>(simd, start, len, at, place, first);
                }
            }
        }
    }

    /// A block, and one of each set that follows.
    #[inline(always)]
    fn block<T: Lane<Real = R>, S: Simd, const SETS: usize, const FIRST: bool>(
        &mut self,
        simd: S,
        start: usize,
        at: usize,
        place: usize,
    ) where
        P: Summand<T, N>,
    {
        let mut sums = self.accumulators.load(at);
        for set in 0..SETS {
            let start = start + set * ACCUMULATORS * self.of_row;
            let here = Here { start, lanes: 0..32, at_end: false, at: place, values: self.values, ahead: self.ahead };
            self.summand.take::<S, _, FIRST>(simd, &here, &mut sums);
        }
        self.accumulators.store(at, &sums);
    }

    /// Less than a block, at the end of a row.
    #[inline(always)]
    fn some<T: Lane<Real = R>, S: Simd>(
        &mut self,
        simd: S,
        start: usize,
        len: usize,
        at: usize,
        place: usize,
        first: bool,
    ) where
        P: Summand<T, N>,
    {
        let old = self.accumulators.load(at);
        let mut sums = old;
        let here = Here { start, lanes: 0..len, at_end: true, at: place, values: self.values, ahead: 0 };
        if first {
            self.summand.take::<S, _, true>(simd, &here, &mut sums);
        } else {
            self.summand.take::<S, _, false>(simd, &here, &mut sums);
        }
        for n in 0..N {
            sums[n] = simd.blend(bits_of(&(0..len)), &sums[n], &old[n]);
        }
        self.accumulators.store(at, &sums);
    }
}
