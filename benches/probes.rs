//! Why a pass is as fast as it is on a GPU: the same pass with less to draw, with nothing to compute, and in other
//! geometries, on tensors too large for any cache.
//!
//!     cargo bench --bench probes -- [--log 28] [--json FILE]
//!
//! `p` varies what is drawn: 0.95 takes about three calls of Philox for a word, 243/256 two, 15/16 and 0.5 one, and 1
//! none, though the mask is written. `identity` is a copy by the kernels' own loop: inference of p = 0. A wave is as
//! many blocks as are resident at once; by default each warp has one tile. All probes of a type take turns, round after
//! round in another order; the figures are medians. FILE gets a row for each probe.

use std::error::Error;
use std::ffi::c_void;
use std::path::PathBuf;
use std::sync::Arc;

use drop_activation::cuda::cudarc::driver::sys::{CUdevice_attribute, CUevent_flags};
use drop_activation::cuda::cudarc::driver::{
    CudaContext, CudaEvent, CudaFunction, CudaModule, CudaSlice, CudaStream, DevicePtr, result,
};
use drop_activation::cuda::cudarc::nvrtc::Ptx;
use drop_activation::cuda::{self, Addresses, Pass, launch};
use drop_activation::reference::philox4x32_10;
use drop_activation::{DropActivation, Dtype, MaskKey};
use serde_json::{Value, json};

#[path = "cases/bytes.rs"]
mod bytes;

const ROUNDS: u32 = 15;

/// Bytes that are made on the host. The device repeats them.
const PATTERN: usize = 16 << 20;

/// ReLU's device code, as the build script has left it for the library.
const IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/relu.fatbin"));

/// Blocks of a launch, if they are not those of the plan.
#[derive(Clone, Copy)]
enum Grid {
    Planned,
    Waves(u32),
    /// One tile for each warp, in blocks of so many threads.
    Blocks(u32),
}

struct Probe {
    name: String,
    /// The case of the benches that moves as many bytes.
    case: &'static str,
    /// None: the driver's own copy.
    pass: Option<Pass>,
    grid: Grid,
    seconds: Vec<f64>,
}

fn probes() -> Result<Vec<Probe>, Box<dyn Error>> {
    let key = MaskKey::new(1, 2);
    let probe = |name: &str, case, pass, grid| Probe { name: name.to_owned(), case, pass, grid, seconds: Vec::new() };
    let forward = |p| Ok::<_, drop_activation::Error>(Some(Pass::Forward { op: DropActivation::relu(p)?, key }));
    let backward = Some(Pass::Backward { op: DropActivation::relu(0.95)? });
    let identity = Some(Pass::Infer { op: DropActivation::relu(0.0)? });
    let mut probes = vec![
        probe("copy", "copy", None, Grid::Planned),
        probe("identity", "copy", identity, Grid::Planned),
        probe("relu forward", "relu_forward", Some(Pass::ReluForward), Grid::Planned),
        probe("relu backward", "relu_backward", Some(Pass::ReluBackward), Grid::Planned),
        probe("backward", "drop_backward", backward, Grid::Planned),
    ];
    for (name, p) in [("0.95", 0.95), ("243/256", 243.0 / 256.0), ("15/16", 0.9375), ("0.5", 0.5), ("1", 1.0)] {
        probes.push(probe(&format!("forward p={name}"), "drop_forward", forward(p)?, Grid::Planned));
    }
    for waves in [1, 2, 4, 8] {
        let grid = Grid::Waves(waves);
        probes.push(probe(&format!("forward waves={waves}"), "drop_forward", forward(0.95)?, grid));
        probes.push(probe(&format!("backward waves={waves}"), "drop_backward", backward, grid));
        probes.push(probe(&format!("relu forward waves={waves}"), "relu_forward", Some(Pass::ReluForward), grid));
    }
    for threads in [64, 128] {
        let grid = Grid::Blocks(threads);
        probes.push(probe(&format!("forward threads={threads}"), "drop_forward", forward(0.95)?, grid));
        probes.push(probe(&format!("backward threads={threads}"), "drop_backward", backward, grid));
    }
    Ok(probes)
}

