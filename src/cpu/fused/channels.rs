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
    fn vector(&self, vector: Vector) -> [R; 32];
}

/// Which channels the elements of blocks belong to, anywhere in the tensor, and the vectors' values for them.
pub(super) struct Channels<R> {
    channels: Divisor,
    inner: Divisor,
    row: Divisor,
    /// Whether no cache holds the tensors.
    prefetch: bool,
    /// A multiple of the elements of a row, and more than a block: blocks may begin that much before the tensor.
    ahead: u64,
    /// The values of channels; where these are short, those of a row's elements, and of the next block.
    values: [Vec<R>; VECTORS],
}

impl<R: Real> Channels<R> {
    /// For tensors of elements of so many bytes. Those of `wanted` vectors can be had afterwards.
    pub(super) fn new(shape: Shape, size: usize, vectors: &Vectors<'_, R>, wanted: &[Vector]) -> Self {
        let prefetch = no_cache_holds(shape, size);
        let (channels, inner) = (shape.channels() as u64, shape.inner() as u64);
        let row = (channels * inner).max(1);
        let [channels, inner, of_row] = [channels, inner, row].map(|divisor| Divisor::new(divisor.max(1)));
        let ahead = row * 32u64.div_ceil(row);
        let mut all = Self { channels, inner, row: of_row, prefetch, ahead, values: Default::default() };
        for vector in wanted.iter().map(|vector| *vector as usize) {
            let values = match vectors[vector] {
                Some(values) => values.to_vec(),
                None => vec![absent(vector); shape.channels()],
            };
            all.values[vector] = if all.are_short() {
                let of_elements = values.iter().flat_map(|value| std::iter::repeat_n(*value, shape.inner()));
                of_elements.cycle().take(row as usize + 32).collect()
            } else {
                values
            };
        }
        all
    }

    /// Whether a block may have elements of more than two channels. Then rows are written out.
    #[inline(always)]
    fn are_short(&self) -> bool {
        self.inner.divisor < 32
    }

    /// The place of the block that begins at element `e`, which may lie before the tensor.
    #[inline(always)]
    pub(super) fn at(&self, e: u64) -> AtElement<'_, R> {
        let from = e.wrapping_add(self.ahead);
        let among = if self.are_short() {
            Among::Row(self.row.divide(from).1 as usize)
        } else {
            let (row, j) = self.inner.divide(from);
            let c = self.channels.divide(row).1;
            let next = if c + 1 == self.channels.divisor { 0 } else { c + 1 };
            Among::Two(c as usize, next as usize, (self.inner.divisor - j).min(32) as usize)
        };
        AtElement { e, among, channels: self }
    }
}

/// A divisor, with its reciprocal for numerators below 2^32, which those of most tensors are: one multiplication instead of
/// a division, of which a block would wait for two. (Lemire, Kaser and Kurz, "Faster remainder by direct computation",
/// 2019.)
#[derive(Clone, Copy)]
struct Divisor {
    divisor: u64,
    /// 2^64 / divisor, rounded up; 0 for 1.
    reciprocal: u64,
}

impl Divisor {
    fn new(divisor: u64) -> Self {
        Self { divisor, reciprocal: (u64::MAX / divisor).wrapping_add(1) }
    }

    /// Quotient and remainder.
    #[inline(always)]
    fn divide(self, a: u64) -> (u64, u64) {
        let quotient = match (u32::try_from(a).is_ok() && u32::try_from(self.divisor).is_ok(), self.reciprocal) {
            (true, 0) => a,
            (true, reciprocal) => ((u128::from(reciprocal) * u128::from(a)) >> 64) as u64,
            (false, _) => a / self.divisor,
        };
        (quotient, a - quotient * self.divisor)
    }
}

/// The place of the block that begins at an element of the tensor, or before it.
#[derive(Clone, Copy)]
pub(super) struct AtElement<'a, R> {
    e: u64,
    among: Among,
    channels: &'a Channels<R>,
}

/// Which channels its elements belong to.
#[derive(Clone, Copy)]
enum Among {
    /// Those that begin at a place in a row.
    Row(usize),
    /// The first of one channel, as many as are said, and the others of another one.
    Two(usize, usize, usize),
}

impl<R: Real> Place<R> for AtElement<'_, R> {
    #[inline(always)]
    fn tensor<S: Simd, T: Lane>(&self, simd: S, tensor: &[T]) -> [T; 32] {
        let start = usize::try_from(self.e).unwrap_or(usize::MAX);
        match tensor.get(start..).and_then(|rest| rest.first_chunk()) {
            Some(block) => {
                if self.channels.prefetch {
                    prefetch(simd, block);
                }
                *block
            }
            None => part(tensor, self.e),
        }
    }

    #[inline(always)]
    fn vector(&self, vector: Vector) -> [R; 32] {
        let values = &self.channels.values[vector as usize];
        match self.among {
            Among::Row(at) => *values[at..].first_chunk().expect("a block follows each element of a row"),
            Among::Two(c, _, 32) => [values[c]; 32],
            Among::Two(c, next, count) => of_two(values[c], values[next], count),
        }
    }
}

/// Whether the tensors of a pass are larger than a cache; with most passes there are three of them.
pub(super) fn no_cache_holds(shape: Shape, size: usize) -> bool {
    shape.len().saturating_mul(3 * size) > CACHED_BYTES
}

/// Asks for the lines of a block that is read a little later.
#[inline(always)]
pub(super) fn prefetch<S: Simd, T>(simd: S, block: &[T; 32]) {
    for line in 0..size_of_val(block) / LINE {
        simd.prefetch(block.as_ptr().cast::<u8>().wrapping_add(READ_PREFETCH + LINE * line));
    }
}

/// A block at an end of the tensor.
#[cold]
#[inline(never)]
fn part<T: Lane>(tensor: &[T], e: u64) -> [T; 32] {
    let mut block = [T::default(); 32];
    for (i, element) in block.iter_mut().enumerate() {
        let at = usize::try_from(e.wrapping_add(i as u64)).unwrap_or(usize::MAX);
        *element = tensor.get(at).copied().unwrap_or_default();
    }
    block
}

#[inline(never)]
fn of_two<R: Real>(first: R, others: R, count: usize) -> [R; 32] {
    let mut block = [first; 32];
    block[count..].fill(others);
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotients_and_remainders_are_exact() {
        let edges = [0, 1, 2, 31, 32, 49, 3136, 65_535, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, u64::MAX - 1];
        for divisor in edges.into_iter().chain(1..200).filter(|divisor| *divisor > 0) {
            let by = Divisor::new(divisor);
            for a in edges.into_iter().flat_map(|edge| [edge, edge / 3, divisor, divisor - 1, edge / divisor * divisor])
            {
                assert_eq!(by.divide(a), (a / divisor, a % divisor), "{a} by {divisor}");
            }
        }
    }
}
