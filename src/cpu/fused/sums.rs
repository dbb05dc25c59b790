//! Sums over channels, in the order of section 4 of `docs/fused.md`.
//!
//! That order gives each chunk of a channel 32 accumulators, which take turns. So both memory layouts are sums of blocks of
//! 32 elements in a row, one vector operation for several elements:
//!
//! ```text
//! inner == 1    32 rows of the tensor are a block for each 32 of their elements, whatever their length. The accumulators
//!               of a chunk in all of these channels are in memory, in that order; each is loaded once for several rows,
//!               which lie 32 rows apart.
//! else          a row of a channel, its plane, is cut where the accumulators begin again: they stay in registers for the
//!               whole plane. So the tensor is read in its order, all channels of a group for each of the batch.
//! ```

use std::marker::PhantomData;
use std::ops::Range;

use super::channels::{Place, VECTORS, Vector, Vectors, absent, no_cache_holds, part_of, prefetch};
use super::disjoint::Disjoint;
use super::gradient::{OfZ, Selected, Source};
use crate::cpu::engine::{Pool, READ_PREFETCH, TASK, share};
use crate::cpu::lane::Lane;
use crate::cpu::mask_words::MaskWords;
use crate::cpu::simd::{self, Simd, Task};
use crate::dz::Dz;
use crate::error::{Error, Result};
use crate::io::InOut;
use crate::operands::Operands;
use crate::real::Real;
use crate::shape::Shape;
use crate::sum_order::{ACCUMULATORS, CHUNK, Moments, chunks, halve};

/// Channels whose chunks are summed together, where a tensor has more and a channel's elements are next to each other:
/// their accumulators fit the first cache.
const CHANNELS: usize = 64;

/// Fewer are enough where so many elements of one channel, or of several, are next to each other.
const RUN: usize = 1 << 14;

/// The same where channels are next to each other. Rows are read faster the more of them is read in one piece: with 64
/// channels of 160 a sum took five times as long. These accumulators fit the second cache.
const CHANNELS_OF_ROWS: usize = 512;

/// How many rows, 32 apart, an accumulator takes something of before it is stored.
const SETS: usize = 4;

/// Elements of the largest part of a tensor that one thread sums at a time.
const LARGEST_PART: usize = 1 << 18;

/// [`Pass::Statistics`](crate::Pass::Statistics).
pub(super) fn statistics<T: Lane<Real: Lane>>(
    shape: Shape,
    x: &[T],
    results: [Option<&mut [T::Real]>; 2],
) -> Result<()> {
    let mut results = results.map(Option::unwrap_or_default);
    sum(shape, &Distances { x }, &[None; VECTORS], |c, [mean, variance, _]| {
        put(&mut results, c, [mean, variance]);
    })
}

/// [`Pass::FusedSums`](crate::Pass::FusedSums).
pub(super) fn reduce<T: Lane<Real: Lane>>(
    dz: &Dz,
    shape: Shape,
    io: InOut<'_, T>,
    operands: Operands<'_, T>,
    mask: MaskWords<'_>,
) -> Result<()> {
    match OfZ::new(dz, &operands) {
        Some(of_z) => reduce_from(of_z, dz, shape, io, operands, mask),
        None => reduce_from(Selected, dz, shape, io, operands, mask),
    }
}

fn reduce_from<T: Lane<Real: Lane>>(
    source: impl Source<T>,
    dz: &Dz,
    shape: Shape,
    io: InOut<'_, T>,
    operands: Operands<'_, T>,
    mask: MaskWords<'_>,
) -> Result<()> {
    let vectors = operands.vectors();
    let words = match mask {
        MaskWords::Read(words) if matches!(dz, Dz::Training(_)) => Some(words),
        _ => None,
    };
    let (x, means) = (operands.x.unwrap_or_default(), operands.mean.is_some());
    let mut results = operands.results.map(Option::unwrap_or_default);
    let gradients = Gradients { dy: Tensors::new(io), source, words };
    if means {
        sum(shape, &Products { gradients, x }, &vectors, |c, sums| put(&mut results, c, sums))
    } else {
        sum(shape, &Plain { gradients }, &vectors, |c, [sum]| put(&mut results, c, [sum]))
    }
}

