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
//!
//! ```text
//! summand             what is summed: distances (statistics), products and gradients (the sums of a backward pass)
//! counts              of a chunk's accumulators
//! values              the vectors' values for a block
//! parts               tasks that threads share, and the results of their sums
//! channels_last       rows, with row_accumulators
//! channels_first      planes
//! ```

mod channels_first;
mod channels_last;
mod counts;
mod distances;
mod gradients;
mod parts;
mod products;
mod row_accumulators;
mod summand;
mod values;

use distances::Distances;
use gradients::{Gradients, Tensors, streams};
use parts::sum;
use products::{Plain, Products};

use super::channels::VECTORS;
use super::gradient::{OfZ, Selected, Source};
use crate::cpu::lane::Lane;
use crate::cpu::mask_words::MaskWords;
use crate::dz::Dz;
use crate::error::Result;
use crate::io::InOut;
use crate::operands::Operands;
use crate::real::Real;
use crate::shape::Shape;

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
    if let Some(of_z) = OfZ::new(dz, &operands) {
        // Arithmetic bounds it, and not memory.
        return reduce_from::<_, _, false>(of_z, dz, shape, io, operands, mask);
    }
    // The constant comes first, so that 16 bits get no code for it.
    if const { size_of::<T>() > 2 } && streams(shape, &io) {
        return reduce_from::<_, _, true>(Selected, dz, shape, io, operands, mask);
    }
    reduce_from::<_, _, false>(Selected, dz, shape, io, operands, mask)
}

fn reduce_from<T: Lane<Real: Lane>, P: Source<T>, const STREAMED: bool>(
    source: P,
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
    let gradients = Gradients::<_, _, STREAMED> { dy: Tensors::new(io), source, words };
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

#[cfg(test)]
mod tests;
