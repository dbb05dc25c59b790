//! What the benches measure, and on what.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;

use std::error::Error;
use std::time::Duration;

use drop_activation::Dtype;

/// What is measured. A step is a forward pass and the backward pass that goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    Copy,
    /// A copy that is written past the cache as large outputs are: the inference pass of p = 0, which is the identity.
    StreamedCopy,
    ReluForward,
    ReluBackward,
    ReluStep,
    DropForward,
    DropBackward,
    DropStep,
    /// The step in a pool of one thread.
    DropStepAlone,
    DropInfer,
    RreluForward,
    RreluBackward,
    RreluStep,
    /// The mask alone.
    Draw,
    /// A mask from one 32-bit number for each element, alone: how others draw it, with RReLU's code for its numbers.
    DrawUniform,
    /// A plain ReLU of somebody else's, for the baseline to be held to.
    NdarrayRelu,
}

impl Work {
    pub const ALL: [Self; 16] = [
        Self::Copy,
        Self::StreamedCopy,
        Self::ReluForward,
        Self::ReluBackward,
        Self::ReluStep,
        Self::DropForward,
        Self::DropBackward,
        Self::DropStep,
        Self::DropStepAlone,
        Self::DropInfer,
        Self::RreluForward,
        Self::RreluBackward,
        Self::RreluStep,
        Self::Draw,
        Self::DrawUniform,
        Self::NdarrayRelu,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::StreamedCopy => "streamed_copy",
            Self::ReluForward => "relu_forward",
            Self::ReluBackward => "relu_backward",
            Self::ReluStep => "relu_step",
            Self::DropForward => "drop_forward",
            Self::DropBackward => "drop_backward",
            Self::DropStep => "drop_step",
            Self::DropStepAlone => "drop_step_alone",
            Self::DropInfer => "drop_infer",
            Self::RreluForward => "rrelu_forward",
            Self::RreluBackward => "rrelu_backward",
            Self::RreluStep => "rrelu_step",
            Self::Draw => "draw",
            Self::DrawUniform => "draw_uniform",
            Self::NdarrayRelu => "ndarray_relu",
        }
    }

    /// Bytes that must move for each element of `s` bytes.
    pub fn bytes(self, s: f64) -> f64 {
        const BIT: f64 = 0.125;
        match self {
            Self::Copy | Self::StreamedCopy | Self::ReluForward | Self::NdarrayRelu | Self::DropInfer => 2.0 * s,
            Self::ReluBackward => 3.0 * s,
            Self::ReluStep => 5.0 * s,
            Self::DropForward | Self::DropBackward | Self::RreluForward | Self::RreluBackward => 2.0 * s + BIT,
            Self::DropStep | Self::DropStepAlone | Self::RreluStep => 4.0 * s + 2.0 * BIT,
            Self::Draw | Self::DrawUniform => BIT,
        }
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

    /// Whether it has such a work on such tensors.
    fn has(&self, work: Work, config: &Config) -> bool;

    /// Tensors of that configuration, with random values.
    fn tensors(&self, config: &Config) -> Result<Box<dyn Tensors>, Box<dyn Error>>;
}

pub trait Tensors {
    /// The time of so many calls, one after the other.
    fn time(&mut self, work: Work, calls: u64) -> Result<Duration, Box<dyn Error>>;
}

/// The device of that name, or the best that is there.
pub fn open(name: Option<&str>) -> Result<Box<dyn Device>, Box<dyn Error>> {
    match name {
        Some("cpu") => Ok(Box::new(cpu::Cpu)),
        #[cfg(feature = "cuda")]
        Some("cuda") => Ok(Box::new(cuda::Cuda::open()?)),
        None => {
            #[cfg(feature = "cuda")]
            match cuda::Cuda::open() {
                Ok(cuda) => return Ok(Box::new(cuda)),
                Err(reason) => println!("no CUDA device is measured: {reason}"),
            }
            Ok(Box::new(cpu::Cpu))
        }
        Some(other) => Err(format!("the device is {other:?}; allowed are cpu and cuda").into()),
    }
}

/// Half of the elements negative, none zero.
fn random_values(n: usize) -> impl Iterator<Item = f32> {
    (0..n.div_ceil(4) as u64)
        .flat_map(|i| drop_activation::reference::philox4x32_10([i as u32, (i >> 32) as u32, 1, 2], [3, 4]))
        .take(n)
        .map(|word| (word >> 8) as f32 / (1 << 22) as f32 - 2.0 + 1e-7)
}
