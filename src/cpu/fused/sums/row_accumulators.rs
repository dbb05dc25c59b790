//! The accumulators of a chunk in neighbouring channels, where rows of the tensor have these next to each other.

use crate::real::Real;

/// Those of a chunk in neighbouring channels: accumulator, channel.
pub(super) struct RowAccumulators<R, const N: usize> {
    pub(super) channels: usize,
    pub(super) sums: [Vec<R>; N],
}

impl<R: Real, const N: usize> RowAccumulators<R, N> {
    pub(super) fn new(channels: usize) -> Self {
        Self { channels, sums: std::array::from_fn(|_| vec![R::ZERO; 32 * channels + 32]) }
    }

    /// 32 of them from `at` on.
    #[inline(always)]
    pub(super) fn load(&self, at: usize) -> [[R; 32]; N] {
        let mut blocks = [[R::ZERO; 32]; N];
        for (block, sums) in blocks.iter_mut().zip(&self.sums) {
            *block = *sums[at..].first_chunk().expect("a block follows the last accumulator");
        }
        blocks
    }

    #[inline(always)]
    pub(super) fn store(&mut self, at: usize, blocks: &[[R; 32]; N]) {
        for (sums, block) in self.sums.iter_mut().zip(blocks) {
            *sums[at..].first_chunk_mut().expect("a block follows the last accumulator") = *block;
        }
    }

    /// Replaces each of those that are present.
    #[inline(always)]
    pub(super) fn each(&mut self, present: usize, f: impl Fn(usize, [R; N]) -> [R; N]) {
        for a in 0..present {
            let rows = self.sums.each_mut().map(|sums| &mut sums[a * self.channels..][..self.channels]);
            // Not an iterator: `N` rows are walked side by side.
            #[allow(clippy::needless_range_loop)]
            for c in 0..self.channels {
                let new = f(a, std::array::from_fn(|n| rows[n][c]));
                for n in 0..N {
                    rows[n][c] = new[n];
                }
            }
        }
    }

    /// Halves them to one for each channel. `combine` gets the place of a pair: see [`Shares`].
    #[inline(always)]
    pub(super) fn halve(
        &mut self,
        present: usize,
        out: &mut [[R; N]],
        combine: impl Fn(usize, [R; N], [R; N]) -> [R; N],
    ) {
        for s in [16, 8, 4, 2, 1] {
            for i in 0..s.min(present.saturating_sub(s)) {
                let (start, other) = (i * self.channels, (i + s) * self.channels);
                let halves = self.sums.each_mut().map(|sums| {
                    let (low, high) = sums.split_at_mut(other);
                    (&mut low[start..][..self.channels], &high[..self.channels])
                });
                for c in 0..self.channels {
                    let (a, b) = (std::array::from_fn(|n| halves[n].0[c]), std::array::from_fn(|n| halves[n].1[c]));
                    let sum = combine(s + i, a, b);
                    for n in 0..N {
                        halves[n].0[c] = sum[n];
                    }
                }
            }
        }
        for (c, out) in out.iter_mut().enumerate() {
            *out = std::array::from_fn(|n| self.sums[n][c]);
        }
    }
}
