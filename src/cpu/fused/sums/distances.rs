//! Statistics: distances from the first element of an accumulator, and their squares.

use super::counts::Shares;
use super::row_accumulators::RowAccumulators;
use super::summand::{Here, Summand, bits_of};
use super::values::Values;
use crate::cpu::fused::channels::Vector;
use crate::cpu::lane::Lane;
use crate::cpu::simd::Simd;
use crate::real::Real;
use crate::sum_order::{ACCUMULATORS, CHUNK, Moments, halve};

/// Sums for the statistics: the first element, the distances from it, their squares.
pub(super) struct Distances<'a, T> {
    pub(super) x: &'a [T],
}

impl<T: Lane<Real: Lane>> Summand<T, 3> for Distances<'_, T> {
    const FIRST: bool = true;

    fn vectors(&self) -> Vec<Vector> {
        Vec::new()
    }

    #[inline(always)]
    fn take<S: Simd, V: Values<T::Real>, const FIRST: bool>(
        &self,
        simd: S,
        here: &Here<'_, V>,
        [first, distances, squared]: &mut [[T::Real; 32]; 3],
    ) {
        let x = T::to_numbers(simd, &here.block(simd, self.x));
        if FIRST {
            let zero = simd.repeat(T::Real::ZERO);
            (*first, *distances, *squared) = (x, zero, zero);
            return;
        }
        let distance = simd.minus(&x, first);
        *distances = simd.plus(distances, &distance);
        *squared = simd.times_plus(&distance, &distance, squared);
    }

    #[inline(always)]
    fn merged<S: Simd>(
        &self,
        simd: S,
        [first, distances, squared]: &[[T::Real; 32]; 3],
        shares: &Shares<T::Real>,
    ) -> [T::Real; 3] {
        // As `Moments::of_sums`, and then `Moments::with_share`.
        let zero = simd.repeat(T::Real::ZERO);
        let difference = simd.over(distances, &shares.counts);
        let squares = simd.times_plus(&simd.minus(&zero, distances), &difference, squared);
        let squares = simd.blend(simd.at_most_zero(u32::MAX, &squares), &zero, &squares);
        let all = [*first, difference, squares];
        let all = halved::<S, T::Real, 16>(simd, all, shares);
        let all = halved::<S, T::Real, 8>(simd, all, shares);
        let all = halved::<S, T::Real, 4>(simd, all, shares);
        let all = halved::<S, T::Real, 2>(simd, all, shares);
        halved::<S, T::Real, 1>(simd, all, shares).map(|lanes| lanes[0])
    }

    #[inline(always)]
    fn merge_rows(
        &self,
        accumulators: &mut RowAccumulators<T::Real, 3>,
        shares: &Shares<T::Real>,
        out: &mut [[T::Real; 3]],
    ) {
        accumulators.each(shares.present, |a, [first, distances, squared]| {
            let moments = Moments::of_sums(shares.counts[a], first, distances, squared);
            [moments.first, moments.difference, moments.squares]
        });
        accumulators.halve(shares.present, out, |place, a, b| {
            let [first, difference, squares] = a;
            let a = Moments { count: shares.before[place], first, difference, squares };
            let [first, difference, squares] = b;
            let sum = a.with_share(Moments { count: a.count, first, difference, squares }, shares.share[place]);
            [sum.first, sum.difference, sum.squares]
        });
    }

    fn total(&self, count: usize, chunks: impl Iterator<Item = [T::Real; 3]>) -> [T::Real; 3] {
        let mut chunks = chunks.enumerate().map(|(k, chunk)| {
            let [first, difference, squares] = chunk.map(Real::to_f64);
            Moments { count: (count - k * CHUNK).min(CHUNK) as f64, first, difference, squares }
        });
        let nothing = Moments { count: 0.0, first: 0.0, difference: 0.0, squares: 0.0 };
        let all = if count <= CHUNK {
            // Thousands of channels may have a chunk each, and groups take longer than that.
            chunks.next().unwrap_or(nothing)
        } else {
            let (mut groups, mut present) = ([nothing; ACCUMULATORS], 0);
            for (k, chunk) in chunks.enumerate() {
                let group = &mut groups[k % ACCUMULATORS];
                *group = if k < ACCUMULATORS { chunk } else { group.with(chunk) };
                present = (k + 1).min(ACCUMULATORS);
            }
            halve(groups, present, Moments::with)
        };
        let [mean, variance] = [all.first + all.difference, all.squares / all.count].map(T::Real::from_f64);
        [mean, variance, T::Real::ZERO]
    }
}

/// Accumulator i takes up accumulator i + BY, where that is present; of the others anything is left.
#[inline(always)]
fn halved<S: Simd, R: Lane + Real, const BY: usize>(
    simd: S,
    [first, difference, squares]: [[R; 32]; 3],
    shares: &Shares<R>,
) -> [[R; 32]; 3] {
    let (share, weight) = (shares.block(&shares.share, BY), shares.block(&shares.weight, BY));
    let apart = simd.plus(
        &simd.minus(&simd.moved_down::<R, BY>(&first), &first),
        &simd.minus(&simd.moved_down::<R, BY>(&difference), &difference),
    );
    let both = simd.plus(&squares, &simd.moved_down::<R, BY>(&squares));
    let there = bits_of(&(0..shares.present.saturating_sub(BY)));
    [
        first,
        simd.blend(there, &simd.times_plus(&apart, share, &difference), &difference),
        simd.blend(there, &simd.times_plus(&simd.times(&apart, &apart), weight, &both), &squares),
    ]
}
