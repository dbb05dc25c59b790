//! The CPU backend, against a copy by the same threads.

use std::error::Error;
use std::time::{Duration, Instant};

use drop_activation::half::{bf16, f16};
use drop_activation::{DropActivation, Dtype, Element, MaskKey, PackedMask, RRelu, Real, cpu};
use ndarray::{ArrayView1, ArrayViewMut1, Zip};
use rayon::prelude::*;

use super::{Config, Device, Tensors, Work, random_values};

pub struct Cpu;

/// More than any last-level cache of a machine this runs on.
const ROTATION_BYTES: usize = 1 << 30;

impl Device for Cpu {
    fn name(&self) -> String {
        format!("CPU, {}, {} threads", cpu::instruction_set(), rayon::current_num_threads())
    }

    fn cache(&self) -> Option<usize> {
        // Such as 32768K; the last level has the highest index.
        let size = |index| {
            let file = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size");
            std::fs::read_to_string(file).ok()?.trim().strip_suffix('K')?.parse::<usize>().ok()
        };
        (0..8).rev().find_map(size).map(|kib| kib << 10)
    }

    fn has(&self, work: Work, config: &Config) -> bool {
        match work {
            // Of half's types, ndarray's loop would measure the conversions.
            Work::NdarrayRelu => config.dtype == Dtype::F32,
            // Smaller ones one thread does anyway.
            Work::DropStepAlone => config.n > 1 << 16,
            _ => true,
        }
    }

    fn tensors(&self, config: &Config) -> Result<Box<dyn Tensors>, Box<dyn Error>> {
        Ok(match config.dtype {
            Dtype::F32 => Box::new(Rotation::<f32>::new(config)?),
            Dtype::F16 => Box::new(Rotation::<f16>::new(config)?),
            Dtype::Bf16 => Box::new(Rotation::<bf16>::new(config)?),
            Dtype::F64 => Box::new(Rotation::<f64>::new(config)?),
        })
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

struct Rotation<T> {
    op: DropActivation,
    identity: DropActivation,
    rrelu: RRelu,
    sets: Vec<Buffers<T>>,
    /// Calls so far.
    calls: usize,
}

impl<T: Element> Rotation<T> {
    fn new(config: &Config) -> drop_activation::Result<Self> {
        let (op, rrelu, key) = (DropActivation::relu(config.p)?, RRelu::default(), MaskKey::new(1, 2));
        let x: Vec<T> = random_values(config.n).map(|v| T::from_real(T::Real::from_f32(v))).collect();
        let set = |_| {
            let mut y = x.clone();
            let mask = cpu::forward(&op, key, (&x, &mut y))?;
            let signs = cpu::rrelu_forward(&rrelu, key, (&x, &mut y))?;
            let words = vec![0; config.n.div_ceil(32)];
            Ok(Buffers { x: x.clone(), y, dy: x.clone(), dx: x.clone(), mask, signs, words })
        };
        let sets = (0..config.sets(ROTATION_BYTES)).map(set).collect::<drop_activation::Result<_>>()?;
        Ok(Self { op, identity: DropActivation::relu(0.0)?, rrelu, sets, calls: 0 })
    }

    fn run(&mut self, work: Work) -> drop_activation::Result<()> {
        let Self { op, identity, rrelu, sets, calls } = self;
        let turn = *calls % sets.len();
        *calls += 1;
        // Another mask each time: a processor learns by heart what is left of one to be drawn again.
        let key = MaskKey::new(1, *calls as u64);
        let Buffers { x, y, dy, dx, mask, signs, words } = &mut sets[turn];
        match work {
            Work::Copy => copy(x, y),
            Work::StreamedCopy => cpu::infer(identity, (&*x, y))?,
            Work::ReluForward => cpu::relu_forward((&*x, y))?,
            Work::ReluBackward => cpu::relu_backward(x, (&*dy, dx))?,
            Work::ReluStep => {
                cpu::relu_forward((&*x, &mut *y))?;
                cpu::relu_backward(y, (&*dy, dx))?;
            }
            Work::DropForward => cpu::forward_into(op, key, (&*x, y), mask)?,
            Work::DropBackward => cpu::backward(op, mask, None, (&*dy, dx))?,
            Work::DropStep | Work::DropStepAlone => {
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
            Work::DrawUniform => cpu::uniform_words(op, key, x.len(), words)?,
            Work::NdarrayRelu => {
                let relu = |y: &mut T, x: &T| *y = if x.to_real() <= T::Real::ZERO { T::default() } else { *x };
                Zip::from(ArrayViewMut1::from(&mut *y)).and(ArrayView1::from(&*x)).par_for_each(relu);
            }
        }
        Ok(())
    }
}

impl<T: Element> Tensors for Rotation<T> {
    fn time(&mut self, work: Work, calls: u64) -> Result<Duration, Box<dyn Error>> {
        let mut time = || -> drop_activation::Result<Duration> {
            let start = Instant::now();
            for _ in 0..calls {
                self.run(work)?;
            }
            Ok(start.elapsed())
        };
        Ok(if work == Work::DropStepAlone {
            rayon::ThreadPoolBuilder::new().num_threads(1).build()?.install(time)?
        } else {
            time()?
        })
    }
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
