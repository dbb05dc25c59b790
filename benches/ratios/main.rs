//! Ratios within one run: Drop-Activation beside plain ReLU, RReLU and the memory's own speed.
//!
//!     cargo bench --bench ratios -- [--device cpu|cuda] [--quick] [--json FILE]
//!
//! All passes of a configuration take turns, round after round, so that what disturbs the machine
//! disturbs them alike; the figures are medians over the rounds. Inputs are random. *Cold* means
//! that each call gets other buffers out of a rotation larger than any cache, *warm* that all calls
//! get the same.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod table;

use std::collections::BTreeMap;
use std::error::Error;

use drop_activation::Dtype;

/// What is measured. A step is a forward pass and the backward pass that goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    Copy,
    ReluForward,
    ReluBackward,
    ReluStep,
    DropForward,
    DropBackward,
    DropStep,
    DropInfer,
    RreluForward,
    RreluBackward,
    RreluStep,
    /// The mask alone.
    Draw,
}

impl Work {
    pub const ALL: [Self; 12] = [
        Self::Copy,
        Self::ReluForward,
        Self::ReluBackward,
        Self::ReluStep,
        Self::DropForward,
        Self::DropBackward,
        Self::DropStep,
        Self::DropInfer,
        Self::RreluForward,
        Self::RreluBackward,
        Self::RreluStep,
        Self::Draw,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::ReluForward => "relu_forward",
            Self::ReluBackward => "relu_backward",
            Self::ReluStep => "relu_step",
            Self::DropForward => "drop_forward",
            Self::DropBackward => "drop_backward",
            Self::DropStep => "drop_step",
            Self::DropInfer => "drop_infer",
            Self::RreluForward => "rrelu_forward",
            Self::RreluBackward => "rrelu_backward",
            Self::RreluStep => "rrelu_step",
            Self::Draw => "draw",
        }
    }

    /// Bytes that must move for each element of `s` bytes.
    pub fn bytes(self, s: f64) -> f64 {
        const BIT: f64 = 0.125;
        match self {
            Self::Copy | Self::ReluForward | Self::DropInfer => 2.0 * s,
            Self::ReluBackward => 3.0 * s,
            Self::ReluStep => 5.0 * s,
            Self::DropForward | Self::DropBackward | Self::RreluForward | Self::RreluBackward => 2.0 * s + BIT,
            Self::DropStep | Self::RreluStep => 4.0 * s + 2.0 * BIT,
            Self::Draw => BIT,
        }
    }
}

/// A configuration: which elements, how many, which p, and whether the cache may help.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    pub dtype: Dtype,
    pub n: usize,
    pub p: f64,
    pub cold: bool,
}

/// Median seconds of each work.
pub type Medians = BTreeMap<Work, f64>;

/// A device that measures.
pub trait Device {
    fn name(&self) -> String;
    fn measure(&self, config: &Config, rounds: usize) -> Result<Medians, Box<dyn Error>>;
}

pub fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Standard-normal-like input: half of the elements negative, none zero.
pub fn random_values(n: usize) -> impl Iterator<Item = f32> {
    (0..n.div_ceil(4) as u64)
        .flat_map(|i| drop_activation::reference::philox4x32_10([i as u32, (i >> 32) as u32, 1, 2], [3, 4]))
        .take(n)
        .map(|word| (word >> 8) as f32 / (1 << 22) as f32 - 2.0 + 1e-7)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut device = None;
    let mut quick = false;
    let mut json = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--device" => device = arguments.next(),
            "--quick" => quick = true,
            "--json" => json = arguments.next(),
            // What cargo itself passes, and names for criterion's benches.
            "--bench" => {}
            other => return Err(format!("unknown argument {other}").into()),
        }
    }
    let device = open(device.as_deref())?;
    println!("ratios on {}", device.name());

    let sizes: &[u32] = if quick { &[16, 20, 26] } else { &[10, 12, 14, 16, 18, 20, 22, 24, 26, 27] };
    let mut results = table::Results::new(device.name());
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
        for &log in sizes {
            for cold in [false, true] {
                for p in if quick { vec![0.95] } else { vec![0.95, 0.6, 0.5] } {
                    let config = Config { dtype, n: 1 << log, p, cold };
                    let medians = device.measure(&config, if log >= 24 { 15 } else { 51 })?;
                    results.add(config, medians);
                }
            }
        }
    }
    results.print();
    if let Some(file) = json {
        std::fs::write(file, results.json())?;
    }
    Ok(())
}

fn open(device: Option<&str>) -> Result<Box<dyn Device>, Box<dyn Error>> {
    match device {
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
        Some(other) => Err(format!("--device is {other:?}; allowed are cpu and cuda").into()),
    }
}
