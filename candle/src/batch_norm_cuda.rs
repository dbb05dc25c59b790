//! A batch normalisation with Drop-Activation on CUDA tensors: the library's passes on the tensors, and candle's
//! operations on the vectors, which have a value for each channel. Nothing comes to the host or is waited for.

use candle_core::backend::BackendStorage;
use candle_core::cuda::CudaDType;
use candle_core::cuda::cudarc::driver::{CudaSlice, CudaView};
use candle_core::op::BackpropOp;
use candle_core::{CudaStorage, DType, Error, Layout, Result, Storage, Tensor, bail};
use drop_activation::cuda::{DeviceMask, DyAndDr, FusedSlices, Workspace};
use drop_activation::fused::Dz;
use drop_activation::{DropActivation, Element};

use crate::cuda::{Source, allocate, elements, kernels};
use crate::element::with_element;
use crate::normalisation::{Normalisation, of_dims};

/// What the backward pass needs again.
pub(crate) struct Normalised {
    mask: DeviceMask,
    scale: Tensor,
    shift: Tensor,
    mean: Tensor,
    /// 1 / sqrt(variance + eps), in f64.
    inverse: Tensor,
    frozen: bool,
}

/// y, what the backward pass needs, and the running statistics afterwards.
pub(crate) fn forward(
    call: &Normalisation,
    x: Source<'_>,
    residual: Option<Source<'_>>,
) -> Result<(CudaStorage, Normalised, [Tensor; 2])> {
    let shape = of_dims(x.1)?;
    with_element!(x.0.dtype(), T => {
        type Real = <T as Element>::Real;
        let device = &x.0.device;
        let stream = device.cuda_stream();
        let kernels = kernels(stream.context())?;
        let (x, residual) = (elements::<T>(x)?, residual.map(elements::<T>).transpose()?);
        let [mean, variance] = if call.frozen {
            call.running.clone()
        } else {
            let channels = shape.channels();
            let [mut mean, mut variance] = [allocate::<Real>(device, channels)?, allocate(device, channels)?];
            let to = (mean.as_view_mut(), variance.as_view_mut());
            kernels.statistics(&stream, shape, &x, to.0, to.1, &mut Workspace::new()).map_err(Error::wrap)?;
            [mean, variance].map(|vector| of_slice(vector, device.clone()))
        };
        let real = mean.dtype();
        let inverse = (wide(&variance)? + call.eps)?.sqrt()?.recip()?;
        let scale = (wide(&call.weight)? * &inverse)?.to_dtype(real)?;
        // By the scale as it was rounded, so that x = mean becomes the bias.
        let shift = (wide(&call.bias)? - (wide(&mean)? * wide(&scale)?)?)?.to_dtype(real)?;
        let moved = if call.frozen {
            call.running.clone()
        } else {
            let (count, momentum) = (shape.count() as f64, call.momentum);
            let moved = |i: usize, new: &Tensor, factor: f64| {
                let running = (wide(&call.running[i])? * (1.0 - momentum))?;
                (running + (wide(new)? * (momentum * factor))?)?.to_dtype(real)
            };
            [moved(0, &mean, 1.0)?, moved(1, &variance, count / (count - 1.0))?]
        };
        let mut y = allocate::<T>(device, x.len())?;
        let mask = {
            let vectors = [&scale, &shift].map(Tensor::storage_and_layout);
            let [scale, shift] = [vector::<Real>(&vectors[0])?, vector(&vectors[1])?];
            let residual = residual.as_ref().map(|residual| residual as _);
            let slices = FusedSlices { scale: Some(&scale), shift: Some(&shift), residual, ..FusedSlices::default() };
            let io = (&x, &mut y);
            kernels.fused_forward(&stream, &call.op, call.key, shape, &slices, io).map_err(Error::wrap)?
        };
        let y = CudaStorage::wrap_cuda_slice(y, device.clone());
        Ok((y, Normalised { mask, scale, shift, mean, inverse, frozen: call.frozen }, moved))
    })
}

