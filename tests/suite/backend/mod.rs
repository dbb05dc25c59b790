//! What the suite runs against. To add a backend: implement [`Backend`] in a file here and name it in
//! `main.rs`; every test is then run for it.

mod cpu;
#[cfg(feature = "cuda")]
mod gpu;
#[cfg(feature = "cuda")]
mod on_cpu;
mod reference;

use drop_activation::{Activation, DropActivation, InOut, MaskKey, MaskOrigin, PackedMask, RRelu, Result};

use crate::data::Bits;

pub use cpu::Cpu;
#[cfg(feature = "cuda")]
pub use gpu::Gpu;
#[cfg(feature = "cuda")]
pub use on_cpu::{Compiled, Emulated, OnCpu};
pub use reference::Reference;

/// One pass with all its arguments but the tensor it reads (x, or dy in a backward pass) and the one
/// it writes.
#[derive(Clone, Copy, Debug)]
pub enum Call<'a, T> {
    Forward(DropActivation, MaskKey),
    /// Refills a mask that was made for something else.
    ForwardInto(DropActivation, MaskKey),
    ForwardWithoutMask(DropActivation, MaskKey),
    Backward(DropActivation, &'a PackedMask, Option<&'a [T]>),
    BackwardFromOutput(DropActivation, &'a [T]),
    Infer(DropActivation),
    InferBackward(DropActivation, &'a [T]),
    RreluForward(RRelu, MaskKey),
    RreluForwardInto(RRelu, MaskKey),
    RreluBackward(RRelu, &'a PackedMask),
    RreluInfer(RRelu),
    RreluInferBackward(RRelu, &'a [T]),
    ReluForward,
    ReluBackward(&'a [T]),
}

impl<'a, T> Call<'a, T> {
    /// The saved x or y that the pass reads beside dy.
    pub fn saved(&self) -> Option<&'a [T]> {
        match *self {
            Self::Backward(_, _, saved) => saved,
            Self::BackwardFromOutput(_, saved)
            | Self::InferBackward(_, saved)
            | Self::RreluInferBackward(_, saved)
            | Self::ReluBackward(saved) => Some(saved),
            _ => None,
        }
    }

    /// The same call with those values at another place.
    pub fn with_saved(self, at: &'a [T]) -> Self {
        match self {
            Self::Backward(op, mask, Some(_)) => Self::Backward(op, mask, Some(at)),
            Self::BackwardFromOutput(op, _) => Self::BackwardFromOutput(op, at),
            Self::InferBackward(op, _) => Self::InferBackward(op, at),
            Self::RreluInferBackward(op, _) => Self::RreluInferBackward(op, at),
            Self::ReluBackward(_) => Self::ReluBackward(at),
            other => other,
        }
    }
}

/// A thing that can do every pass.
pub trait Backend {
    fn name(&self) -> String;

    /// Does the pass. Gives the mask of the passes that make one.
    fn run<T: Bits>(&self, call: &Call<T>, io: InOut<T>) -> Result<Option<PackedMask>>;

    /// How much a test may ask for: where every access is checked, thousands of elements take as long
    /// as millions elsewhere.
    fn is_slow(&self) -> bool {
        false
    }

    /// The drawn keep bits. A nonlinearity other than ReLU stores them as they are.
    fn keep_words(&self, p: f64, key: MaskKey, len: usize) -> Result<Vec<u32>> {
        let op = DropActivation::new(Activation::Sigmoid, p)?;
        let mask = self.run(&Call::Forward(op, key), (&mut vec![0.0f32; len]).into())?;
        Ok(mask.expect("forward makes a mask").into_words())
    }
}

/// A mask for something else, with every bit set that may be.
fn dirty_mask() -> PackedMask {
    let origin = MaskOrigin::RRelu(RRelu::new(0.5, 0.75).expect("slopes"), MaskKey::new(1, 2));
    PackedMask::from_words(origin, 96 * 32, vec![u32::MAX; 96]).expect("a full mask")
}
