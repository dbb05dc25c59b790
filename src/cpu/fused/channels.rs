//! What a block of 32 elements has of tensors, and of vectors with a value for each channel.

use crate::cpu::engine::{CACHED_BYTES, READ_PREFETCH};
use crate::cpu::lane::Lane;
use crate::cpu::simd::{LINE, Simd};
use crate::real::Real;
use crate::shape::Shape;

/// The vectors that a pass reads.
#[derive(Clone, Copy)]
pub(super) enum Vector {
    Scale,
    Shift,
    Mean,
    Alpha,
    Beta,
    Gamma,
}

/// How many there are.
pub(super) const VECTORS: usize = 6;

/// The vectors of a pass, by [`Vector`].
pub(super) type Vectors<'a, R> = [Option<&'a [R]>; VECTORS];

/// What stands for a vector that is absent: 1 as a factor, and as a summand -0, which changes no number.
pub(super) fn absent<R: Real>(vector: usize) -> R {
    const FACTORS: [usize; 2] = [Vector::Scale as usize, Vector::Alpha as usize];
    R::from_f64(if FACTORS.contains(&vector) { 1.0 } else { -0.0 })
}

/// Where a block is.
pub(super) trait Place<R>: Copy {
    /// Its elements of a tensor. Those that the tensor has not, or that are not the block's, are anything.
    fn tensor<S: Simd, T: Lane>(&self, simd: S, tensor: &[T]) -> [T; 32];

    /// The values of a vector for its elements.
    fn vector<S: Simd>(&self, simd: S, vector: Vector) -> [R; 32];
}

/// Which channels the elements of blocks belong to, anywhere in the tensor, and the vectors' values for them.
pub(super) trait Channels<R>: Sync {
    type At<'a>: Place<R>
    where
        Self: 'a;

    /// The place of the block that begins at element `e`: of a whole one, or one of which a part is there, which may begin
    /// before the tensor.
    fn at(&self, e: u64, whole: bool) -> Self::At<'_>;
}

/// Work that is compiled for each kind of [`Channels`], so that no block asks for it; or once for any, if it is
/// [`WithChannels::LONG`].
pub(super) trait WithChannels<R> {
    const LONG: bool;

    fn run(self, channels: impl Channels<R>);
}

/// Runs it for tensors of elements of so many bytes. Those of `wanted` vectors can be had.
pub(super) fn with_channels<R: Lane + Real, W: WithChannels<R>>(
    shape: Shape,
    size: usize,
    vectors: &Vectors<'_, R>,
    wanted: &[Vector],
    work: W,
) {
    let prefetch = no_cache_holds(shape, size);
    let (of_row, inner) = (shape.channels(), shape.inner().max(1));
    let value = |vector: usize, c: usize| vectors[vector].map_or(absent(vector), |values| values[c]);
    if inner < 32 || of_row == 1 {
        // A row is written out, as often as makes up a block, and then one block more. Of a single channel all elements have
        // the same.
        let row = if of_row == 1 { 1 } else { of_row * inner };
        let period = row * 32_usize.div_ceil(row);
        let mut values: [Vec<R>; VECTORS] = Default::default();
        for vector in wanted.iter().map(|vector| *vector as usize) {
            let mut row_of = Vec::with_capacity(row);
            (0..of_row).for_each(|c| row_of.resize(row_of.len() + row / of_row, value(vector, c)));
            values[vector] = again_and_again(&row_of, period + 32);
        }
        let rows = RowsOfElements { period: Divisor::new(period, shape), prefetch, values };
        if W::LONG { work.run(Either::Rows(rows)) } else { work.run(rows) }
    } else {
        let values = (0..of_row).map(|c| std::array::from_fn(|vector| value(vector, c))).collect();
        let divisors = (Divisor::new(inner, shape), Divisor::new(of_row, shape));
        let planes = Planes { inner: divisors.0, channels: divisors.1, prefetch, values };
        if W::LONG { work.run(Either::Planes(planes)) } else { work.run(planes) }
    }
}

/// So many values: these, and then these again.
pub(super) fn again_and_again<R: Copy>(values: &[R], len: usize) -> Vec<R> {
    let mut all = Vec::with_capacity(len);
    while all.len() < len {
        all.extend_from_slice(&values[..values.len().min(len - all.len())]);
    }
    all
}

