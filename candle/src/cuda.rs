//! The passes on tensors in device memory: on candle's stream, into memory that candle's device allocates.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::backend::BackendStorage;
use candle_core::cuda::cudarc::driver::{
    CudaContext, CudaSlice, CudaStream, CudaView, CudaViewMut, DeviceRepr, ValidAsZeroBits,
};
use candle_core::cuda::{CudaDType, CudaDevice};
use candle_core::{CudaStorage, Error, Layout, Result};
use drop_activation::cuda::{DeviceMask, Kernels};
use drop_activation::{Element, MaskKey, MaskOrigin};

use crate::element::with_element;
use crate::nonlinearity::{Nonlinearity, Random};

/// A tensor as candle gives it to an operation.
pub(crate) type Source<'a> = (&'a CudaStorage, &'a Layout);

pub(crate) fn train(random: &Random, key: MaskKey, x: Source<'_>) -> Result<(CudaStorage, DeviceMask)> {
    with_element!(x.0.dtype(), T => map::<T, _>(x, |kernels, stream, x, y| match random {
        Random::RRelu(op) => kernels.rrelu_forward(stream, op, key, (x, y)),
        Random::DropActivation(op) => kernels.forward(stream, op, key, (x, y)),
    }))
}

pub(crate) fn train_backward(mask: &DeviceMask, x: Option<Source<'_>>, dy: Source<'_>) -> Result<CudaStorage> {
    with_element!(dy.0.dtype(), T => {
        let x = x.map(elements::<T>).transpose()?;
        map::<T, _>(dy, |kernels, stream, dy, dx| match mask.origin() {
            MaskOrigin::RRelu(op, _) => kernels.rrelu_backward(stream, &op, mask, (dy, dx)),
            MaskOrigin::DropActivation(op) => {
                kernels.backward(stream, &op, mask, x.as_ref().map(|x| x as _), (dy, dx))
            }
        })
    })
    .map(|(dx, ())| dx)
}

pub(crate) fn infer(nonlinearity: &Nonlinearity, x: Source<'_>) -> Result<CudaStorage> {
    with_element!(x.0.dtype(), T => map::<T, _>(x, |kernels, stream, x, y| match nonlinearity {
        Nonlinearity::Relu => kernels.relu_forward(stream, (x, y)),
        Nonlinearity::RRelu(op) => kernels.rrelu_infer(stream, op, (x, y)),
        Nonlinearity::DropActivation(op) => kernels.infer(stream, op, (x, y)),
    }))
    .map(|(y, ())| y)
}

/// `saved` is y for plain ReLU and x for the others.
pub(crate) fn infer_backward(nonlinearity: &Nonlinearity, saved: Source<'_>, dy: Source<'_>) -> Result<CudaStorage> {
    with_element!(dy.0.dtype(), T => {
        let saved = elements::<T>(saved)?;
        map::<T, _>(dy, |kernels, stream, dy, dx| match nonlinearity {
            Nonlinearity::Relu => kernels.relu_backward(stream, &saved, (dy, dx)),
            Nonlinearity::RRelu(op) => kernels.rrelu_infer_backward(stream, op, &saved, (dy, dx)),
            Nonlinearity::DropActivation(op) => kernels.infer_backward(stream, op, &saved, (dy, dx)),
        })
    })
    .map(|(dx, ())| dx)
}

/// A pass from a tensor to a new one of its length.
fn map<T: Element + CudaDType + DeviceRepr + ValidAsZeroBits, R>(
    input: Source<'_>,
    pass: impl FnOnce(&Kernels, &Arc<CudaStream>, &CudaView<'_, T>, &mut CudaViewMut<'_, T>) -> drop_activation::Result<R>,
) -> Result<(CudaStorage, R)> {
    let device = &input.0.device;
    let stream = device.cuda_stream();
    let kernels = kernels(stream.context())?;
    let input = elements::<T>(input)?;
    let mut output = allocate::<T>(device, input.len())?;
    let mut written = output.slice_mut(..input.len());
    let result = pass(&kernels, &stream, &input, &mut written).map_err(Error::wrap)?;
    Ok((CudaStorage::wrap_cuda_slice(output, device.clone()), result))
}

/// The elements that a contiguous layout selects.
pub(crate) fn elements<'a, T: CudaDType>((storage, layout): Source<'a>) -> Result<CudaView<'a, T>> {
    let elements = storage.as_cuda_slice::<T>()?;
    match layout.contiguous_offsets() {
        // Where there are no elements, a narrowed layout may start beyond the end.
        Some((start, end)) if start == end => Ok(elements.slice(..0)),
        Some((start, end)) => Ok(elements.slice(start..end)),
        None => Err(Error::RequiresContiguous { op: "drop-activation" }.bt()),
    }
}

/// Memory for a tensor of `len` elements: at least one, because some devices cannot allocate nothing.
#[allow(unsafe_code)]
pub(crate) fn allocate<T: DeviceRepr + ValidAsZeroBits>(device: &CudaDevice, len: usize) -> Result<CudaSlice<T>> {
    if len == 0 {
        return device.alloc_zeros(1);
    }
    // SAFETY: any bits are a valid T, and nobody gets to see them: callers give the memory away after a pass that
    // writes every element of it was enqueued on the same stream, and drop it if the pass fails.
    unsafe { device.alloc(len) }
}

/// The kernels of a device. They are loaded once for each device and kept until the program ends, since the next call
/// would have to load them again.
pub(crate) fn kernels(context: &Arc<CudaContext>) -> Result<Arc<Kernels>> {
    static KEPT: Mutex<Vec<Arc<Kernels>>> = Mutex::new(Vec::new());
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(kernels) = kept.iter().find(|kernels| kernels.context() == context) {
        return Ok(kernels.clone());
    }
    let kernels = Kernels::get(context).map_err(Error::wrap)?;
    kept.push(kernels.clone());
    Ok(kernels)
}
