//! Sums of dz, alone and with those of its products.

use super::counts::Shares;
use super::gradients::Gradients;
use super::row_accumulators::RowAccumulators;
use super::summand::{Here, Summand};
use super::values::Values;
use crate::cpu::fused::channels::{Place, Vector};
use crate::cpu::fused::gradient::Source;
use crate::cpu::lane::Lane;
use crate::cpu::simd::Simd;
use crate::real::Real;
use crate::sum_order::{ACCUMULATORS, CHUNK, halve};

/// Sums of dz.
pub(super) struct Plain<'a, T, P, const STREAMED: bool> {
    pub(super) gradients: Gradients<'a, T, P, STREAMED>,
}

/// Sums of dz and of its products with x - μ.
pub(super) struct Products<'a, T, P, const STREAMED: bool> {
    pub(super) gradients: Gradients<'a, T, P, STREAMED>,
    pub(super) x: &'a [T],
}

impl<T: Lane<Real: Lane>, P: Source<T>, const STREAMED: bool> Summand<T, 1> for Plain<'_, T, P, STREAMED> {
    const FIRST: bool = false;

    fn vectors(&self) -> Vec<Vector> {
        self.gradients.source.vectors().to_vec()
    }

    #[inline(always)]
    fn take<S: Simd, V: Values<T::Real>, const FIRST: bool>(
        &self,
        simd: S,
        here: &Here<'_, V>,
        [sums]: &mut [[T::Real; 32]; 1],
    ) {
        *sums = simd.plus(sums, &self.gradients.block(simd, here));
    }

    #[inline(always)]
    fn merged<S: Simd>(&self, simd: S, [sums]: &[[T::Real; 32]; 1], _: &Shares<T::Real>) -> [T::Real; 1] {
        [sum_of(simd, sums)]
    }

    #[inline(always)]
    fn merge_rows(
        &self,
        accumulators: &mut RowAccumulators<T::Real, 1>,
        shares: &Shares<T::Real>,
        out: &mut [[T::Real; 1]],
    ) {
        accumulators.halve(shares.present, out, |_, [a], [b]| [a + b]);
    }

    fn total(&self, count: usize, chunks: impl Iterator<Item = [T::Real; 1]>) -> [T::Real; 1] {
        total_of_sums(count, chunks)
    }
}

impl<T: Lane<Real: Lane>, P: Source<T>, const STREAMED: bool> Summand<T, 2> for Products<'_, T, P, STREAMED> {
    const FIRST: bool = false;

    fn vectors(&self) -> Vec<Vector> {
        [self.gradients.source.vectors(), &[Vector::Mean]].concat()
    }

    #[inline(always)]
    fn take<S: Simd, V: Values<T::Real>, const FIRST: bool>(
        &self,
        simd: S,
        here: &Here<'_, V>,
        [sums, products]: &mut [[T::Real; 32]; 2],
    ) {
        let x = T::to_numbers(simd, &here.block(simd, self.x));
        let distance = simd.minus(&x, &here.vector(simd, Vector::Mean));
        let dz = self.gradients.block(simd, here);
        *sums = simd.plus(sums, &dz);
        *products = simd.times_plus(&dz, &distance, products);
    }

    #[inline(always)]
    fn merged<S: Simd>(&self, simd: S, [sums, products]: &[[T::Real; 32]; 2], _: &Shares<T::Real>) -> [T::Real; 2] {
        [sum_of(simd, sums), sum_of(simd, products)]
    }

    #[inline(always)]
    fn merge_rows(
        &self,
        accumulators: &mut RowAccumulators<T::Real, 2>,
        shares: &Shares<T::Real>,
        out: &mut [[T::Real; 2]],
    ) {
        accumulators.halve(shares.present, out, |_, a, b| [a[0] + b[0], a[1] + b[1]]);
    }

    fn total(&self, count: usize, chunks: impl Iterator<Item = [T::Real; 2]>) -> [T::Real; 2] {
        total_of_sums(count, chunks)
    }
}

/// Of 32 accumulators, halved. Those that have taken nothing are +0, and add nothing: at most the sign of a zero changes,
/// which is lost in the sum of chunks.
#[inline(always)]
fn sum_of<S: Simd, R: Real>(simd: S, sums: &[R; 32]) -> R {
    let sums = simd.plus(sums, &simd.moved_down::<R, 16>(sums));
    let sums = simd.plus(&sums, &simd.moved_down::<R, 8>(&sums));
    let sums = simd.plus(&sums, &simd.moved_down::<R, 4>(&sums));
    let sums = simd.plus(&sums, &simd.moved_down::<R, 2>(&sums));
    simd.plus(&sums, &simd.moved_down::<R, 1>(&sums))[0]
}

fn total_of_sums<R: Real, const N: usize>(count: usize, mut chunks: impl Iterator<Item = [R; N]>) -> [R; N] {
    if count <= CHUNK {
        // As `Distances::total`. A group begins at +0, so that no sum is -0.
        return chunks.next().unwrap_or([R::ZERO; N]).map(|sum| R::ZERO + sum);
    }
    let (mut groups, mut present) = ([[0.0; N]; ACCUMULATORS], 0);
    for (k, chunk) in chunks.enumerate() {
        present = (k + 1).min(ACCUMULATORS);
        for (group, sum) in groups[k % ACCUMULATORS].iter_mut().zip(chunk) {
            *group += sum.to_f64();
        }
    }
    let all = halve(groups, present, |a, b| std::array::from_fn(|i| a[i] + b[i]));
    all.map(R::from_f64)
}