struct Gpu {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    module: Arc<CudaModule>,
    multiprocessors: u32,
    start: CudaEvent,
    end: CudaEvent,
}

impl Gpu {
    fn open() -> Result<Self, Box<dyn Error>> {
        let context = cuda::context(0)?;
        let module = context.load_module(Ptx::from_binary(IMAGE.to_vec()))?;
        let attribute = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let multiprocessors = u32::try_from(context.attribute(attribute)?)?;
        let event = || context.new_event(Some(CUevent_flags::CU_EVENT_DEFAULT));
        let (start, end) = (event()?, event()?);
        Ok(Self { stream: context.default_stream(), context, module, multiprocessors, start, end })
    }

    fn function(&self, name: &str) -> Result<CudaFunction, Box<dyn Error>> {
        self.module.load_function(name).map_err(|_| format!("ReLU's device code has no {name}").into())
    }

    /// Seconds of one launch.
    fn time(&self, probe: &Probe, dtype: Dtype, n: usize, set: &Set) -> Result<f64, Box<dyn Error>> {
        let Some(pass) = &probe.pass else {
            self.start.record(&self.stream)?;
            let at = set.addresses(&self.stream);
            // SAFETY: two tensors of so many bytes that nothing else uses.
            unsafe { result::memcpy_dtod_async(at.output, at.input, n * dtype.size(), self.stream.cu_stream()) }?;
            return self.elapsed();
        };
        let planned = launch::plan(pass, dtype, n, set.addresses(&self.stream))?;
        let mut planned = planned.ok_or("nothing to do")?;
        let function = self.function(planned.entry.name())?;
        match probe.grid {
            Grid::Planned => {}
            Grid::Waves(waves) => {
                let resident = function.occupancy_max_active_blocks_per_multiprocessor(planned.block, 0, None)?;
                planned.grid = planned.grid.min(waves * resident * self.multiprocessors);
            }
            Grid::Blocks(threads) => {
                planned.grid = (u64::from(planned.grid) * u64::from(planned.block) / u64::from(threads)).try_into()?;
                planned.block = threads;
            }
        }
        let mut arguments = [(&raw mut planned.args).cast::<c_void>()];
        let (grid, block, stream) = ((planned.grid, 1, 1), (planned.block, 1, 1), self.stream.cu_stream());
        self.start.record(&self.stream)?;
        // SAFETY: a kernel of ours with its one argument; it takes any grid and whole warps up to the plan's block. Its
        // tensors are those of the set, which nothing else uses.
        unsafe { result::launch_kernel(function.cu_function(), grid, block, 0, stream, &mut arguments) }?;
        self.elapsed()
    }

    fn elapsed(&self) -> Result<f64, Box<dyn Error>> {
        self.end.record(&self.stream)?;
        Ok(f64::from(self.start.elapsed_ms(&self.end)?) / 1e3)
    }
}

/// The tensors of a launch. There are two sets, so that none finds its own in the cache.
struct Set {
    input: CudaSlice<u8>,
    saved: CudaSlice<u8>,
    output: CudaSlice<u8>,
    mask: CudaSlice<u8>,
}

impl Set {
    fn new(
        stream: &Arc<CudaStream>,
        pattern: &CudaSlice<u8>,
        bytes: usize,
        mask: usize,
    ) -> Result<Self, Box<dyn Error>> {
        let tensor = |bytes: usize| -> Result<_, Box<dyn Error>> {
            // SAFETY: the copies write every byte, before anything else on the stream.
            let mut tensor = unsafe { stream.alloc(bytes) }?;
            for start in (0..bytes).step_by(pattern.len()) {
                let len = pattern.len().min(bytes - start);
                stream.memcpy_dtod(&pattern.slice(..len), &mut tensor.slice_mut(start..start + len))?;
            }
            Ok(tensor)
        };
        Ok(Self { input: tensor(bytes)?, saved: tensor(bytes)?, output: tensor(bytes)?, mask: tensor(mask)? })
    }