/// The results of a channel; vectors that nobody gave are empty.
fn put<R: Real, const N: usize>(results: &mut [&mut [R]; 2], c: usize, values: [R; N]) {
    for (to, value) in results.iter_mut().zip(values) {
        if let Some(to) = to.get_mut(c) {
            *to = value;
        }
    }
}

// ---- What is summed.

/// What is summed, in N sums that go together.
trait Summand<T: Lane, const N: usize>: Sync {
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
struct Here<'a, V> {
    /// The element of lane 0.
    start: usize,
    /// Those that count: of the others, which are another channel's or nobody's, anything may come out.
    lanes: Range<usize>,
    /// Whether some of the others may lie behind the tensor.
    at_end: bool,
    /// The place of lane 0 among the values.
    at: usize,
    values: &'a V,
    /// How many bytes further on memory is asked for; 0 where a cache holds the tensors.
    ahead: usize,
}

impl<V> Here<'_, V> {
    /// The elements that count.
    #[inline(always)]
    fn elements(&self) -> Range<usize> {
        self.start + self.lanes.start..self.start + self.lanes.end
    }

    #[inline(always)]
    fn block<S: Simd, T: Lane>(&self, simd: S, tensor: &[T]) -> [T; 32] {
        if self.at_end {
            return part_of(tensor, self.start);
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
fn bits(words: &[u32], i: usize) -> u32 {
    let low = words.get(i / 32).copied().unwrap_or(0);
    let high = words.get(i / 32 + 1).copied().unwrap_or(0);
    ((u64::from(high) << 32 | u64::from(low)) >> (i % 32)) as u32
}

/// Those of lanes.
#[inline(always)]
fn bits_of(lanes: &Range<usize>) -> u32 {
    ((1_u64 << lanes.end) - (1_u64 << lanes.start)) as u32
}

/// Sums for the statistics: the first element, the distances from it, their squares.
struct Distances<'a, T> {
    x: &'a [T],
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
        let mut groups = [Moments { count: 0.0, first: 0.0, difference: 0.0, squares: 0.0 }; ACCUMULATORS];
        let mut present = 0;
        for (k, [first, difference, squares]) in chunks.enumerate() {
            let length = (count - k * CHUNK).min(CHUNK) as f64;
            let [first, difference, squares] = [first, difference, squares].map(Real::to_f64);
            let chunk = Moments { count: length, first, difference, squares };
            let group = &mut groups[k % ACCUMULATORS];
            *group = if k < ACCUMULATORS { chunk } else { group.with(chunk) };
            present = (k + 1).min(ACCUMULATORS);
        }
        let all = halve(groups, present, Moments::with);
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

/// The counts of a chunk's accumulators, and what they amount to when these are halved. Value i takes up value i + s at
/// place s + i.
struct Shares<R> {
    /// Accumulators that have taken something.
    present: usize,
    counts: [R; 32],
    before: [R; 64],
    share: [R; 64],
    /// Their product.
    weight: [R; 64],
}

impl<R: Real> Shares<R> {
    /// Of a chunk of so many elements.
    fn new(length: usize) -> Self {
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
    fn block<'a>(&self, of: &'a [R; 64], s: usize) -> &'a [R; 32] {
        of[s..].first_chunk().expect("s is at most 16")
    }
}

/// Sums of dz.
struct Plain<'a, T, P> {
    gradients: Gradients<'a, T, P>,
}

/// Sums of dz and of its products with x - μ.
struct Products<'a, T, P> {
    gradients: Gradients<'a, T, P>,
    x: &'a [T],
}

impl<T: Lane<Real: Lane>, P: Source<T>> Summand<T, 1> for Plain<'_, T, P> {
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

    fn total(&self, _: usize, chunks: impl Iterator<Item = [T::Real; 1]>) -> [T::Real; 1] {
        total_of_sums(chunks)
    }
}

