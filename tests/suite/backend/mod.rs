//! What the suite runs against.

mod cpu;
#[cfg(feature = "cuda")]
mod gpu;
#[cfg(feature = "cuda")]
mod on_cpu;
mod reference;

use drop_activation::half::{bf16, f16};
use drop_activation::{Activation, DropActivation, InOut, MaskKey, MaskOrigin, PackedMask, RRelu, Result};

use crate::data::Bits;

pub use crate::support::calls::HostCall as Call;
pub use cpu::Cpu;
#[cfg(feature = "cuda")]
pub use gpu::Gpu;
#[cfg(feature = "cuda")]
pub use on_cpu::{Compiled, Emulated, OnCpu};
pub use reference::Reference;

/// A thing that can do every pass, on tensors of every type.
pub trait Backend: Run<f32> + Run<f64> + Run<f16> + Run<bf16> {
    fn name(&self) -> String;

    /// How much a test may ask for: where every access is checked, thousands of elements take as long
    /// as millions elsewhere.
    fn is_slow(&self) -> bool {
        false
    }

    /// The drawn keep bits. A nonlinearity other than ReLU stores them as they are.
    fn keep_words(&self, p: f64, key: MaskKey, len: usize) -> Result<Vec<u32>> {
        let op = DropActivation::new(Activation::Sigmoid, p)?;
        let mask = Run::<f32>::run_call(self, &Call::Forward(op, key), (&mut vec![0.0; len]).into())?;
        Ok(mask.expect("forward makes a mask").into_words())
    }
}

/// Its passes over tensors of one type.
pub trait Run<T> {
    /// Does the pass. Returns the mask of the passes that make one.
    fn run_call(&self, call: &Call<T>, io: InOut<T>) -> Result<Option<PackedMask>>;
}

/// An element type that backends are tested with.
///
/// Tests take a `&dyn Backend` and not any type of one, so that they are compiled once and not for each backend.
pub trait Tested: Bits {
    fn passes(backend: &dyn Backend) -> &dyn Run<Self>;
}

macro_rules! tested {
    ($($type:ty)*) => {$(
        impl Tested for $type {
            fn passes(backend: &dyn Backend) -> &dyn Run<Self> {
                backend
            }
        }
    )*};
}

tested!(f32 f64 f16 bf16);

impl dyn Backend + '_ {
    /// Does the pass. Returns the mask of the passes that make one.
    pub fn run<T: Tested>(&self, call: &Call<T>, io: InOut<T>) -> Result<Option<PackedMask>> {
        T::passes(self).run_call(call, io)
    }
}

/// A mask for something else, with every bit set that may be.
fn dirty_mask() -> PackedMask {
    let origin = MaskOrigin::RRelu(RRelu::new(0.5, 0.75).expect("slopes"), MaskKey::new(1, 2));
    PackedMask::from_words(origin, 96 * 32, vec![u32::MAX; 96]).expect("a full mask")
}
