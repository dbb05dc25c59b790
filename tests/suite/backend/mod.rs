//! What the suite runs against.

mod cpu;
#[cfg(feature = "cuda")]
mod gpu;
#[cfg(feature = "cuda")]
mod on_cpu;
mod reference;

use drop_activation::{Activation, DropActivation, InOut, MaskKey, MaskOrigin, PackedMask, RRelu, Result};

use crate::data::Bits;
use crate::support::calls;

pub use cpu::Cpu;
#[cfg(feature = "cuda")]
pub use gpu::Gpu;
#[cfg(feature = "cuda")]
pub use on_cpu::{Compiled, Emulated, OnCpu};
pub use reference::Reference;

/// A call with what it reads on the host.
pub type Call<'a, T> = calls::Call<&'a [T], &'a PackedMask>;

/// A thing that can do every pass.
pub trait Backend {
    fn name(&self) -> String;

    /// Does the pass. Returns the mask of the passes that make one.
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