    fn addresses(&self, stream: &CudaStream) -> Addresses {
        let of = |tensor: &CudaSlice<u8>| tensor.device_ptr(stream).0;
        Addresses {
            input: of(&self.input),
            saved: of(&self.saved),
            output: of(&self.output),
            mask: of(&self.mask),
            ..Addresses::default()
        }
    }
}

/// Random bits that are finite numbers of both signs in f32 and in bf16.
fn pattern() -> Vec<u8> {
    let words = (0..PATTERN as u32 / 16).flat_map(|i| philox4x32_10([i, 0, 7, 8], [9, 10]));
    words.flat_map(|word| (word & 0xBFFF_BFFF).to_ne_bytes()).collect()
}

fn median(seconds: &[f64]) -> f64 {
    let mut sorted = seconds.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn rows(probes: &[Probe], dtype: Dtype, n: usize) -> Vec<Value> {
    let bytes = |probe: &Probe| bytes::per_element(probe.case, dtype.size()) * n as f64;
    let speed = |probe: &Probe| bytes(probe) / median(&probe.seconds);
    let copy = speed(&probes[0]);
    let row = |probe: &Probe| {
        let (seconds, of_copy) = (median(&probe.seconds), speed(probe) / copy);
        let (dtype, name, gigabytes) = (dtype.name(), &probe.name, speed(probe) / 1e9);
        println!("{dtype:<5}2^{:<3}{name:<24}{:>9.1} us{gigabytes:>9.1} GB/s{of_copy:>6.3}", n.ilog2(), seconds * 1e6);
        json!({ "dtype": dtype, "n": n, "probe": name, "seconds": seconds, "of_copy": of_copy })
    };
    probes.iter().map(row).collect()
}

/// The binary logarithm of the elements, and the file for the figures.
fn options() -> Result<(u32, Option<PathBuf>), Box<dyn Error>> {
    use lexopt::prelude::*;
    let (mut log, mut json) = (28, None);
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("log") => log = arguments.value()?.parse()?,
            Long("json") => json = Some(arguments.value()?.into()),
            // What cargo itself passes.
            Long("bench") => {}
            _ => return Err(argument.unexpected().into()),
        }
    }
    Ok((log, json))
}

fn main() -> Result<(), Box<dyn Error>> {
    let (log, json) = options()?;
    if let Err(reason) = cuda::available() {
        let required = std::env::var_os("DROP_ACTIVATION_REQUIRE_GPU").is_some_and(|v| !v.is_empty() && v != "0");
        println!("nothing to probe: {reason}");
        return if required { Err("DROP_ACTIVATION_REQUIRE_GPU is set".into()) } else { Ok(()) };
    }
    let gpu = Gpu::open()?;
    let n: usize = 1 << log;
    println!("probes on {}; bytes a second, and as a part of the copy's", gpu.context.name()?);
    let pattern = gpu.stream.clone_htod(&pattern())?;
    let mut all: Vec<Value> = Vec::new();
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let set = |_| Set::new(&gpu.stream, &pattern, n * dtype.size(), n.div_ceil(32) * 4);
        let sets = (0..2).map(set).collect::<Result<Vec<_>, _>>()?;
        let mut probes = probes()?;
        let mut turn = 0;
        // The first round warms up.
        for round in 0..=ROUNDS {
            let mut order: Vec<usize> = (0..probes.len()).collect();
            order.sort_by_cached_key(|&i| philox4x32_10([round, i as u32, 0, 0], [0, 0])[0]);
            for i in order {
                let time = gpu.time(&probes[i], dtype, n, &sets[turn % 2])?;
                turn += 1;
                if round > 0 {
                    probes[i].seconds.push(time);
                }
            }
        }
        all.extend(rows(&probes, dtype, n));
        if let Some(file) = &json {
            let results = json!({ "device": gpu.context.name()?, "rows": all });
            std::fs::write(file, serde_json::to_string_pretty(&results)? + "\n")?;
        }
    }
    Ok(())
}
