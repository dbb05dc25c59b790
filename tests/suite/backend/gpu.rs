//! The CUDA kernels on a GPU, through the entry point for cudarc's slices. Device tensors are placed like the
//! host's, at the same alignment and between sentinels of their own.

use std::sync::{Arc, OnceLock};

use drop_activation::cuda::cudarc::driver::{CudaContext, CudaSlice, CudaStream, CudaView, CudaViewMut};
use drop_activation::cuda::{self, DeviceMask, Kernels};
use drop_activation::{InOut, PackedMask, Result};

use super::{Backend, Call, Run, dirty_mask};
use crate::data::{Bits, same_bits};
use crate::guarded::{BOUNDARY, Guarded};
use crate::support::calls::{DeviceCall, on_cuda};
use crate::support::skipped::tell_without_gpu;

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
        let context =
            CONTEXT.get_or_init(|| cuda::context(0).map_err(|why| tell_without_gpu("the tests on a GPU", &why)).ok());
        // The test that asked first has said why, and failed if it must not be skipped.
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
        let saved = call.saved().map(|(_, saved)| self.upload(saved));
        let saved = saved.as_ref().map(Tensor::view);
        let on_device: DeviceCall<T> = call.map(|_| saved.as_ref().expect("just uploaded") as _, |_| ());
        let mut mask = self.mask(call.mask().unwrap_or(&&dirty_mask()));
        let made = on_cuda(&self.kernels, &self.stream, &on_device, io, &mut mask)?;
        Ok(if call.kind().refills_mask() { Some(mask) } else { made })
    }
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

impl<T: Bits> Run<T> for Gpu {
    fn run_call(&self, call: &Call<T>, io: InOut<T>) -> Result<Option<PackedMask>> {
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

impl Backend for Gpu {
    fn name(&self) -> String {
        "gpu".to_owned()
    }
}
