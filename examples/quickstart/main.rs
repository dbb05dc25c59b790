//! The main job on real input: training forward, backward and inference of Drop-Activation on the
//! pre-activations of a layer, checked against the reference and timed beside a plain ReLU.
//!
//!     cargo run --release --example quickstart -- [--device cpu|cuda] [--input FILE.npy]
//!
//! It does so twice: on the batch as it is, whose tensors lie in a cache, and on the batch repeated until it is as
//! large as the tensors of convolutional networks are, which no cache holds.

mod input;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use drop_activation::{DropActivation, KeySequence, MaskKey, PackedMask, cpu, reference};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// 64 MiB: what comes out of 64 channels of 32 x 32 for a batch of 256 images.
const LARGE: usize = 256 * 64 * 32 * 32;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("quickstart: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Outcome<()> {
    let options = Options::parse()?;
    let x = match &options.input {
        Some(path) => input::npy(path)?,
        None => input::fashion_mnist()?,
    };
    report(&options.device, &x, "as it is")?;
    if (1..LARGE).contains(&x.len()) {
        let large: Vec<f32> = x.iter().copied().cycle().take(LARGE).collect();
        report(&options.device, &large, "repeated, a size that networks have")?;
    }
    Ok(())
}

/// Runs all passes on this batch, checks and times them, and prints what came out.
fn report(device: &Device, x: &[f32], what: &str) -> Outcome<()> {
    // A gradient like any other: here that of half the sum of squares.
    let dy = x.to_vec();
    let op = DropActivation::default();
    let key = KeySequence::new(42).next_key();

    let run = match device {
        Device::Cpu => on_cpu(&op, key, x, &dy)?,
        Device::Cuda => on_cuda(&op, key, x, &dy)?,
        Device::Best => match on_cuda(&op, key, x, &dy) {
            Ok(run) => run,
            Err(reason) => {
                println!("no CUDA device is used: {reason}");
                on_cpu(&op, key, x, &dy)?
            }
        },
    };
    check(&op, key, x, &dy, &run)?;
    print(&op, x.len(), what, &run);
    Ok(())
}

/// What a device gave, and the median time of each pass in microseconds.
struct Run {
    device: String,
    y: Vec<f32>,
    dx: Vec<f32>,
    inferred: Vec<f32>,
    mask: PackedMask,
    forward: f64,
    backward: f64,
    infer: f64,
    relu_forward: f64,
    relu_backward: f64,
}

fn on_cpu(op: &DropActivation, key: MaskKey, x: &[f32], dy: &[f32]) -> Outcome<Run> {
    let new = || vec![0.0f32; x.len()];
    let (mut y, mut dx, mut inferred, mut relu, mut relu_dx) = (new(), new(), new(), new(), new());
    let mut mask = cpu::forward(op, key, (x, &mut y))?;
    let time = |pass: &mut dyn FnMut() -> drop_activation::Result<()>| median(|| Ok(pass()?));
    Ok(Run {
        device: format!("CPU, {} threads", rayon::current_num_threads()),
        forward: time(&mut || cpu::forward_into(op, key, (x, &mut y), &mut mask))?,
        backward: time(&mut || cpu::backward(op, &mask, None, (dy, &mut dx)))?,
        infer: time(&mut || cpu::infer(op, (x, &mut inferred)))?,
        relu_forward: time(&mut || cpu::relu_forward((x, &mut relu)))?,
        relu_backward: time(&mut || cpu::relu_backward(&relu, (dy, &mut relu_dx)))?,
        y,
        dx,
        inferred,
        mask,
    })
}

#[cfg(not(feature = "cuda"))]
fn on_cuda(_: &DropActivation, _: MaskKey, _: &[f32], _: &[f32]) -> Outcome<Run> {
    Err("this build is without the feature `cuda`".into())
}