/// Where a block may have elements of more than two channels: rows are written out.
struct RowsOfElements<R> {
    /// Elements of a row, or of several.
    period: Divisor,
    /// Whether no cache holds the tensors.
    prefetch: bool,
    /// The values of those elements, and of the next block.
    values: [Vec<R>; VECTORS],
}

/// Where it has elements of at most two.
struct Planes<R> {
    inner: Divisor,
    channels: Divisor,
    prefetch: bool,
    /// Those of each channel.
    values: Vec<[R; VECTORS]>,
}

impl<R: Lane + Real> Channels<R> for RowsOfElements<R> {
    type At<'a> = AtElement<InRow<'a, R>>;

    #[inline(always)]
    fn at(&self, e: u64, whole: bool) -> Self::At<'_> {
        // A period ahead, for those before the tensor.
        let at = self.period.divide(e.wrapping_add(self.period.divisor)).1 as usize;
        AtElement { e, whole, prefetch: self.prefetch, values: InRow { values: &self.values, at } }
    }
}

impl<R: Lane + Real> Channels<R> for Planes<R> {
    type At<'a> = AtElement<OfTwo<'a, R>>;

    #[inline(always)]
    fn at(&self, e: u64, whole: bool) -> Self::At<'_> {
        // A row ahead.
        let (row, j) = self.inner.divide(e.wrapping_add(self.inner.divisor * self.channels.divisor));
        let c = self.channels.divide(row).1 as usize;
        let next = if c + 1 == self.values.len() { 0 } else { c + 1 };
        let firsts = u32::MAX >> (32 - (self.inner.divisor - j).min(32));
        let values = OfTwo { first: &self.values[c], others: &self.values[next], firsts };
        AtElement { e, whole, prefetch: self.prefetch, values }
    }
}

/// One or the other.
enum Either<R> {
    Rows(RowsOfElements<R>),
    Planes(Planes<R>),
}

impl<R: Lane + Real> Channels<R> for Either<R> {
    type At<'a> = AtElement<OfEither<'a, R>>;

    #[inline(always)]
    fn at(&self, e: u64, whole: bool) -> Self::At<'_> {
        match self {
            Self::Rows(rows) => rows.at(e, whole).map(OfEither::Row),
            Self::Planes(planes) => planes.at(e, whole).map(OfEither::Two),
        }
    }
}

/// A divisor, with its reciprocal for numerators below 2^32, which those of most tensors are: one multiplication instead of
/// a division, of which a block would wait for two. (Lemire, Kaser and Kurz, "Faster remainder by direct computation",
/// 2019.)
#[derive(Clone, Copy)]
struct Divisor {
    divisor: u64,
    /// 2^64 / divisor, rounded up; 0 where numerators are larger.
    reciprocal: u64,
}

impl Divisor {
    /// For elements of a tensor, and up to a row or a block more. The divisor is at least 2.
    fn new(divisor: usize, shape: Shape) -> Self {
        let row = (shape.channels() as u64).saturating_mul(shape.inner() as u64).saturating_add(64);
        let small = (shape.len() as u64).saturating_add(row.saturating_mul(2)) <= u64::from(u32::MAX);
        Self::of(divisor as u64, small)
    }

    fn of(divisor: u64, small: bool) -> Self {
        debug_assert!(divisor > 1);
        Self { divisor, reciprocal: if small { u64::MAX / divisor + 1 } else { 0 } }
    }

    /// Quotient and remainder.
    #[inline(always)]
    fn divide(self, a: u64) -> (u64, u64) {
        let quotient = match self.reciprocal {
            0 => a / self.divisor,
            reciprocal => ((u128::from(reciprocal) * u128::from(a)) >> 64) as u64,
        };
        (quotient, a - quotient * self.divisor)
    }
}

/// The place of the block that begins at an element of the tensor, or before it.
#[derive(Clone, Copy)]
pub(super) struct AtElement<V> {
    e: u64,
    whole: bool,
    prefetch: bool,
    values: V,
}

impl<V> AtElement<V> {
    #[inline(always)]
    fn map<W>(self, f: impl FnOnce(V) -> W) -> AtElement<W> {
        let Self { e, whole, prefetch, values } = self;
        AtElement { e, whole, prefetch, values: f(values) }
    }
}

