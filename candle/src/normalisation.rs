//! What a training forward pass of a batch normalisation computes with, on whichever device.

use candle_core::{Error, Layout, Result, Tensor};
use drop_activation::{DropActivation, MaskKey, fused};

/// The operation and its vectors, which no gradient goes through.
pub(crate) struct Normalisation {
    pub(crate) op: DropActivation,
    pub(crate) key: MaskKey,
    pub(crate) eps: f64,
    pub(crate) momentum: f64,
    pub(crate) frozen: bool,
    /// Mean and variance before the pass.
    pub(crate) running: [Tensor; 2],
    pub(crate) weight: Tensor,
    pub(crate) bias: Tensor,
}

/// The logical shape of a tensor whose second dimension has the channels.
pub(crate) fn of_dims(layout: &Layout) -> Result<fused::Shape> {
    let dims = layout.dims();
    fused::Shape::new(dims[0], dims[1], dims[2..].iter().product()).map_err(Error::wrap)
}