#[cfg(feature = "cuda")]
fn on_cuda(op: &DropActivation, key: MaskKey, x: &[f32], dy: &[f32]) -> Outcome<Run> {
    use drop_activation::cuda;

    let context = cuda::context(0)?;
    let kernels = cuda::Kernels::get(&context)?;
    let stream = context.default_stream();
    let (x, dy) = (stream.clone_htod(x)?, stream.clone_htod(dy)?);
    let new = || stream.alloc_zeros::<f32>(x.len());
    let (mut y, mut dx, mut inferred, mut relu, mut relu_dx) = (new()?, new()?, new()?, new()?, new()?);
    let mut mask = kernels.forward(&stream, op, key, (&x, &mut y))?;
    // The clock stops when the device has finished, so a launch's own cost is in the figure.
    let time = |pass: &mut dyn FnMut() -> drop_activation::Result<()>| {
        median(|| {
            pass()?;
            Ok(stream.synchronize()?)
        })
    };
    Ok(Run {
        device: format!("CUDA, {}", context.name()?),
        forward: time(&mut || kernels.forward_into(&stream, op, key, (&x, &mut y), &mut mask))?,
        backward: time(&mut || kernels.backward(&stream, op, &mask, None, (&dy, &mut dx)))?,
        infer: time(&mut || kernels.infer(&stream, op, (&x, &mut inferred)))?,
        relu_forward: time(&mut || kernels.relu_forward(&stream, (&x, &mut relu)))?,
        relu_backward: time(&mut || kernels.relu_backward(&stream, &relu, (&dy, &mut relu_dx)))?,
        y: stream.clone_dtoh(&y)?,
        dx: stream.clone_dtoh(&dx)?,
        inferred: stream.clone_dtoh(&inferred)?,
        mask: mask.to_host(&stream)?,
    })
}

/// The median of 21 runs, in microseconds, after one that is not counted.
fn median(mut pass: impl FnMut() -> Outcome<()>) -> Outcome<f64> {
    pass()?;
    let mut times = Vec::new();
    for _ in 0..21 {
        let start = Instant::now();
        pass()?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[10])
}

/// Every bit must be the reference's.
fn check(op: &DropActivation, key: MaskKey, x: &[f32], dy: &[f32], run: &Run) -> Outcome<()> {
    let (y, mask) = reference::forward(op, key, x)?;
    let dx = reference::backward(op, &mask, None, dy)?;
    let same = |a: &[f32], b: &[f32]| a.iter().map(|v| v.to_bits()).eq(b.iter().map(|v| v.to_bits()));
    let checks = [
        ("mask", mask == run.mask),
        ("y", same(&y, &run.y)),
        ("dx", same(&dx, &run.dx)),
        ("inference", same(&reference::infer(op, x), &run.inferred)),
    ];
    match checks.iter().find(|(_, good)| !good) {
        Some((what, _)) => Err(format!("{what} differs from the reference").into()),
        None => Ok(()),
    }
}

fn print(op: &DropActivation, n: usize, what: &str, run: &Run) {
    let row = |what: &str, cells: [String; 3]| {
        let [ours, relu, ratio] = cells;
        println!("{what:<28}{ours:>20}{relu:>16}{ratio:>9}");
    };
    let time = |what, ours: f64, relu: f64| {
        row(what, [format!("{ours:.1} us"), format!("{relu:.1} us"), format!("{:.2}", ours / relu)]);
    };
    let mebibytes = (4 * n) as f64 / f64::from(1 << 20);
    println!("{op} on {n} pre-activations (f32, {mebibytes:.0} MiB): the batch {what}");
    println!("{}; every bit equals the reference's\n", run.device);
    row("", ["Drop-Activation", "plain ReLU", "ratio"].map(str::to_owned));
    time("training forward", run.forward, run.relu_forward);
    time("training backward", run.backward, run.relu_backward);
    time("both", run.forward + run.backward, run.relu_forward + run.relu_backward);
    time("inference", run.infer, run.relu_forward);
    let kept = 4 * run.mask.words().len();
    row(
        "bytes kept for backward",
        [kept.to_string(), (4 * n).to_string(), format!("{:.2}", kept as f64 / (4 * n) as f64)],
    );
    println!();
}

enum Device {
    Best,
    Cpu,
    Cuda,
}

struct Options {
    device: Device,
    input: Option<PathBuf>,
}

impl Options {
    fn parse() -> Outcome<Self> {
        use lexopt::prelude::*;
        let mut options = Self { device: Device::Best, input: None };
        let mut arguments = lexopt::Parser::from_env();
        while let Some(argument) = arguments.next()? {
            match argument {
                Long("device") => {
                    options.device = match arguments.value()?.string()?.as_str() {
                        "cpu" => Device::Cpu,
                        "cuda" => Device::Cuda,
                        other => return Err(format!("--device must be cpu or cuda, got {other:?}").into()),
                    }
                }
                Long("input") => options.input = Some(arguments.value()?.into()),
                Long("help") => {
                    println!("usage: quickstart [--device cpu|cuda] [--input FILE.npy]");
                    std::process::exit(0);
                }
                _ => return Err(argument.unexpected().into()),
            }
        }
        Ok(options)
    }
}
