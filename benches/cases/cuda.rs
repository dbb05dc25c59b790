//! The CUDA backend, against the driver's device-to-device copy, timed by events around many launches.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use drop_activation::cuda::cudarc::driver::sys::{CUdevice_attribute, CUevent_flags};
use drop_activation::cuda::cudarc::driver::{CudaContext, CudaEvent, CudaSlice, CudaStream, DeviceRepr, DriverError};
use drop_activation::cuda::{self, DeviceMask, Kernels};
use drop_activation::half::{bf16, f16};
use drop_activation::{DropActivation, Dtype, Element, MaskKey, RRelu, Real};

use super::{Case, Config, Device, Tensors, random_values};

pub struct Cuda {
    context: Arc<CudaContext>,
    kernels: Arc<Kernels>,
}

/// More than any GPU's cache.
const ROTATION_BYTES: usize = 2 << 30;

/// Elements that are made on the host. The device repeats them: to make the largest tensors there would take longer
/// than to measure them.
const PATTERN: usize = 1 << 22;

impl Cuda {
    pub fn open() -> Result<Self, Box<dyn Error>> {
        let context = cuda::context(0)?;
        let kernels = Kernels::get(&context)?;
        kernels.preload()?;
        Ok(Self { context, kernels })
    }

    fn rotation<T: Element + DeviceRepr>(&self, config: &Config) -> Result<Box<dyn Tensors>, Box<dyn Error>> {
        let stream = self.context.default_stream();
        let (op, rrelu, key) = (DropActivation::relu(config.p)?, RRelu::default(), MaskKey::new(1, 2));
        let pattern = random_values(config.n.min(PATTERN)).map(|v| T::from_real(T::Real::from_f32(v)));
        let pattern = stream.clone_htod(&pattern.collect::<Vec<T>>())?;
        let set = |_| -> Result<_, Box<dyn Error>> {
            let tensor = || repeated(&stream, &pattern, config.n);
            let (x, mut y, dy, dx) = (tensor()?, tensor()?, tensor()?, tensor()?);
            let mask = self.kernels.forward(&stream, &op, key, (&x, &mut y))?;
            let signs = self.kernels.rrelu_forward(&stream, &rrelu, key, (&x, &mut y))?;
            Ok(Buffers { x, y, dy, dx, mask, signs })
        };
        let sets = (0..config.sets(ROTATION_BYTES)).map(set).collect::<Result<_, _>>()?;
        let event = || self.context.new_event(Some(CUevent_flags::CU_EVENT_DEFAULT));
        let (start, end) = (event()?, event()?);
        Ok(Box::new(Rotation { kernels: self.kernels.clone(), stream, start, end, op, rrelu, sets, calls: 0 }))
    }
}

impl Device for Cuda {
    fn name(&self) -> String {
        self.context.name().unwrap_or_else(|_| "a CUDA device".to_owned())
    }

    fn cache(&self) -> Option<usize> {
        let bytes = self.context.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE).ok()?;
        usize::try_from(bytes).ok()
    }

    fn has(&self, case: Case, _: &Config) -> bool {
        use Case::{Copy, DropBackward, DropForward, DropInfer, DropStep, ReluBackward, ReluForward, ReluStep};
        use Case::{RreluBackward, RreluForward, RreluStep};
        let relu = [Copy, ReluForward, ReluBackward, ReluStep, RreluForward, RreluBackward, RreluStep];
        // No kernel draws a mask alone.
        relu.contains(&case) || [DropForward, DropBackward, DropStep, DropInfer].contains(&case)
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

/// The pattern over and over.
fn repeated<T: DeviceRepr>(
    stream: &Arc<CudaStream>,
    pattern: &CudaSlice<T>,
    n: usize,
) -> Result<CudaSlice<T>, DriverError> {
    // SAFETY: the copies write every element, before anything else on the stream.
    let mut tensor = unsafe { stream.alloc(n) }?;
    for start in (0..n).step_by(pattern.len()) {
        let len = pattern.len().min(n - start);
        stream.memcpy_dtod(&pattern.slice(..len), &mut tensor.slice_mut(start..start + len))?;
    }
    Ok(tensor)
}

struct Buffers<T> {
    x: CudaSlice<T>,
    y: CudaSlice<T>,
    dy: CudaSlice<T>,
    dx: CudaSlice<T>,
    mask: DeviceMask,
    signs: DeviceMask,
}

struct Rotation<T> {
    kernels: Arc<Kernels>,
    stream: Arc<CudaStream>,
    start: CudaEvent,
    end: CudaEvent,
    op: DropActivation,
    rrelu: RRelu,
    sets: Vec<Buffers<T>>,
    /// Calls so far.
    calls: usize,
}

impl<T: Element + DeviceRepr> Rotation<T> {
    fn run(&mut self, case: Case) -> Result<(), Box<dyn Error>> {
        let Self { kernels: k, stream, op, rrelu, sets, calls, .. } = self;
        let turn = *calls % sets.len();
        *calls += 1;
        let key = MaskKey::new(1, *calls as u64);
        let Buffers { x, y, dy, dx, mask, signs } = &mut sets[turn];
        match case {
            Case::Copy => stream.memcpy_dtod(x, y)?,
            Case::ReluForward => k.relu_forward(stream, (&*x, y))?,
            Case::ReluBackward => k.relu_backward(stream, x, (&*dy, dx))?,
            Case::ReluStep => {
                k.relu_forward(stream, (&*x, &mut *y))?;
                k.relu_backward(stream, y, (&*dy, dx))?;
            }
            Case::DropForward => k.forward_into(stream, op, key, (&*x, y), mask)?,
            Case::DropBackward => k.backward(stream, op, mask, None, (&*dy, dx))?,
            Case::DropStep => {
                k.forward_into(stream, op, key, (&*x, y), mask)?;
                k.backward(stream, op, mask, None, (&*dy, dx))?;
            }
            Case::DropInfer => k.infer(stream, op, (&*x, y))?,
            Case::RreluForward => k.rrelu_forward_into(stream, rrelu, key, (&*x, y), signs)?,
            Case::RreluBackward => k.rrelu_backward(stream, rrelu, signs, (&*dy, dx))?,
            Case::RreluStep => {
                k.rrelu_forward_into(stream, rrelu, key, (&*x, y), signs)?;
                k.rrelu_backward(stream, rrelu, signs, (&*dy, dx))?;
            }
            _ => return Err(format!("a GPU has no {}", case.name()).into()),
        }
        Ok(())
    }
}

impl<T: Element + DeviceRepr> Tensors for Rotation<T> {
    fn time(&mut self, case: Case, calls: u64) -> Result<Duration, Box<dyn Error>> {
        self.start.record(&self.stream)?;
        for _ in 0..calls {
            self.run(case)?;
        }
        self.end.record(&self.stream)?;
        self.end.synchronize()?;
        Ok(Duration::from_secs_f64(f64::from(self.start.elapsed_ms(&self.end)?) / 1e3))
    }
}