/// The gradients of x, of the residual if it is wanted, and of weight and bias as one tensor.
pub(crate) fn backward(
    op: &DropActivation,
    normalised: &Normalised,
    dy: Source<'_>,
    x: Source<'_>,
    residual: Option<Source<'_>>,
) -> Result<(CudaStorage, Option<CudaStorage>, CudaStorage)> {
    let shape = of_dims(x.1)?;
    let Normalised { mask, scale, shift, mean, inverse, frozen } = normalised;
    with_element!(x.0.dtype(), T => {
        type Real = <T as Element>::Real;
        let device = &x.0.device;
        let stream = device.cuda_stream();
        let kernels = kernels(stream.context())?;
        let (x, dy, residual) = (elements::<T>(x)?, elements::<T>(dy)?, residual.map(elements::<T>).transpose()?);
        let dz = Dz::Training(*op);
        let channels = shape.channels();
        let [mut first, mut second] = [allocate::<Real>(device, channels)?, allocate(device, channels)?];
        let mut dr = residual.is_some().then(|| allocate::<T>(device, x.len())).transpose()?;
        let vectors = [scale, shift, mean].map(Tensor::storage_and_layout);
        let [scale_of, shift_of, mean_of] =
            [vector::<Real>(&vectors[0])?, vector::<Real>(&vectors[1])?, vector::<Real>(&vectors[2])?];
        let slices = FusedSlices {
            x: Some(&x),
            residual: residual.as_ref().map(|residual| residual as _),
            scale: Some(&scale_of),
            shift: Some(&shift_of),
            ..FusedSlices::default()
        };
        let sums = [Some(first.as_view_mut()), Some(second.as_view_mut())];
        let to = match &mut dr {
            Some(dr) => DyAndDr::Both((&dy, dr).into()),
            None => DyAndDr::Dy(dy.slice(..)),
        };
        let centred = FusedSlices { mean: Some(&mean_of), ..slices };
        kernels
            .fused_sums(&stream, &dz, Some(mask), shape, &centred, to, sums, &mut Workspace::new())
            .map_err(Error::wrap)?;

        let [first, second] = [first, second].map(|vector| of_slice(vector, device.clone()));
        let (real, count) = (first.dtype(), shape.count() as f64);
        let product = wide(&second)?;
        let of_weight = (inverse * &product)?.to_dtype(real)?;
        let alpha = wide(scale)?;
        let beta = (((&alpha * inverse)? * (inverse * &product)?)? * (-1.0 / count))?.to_dtype(real)?;
        let gamma = ((&alpha * wide(&first)?)? * (-1.0 / count))?.to_dtype(real)?;
        let rest = [&beta, &gamma].map(Tensor::storage_and_layout);
        let [beta, gamma] = [vector::<Real>(&rest[0])?, vector::<Real>(&rest[1])?];
        let mut dx = allocate::<T>(device, x.len())?;
        let alone = FusedSlices { alpha: Some(&scale_of), ..slices };
        let of_batch = FusedSlices { beta: Some(&beta), gamma: Some(&gamma), mean: Some(&mean_of), ..alone };
        let slices = if *frozen { &alone } else { &of_batch };
        kernels.fused_backward(&stream, &dz, Some(mask), shape, slices, (&dy, &mut dx)).map_err(Error::wrap)?;

        let parameters = Tensor::stack(&[&of_weight, &first], 0)?;
        let (parameters, layout) = parameters.storage_and_layout();
        let Storage::Cuda(parameters) = &*parameters else { bail!("vectors are on a CUDA device") };
        let stored = |slice| CudaStorage::wrap_cuda_slice(slice, device.clone());
        Ok((stored(dx), dr.map(stored), parameters.try_clone(layout)?))
    })
}

fn wide(vector: &Tensor) -> Result<Tensor> {
    vector.to_dtype(DType::F64)
}

/// A vector that no gradient goes through.
fn of_slice<R: CudaDType>(slice: CudaSlice<R>, device: candle_core::CudaDevice) -> Tensor {
    let len = slice.len();
    Tensor::from_storage(Storage::Cuda(CudaStorage::wrap_cuda_slice(slice, device)), len, BackpropOp::none(), false)
}

/// The values of a vector of that type.
fn vector<'a, R: CudaDType>(of: &'a (candle_core::StorageRef<'a>, &'a Layout)) -> Result<CudaView<'a, R>> {
    match &*of.0 {
        Storage::Cuda(storage) => elements((storage, of.1)),
        _ => bail!("weight, bias and running statistics must be on the device of x, a CUDA device"),
    }
}
