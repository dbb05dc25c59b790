//! Sums over channels, in the order of section 4 of `docs/fused.md`.
//!
//! That order gives each chunk of a channel 32 accumulators, which take turns. Here they are in memory, those of a chunk
//! in several neighbouring channels at once, in the order in which the tensor has the elements that they take:
//!
//! ```text
//! inner == 1    accumulator, channel     32 rows of the tensor are added to them as they are, whatever their length
//! else          channel, accumulator     a row of a channel is added to the 32 of the channel again and again
//! ```
//!
//! So both are sums of blocks of 32 elements in a row, one vector operation for several elements.

use std::ops::Range;

use super::channels::{Place, VECTORS, Vector, Vectors, absent, no_cache_holds, prefetch};
use super::disjoint::Disjoint;
use super::gradient::Source;
use crate::cpu::engine::{Pool, TASK, share};
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

/// The same where channels are next to each other. Rows are read faster the more of them is read in one piece: with 64
/// channels of 160 a sum took five times as long. These accumulators fit the second cache.
const CHANNELS_OF_ROWS: usize = 512;

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
    let vectors = operands.vectors();
    let source = Source::new(dz, &vectors, &operands);
    let words = match mask {
        MaskWords::Read(words) if matches!(dz, Dz::Training(_)) => words,
        _ => &[],
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

    /// Makes one of the accumulators of a chunk.
    fn finish(&self, accumulators: &mut Accumulators<T::Real, N>, length: usize, out: &mut [[T::Real; N]]);

    /// The results of a channel from those of its chunks, of which there are so many elements.
    fn total(&self, count: usize, chunks: impl Iterator<Item = [T::Real; N]>) -> [T::Real; N];
}

/// The place of a block, of which lanes go to accumulators.
struct Here<'a, V> {
    /// The element of lane 0.
    start: usize,
    /// Those that count: of the others, which are another channel's or nobody's, anything may come out.
    lanes: Range<usize>,
    /// The place of lane 0's accumulator, where rows are summed.
    at: usize,
    values: &'a V,
    /// Whether no cache holds the tensors.
    prefetch: bool,
}

impl<V> Here<'_, V> {
    /// The elements that count.
    #[inline(always)]
    fn elements(&self) -> Range<usize> {
        self.start + self.lanes.start..self.start + self.lanes.end
    }

    #[inline(always)]
    fn block<S: Simd, T: Lane>(&self, simd: S, tensor: &[T]) -> [T; 32] {
        match tensor[self.start..].first_chunk() {
            Some(block) => {
                if self.prefetch {
                    prefetch(simd, block);
                }
                *block
            }
            None => last(&tensor[self.start..]),
        }
    }
}

/// Less than a block, at the end of a tensor.
#[cold]
#[inline(never)]
fn last<T: Lane>(rest: &[T]) -> [T; 32] {
    let mut block = [T::default(); 32];
    block[..rest.len()].copy_from_slice(rest);
    block
}

impl<R: Real, V: Values<R>> Place<R> for &Here<'_, V> {
    #[inline(always)]
    fn tensor<S: Simd, T: Lane>(&self, simd: S, tensor: &[T]) -> [T; 32] {
        self.block(simd, tensor)
    }

    #[inline(always)]
    fn vector(&self, vector: Vector) -> [R; 32] {
        self.values.block(vector, self.at)
    }
}

/// The bits of elements `i` to `i + 31`, as far as there are any.
#[inline(always)]
fn bits(words: &[u32], i: usize) -> u32 {
    let low = words.get(i / 32).copied().unwrap_or(0);
    let high = words.get(i / 32 + 1).copied().unwrap_or(0);
    ((u64::from(high) << 32 | u64::from(low)) >> (i % 32)) as u32
}

/// Sums for the statistics: the first element, the distances from it, their squares.
struct Distances<'a, T> {
    x: &'a [T],
}