impl<T: Lane<Real: Lane>, P: Source<T>> Summand<T, 2> for Products<'_, T, P> {
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

    fn total(&self, _: usize, chunks: impl Iterator<Item = [T::Real; 2]>) -> [T::Real; 2] {
        total_of_sums(chunks)
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

fn total_of_sums<R: Real, const N: usize>(chunks: impl Iterator<Item = [R; N]>) -> [R; N] {
    let mut groups = [[0.0; N]; ACCUMULATORS];
    for (k, chunk) in chunks.enumerate() {
        for (group, sum) in groups[k % ACCUMULATORS].iter_mut().zip(chunk) {
            *group += sum.to_f64();
        }
    }
    // Groups without a chunk are +0, and no sum is -0: adding them changes nothing.
    let all = halve(groups, ACCUMULATORS, |a, b| std::array::from_fn(|i| a[i] + b[i]));
    all.map(R::from_f64)
}

/// dz, which is written too where the residual's gradient is asked for.
struct Gradients<'a, T, P> {
    dy: Tensors<'a, T>,
    source: P,
    /// The mask's.
    words: Option<&'a [u32]>,
}

/// dy and dr.
enum Tensors<'a, T> {
    Read(&'a [T]),
    Apart(&'a [T], Disjoint<'a, T>),
    InPlace(Disjoint<'a, T>),
}

impl<'a, T: Lane> Tensors<'a, T> {
    /// An output without elements is none.
    fn new(io: InOut<'a, T>) -> Self {
        match io {
            InOut::OutOfPlace(dy, []) => Self::Read(dy),
            InOut::OutOfPlace(dy, dr) => Self::Apart(dy, Disjoint::new(dr)),
            InOut::InPlace(both) => Self::InPlace(Disjoint::new(both)),
        }
    }
}

impl<T: Lane<Real: Lane>, P: Source<T>> Gradients<'_, T, P> {
    /// dz of a block; where that is shorter, anything behind it.
    #[inline(always)]
    #[allow(unsafe_code)] // see `disjoint`
    fn block<S: Simd, V: Values<T::Real>>(&self, simd: S, here: &Here<'_, V>) -> [T::Real; 32] {
        let dy = match &self.dy {
            Tensors::Read(dy) | Tensors::Apart(dy, _) => here.block(simd, dy),
            Tensors::InPlace(both) => {
                let mut dy = [T::default(); 32];
                // SAFETY: each element counts in one block of one part, which one thread works on.
                unsafe { both.read(here.elements(), &mut dy[here.lanes.clone()]) };
                dy
            }
        };
        let bits = self.words.map_or(u32::MAX, |words| bits(words, here.start));
        let dz = self.source.block(simd, here, &dy, bits);
        if let Tensors::Apart(_, dr) | Tensors::InPlace(dr) = &self.dy {
            let block = T::from_reals(simd, &dz);
            // SAFETY: as above.
            unsafe { dr.write_lanes(simd, here.start, here.lanes.clone(), &block) }
        }
        dz
    }
}

// ---- The values of channels, for blocks.

/// The vectors' values for the elements of a block.
trait Values<R>: Sync {
    /// Those of a vector. `at` is the place of the block's first element.
    fn block<S: Simd>(&self, simd: S, vector: Vector, at: usize) -> [R; 32];
}

/// One channel's.
#[derive(Clone, Copy)]
struct OfChannel<R>([R; VECTORS]);