/// The values of a block's elements.
pub(super) trait BlockValues<R>: Copy {
    fn of<S: Simd>(&self, simd: S, vector: Vector) -> [R; 32];
}

/// Those that begin at a place in a row.
#[derive(Clone, Copy)]
pub(super) struct InRow<'a, R> {
    values: &'a [Vec<R>; VECTORS],
    at: usize,
}

/// Those whose bit is set of one channel, the others of another one.
#[derive(Clone, Copy)]
pub(super) struct OfTwo<'a, R> {
    first: &'a [R; VECTORS],
    others: &'a [R; VECTORS],
    firsts: u32,
}

/// One or the other.
#[derive(Clone, Copy)]
pub(super) enum OfEither<'a, R> {
    Row(InRow<'a, R>),
    Two(OfTwo<'a, R>),
}

impl<R: Lane + Real> BlockValues<R> for OfEither<'_, R> {
    #[inline(always)]
    fn of<S: Simd>(&self, simd: S, vector: Vector) -> [R; 32] {
        match self {
            Self::Row(values) => values.of(simd, vector),
            Self::Two(values) => values.of(simd, vector),
        }
    }
}

impl<R: Real> BlockValues<R> for InRow<'_, R> {
    #[inline(always)]
    fn of<S: Simd>(&self, _: S, vector: Vector) -> [R; 32] {
        *self.values[vector as usize][self.at..].first_chunk().expect("a block follows each element of a row")
    }
}

impl<R: Lane + Real> BlockValues<R> for OfTwo<'_, R> {
    #[inline(always)]
    fn of<S: Simd>(&self, simd: S, vector: Vector) -> [R; 32] {
        let first = simd.repeat(self.first[vector as usize]);
        if self.firsts == u32::MAX {
            return first;
        }
        simd.blend(self.firsts, &first, &simd.repeat(self.others[vector as usize]))
    }
}

impl<R: Real, V: BlockValues<R>> Place<R> for AtElement<V> {
    #[inline(always)]
    fn tensor<S: Simd, T: Lane>(&self, simd: S, tensor: &[T]) -> [T; 32] {
        let start = self.e as usize;
        if !self.whole {
            return part_of(tensor, start);
        }
        let block = tensor[start..].first_chunk().expect("a whole block");
        if self.prefetch {
            prefetch(simd, block, READ_PREFETCH);
        }
        *block
    }

    #[inline(always)]
    fn vector<S: Simd>(&self, simd: S, vector: Vector) -> [R; 32] {
        self.values.of(simd, vector)
    }
}

/// Whether the tensors of a pass are larger than a cache; with most passes there are three of them.
pub(super) fn no_cache_holds(shape: Shape, size: usize) -> bool {
    shape.len().saturating_mul(3 * size) > CACHED_BYTES
}

/// Asks for the lines of a block that is read a little later, so many bytes behind this one.
#[inline(always)]
pub(super) fn prefetch<S: Simd, T>(simd: S, block: &[T; 32], ahead: usize) {
    for line in 0..size_of_val(block) / LINE {
        simd.prefetch(block.as_ptr().cast::<u8>().wrapping_add(ahead + LINE * line));
    }
}

/// A block at an end of the tensor. Where it begins before that, its place has wrapped around.
#[cold]
#[inline(never)]
pub(super) fn part_of<T: Lane>(tensor: &[T], start: usize) -> [T; 32] {
    let mut block = [T::default(); 32];
    for (i, element) in block.iter_mut().enumerate() {
        *element = tensor.get(start.wrapping_add(i)).copied().unwrap_or_default();
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotients_and_remainders_are_exact() {
        let edges = [0, 1, 2, 31, 32, 49, 3136, 65_535, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, u64::MAX - 1];
        for divisor in edges.into_iter().chain(1..200).filter(|divisor| *divisor > 1) {
            for a in edges.into_iter().flat_map(|edge| [edge, edge / 3, divisor, divisor - 1, edge / divisor * divisor])
            {
                for small in [false, a <= u64::from(u32::MAX) && divisor <= u64::from(u32::MAX)] {
                    let by = Divisor::of(divisor, small);
                    assert_eq!(by.divide(a), (a / divisor, a % divisor), "{a} by {divisor}");
                }
            }
        }
    }
}
