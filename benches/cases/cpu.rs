//! The CPU backend, against a copy by the same threads.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use drop_activation::half::{bf16, f16};
use drop_activation::{DropActivation, Dtype, Element, MaskKey, PackedMask, RRelu, Real, cpu};
use ndarray::{ArrayView1, ArrayViewMut1, Zip};
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::{Case, Config, Device, Tensors, random_values};

pub struct Cpu {
    /// A thread that nobody helps: who calls from it does all by itself, and nothing is handed over within a call.
    one_thread: Arc<ThreadPool>,
}

/// More than any last-level cache of a machine this runs on.
const ROTATION_BYTES: usize = 1 << 30;

/// Elements from which on an outsider's loop is shared by all threads. Below, that would cost more than it saves.
/// (PyTorch does it from the same number on.)
const SHARED: usize = 1 << 15;

impl Cpu {
    pub fn open() -> Result<Self, Box<dyn Error>> {
        Ok(Self { one_thread: Arc::new(ThreadPoolBuilder::new().num_threads(1).build()?) })
    }

    fn rotation<T: Element>(&self, config: &Config) -> Result<Box<dyn Tensors>, Box<dyn Error>> {
        Ok(Box::new(Rotation::<T>::new(config, self.one_thread.clone())?))
    }
}

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

    fn has(&self, case: Case, config: &Config) -> bool {
        use Case::{NdarrayReluBackward, NdarrayReluForward, NdarrayReluStep, NdarrayReluStepOneThread};
        // Of half's types, ndarray's loops would measure the conversions.
        let ndarray = [NdarrayReluForward, NdarrayReluBackward, NdarrayReluStep, NdarrayReluStepOneThread];
        config.dtype == Dtype::F32 || !ndarray.contains(&case)
    }

    fn tensors(&self, config: &Config) -> Result<Box<dyn Tensors>, Box<dyn Error>> {
        match config.dtype {
            Dtype::F32 => self.rotation::<f32>(config),
            Dtype::F16 => self.rotation::<f16>(config),
            Dtype::Bf16 => self.rotation::<bf16>(config),
            Dtype::F64 => self.rotation::<f64>(config),
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

struct Rotation<T> {
    one_thread: Arc<ThreadPool>,
    op: DropActivation,
    identity: DropActivation,
    rrelu: RRelu,
    sets: Vec<Buffers<T>>,
    /// Calls so far.
    calls: usize,
}

impl<T: Element> Rotation<T> {
    fn new(config: &Config, one_thread: Arc<ThreadPool>) -> drop_activation::Result<Self> {
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
        Ok(Self { one_thread, op, identity: DropActivation::relu(0.0)?, rrelu, sets, calls: 0 })
    }

    fn run(&mut self, case: Case) -> drop_activation::Result<()> {
        let Self { op, identity, rrelu, sets, calls, .. } = self;
        let turn = *calls % sets.len();
        *calls += 1;
        // Another mask each time: a processor learns by heart what is left of one to be drawn again.
        let key = MaskKey::new(1, *calls as u64);
        let Buffers { x, y, dy, dx, mask, signs, words } = &mut sets[turn];
        match case {
            Case::Copy => copy(x, y),
            Case::StreamedCopy => cpu::infer(identity, (&*x, y))?,
            Case::ReluForward => cpu::relu_forward((&*x, y))?,
            Case::ReluBackward => cpu::relu_backward(x, (&*dy, dx))?,
            Case::ReluStep => {
                cpu::relu_forward((&*x, &mut *y))?;
                cpu::relu_backward(y, (&*dy, dx))?;
            }
            Case::DropForward => cpu::forward_into(op, key, (&*x, y), mask)?,
            Case::DropBackward => cpu::backward(op, mask, None, (&*dy, dx))?,
            Case::DropStep => {
                cpu::forward_into(op, key, (&*x, y), mask)?;
                cpu::backward(op, mask, None, (&*dy, dx))?;
            }
            Case::DropInfer => cpu::infer(op, (&*x, y))?,
            Case::RreluForward => cpu::rrelu_forward_into(rrelu, key, (&*x, y), signs)?,
            Case::RreluBackward => cpu::rrelu_backward(rrelu, signs, (&*dy, dx))?,
            Case::RreluStep => {
                cpu::rrelu_forward_into(rrelu, key, (&*x, y), signs)?;
                cpu::rrelu_backward(rrelu, signs, (&*dy, dx))?;
            }
            Case::Draw => cpu::keep_words(op, key, x.len(), words)?,
            Case::NdarrayReluForward => ndarray_relu(x, y),
            Case::NdarrayReluBackward => ndarray_relu_backward(x, dy, dx),
            Case::NdarrayReluStep => {
                ndarray_relu(x, y);
                ndarray_relu_backward(y, dy, dx);
            }
            Case::ReluStepOneThread | Case::DropStepOneThread | Case::NdarrayReluStepOneThread => {
                unreachable!("`time` makes it the case by any number of threads")
            }
        }
        Ok(())
    }
}

impl<T: Element> Tensors for Rotation<T> {
    fn time(&mut self, case: Case, calls: u64) -> Result<Duration, Box<dyn Error>> {
        let Some(case) = case.by_one_thread() else { return Ok(self.calls(case, calls)?) };
        let pool = self.one_thread.clone();
        Ok(pool.install(|| {
            // What the case before left in another core's cache is fetched before the clock starts.
            self.run(case)?;
            self.calls(case, calls)
        })?)
    }
}

impl<T: Element> Rotation<T> {
    fn calls(&mut self, case: Case, calls: u64) -> drop_activation::Result<Duration> {
        let start = Instant::now();
        for _ in 0..calls {
            self.run(case)?;
        }
        Ok(start.elapsed())
    }
}

/// A plain ReLU as a user of ndarray writes it.
fn ndarray_relu<T: Element>(x: &[T], y: &mut [T]) {
    let zip = Zip::from(ArrayViewMut1::from(&mut *y)).and(ArrayView1::from(x));
    let relu = |y: &mut T, x: &T| *y = if x.to_real() <= T::Real::ZERO { T::default() } else { *x };
    if by_one_thread(x) { zip.for_each(relu) } else { zip.par_for_each(relu) }
}

fn ndarray_relu_backward<T: Element>(saved: &[T], dy: &[T], dx: &mut [T]) {
    let zip = Zip::from(ArrayViewMut1::from(&mut *dx)).and(ArrayView1::from(saved)).and(ArrayView1::from(dy));
    let relu = |dx: &mut T, y: &T, dy: &T| *dx = if y.to_real() <= T::Real::ZERO { T::default() } else { *dy };
    if by_one_thread(dy) { zip.for_each(relu) } else { zip.par_for_each(relu) }
}

fn by_one_thread<T>(tensor: &[T]) -> bool {
    tensor.len() < SHARED || rayon::current_num_threads() == 1
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
