//! What a block of 32 elements has of tensors, and of vectors with a value for each channel.

use crate::cpu::engine::READ_PREFETCH;
use crate::cpu::lane::Lane;
use crate::cpu::simd::Simd;
use crate::fused::Shape;
use crate::real::Real;

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
    channels: u64,
    inner: u64,
    /// A multiple of the elements of a row, and more than a block: blocks may begin that much before the tensor.
    ahead: u64,
    /// The values of channels; where these are short, those of a row's elements, and of the next block.
    values: [Vec<R>; VECTORS],
}

impl<R: Real> Channels<R> {
    /// Those of `wanted` vectors can be had afterwards.
    pub(super) fn new(shape: Shape, vectors: &Vectors<'_, R>, wanted: &[Vector]) -> Self {
        let (channels, inner) = (shape.channels() as u64, shape.inner() as u64);
        let row = (channels * inner).max(1);
        let mut all = Self { channels, inner, ahead: row * 32u64.div_ceil(row), values: Default::default() };
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
        self.inner < 32
    }

    /// The place of the block that begins at element `e`, which may lie before the tensor.
    #[inline(always)]
    pub(super) fn at(&self, e: u64) -> AtElement<'_, R> {
        let from = e.wrapping_add(self.ahead);
        let among = if self.are_short() {
            Among::Row(remainder(from, self.channels * self.inner) as usize)
        } else {
            let (row, j) = quotient(from, self.inner);
            let c = remainder(row, self.channels);
            let next = if c + 1 == self.channels { 0 } else { c + 1 };
            Among::Two(c as usize, next as usize, (self.inner - j).min(32) as usize)
        };
        AtElement { e, among, channels: self }
    }
}

/// Most tensors have fewer than 2^32 elements, and a division of 32 bits takes half the time.
#[inline(always)]
fn quotient(a: u64, b: u64) -> (u64, u64) {
    match (u32::try_from(a), u32::try_from(b)) {
        (Ok(a), Ok(b)) => (u64::from(a / b), u64::from(a % b)),
        _ => (a / b, a % b),
    }
}

#[inline(always)]
fn remainder(a: u64, b: u64) -> u64 {
    quotient(a, b).1
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
                simd.prefetch(block.as_ptr().cast::<u8>().wrapping_add(READ_PREFETCH));
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
