//! The CUDA backend, against the driver's device-to-device copy, timed by events around many launches.

use std::cell::Cell;
use std::error::Error;
use std::sync::Arc;

use drop_activation::cuda::cudarc::driver::sys::CUevent_flags;
use drop_activation::cuda::cudarc::driver::{CudaContext, CudaSlice, CudaStream, DeviceRepr};
use drop_activation::cuda::{self, DeviceMask, Kernels};
use drop_activation::half::{bf16, f16};
use drop_activation::{DropActivation, Dtype, Element, MaskKey, RRelu, Real};

use crate::{Config, Device, Medians, Work, median, random_values};

pub struct Cuda {
    context: Arc<CudaContext>,
    kernels: Arc<Kernels>,
}

/// More than any GPU's cache.
const ROTATION_BYTES: usize = 2 << 30;

impl Cuda {
    pub fn open() -> Result<Self, Box<dyn Error>> {
        let context = cuda::context(0)?;
        let kernels = Kernels::get(&context)?;
        kernels.preload()?;
        Ok(Self { context, kernels })
    }
}

impl Device for Cuda {
    fn name(&self) -> String {
        self.context.name().unwrap_or_else(|_| "a CUDA device".to_owned())
    }

    fn measure(&self, config: &Config, rounds: usize) -> Result<Medians, Box<dyn Error>> {
        match config.dtype {
            Dtype::F32 => self.measure_as::<f32>(config, rounds),
            Dtype::F16 => self.measure_as::<f16>(config, rounds),
            Dtype::Bf16 => self.measure_as::<bf16>(config, rounds),
            Dtype::F64 => self.measure_as::<f64>(config, rounds),
        }
    }
}

struct Buffers<T> {
    x: CudaSlice<T>,
    y: CudaSlice<T>,
    dy: CudaSlice<T>,
    dx: CudaSlice<T>,
    mask: DeviceMask,
    signs: DeviceMask,
}

impl Cuda {
    fn measure_as<T: Element + DeviceRepr>(&self, config: &Config, rounds: usize) -> Result<Medians, Box<dyn Error>> {
        let stream = self.context.default_stream();
        let op = DropActivation::relu(config.p)?;
        let rrelu = RRelu::default();
        let key = MaskKey::new(1, 2);
        let n = config.n;
        let sets = if config.cold { (ROTATION_BYTES / (4 * n * size_of::<T>())).clamp(2, 256) } else { 1 };
        let x: Vec<T> = random_values(n).map(|v| T::from_real(T::Real::from_f32(v))).collect();
        let mut sets: Vec<Buffers<T>> = (0..sets)
            .map(|_| -> Result<_, Box<dyn Error>> {
                let upload = || stream.clone_htod(&x);
                let (x, mut y, dy, dx) = (upload()?, upload()?, upload()?, upload()?);
                let mask = self.kernels.forward(&stream, &op, key, (&x, &mut y))?;
                let signs = self.kernels.rrelu_forward(&stream, &rrelu, key, (&x, &mut y))?;
                Ok(Buffers { x, y, dy, dx, mask, signs })
            })
            .collect::<Result<_, _>>()?;

        // Events resolve half a microsecond: a batch of launches lasts a millisecond or so.
        let batch = (1usize << 25 >> n.ilog2().min(25)).clamp(1, 256);
        let event = || self.context.new_event(Some(CUevent_flags::CU_EVENT_DEFAULT));
        let (start, end) = (event()?, event()?);
        let next = Cell::new(0);
        let mut times: std::collections::BTreeMap<Work, Vec<f64>> = Default::default();
        for round in 0..=rounds {
            for work in Work::ALL.into_iter().filter(|work| *work != Work::Draw) {
                start.record(&stream)?;
                for _ in 0..batch {
                    let set = &mut sets[next.get()];
                    self.run(&stream, work, set, &op, &rrelu, key)?;
                    next.set((next.get() + 1) % sets.len());
                }
                end.record(&stream)?;
                end.synchronize()?;
                let time = f64::from(start.elapsed_ms(&end)?) / 1e3 / batch as f64;
                if round > 0 {
                    times.entry(work).or_default().push(time);
                }
            }
        }
        Ok(times.into_iter().map(|(work, times)| (work, median(times))).collect())
    }

    fn run<T: Element + DeviceRepr>(
        &self,
        stream: &Arc<CudaStream>,
        work: Work,
        set: &mut Buffers<T>,
        op: &DropActivation,
        rrelu: &RRelu,
        key: MaskKey,
    ) -> Result<(), Box<dyn Error>> {
        let Buffers { x, y, dy, dx, mask, signs } = set;
        let k = &self.kernels;
        match work {
            Work::Copy => stream.memcpy_dtod(x, y)?,
            Work::ReluForward => k.relu_forward(stream, (&*x, y))?,
            Work::ReluBackward => k.relu_backward(stream, x, (&*dy, dx))?,
            Work::ReluStep => {
                k.relu_forward(stream, (&*x, &mut *y))?;
                k.relu_backward(stream, y, (&*dy, dx))?;
            }
            Work::DropForward => k.forward_into(stream, op, key, (&*x, y), mask)?,
            Work::DropBackward => k.backward(stream, op, mask, None, (&*dy, dx))?,
            Work::DropStep => {
                k.forward_into(stream, op, key, (&*x, y), mask)?;
                k.backward(stream, op, mask, None, (&*dy, dx))?;
            }
            Work::DropInfer => k.infer(stream, op, (&*x, y))?,
            Work::RreluForward => k.rrelu_forward_into(stream, rrelu, key, (&*x, y), signs)?,
            Work::RreluBackward => k.rrelu_backward(stream, rrelu, signs, (&*dy, dx))?,
            Work::RreluStep => {
                k.rrelu_forward_into(stream, rrelu, key, (&*x, y), signs)?;
                k.rrelu_backward(stream, rrelu, signs, (&*dy, dx))?;
            }
            Work::Draw => unreachable!("no kernel draws the mask alone"),
        }
        Ok(())
    }
}