impl<T: Lane> Summand<T, 3> for Distances<'_, T> {
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
        let x = T::to_reals(simd, &here.block(simd, self.x));
        if FIRST {
            (*first, *distances, *squared) = (x, [T::Real::ZERO; 32], [T::Real::ZERO; 32]);
            return;
        }
        for i in 0..32 {
            let distance = x[i] - first[i];
            distances[i] = distances[i] + distance;
            squared[i] = distance.mul_add(distance, squared[i]);
        }
    }

    #[inline(always)]
    fn finish(&self, accumulators: &mut Accumulators<T::Real, 3>, length: usize, out: &mut [[T::Real; 3]]) {
        let shares = Shares::new(length);
        accumulators.each(length, |a, [first, distances, squared]| {
            let moments = Moments::of_sums(shares.counts[a], first, distances, squared);
            [moments.first, moments.difference, moments.squares]
        });
        accumulators.halve(length, out, |place, a, b| {
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

/// The counts of a chunk's accumulators, and what they amount to when these are halved. Value i takes up value i + s at
/// place s + i.
struct Shares<R> {
    counts: [R; 32],
    before: [R; 32],
    share: [R; 32],
}

impl<R: Real> Shares<R> {
    fn new(length: usize) -> Self {
        let mut counts = [0; 32];
        for (a, count) in counts.iter_mut().enumerate() {
            *count = (length + 31 - a) / 32;
        }
        let real = |count: usize| R::from_f64(count as f64);
        let mut shares = Self { counts: counts.map(real), before: [R::ZERO; 32], share: [R::ZERO; 32] };
        for s in [16, 8, 4, 2, 1] {
            for i in 0..s {
                shares.before[s + i] = real(counts[i]);
                shares.share[s + i] = real(counts[i + s]) / real(counts[i] + counts[i + s]);
                counts[i] += counts[i + s];
            }
        }
        shares
    }
}

/// Sums of dz.
struct Plain<'a, T> {
    gradients: Gradients<'a, T>,
}

/// Sums of dz and of its products with x - μ.
struct Products<'a, T> {
    gradients: Gradients<'a, T>,
    x: &'a [T],
}

impl<T: Lane<Real: Lane>> Summand<T, 1> for Plain<'_, T> {
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
        let dz = self.gradients.block(simd, here);
        for i in 0..32 {
            sums[i] = sums[i] + dz[i];
        }
    }

    #[inline(always)]
    fn finish(&self, accumulators: &mut Accumulators<T::Real, 1>, length: usize, out: &mut [[T::Real; 1]]) {
        accumulators.halve(length, out, |_, [a], [b]| [a + b]);
    }

    fn total(&self, _: usize, chunks: impl Iterator<Item = [T::Real; 1]>) -> [T::Real; 1] {
        total_of_sums(chunks)
    }
}

impl<T: Lane<Real: Lane>> Summand<T, 2> for Products<'_, T> {
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
        let x = T::to_reals(simd, &here.block(simd, self.x));
        let mean = here.vector(Vector::Mean);
        let dz = self.gradients.block(simd, here);
        for i in 0..32 {
            sums[i] = sums[i] + dz[i];
            products[i] = dz[i].mul_add(x[i] - mean[i], products[i]);
        }
    }

    #[inline(always)]
    fn finish(&self, accumulators: &mut Accumulators<T::Real, 2>, length: usize, out: &mut [[T::Real; 2]]) {
        accumulators.halve(length, out, |_, a, b| [a[0] + b[0], a[1] + b[1]]);
    }

    fn total(&self, _: usize, chunks: impl Iterator<Item = [T::Real; 2]>) -> [T::Real; 2] {
        total_of_sums(chunks)
    }
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
struct Gradients<'a, T> {
    dy: Tensors<'a, T>,
    source: Source<'a, T>,
    /// The mask's; none if there is none.
    words: &'a [u32],
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

impl<T: Lane<Real: Lane>> Gradients<'_, T> {
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
        let dz = self.source.block(simd, here, &dy, bits(self.words, here.start));
        if let Tensors::Apart(_, dr) | Tensors::InPlace(dr) = &self.dy {
            let block = T::from_reals(simd, &dz);
            // SAFETY: as above.
            unsafe {
                match here.lanes {
                    Range { start: 0, end: 32 } => dr.write_block(here.start, &block),
                    _ => dr.write(here.elements(), &block[here.lanes.clone()]),
                }
            }
        }
        dz
    }
}

