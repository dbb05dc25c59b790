//! What the operators over channels have in common: their tensors, and vectors with a value for each channel.

use std::slice;

use drop_activation::fused::Shape;
use drop_activation::{DropActivation, Element, Error, Real};

use super::{Arguments, Outcome, Strides, Tensor, code, pass, tuple};
use crate::*;

/// The tensor after which the others of a call are made, and the activation.
pub(super) struct Layer {
    /// Dense.
    pub(super) tensor: Tensor,
    pub(super) op: DropActivation,
    pub(super) shape: Shape,
    pub(super) element: u32,
    name: &'static str,
    strides: Strides,
}

/// Runs something for the type of elements that has this code.
macro_rules! by_element {
    ($code:expr, $element:ident => $run:expr) => {
        match $code {
            DACT_DTYPE_F32 => {
                type $element = f32;
                $run
            }
            DACT_DTYPE_F16 => {
                type $element = drop_activation::half::f16;
                $run
            }
            DACT_DTYPE_BF16 => {
                type $element = drop_activation::half::bf16;
                $run
            }
            _ => {
                type $element = f64;
                $run
            }
        }
    };
}
pub(super) use by_element;

impl Layer {
    /// With the three numbers that come next among the arguments. Dimension `dim` of the tensor has the channels.
    pub(super) fn new(arguments: &mut Arguments, name: &'static str, tensor: Tensor, dim: i64) -> Outcome<Self> {
        let (p, activation, layout) = (arguments.float(), arguments.integer(), arguments.integer());
        let element = tensor.element(name)?;
        if tensor.device.0 != tensor.torch.cpu {
            return Err(format!("{name} must be on the CPU, got {}", tensor.torch.device_name(tensor.device)));
        }
        let op = dact_pass { p, activation: code(activation)?, ..pass(DACT_PASS_FORWARD) };
        let op = op.op().map_err(|failure| failure.message)?;
        let strides = tensor.strides_of(name, layout)?;
        let dim = usize::try_from(dim).ok().filter(|dim| *dim < tensor.sizes.len()).ok_or_else(|| {
            format!("dim must be one of the {} dimensions of {name}, counted from 0, got {dim}", tensor.sizes.len())
        })?;
        // A step along a dimension leads over what lies within it.
        let (channels, inner) = (tensor.sizes[dim] as usize, strides.of()[dim] as usize);
        let outer = if tensor.len == 0 { 0 } else { tensor.len / (channels * inner) };
        let shape = Shape::new(outer, channels, inner).map_err(text)?;
        let tensor = tensor.dense(strides.of())?;
        Ok(Self { tensor, op, shape, element, name, strides })
    }

    /// Dense, as the layer's own tensor, whose type, shape and device it must have.
    pub(super) fn like(&self, name: &str, tensor: Tensor) -> Outcome<Tensor> {
        let own = &self.tensor;
        if (tensor.dtype, tensor.sizes, tensor.device) == (own.dtype, own.sizes, own.device) {
            return tensor.dense(self.strides.of());
        }
        Err(format!("{name} must be like {}, {}, got {}", self.name, own.describe(), tensor.describe()))
    }

    pub(super) fn check_mask(&self, mask: &Tensor) -> Outcome<()> {
        mask.check_mask(&self.tensor, self.name)
    }

    /// A tensor for a result, in large pages if it is large.
    pub(super) fn empty(&self) -> Outcome<Tensor> {
        self.tensor.empty_like(self.strides.of())
    }

    /// The values of a vector, of any type of elements.
    pub(super) fn values<R: Real>(&self, name: &str, vector: &Tensor) -> Outcome<Vec<R>> {
        let (torch, channels) = (self.tensor.torch, self.shape.channels());
        if vector.sizes != [channels as i64] {
            return Err(format!(
                "{name} must have shape ({channels},), a value for each channel of {}, got {}",
                self.name,
                tuple(vector.sizes)
            ));
        }
        if vector.device != self.tensor.device {
            let (own, given) = (torch.device_name(self.tensor.device), torch.device_name(vector.device));
            return Err(format!("{name} must be on the device of {}, {own}, got {given}", self.name));
        }
        let (element, address, stride) = (vector.element(name)?, vector.address()?, vector.strides[0] as isize);
        // SAFETY: a tensor of that type has an element at each multiple of its stride. Nobody writes to it meanwhile.
        Ok(unsafe { by_element!(element, T => strided::<T, R>(address, stride, channels)) })
    }

    /// A tensor with a value for each channel.
    pub(super) fn vector_of<R: Real>(&self, values: &[R]) -> Outcome<Tensor> {
        let torch = self.tensor.torch;
        let wanted = if size_of::<R>() == 8 { DACT_DTYPE_F64 } else { DACT_DTYPE_F32 };
        let known = torch.dtypes.iter().find(|(.., element)| *element == wanted);
        let dtype = known.map(|(dtype, ..)| *dtype).ok_or("PyTorch has no such type")?;
        let vector = Tensor::empty(torch, &[values.len() as i64], &[1], dtype, self.tensor.device)?;
        // SAFETY: this tensor was made for this call.
        unsafe { elements_to_write::<R>(&vector)? }.copy_from_slice(values);
        Ok(vector)
    }
}

pub(super) fn text(error: Error) -> String {
    error.to_string()
}

/// A dense tensor's elements, in memory order.
///
/// # Safety
/// T is their type. Nobody writes to them for the time of the reference.
pub(super) unsafe fn elements<T>(tensor: &Tensor) -> Outcome<&[T]> {
    if tensor.len == 0 {
        return Ok(&[]);
    }
    // SAFETY: a dense tensor has so many elements there, aligned; the rest is this function's contract.
    Ok(unsafe { slice::from_raw_parts(tensor.address()?.cast(), tensor.len) })
}

/// [`elements`] of a tensor that may be absent.
///
/// # Safety
/// As there.
pub(super) unsafe fn elements_of<T>(tensor: Option<&Tensor>) -> Outcome<Option<&[T]>> {
    // SAFETY: by this function's contract.
    tensor.map(|tensor| unsafe { elements(tensor) }).transpose()
}

/// The same, to be written.
///
/// # Safety
/// T is their type, for which all bits are values. Nobody else reads or writes them for the time of the reference.
#[expect(clippy::mut_from_ref)] // PyTorch's memory, not the handle's
pub(super) unsafe fn elements_to_write<T>(tensor: &Tensor) -> Outcome<&mut [T]> {
    if tensor.len == 0 {
        return Ok(&mut []);
    }
    // SAFETY: as in `elements`.
    Ok(unsafe { slice::from_raw_parts_mut(tensor.address()?.cast(), tensor.len) })
}

/// # Safety
/// At each of so many multiples of the stride there is an element of T.
unsafe fn strided<T: Element, R: Real>(address: *mut std::ffi::c_void, stride: isize, count: usize) -> Vec<R> {
    // SAFETY: by this function's contract.
    let value = |i: usize| unsafe { address.cast::<T>().offset(i as isize * stride).read() };
    (0..count).map(|i| R::from_f64(value(i).to_real().to_f64())).collect()
}
