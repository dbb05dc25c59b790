//! The candle module.

use std::sync::Arc;

use candle_core::{DType, ModuleT, Result, Tensor};
use drop_activation::{KeySequence, MaskKey};

use crate::call::{Inference, Training};
use crate::element::unsupported;
use crate::nonlinearity::{Nonlinearity, Random};

/// A [`Nonlinearity`] as a candle module, with the sequence of keys that its masks are drawn by.
///
/// [`forward_t(x, true)`](ModuleT::forward_t) trains: it takes the next key of the sequence and applies σ or the
/// identity at random (for RReLU, a random slope). [`forward_t(x, false)`](ModuleT::forward_t) is inference, which is
/// the same each time and takes no key. Plain ReLU is ReLU in both, and takes none either. All of them are
/// differentiable by candle's `backward`; second derivatives are right for ReLU and RReLU, and an error for the other
/// σ.
///
/// x may have any shape, of f32, f64, f16 or bf16, on the CPU or on a CUDA device. Where it is not contiguous it is
/// copied first (by [`Tensor::contiguous`], through which gradients flow too); a contiguous part of a larger tensor is
/// used where it lies. Element i of the mask belongs to element i of x in row-major order. The result has x's
/// shape, type and device, and is contiguous.
///
/// The mask of a call belongs to that call's result, and lives as long as something refers to that or to what was
/// computed from it. So one layer may be called many times before a backward pass, at several places of a network and
/// from several threads.
///
/// A clone takes its keys from the same sequence.
#[derive(Clone, Debug)]
pub struct ActivationLayer {
    nonlinearity: Nonlinearity,
    keys: Arc<KeySequence>,
}

impl ActivationLayer {
    /// A layer with a sequence of keys of its own, or with an [`Arc`] of one that several layers share.
    ///
    /// Two layers with sequences of their own should have different seeds: equal keys give equal masks.
    pub fn new(nonlinearity: Nonlinearity, keys: impl Into<Arc<KeySequence>>) -> Self {
        Self { nonlinearity, keys: keys.into() }
    }

    /// What it applies.
    pub fn nonlinearity(&self) -> Nonlinearity {
        self.nonlinearity
    }

    /// Where its keys come from. The seed and the next offset of this sequence are all of the layer's state.
    pub fn keys(&self) -> &Arc<KeySequence> {
        &self.keys
    }

    /// Goes on with another sequence: one that [`KeySequence::resume`] made of a stored state, for example.
    pub fn set_keys(&mut self, keys: impl Into<Arc<KeySequence>>) {
        self.keys = keys.into();
    }

    /// Training forward with a key of the caller's; the layer's own sequence stays where it is. Equal keys give
    /// equal masks, so that a checkpointed segment can be computed again.
    ///
    /// # Errors
    /// If x is not of a type named above, is on a device that is neither a CPU nor a CUDA device, or has more elements
    /// than a key with this `first` leaves room for; if the device fails.
    pub fn forward_with_key(&self, x: &Tensor, key: MaskKey) -> Result<Tensor> {
        self.train(x, || key)
    }

    /// The key is drawn when x has been found in order, so that a call that fails takes none.
    fn train(&self, x: &Tensor, key: impl FnOnce() -> MaskKey) -> Result<Tensor> {
        let x = checked(x)?;
        let random = match self.nonlinearity {
            Nonlinearity::Relu => return x.apply_op1(Inference(Nonlinearity::Relu)),
            Nonlinearity::RRelu(op) => Random::RRelu(op),
            Nonlinearity::DropActivation(op) => Random::DropActivation(op),
        };
        x.apply_op1(Training::new(random, key()))
    }
}

impl ModuleT for ActivationLayer {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        if train { self.train(x, || self.keys.next_key()) } else { checked(x)?.apply_op1(Inference(self.nonlinearity)) }
    }
}

impl Nonlinearity {
    /// The layer that applies it, with the keys of its masks from `keys`: a sequence of its own, or an
    /// [`Arc`] that several layers share.
    pub fn layer(self, keys: impl Into<Arc<KeySequence>>) -> ActivationLayer {
        ActivationLayer::new(self, keys)
    }
}

/// A contiguous tensor of a type that there are passes for.
pub(crate) fn checked(x: &Tensor) -> Result<Tensor> {
    match x.dtype() {
        DType::F32 | DType::F64 | DType::F16 | DType::BF16 => x.contiguous(),
        other => Err(unsupported(other)),
    }
}
