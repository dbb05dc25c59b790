//! How many elements the accumulators of a chunk have, and what that amounts to when they are halved.

use crate::real::Real;
use crate::sum_order::ACCUMULATORS;

/// The counts of a chunk's accumulators, and what they amount to when these are halved. Value i takes up value i + s at
/// place s + i.
pub(super) struct Shares<R> {
    /// Accumulators that have taken something.
    pub(super) present: usize,
    pub(super) counts: [R; 32],
    pub(super) before: [R; 64],
    pub(super) share: [R; 64],
    /// Their product.
    pub(super) weight: [R; 64],
}

impl<R: Real> Shares<R> {
    /// Of a chunk of so many elements.
    pub(super) fn new(length: usize) -> Self {
        let mut counts = [0; 32];
        for (a, count) in counts.iter_mut().enumerate() {
            *count = (length + 31 - a) / 32;
        }
        let real = |count: usize| R::from_f64(count as f64);
        let none = [R::ZERO; 64];
        let present = length.min(ACCUMULATORS);
        let mut shares = Self { present, counts: counts.map(real), before: none, share: none, weight: none };
        for s in [16, 8, 4, 2, 1] {
            for i in 0..s {
                let share = real(counts[i + s]) / real(counts[i] + counts[i + s]);
                shares.before[s + i] = real(counts[i]);
                shares.share[s + i] = share;
                shares.weight[s + i] = real(counts[i]) * share;
                counts[i] += counts[i + s];
            }
        }
        shares
    }

    /// Those for halving by `s`; behind these anything.
    #[inline(always)]
    pub(super) fn block<'a>(&self, of: &'a [R; 64], s: usize) -> &'a [R; 32] {
        of[s..].first_chunk().expect("s is at most 16")
    }
}
