//! The CPU backend, against a copy by the same threads.

use std::error::Error;
use std::time::Instant;

use drop_activation::half::{bf16, f16};
use drop_activation::{DropActivation, Dtype, Element, MaskKey, PackedMask, RRelu, Real, cpu};
use rayon::prelude::*;

use crate::{Config, Device, Medians, Work, median, random_values};

pub struct Cpu;

/// More than any last-level cache of a machine this runs on.
const ROTATION_BYTES: usize = 256 << 20;

impl Device for Cpu {
    fn name(&self) -> String {
        format!("CPU, {} threads", rayon::current_num_threads())
    }

    fn measure(&self, config: &Config, rounds: usize) -> Result<Medians, Box<dyn Error>> {
        match config.dtype {
            Dtype::F32 => measure::<f32>(config, rounds),
            Dtype::F16 => measure::<f16>(config, rounds),
            Dtype::Bf16 => measure::<bf16>(config, rounds),
            Dtype::F64 => measure::<f64>(config, rounds),
        }
    }
}

/// One set of buffers.
struct Buffers<T> {
    x: Vec<T>,
    y: Vec<T>,
    dy: Vec<T>,
    dx: Vec<T>,
    mask: PackedMask,
    signs: PackedMask,
    words: Vec<u32>,
}

fn measure<T: Element>(config: &Config, rounds: usize) -> Result<Medians, Box<dyn Error>> {
    let op = DropActivation::relu(config.p)?;
    let rrelu = RRelu::default();
    let key = MaskKey::new(1, 2);
    let n = config.n;
    let sets = if config.cold { (ROTATION_BYTES / (4 * n * size_of::<T>())).clamp(2, 4096) } else { 1 };
    let x: Vec<T> = random_values(n).map(|v| T::from_real(T::Real::from_f32(v))).collect();
    let mut sets: Vec<Buffers<T>> = (0..sets)
        .map(|_| {
            let mut y = x.clone();
            let mask = cpu::forward(&op, key, (&x, &mut y))?;
            let signs = cpu::rrelu_forward(&rrelu, key, (&x, &mut y))?;
            Ok(Buffers { x: x.clone(), y, dy: x.clone(), dx: x.clone(), mask, signs, words: vec![0; n.div_ceil(32)] })
        })
        .collect::<drop_activation::Result<_>>()?;

    // Enough calls for the clock to see them.
    let batch = (1 << 17 >> n.ilog2().min(17)).max(1);
    let mut next = 0;
    let mut times: std::collections::BTreeMap<Work, Vec<f64>> = Default::default();
    for round in 0..=rounds {
        for work in Work::ALL {
            let start = Instant::now();
            for _ in 0..batch {
                let set = &mut sets[next];
                run(work, set, &op, &rrelu, key)?;
                next = (next + 1) % sets.len();
            }
            let time = start.elapsed().as_secs_f64() / batch as f64;
            // The first round warms up.
            if round > 0 {
                times.entry(work).or_default().push(time);
            }
        }
    }
    Ok(times.into_iter().map(|(work, times)| (work, median(times))).collect())
}

fn run<T: Element>(
    work: Work,
    set: &mut Buffers<T>,
    op: &DropActivation,
    rrelu: &RRelu,
    key: MaskKey,
) -> drop_activation::Result<()> {
    let Buffers { x, y, dy, dx, mask, signs, words } = set;
    match work {
        Work::Copy => copy(x, y),
        Work::ReluForward => cpu::relu_forward((&*x, y))?,
        Work::ReluBackward => cpu::relu_backward(x, (&*dy, dx))?,
        Work::ReluStep => {
            cpu::relu_forward((&*x, &mut *y))?;
            cpu::relu_backward(y, (&*dy, dx))?;
        }
        Work::DropForward => cpu::forward_into(op, key, (&*x, y), mask)?,
        Work::DropBackward => cpu::backward(op, mask, None, (&*dy, dx))?,
        Work::DropStep => {
            cpu::forward_into(op, key, (&*x, y), mask)?;
            cpu::backward(op, mask, None, (&*dy, dx))?;
        }
        Work::DropInfer => cpu::infer(op, (&*x, y))?,
        Work::RreluForward => cpu::rrelu_forward_into(rrelu, key, (&*x, y), signs)?,
        Work::RreluBackward => cpu::rrelu_backward(rrelu, signs, (&*dy, dx))?,
        Work::RreluStep => {
            cpu::rrelu_forward_into(rrelu, key, (&*x, y), signs)?;
            cpu::rrelu_backward(rrelu, signs, (&*dy, dx))?;
        }
        Work::Draw => cpu::keep_words(op, key, x.len(), words)?,
    }
    Ok(())
}

/// memcpy by all threads.
fn copy<T: Element>(from: &[T], to: &mut [T]) {
    const PART: usize = 1 << 16;
    if from.len() <= PART {
        to.copy_from_slice(from);
    } else {
        to.par_chunks_mut(PART).zip(from.par_chunks(PART)).for_each(|(to, from)| to.copy_from_slice(from));
    }
}
