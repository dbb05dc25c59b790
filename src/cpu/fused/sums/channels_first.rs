//! Parts of rows that have the elements of a channel, its plane, next to each other.

use std::marker::PhantomData;
use std::ops::Range;

use super::counts::Shares;
use super::parts::{Part, SumOfPart};
use super::summand::{Here, Summand, bits_of};
use super::values::OfChannel;
use crate::cpu::lane::Lane;
use crate::cpu::simd::{Simd, Task};
use crate::real::Real;
use crate::sum_order::{ACCUMULATORS, CHUNK};

impl<T: Lane<Real: Lane>, P: Summand<T, N>, const N: usize> SumOfPart<'_, T, P, N> {
    /// Where a row of the tensor has the elements of a channel next to each other.
    #[inline(always)]
    pub(super) fn channels_first<S: Simd>(self, simd: S) {
        let row = self.shape.channels() * self.shape.inner();
        let run = if self.part.channels.len() == self.shape.channels() {
            self.shape.len()
        } else {
            self.part.channels.len() * self.shape.inner()
        };
        let ahead = self.ahead(run, row);
        let Self { shape, summand, vectors, part: Part { channels, chunks, out } } = self;
        let (inner, of_row, count, width) = (shape.inner(), shape.channels(), shape.count(), channels.len());
        let values: Vec<_> = channels.clone().map(|c| OfChannel::new(vectors, c)).collect();
        let mut accumulators = vec![[[T::Real::ZERO; 32]; N]; width];
        let (of_whole, of_last) = (Shares::new(CHUNK), Shares::new(count % CHUNK));
        let (mut start, end) = (chunks.start * CHUNK, count.min(chunks.end * CHUNK));
        while start < end {
            let (o, j) = (start / inner, start % inner);
            let plane_end = end.min(start + inner - j);
            for c in 0..width {
                let from = (o * of_row + channels.start + c) * inner + j;
                let plane = Plane {
                    summand,
                    values: &values[c],
                    elements: from..from + (plane_end - start),
                    t: start,
                    shares: [&of_whole, &of_last],
                    count,
                    ahead,
                    accumulators: &mut accumulators[c],
                    out: &mut out[..],
                    place: c,
                    width,
                    first_chunk: chunks.start,
                };
                if plane.elements.end + ACCUMULATORS <= shape.len() {
                    plane.take::<T, S, false>(simd);
                } else {
                    simd.outlined(LastPlane(plane, PhantomData::<T>));
                }
            }
            start = plane_end;
        }
    }
}

/// Elements of one channel that follow each other.
struct Plane<'a, R, P, const N: usize> {
    summand: &'a P,
    values: &'a OfChannel<R>,
    elements: Range<usize>,
    /// The first one's number in the channel, of which there are `count`.
    t: usize,
    count: usize,
    /// Of a whole chunk, and of the last one if that is not.
    shares: [&'a Shares<R>; 2],
    ahead: usize,
    accumulators: &'a mut [[R; 32]; N],
    /// Gets the sums of the chunks that end: of chunk `first_chunk` at `place`, and the next `width` later.
    out: &'a mut [[R; N]],
    place: usize,
    width: usize,
    first_chunk: usize,
}

/// At the end of the tensor: see [`Here::at_end`]. A call in the midst of the others would have their accumulators leave the
/// registers.
struct LastPlane<'a, T, R, P, const N: usize>(Plane<'a, R, P, N>, PhantomData<T>);

impl<T: Lane<Real: Lane>, P: Summand<T, N>, const N: usize> Task for LastPlane<'_, T, T::Real, P, N> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        self.0.take::<T, S, true>(simd);
    }
}

impl<R: Lane + Real, P, const N: usize> Plane<'_, R, P, N> {
    #[inline(always)]
    fn take<T: Lane<Real = R>, S: Simd, const AT_END: bool>(self, simd: S)
    where
        P: Summand<T, N>,
    {
        let Self { summand, values, elements, mut t, count, shares, ahead, accumulators, out, place, .. } = self;
        let (end, mut start) = (t + elements.len(), elements.start);
        let ring = Ring::<_, _, AT_END> { summand, values, ahead };
        let mut sums = *accumulators;
        while t < end {
            let chunk_end = count.min((t / CHUNK + 1) * CHUNK);
            let piece = end.min(chunk_end) - t;
            ring.take::<T, S, N>(simd, t, start..start + piece, &mut sums);
            if t + piece == chunk_end {
                let shares = shares[usize::from(!chunk_end.is_multiple_of(CHUNK))];
                out[(t / CHUNK - self.first_chunk) * self.width + place] = summand.merged(simd, &sums, shares);
                sums = [[R::ZERO; 32]; N];
            }
            (t, start) = (t + piece, start + piece);
        }
        *accumulators = sums;
    }
}

/// Elements of one channel, in its 32 accumulators.
struct Ring<'a, R, P, const AT_END: bool> {
    summand: &'a P,
    values: &'a OfChannel<R>,
    ahead: usize,
}

impl<R: Lane + Real, P, const AT_END: bool> Ring<'_, R, P, AT_END> {
    /// Elements of a chunk that follow each other, the first of which is its channel's `t`th. Lane i is always accumulator i.
    #[inline(always)]
    fn take<T: Lane<Real = R>, S: Simd, const N: usize>(
        &self,
        simd: S,
        t: usize,
        elements: Range<usize>,
        sums: &mut [[R; 32]; N],
    ) where
        P: Summand<T, N>,
    {
        // An element's index in the tensor is no less than in its channel: lane 0 lies in the tensor.
        let lane = t % ACCUMULATORS;
        let (mut start, end) = (elements.start - lane, elements.end);
        let mut first = P::FIRST && t % CHUNK < ACCUMULATORS;
        if lane > 0 || elements.len() < ACCUMULATORS {
            self.some::<T, S, N>(simd, first, start, lane..ACCUMULATORS.min(end - start), sums);
            start += ACCUMULATORS;
            first = false;
        }
        if first {
            self.summand.take::<S, _, true>(simd, &self.here(start, 0..ACCUMULATORS), sums);
            start += ACCUMULATORS;
        }
        // A copy stays in registers.
        let mut whole = *sums;
        while start + ACCUMULATORS <= end {
            self.summand.take::<S, _, false>(simd, &self.here(start, 0..ACCUMULATORS), &mut whole);
            start += ACCUMULATORS;
        }
        *sums = whole;
        if start < end {
            self.some::<T, S, N>(simd, false, start, 0..end - start, sums);
        }
    }

    /// Those of some lanes.
    #[inline(always)]
    fn some<T: Lane<Real = R>, S: Simd, const N: usize>(
        &self,
        simd: S,
        first: bool,
        start: usize,
        lanes: Range<usize>,
        sums: &mut [[R; 32]; N],
    ) where
        P: Summand<T, N>,
    {
        let (mut new, bits) = (*sums, bits_of(&lanes));
        if first {
            self.summand.take::<S, _, true>(simd, &self.here(start, lanes), &mut new);
        } else {
            self.summand.take::<S, _, false>(simd, &self.here(start, lanes), &mut new);
        }
        for n in 0..N {
            sums[n] = simd.blend(bits, &new[n], &sums[n]);
        }
    }

    #[inline(always)]
    fn here(&self, start: usize, lanes: Range<usize>) -> Here<'_, OfChannel<R>> {
        Here { start, lanes, at_end: AT_END, at: 0, values: self.values, ahead: self.ahead }
    }
}