// ---- The values of channels, for blocks.

/// The vectors' values for the elements of a block.
trait Values<R>: Sync {
    /// Those of a vector. `at` is the place of the block's first accumulator.
    fn block(&self, vector: Vector, at: usize) -> [R; 32];
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
    fn block(&self, vector: Vector, _: usize) -> [R; 32] {
        [self.0[vector as usize]; 32]
    }
}

/// Those of neighbouring channels, again and again, as they follow each other in rows.
struct OfRows<R> {
    /// Behind which it begins again.
    period: usize,
    tiles: [Vec<R>; VECTORS],
}

impl<R: Real> OfRows<R> {
    fn new(vectors: &Vectors<'_, R>, wanted: &[Vector], channels: &Range<usize>) -> Self {
        let width = channels.len();
        // Of rows and blocks.
        let period = width * 32 / (1 << width.trailing_zeros().min(5));
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
    fn block(&self, vector: Vector, at: usize) -> [R; 32] {
        let at = (at as u32 % self.period as u32) as usize;
        *self.tiles[vector as usize][at..].first_chunk().expect("32 values follow each place within the period")
    }
}

// ---- The accumulators.

/// Those of a chunk in neighbouring channels.
struct Accumulators<R, const N: usize> {
    /// Neighbouring channels, and neighbouring accumulators of one channel.
    strides: [usize; 2],
    channels: usize,
    sums: [Vec<R>; N],
}

impl<R: Real, const N: usize> Accumulators<R, N> {
    fn new(channels: usize, rows: bool) -> Self {
        let strides = if rows { [1, channels] } else { [32, 1] };
        Self { strides, channels, sums: std::array::from_fn(|_| vec![R::ZERO; 32 * channels + 32]) }
    }

    /// 32 of them from `at` on.
    #[inline(always)]
    fn load(&self, at: usize) -> [[R; 32]; N] {
        std::array::from_fn(|n| *self.sums[n][at..].first_chunk().expect("a block follows the last accumulator"))
    }

    #[inline(always)]
    fn store(&mut self, at: usize, blocks: &[[R; 32]; N]) {
        for (sums, block) in self.sums.iter_mut().zip(blocks) {
            *sums[at..].first_chunk_mut().expect("a block follows the last accumulator") = *block;
        }
    }

    /// The first `len` of a block that was loaded there.
    #[inline(always)]
    fn store_first(&mut self, at: usize, len: usize, blocks: &[[R; 32]; N]) {
        for (sums, block) in self.sums.iter_mut().zip(blocks) {
            let to: &mut [R; 32] = sums[at..].first_chunk_mut().expect("a block follows the last accumulator");
            for i in 0..32 {
                to[i] = if i < len { block[i] } else { to[i] };
            }
        }
    }

    /// Replaces each of those that a chunk of so many elements has.
    #[inline(always)]
    fn each(&mut self, length: usize, f: impl Fn(usize, [R; N]) -> [R; N]) {
        let present = length.min(ACCUMULATORS);
        let rows = self.strides[0] == 1;
        // What is next to each other in memory is one run.
        let (runs, run, apart) =
            if rows { (present, self.channels, self.channels) } else { (self.channels, present, 32) };
        for r in 0..runs {
            let sums = self.sums.each_mut().map(|sums| &mut sums[r * apart..r * apart + run]);
            // A loop for each layout: in one for both, what `f` looks up for an accumulator would be gathered.
            if rows {
                replace(sums, run, |_, sums| f(r, sums));
            } else {
                replace(sums, run, &f);
            }
        }
    }

