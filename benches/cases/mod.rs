//! The cases that the benches measure, and the devices that they measure them on.

pub mod bytes;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;

use std::error::Error;
use std::time::Duration;

use drop_activation::Dtype;

/// What is measured. A step is a forward pass and the backward pass that goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Case {
    Copy,
    /// A copy that stores as large outputs are stored, with non-temporal stores: the inference pass of p = 0, which is
    /// the identity.
    StreamedCopy,
    ReluForward,
    ReluBackward,
    ReluStep,
    ReluStepOneThread,
    DropForward,
    DropBackward,
    DropStep,
    DropStepOneThread,
    DropInfer,
    RreluForward,
    RreluBackward,
    RreluStep,
    /// The mask alone.
    Draw,
    /// A plain ReLU by an outsider. The faster of this and ours is the baseline.
    NdarrayReluForward,
    NdarrayReluBackward,
    NdarrayReluStep,
    NdarrayReluStepOneThread,
}

impl Case {
    pub const ALL: [Self; 19] = [
        Self::Copy,
        Self::StreamedCopy,
        Self::ReluForward,
        Self::ReluBackward,
        Self::ReluStep,
        Self::ReluStepOneThread,
        Self::DropForward,
        Self::DropBackward,
        Self::DropStep,
        Self::DropStepOneThread,
        Self::DropInfer,
        Self::RreluForward,
        Self::RreluBackward,
        Self::RreluStep,
        Self::Draw,
        Self::NdarrayReluForward,
        Self::NdarrayReluBackward,
        Self::NdarrayReluStep,
        Self::NdarrayReluStepOneThread,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::StreamedCopy => "streamed_copy",
            Self::ReluForward => "relu_forward",
            Self::ReluBackward => "relu_backward",
            Self::ReluStep => "relu_step",
            Self::ReluStepOneThread => "relu_step_one_thread",
            Self::DropForward => "drop_forward",
            Self::DropBackward => "drop_backward",
            Self::DropStep => "drop_step",
            Self::DropStepOneThread => "drop_step_one_thread",
            Self::DropInfer => "drop_infer",
            Self::RreluForward => "rrelu_forward",
            Self::RreluBackward => "rrelu_backward",
            Self::RreluStep => "rrelu_step",
            Self::Draw => "draw",
            Self::NdarrayReluForward => "ndarray_relu_forward",
            Self::NdarrayReluBackward => "ndarray_relu_backward",
            Self::NdarrayReluStep => "ndarray_relu_step",
            Self::NdarrayReluStepOneThread => "ndarray_relu_step_one_thread",
        }
    }

    /// The case that this one is, but by the calling thread alone.
    pub const fn by_one_thread(self) -> Option<Self> {
        match self {
            Self::ReluStepOneThread => Some(Self::ReluStep),
            Self::DropStepOneThread => Some(Self::DropStep),
            Self::NdarrayReluStepOneThread => Some(Self::NdarrayReluStep),
            _ => None,
        }
    }

    /// Bytes that must move for each element of `size` bytes.
    pub fn bytes(self, size: usize) -> f64 {
        let name = self.name();
        let name = name.strip_prefix("ndarray_").unwrap_or(name);
        bytes::per_element(name.strip_suffix("_one_thread").unwrap_or(name), size)
    }
}

/// A configuration: which elements, how many, which p, and whether the cache may help: *cold* means that each call
/// gets other buffers out of a rotation (see [`Config::sets`]), *warm* that all calls get the same.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    pub dtype: Dtype,
    pub n: usize,
    pub p: f64,
    pub cold: bool,
}

impl Config {
    /// Buffer sets, of four tensors each, of which a rotation over so many bytes consists: no more than 4096, so that
    /// tensors of a few KiB are within a large last-level cache.
    fn sets(&self, rotation_bytes: usize) -> usize {
        if self.cold { (rotation_bytes / (4 * self.n * self.dtype.size())).clamp(2, 4096) } else { 1 }
    }
}

/// A device that measures.
pub trait Device {
    fn name(&self) -> String;

    /// Bytes of the last-level cache, if that is known.
    fn cache(&self) -> Option<usize>;

    /// Whether it has such a case on such tensors.
    fn has(&self, case: Case, config: &Config) -> bool;

    /// Tensors of that configuration, with random values.
    fn tensors(&self, config: &Config) -> Result<Box<dyn Tensors>, Box<dyn Error>>;
}

pub trait Tensors {
    /// The time of so many calls, one after the other.
    fn time(&mut self, case: Case, calls: u64) -> Result<Duration, Box<dyn Error>>;
}

/// The device of that name, or the best that is there.
pub fn open(name: Option<&str>) -> Result<Box<dyn Device>, Box<dyn Error>> {
    match name {
        Some("cpu") => Ok(Box::new(cpu::Cpu::open()?)),
        #[cfg(feature = "cuda")]
        Some("cuda") => Ok(Box::new(cuda::Cuda::open()?)),
        None => {
            #[cfg(feature = "cuda")]
            match cuda::Cuda::open() {
                Ok(cuda) => return Ok(Box::new(cuda)),
                Err(reason) => println!("no CUDA device is measured: {reason}"),
            }
            Ok(Box::new(cpu::Cpu::open()?))
        }
        Some(other) => Err(format!("the device must be cpu or cuda, got {other:?}").into()),
    }
}

/// Half of the elements negative, none zero.
fn random_values(n: usize) -> impl Iterator<Item = f32> {
    (0..n.div_ceil(4) as u64)
        .flat_map(|i| drop_activation::reference::philox4x32_10([i as u32, (i >> 32) as u32, 1, 2], [3, 4]))
        .take(n)
        .map(|word| (word >> 8) as f32 / (1 << 22) as f32 - 2.0 + 1e-7)
}
