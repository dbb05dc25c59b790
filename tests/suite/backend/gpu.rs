//! The CUDA kernels on a GPU, through the door for cudarc's slices. Device tensors are placed like the
//! host's, at the same alignment and between sentinels of their own.

use std::io::Write;
use std::sync::{Arc, OnceLock};

use drop_activation::cuda::cudarc::driver::{CudaContext, CudaSlice, CudaStream, CudaView, CudaViewMut};
use drop_activation::cuda::{self, DeviceMask, Kernels, Saved};
use drop_activation::{InOut, PackedMask, Result};

use super::{Backend, Call, dirty_mask};
use crate::data::{Bits, same_bits};
use crate::guarded::{BOUNDARY, Guarded};

/// Elements before and after a tensor: at least 512 bytes, and before it a multiple of [`BOUNDARY`].
const GUARD: usize = 256;

#[derive(Debug)]
pub struct Gpu {
    kernels: Arc<Kernels>,
    stream: Arc<CudaStream>,
}

impl Gpu {
    /// Device 0. `None`, after telling so once, where there is none; where
    /// `DROP_ACTIVATION_REQUIRE_GPU=1` a panic.
    pub fn load() -> Option<Self> {
        static CONTEXT: OnceLock<Option<Arc<CudaContext>>> = OnceLock::new();
        let context = CONTEXT.get_or_init(|| match cuda::context(0) {
            Ok(context) => Some(context),
            Err(why) => {
                if !required() {
                    // Not by eprintln!, which shows in failing tests only.
                    let _ = writeln!(std::io::stderr(), "SKIPPED: the tests on a GPU: {why}");
                }
                None
            }
        });
        if context.is_none() && required() {
            panic!("DROP_ACTIVATION_REQUIRE_GPU is set: {:?}", cuda::available());
        }
        let context = context.as_ref()?;
        let kernels = Kernels::get(context).unwrap_or_else(|e| panic!("{e}"));
        let stream = context.new_stream().expect("a stream");
        Some(Self { kernels, stream })
    }

    fn upload<T: Bits>(&self, values: &[T]) -> Tensor<T> {
        let offset = values.as_ptr() as usize % BOUNDARY / size_of::<T>();
        let mut image = vec![Guarded::<T>::sentinel(); GUARD + offset + values.len() + GUARD];
        let start = GUARD + offset;
        image[start..start + values.len()].copy_from_slice(values);
        let memory = self.stream.clone_htod(&image).expect("a copy to the device");
        Tensor { memory, start, len: values.len() }
    }

    /// Checks that nothing around the tensor was written.
    fn download<T: Bits>(&self, tensor: &Tensor<T>, to: &mut [T]) {
        let image = self.stream.clone_dtoh(&tensor.memory).expect("a copy to the host");
        self.stream.synchronize().expect("the stream's work");
        let (before, rest) = image.split_at(tensor.start);
        let (values, after) = rest.split_at(tensor.len);
        let intact = before.iter().chain(after).all(|v| same_bits(*v, Guarded::sentinel()));
        assert!(intact, "the GPU wrote outside its output");
        to.copy_from_slice(values);
    }

    fn mask(&self, mask: &PackedMask) -> DeviceMask {
        DeviceMask::from_host(&self.stream, mask).expect("a copy to the device")
    }

    fn call<'a, T: Bits>(&self, call: &Call<T>, io: impl Into<cuda::InOut<'a, T>>) -> Result<Option<DeviceMask>> {
        let (kernels, stream) = (&self.kernels, &self.stream);
        let saved = call.saved().map(|saved| self.upload(saved));
        let saved = saved.as_ref().map(Tensor::view);
        let saved: Option<&dyn Saved<T>> = saved.as_ref().map(|view| view as _);
        let present = || saved.expect("the call has a saved tensor");
        match *call {
            Call::Forward(op, key) => return kernels.forward(stream, &op, key, io).map(Some),
            Call::ForwardInto(op, key) => {
                let mut mask = self.mask(&dirty_mask());
                kernels.forward_into(stream, &op, key, io, &mut mask)?;
                return Ok(Some(mask));
            }
            Call::ForwardWithoutMask(op, key) => kernels.forward_without_mask(stream, &op, key, io),
            Call::Backward(op, mask, _) => kernels.backward(stream, &op, &self.mask(mask), saved, io),
            Call::BackwardFromOutput(op, _) => kernels.backward_from_output(stream, &op, present(), io),
            Call::Infer(op) => kernels.infer(stream, &op, io),
            Call::InferBackward(op, _) => kernels.infer_backward(stream, &op, present(), io),
            Call::RreluForward(op, key) => return kernels.rrelu_forward(stream, &op, key, io).map(Some),
            Call::RreluForwardInto(op, key) => {
                let mut mask = self.mask(&dirty_mask());
                kernels.rrelu_forward_into(stream, &op, key, io, &mut mask)?;
                return Ok(Some(mask));
            }
            Call::RreluBackward(op, mask) => kernels.rrelu_backward(stream, &op, &self.mask(mask), io),
            Call::RreluInfer(op) => kernels.rrelu_infer(stream, &op, io),
            Call::RreluInferBackward(op, _) => kernels.rrelu_infer_backward(stream, &op, present(), io),
            Call::ReluForward => kernels.relu_forward(stream, io),
            Call::ReluBackward(_) => kernels.relu_backward(stream, present(), io),
        }?;
        Ok(None)
    }
}

/// `DROP_ACTIVATION_REQUIRE_GPU=1`: a GPU that is not there is a failure.
fn required() -> bool {
    std::env::var_os("DROP_ACTIVATION_REQUIRE_GPU").is_some_and(|value| !value.is_empty() && value != "0")
}

/// A tensor in the midst of sentinels.
struct Tensor<T> {
    memory: CudaSlice<T>,
    start: usize,
    len: usize,
}

impl<T> Tensor<T> {
    fn view(&self) -> CudaView<'_, T> {
        self.memory.slice(self.start..self.start + self.len)
    }

    fn view_mut(&mut self) -> CudaViewMut<'_, T> {
        self.memory.slice_mut(self.start..self.start + self.len)
    }
}

impl Backend for Gpu {
    fn name(&self) -> String {
        "gpu".to_owned()
    }

    fn run<T: Bits>(&self, call: &Call<T>, io: InOut<T>) -> Result<Option<PackedMask>> {
        // After an error too: what the call left behind is what the test looks at.
        let mask = match io {
            InOut::OutOfPlace(input, output) => {
                let (from, mut to) = (self.upload(input), self.upload(output));
                let mask = self.call(call, (&from.view(), &mut to.view_mut()));
                self.download(&to, output);
                mask?
            }
            InOut::InPlace(both) => {
                let mut tensor = self.upload(both);
                let mask = self.call(call, &mut tensor.view_mut());
                self.download(&tensor, both);
                mask?
            }
        };
        mask.map(|mask| mask.to_host(&self.stream)).transpose()
    }
}
