//! The passes over channels: `docs/fused.md`.
//!
//! ```text
//! elementwise    FusedForward, FusedInfer, FusedBackward: passes over blocks, as all others are
//! sums           Statistics, FusedSums: channel by channel, in the order that the text prescribes
//! gradient       z and dz of a block, for both
//! channels       what a block has of tensors and of vectors with a value for each channel
//! ```

mod channels;
mod disjoint;
mod elementwise;
mod gradient;
mod sums;

use super::lane::Lane;
use super::mask_words::MaskWords;
use crate::error::Result;
use crate::float_environment::DefaultEnvironment;
use crate::io::InOut;
use crate::operands::Operands;
use crate::pass::Pass;

/// Runs a checked pass over channels.
pub(super) fn run<T: Lane<Real: Lane>>(
    pass: &Pass,
    io: InOut<'_, T>,
    operands: Operands<'_, T>,
    mask: MaskWords<'_>,
) -> Result<()> {
    // Nothing to do, of which no vector's values for any number of channels need be at hand.
    if pass.results().is_none() && pass.shape().is_some_and(|shape| shape.is_empty()) {
        return Ok(());
    }
    let _environment = DefaultEnvironment::enter();
    match *pass {
        Pass::FusedForward { op, key, shape } => elementwise::forward(&op, key, shape, &operands, io, mask),
        Pass::FusedInfer { op, shape } => return elementwise::infer(&op, shape, &operands, io),
        Pass::FusedBackward { dz, shape } => elementwise::backward(&dz, shape, &operands, io, mask),
        Pass::Statistics { shape } => return sums::statistics(shape, io.input(), operands.results),
        Pass::FusedSums { dz, shape } => return sums::reduce(&dz, shape, io, operands, mask),
        // No other has a shape.
        _ => {}
    }
    Ok(())
}