    /// Halves them to one for each channel. `combine` gets the place of a pair: see [`Shares`].
    #[inline(always)]
    fn halve(&mut self, length: usize, out: &mut [[R; N]], combine: impl Fn(usize, [R; N], [R; N]) -> [R; N]) {
        let present = length.min(ACCUMULATORS);
        let rows = self.strides[0] == 1;
        for s in [16, 8, 4, 2, 1] {
            let pairs = s.min(present.saturating_sub(s));
            // What is next to each other in memory is one run.
            let (runs, run) = if rows { (pairs, self.channels) } else { (self.channels, pairs) };
            for r in 0..runs {
                let start = if rows { r * self.channels } else { 32 * r };
                let other = start + s * self.strides[1];
                let halves = self.sums.each_mut().map(|sums| {
                    let (low, high) = sums.split_at_mut(other);
                    (&mut low[start..start + run], &high[..run])
                });
                for i in 0..run {
                    let place = s + if rows { r } else { i };
                    let (a, b) = (std::array::from_fn(|n| halves[n].0[i]), std::array::from_fn(|n| halves[n].1[i]));
                    let sum = combine(place, a, b);
                    for n in 0..N {
                        halves[n].0[i] = sum[n];
                    }
                }
            }
        }
        for (c, out) in out.iter_mut().enumerate() {
            *out = std::array::from_fn(|n| self.sums[n][c * self.strides[0]]);
        }
    }
}

/// Replaces what stands at each place of `N` rows side by side.
#[inline(always)]
fn replace<R: Real, const N: usize>(rows: [&mut [R]; N], len: usize, f: impl Fn(usize, [R; N]) -> [R; N]) {
    // Not an iterator: `N` rows are walked side by side.
    #[allow(clippy::needless_range_loop)]
    for i in 0..len {
        let new = f(i, std::array::from_fn(|n| rows[n][i]));
        for n in 0..N {
            rows[n][i] = new[n];
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
fn sum<T: Lane, const N: usize>(
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
    let group = channels.min(if shape.inner() == 1 { CHANNELS_OF_ROWS } else { CHANNELS });
    let together = (TASK / (CHUNK * group)).max(1);
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
        share(&Pool::of_caller(), parts.collect::<Vec<_>>().into_iter(), count, run);
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

impl<T: Lane, P: Summand<T, N>, const N: usize> Task for SumOfPart<'_, T, P, N> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { shape, summand, vectors, part: Part { channels, chunks, out } } = self;
        let rows = shape.inner() == 1;
        let mut accumulators = Accumulators::new(channels.len(), rows);
        let wanted = if rows { summand.vectors() } else { Vec::new() };
        let values = OfRows::new(vectors, &wanted, &channels);
        let each = if rows { 0..0 } else { channels.clone() };
        let of_channels: Vec<_> = each.map(|c| OfChannel::new(vectors, c)).collect();
        let prefetch = no_cache_holds(shape, size_of::<T>());
        for (k, out) in chunks.zip(out.chunks_exact_mut(channels.len())) {
            let chunk = k * CHUNK..shape.count().min((k + 1) * CHUNK);
            if !P::FIRST {
                accumulators.sums.iter_mut().for_each(|sums| sums.fill(T::Real::ZERO));
            }
            let mut chunk_of = Chunk {
                shape,
                summand,
                values: &of_channels,
                channels: channels.clone(),
                prefetch,
                accumulators: &mut accumulators,
            };
            if rows {
                chunk_of.channels_last(simd, chunk.clone(), &values);
            } else {
                chunk_of.channels_first(simd, chunk.clone());
            }
            summand.finish(&mut accumulators, chunk.len(), out);
        }
    }
}

struct Chunk<'a, R, P, const N: usize> {
    shape: Shape,
    summand: &'a P,
    /// Of each channel, where a channel's elements are next to each other.
    values: &'a [OfChannel<R>],
    channels: Range<usize>,
    /// Whether no cache holds the tensors.
    prefetch: bool,
    accumulators: &'a mut Accumulators<R, N>,
}

impl<R: Real, P, const N: usize> Chunk<'_, R, P, N> {
    /// Where a row of the tensor has the channels next to each other.
    #[inline(always)]
    fn channels_last<T: Lane<Real = R>, S: Simd>(&mut self, simd: S, chunk: Range<usize>, values: &OfRows<R>)
    where
        P: Summand<T, N>,
    {
        let (width, of_row) = (self.channels.len(), self.shape.channels());
        // Whole rows follow each other without a gap, so that all accumulators take something at once.
        let together = if width == of_row { ACCUMULATORS } else { 1 };
        let first = chunk.start + ACCUMULATORS;
        for row in chunk.clone().step_by(together) {
            let rows = together.min(chunk.end - row);
            let start = row * of_row + self.channels.start;
            let elements = start..start + rows * width;
            let at = row % ACCUMULATORS * width;
            if P::FIRST && row < first {
                self.blocks::<T, S, _, true>(simd, elements, at, values);
            } else {
                self.blocks::<T, S, _, false>(simd, elements, at, values);
            }
        }
    }

    /// Where a row of the tensor has the elements of a channel next to each other.
    #[inline(always)]
    fn channels_first<T: Lane<Real = R>, S: Simd>(&mut self, simd: S, chunk: Range<usize>)
    where
        P: Summand<T, N>,
    {
        let (inner, of_row) = (self.shape.inner(), self.shape.channels());
        let mut start = chunk.start;
        while start < chunk.end {
            let (o, j) = (start / inner, start % inner);
            let end = chunk.end.min(start + inner - j);
            let first = if P::FIRST { (chunk.start + ACCUMULATORS).clamp(start, end) } else { start };
            for c in self.channels.clone() {
                let values = self.values[c - self.channels.start];
                let from = (o * of_row + c) * inner + j;
                let place = 32 * (c - self.channels.start);
                if P::FIRST {
                    self.ring::<T, S, true>(simd, from..from + (first - start), place, start, &values);
                }
                self.ring::<T, S, false>(simd, from + (first - start)..from + (end - start), place, first, &values);
            }
            start = end;
        }
    }

    /// Elements of a channel, of which the first is its `t`th, into its accumulators from `place` on. These are loaded and
    /// stored once; lane i is always accumulator i.
    #[inline(always)]
    fn ring<T: Lane<Real = R>, S: Simd, const FIRST: bool>(
        &mut self,
        simd: S,
        elements: Range<usize>,
        place: usize,
        t: usize,
        values: &OfChannel<R>,
    ) where
        P: Summand<T, N>,
    {
        if elements.is_empty() {
            return;
        }
        let mut sums = self.accumulators.load(place);
        // An element's index in the tensor is no less than in its channel: lane 0 lies in the tensor.
        let first = t % ACCUMULATORS;
        let (mut start, prefetch) = (elements.start - first, self.prefetch);
        let mut lanes = first..ACCUMULATORS.min(elements.end - start);
        loop {
            let here = Here { start, lanes: lanes.clone(), at: 0, values, prefetch };
            if lanes == (0..ACCUMULATORS) {
                self.summand.take::<S, _, FIRST>(simd, &here, &mut sums);
            } else {
                let mut new = sums;
                self.summand.take::<S, _, FIRST>(simd, &here, &mut new);
                for (sums, new) in sums.iter_mut().zip(&new) {
                    for i in 0..32 {
                        sums[i] = if i >= lanes.start && i < lanes.end { new[i] } else { sums[i] };
                    }
                }
            }
            start += ACCUMULATORS;
            if start >= elements.end {
                break;
            }
            lanes = 0..ACCUMULATORS.min(elements.end - start);
        }
        self.accumulators.store(place, &sums);
    }

    /// Elements into as many accumulators from `at` on.
    #[inline(always)]
    fn blocks<T: Lane<Real = R>, S: Simd, V: Values<R>, const FIRST: bool>(
        &mut self,
        simd: S,
        mut elements: Range<usize>,
        mut at: usize,
        values: &V,
    ) where
        P: Summand<T, N>,
    {
        while elements.len() >= 32 {
            let mut sums = self.accumulators.load(at);
            let here = Here { start: elements.start, lanes: 0..32, at, values, prefetch: self.prefetch };
            self.summand.take::<S, V, FIRST>(simd, &here, &mut sums);
            self.accumulators.store(at, &sums);
            elements.start += 32;
            at += 32;
        }
        if !elements.is_empty() {
            let len = elements.len();
            let mut sums = self.accumulators.load(at);
            let here = Here { start: elements.start, lanes: 0..len, at, values, prefetch: self.prefetch };
            self.summand.take::<S, V, FIRST>(simd, &here, &mut sums);
            self.accumulators.store_first(at, len, &sums);
        }
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