impl<R: Real> OfChannel<R> {
    fn new(vectors: &Vectors<'_, R>, c: usize) -> Self {
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
struct OfRows<R> {
    /// Behind which it begins again; no less than a block.
    period: usize,
    tiles: [Vec<R>; VECTORS],
}

impl<R: Real> OfRows<R> {
    fn new(vectors: &Vectors<'_, R>, wanted: &[Vector], channels: &Range<usize>) -> Self {
        let width = channels.len();
        let period = width * 32_usize.div_ceil(width);
        let mut tiles: [Vec<R>; VECTORS] = Default::default();
        for vector in wanted.iter().map(|vector| *vector as usize) {
            tiles[vector] = match vectors[vector] {
                Some(vector) => vector[channels.clone()].iter().cycle().copied().take(period + 32).collect(),
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

// ---- The accumulators of rows.

/// Those of a chunk in neighbouring channels: accumulator, channel.
struct RowAccumulators<R, const N: usize> {
    channels: usize,
    sums: [Vec<R>; N],
}

impl<R: Real, const N: usize> RowAccumulators<R, N> {
    fn new(channels: usize) -> Self {
        Self { channels, sums: std::array::from_fn(|_| vec![R::ZERO; 32 * channels + 32]) }
    }

    /// 32 of them from `at` on.
    #[inline(always)]
    fn load(&self, at: usize) -> [[R; 32]; N] {
        let mut blocks = [[R::ZERO; 32]; N];
        for (block, sums) in blocks.iter_mut().zip(&self.sums) {
            *block = *sums[at..].first_chunk().expect("a block follows the last accumulator");
        }
        blocks
    }

    #[inline(always)]
    fn store(&mut self, at: usize, blocks: &[[R; 32]; N]) {
        for (sums, block) in self.sums.iter_mut().zip(blocks) {
            *sums[at..].first_chunk_mut().expect("a block follows the last accumulator") = *block;
        }
    }

    /// Replaces each of those that are present.
    #[inline(always)]
    fn each(&mut self, present: usize, f: impl Fn(usize, [R; N]) -> [R; N]) {
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
    fn halve(&mut self, present: usize, out: &mut [[R; N]], combine: impl Fn(usize, [R; N], [R; N]) -> [R; N]) {
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

// ---- Chunks, one after the other.

/// Chunks of neighbouring channels.
struct Part<'a, R, const N: usize> {
    channels: Range<usize>,
    chunks: Range<usize>,
    /// Gets their sums, chunk after chunk.
    out: &'a mut [[R; N]],
}

/// Sums all channels and hands over their results.
fn sum<T: Lane<Real: Lane>, const N: usize>(
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
struct SumOfPart<'a, T: Lane, P, const N: usize> {
    shape: Shape,
    summand: &'a P,
    vectors: &'a Vectors<'a, T::Real>,
    part: Part<'a, T::Real, N>,
}

impl<T: Lane<Real: Lane>, P: Summand<T, N>, const N: usize> Task for SumOfPart<'_, T, P, N> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        if self.shape.inner() == 1 { self.channels_last(simd) } else { self.channels_first(simd) }
    }
}

impl<T: Lane<Real: Lane>, P: Summand<T, N>, const N: usize> SumOfPart<'_, T, P, N> {
    /// How many bytes further on to ask for memory: what is read next, or what is read in the next round through a row that
    /// has so many elements of the part, or through several of them.
    fn ahead(&self, run: usize, round: usize) -> usize {
        let size = size_of::<T>();
        match no_cache_holds(self.shape, size) {
            false => 0,
            true if run * size >= 4 * READ_PREFETCH => READ_PREFETCH,
            true => round * size,
        }
    }

    /// Where a row of the tensor has the channels next to each other.
    #[inline(always)]
    fn channels_last<S: Simd>(self, simd: S) {
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

    /// Where a row of the tensor has the elements of a channel next to each other.
    #[inline(always)]
    fn channels_first<S: Simd>(self, simd: S) {
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

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;
    use crate::activation::Activation;
    use crate::cpu::simd::tests::sets;
    use crate::fused::cpu::{reduce, statistics};
    use crate::fused::{Before, Centred, Gradient, Preactivation, Sums, reference};
    use crate::key::MaskKey;
    use crate::operation::DropActivation;

    fn numbers<T: Lane>(len: usize, seed: u64) -> Vec<T> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            T::from_real(T::Real::from_f64((state as i64 >> 40) as f64 / f64::from(1 << 21) + 1.0))
        };
        (0..len).map(|_| next()).collect()
    }

    fn shapes() -> Vec<Shape> {
        let shapes = [
            (1, 1, 1),
            (1, 3, 1),
            (33, 3, 1),
            (1024, 5, 1),
            (1025, 17, 1),
            (2100, 8, 1),
            (1100, 32, 1),
            (33, 1000, 1),
            (1060, 69, 1),
            (3, 1, 700),
            (2, 5, 7),
            (200, 3, 7),
            (23, 4, 49),
            (2, 3, 1024),
            (3, 66, 360),
            (2, 2, 3136),
        ];
        shapes.map(|(outer, channels, inner)| Shape::new(outer, channels, inner).unwrap()).into()
    }

    fn bits<R: Real>(values: &[R]) -> Vec<u64> {
        values.iter().map(|value| value.to_f64().to_bits()).collect()
    }

    fn same<R: Real>(what: &str, given: &Sums<R>, expected: &Sums<R>) {
        assert_eq!(bits(&given.gradient), bits(&expected.gradient), "{what}: s1");
        let product = |sums: &Sums<R>| sums.product.as_deref().map(bits);
        assert_eq!(product(given), product(expected), "{what}: s2");
    }

    fn like_the_reference<T: Lane<Real: Lane>>() {
        for shape in shapes() {
            let (x, dy, r): (Vec<T>, Vec<T>, Vec<T>) =
                (numbers(shape.len(), 1), numbers(shape.len(), 2), numbers(shape.len(), 3));
            let expected = reference::statistics(shape, &x).unwrap();
            for set in sets() {
                set.force(|| {
                    let given = statistics(shape, &x).unwrap();
                    let what = format!("{set:?} {} {shape:?}", T::DTYPE.name());
                    assert_eq!(bits(&given.mean), bits(&expected.mean), "{what}: mean");
                    assert_eq!(bits(&given.variance), bits(&expected.variance), "{what}: variance");
                });
            }
            let (scale, shift): (Vec<f64>, Vec<f64>) =
                (0..shape.channels()).map(|c| (1.0 - c as f64 / 16.0, c as f64 / 8.0 - 2.0)).unzip();
            let of = |values: &[f64]| values.iter().map(|v| T::Real::from_f64(*v)).collect::<Vec<_>>();
            let (scale, shift) = (of(&scale), of(&shift));
            let centred = Centred { x: &x, mean: &expected.mean };
            let key = MaskKey::new(1, 2);
            let check = |by: &Gradient<T>| {
                for centred in [None, Some(&centred)] {
                    let (expected, dz) = reference::reduce(shape, &dy, by, centred, true).unwrap();
                    for set in sets() {
                        set.force(|| {
                            let what = format!("{set:?} {} {shape:?} {by:.40?}", T::DTYPE.name());
                            same(&what, &reduce(shape, &dy, by, centred, None).unwrap(), &expected);
                            let mut dr = vec![T::default(); shape.len()];
                            same(&what, &reduce(shape, &dy, by, centred, Some(&mut dr)).unwrap(), &expected);
                            assert!(dr == *dz.as_ref().unwrap(), "{what}: dr");
                        });
                    }
                }
            };
            check(&Gradient::Given);
            for (i, activation) in [Activation::Relu, Activation::Silu].into_iter().enumerate() {
                let given = |j: usize| !(shape.channels() + i + j).is_multiple_of(3);
                let before = Before {
                    scale: given(0).then_some(&scale[..]),
                    shift: given(1).then_some(&shift[..]),
                    residual: given(2).then_some(&r[..]),
                };
                let z = Preactivation { x: &x, before };
                let op = DropActivation::new(activation, 0.7).unwrap();
                let (_, mask) = reference::forward(&op, key, shape, &z).unwrap();
                check(&Gradient::Training(&op, &mask, Some(z)));
                for p in [0.0, 0.7, 1.0] {
                    check(&Gradient::Inference(&DropActivation::new(activation, p).unwrap(), z));
                }
            }
        }
    }

    #[test]
    fn sums_of_f32_are_the_reference_s() {
        like_the_reference::<f32>();
    }

    #[test]
    fn sums_of_f64_are_the_reference_s() {
        like_the_reference::<f64>();
    }

    #[test]
    fn sums_of_f16_are_the_reference_s() {
        like_the_reference::<f16>();
    }

    #[test]
    fn sums_of_bf16_are_the_reference_s() {
        like_the_reference::<bf16>();
    }

    /// Enough for several tasks.
    #[test]
    fn sums_do_not_depend_on_the_number_of_threads() {
        for (outer, channels, inner) in [(5000, 70, 1), (9, 70, 400), (1, 1, 300_000)] {
            let shape = Shape::new(outer, channels, inner).unwrap();
            let (x, dy): (Vec<f32>, Vec<f32>) = (numbers(shape.len(), 4), numbers(shape.len(), 5));
            let expected = reference::statistics(shape, &x).unwrap();
            let centred = Centred { x: &x, mean: &expected.mean };
            let (sums, _) = reference::reduce(shape, &dy, &Gradient::Given, Some(&centred), false).unwrap();
            for threads in [1, 2, 5] {
                rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
                    assert_eq!(statistics(shape, &x).unwrap(), expected, "{threads} threads, {shape:?}");
                    let given = reduce(shape, &dy, &Gradient::Given, Some(&centred), None).unwrap();
                    same(&format!("{threads} threads, {shape:?}"), &given, &sums);
                });
            }
        }
    }
}
