//! The passes on tensors in host memory.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, Error, Layout, Result, WithDType};
use drop_activation::{Element, MaskKey, MaskOrigin, PackedMask, cpu};

use crate::element::with_element;
use crate::nonlinearity::{Nonlinearity, Random};

/// A tensor as candle gives it to an operation.
type Source<'a> = (&'a CpuStorage, &'a Layout);

pub(crate) fn train(random: &Random, key: MaskKey, x: Source<'_>) -> Result<(CpuStorage, PackedMask)> {
    with_element!(x.0.dtype(), T => map::<T, _>(x, |x, y| match random {
        Random::RRelu(op) => cpu::rrelu_forward(op, key, (x, y)),
        Random::DropActivation(op) => cpu::forward(op, key, (x, y)),
    }))
}

pub(crate) fn train_backward(mask: &PackedMask, x: Option<Source<'_>>, dy: Source<'_>) -> Result<CpuStorage> {
    with_element!(dy.0.dtype(), T => {
        let x = x.map(elements::<T>).transpose()?;
        map(dy, |dy, dx| match mask.origin() {
            MaskOrigin::RRelu(op, _) => cpu::rrelu_backward(&op, mask, (dy, dx)),
            MaskOrigin::DropActivation(op) => cpu::backward(&op, mask, x, (dy, dx)),
        })
    })
    .map(|(dx, ())| dx)
}

pub(crate) fn infer(nonlinearity: &Nonlinearity, x: Source<'_>) -> Result<CpuStorage> {
    with_element!(x.0.dtype(), T => map::<T, _>(x, |x, y| match nonlinearity {
        Nonlinearity::Relu => cpu::relu_forward((x, y)),
        Nonlinearity::RRelu(op) => cpu::rrelu_infer(op, (x, y)),
        Nonlinearity::DropActivation(op) => cpu::infer(op, (x, y)),
    }))
    .map(|(y, ())| y)
}

/// `saved` is y for plain ReLU and x for the others.
pub(crate) fn infer_backward(nonlinearity: &Nonlinearity, saved: Source<'_>, dy: Source<'_>) -> Result<CpuStorage> {
    with_element!(dy.0.dtype(), T => {
        let saved = elements::<T>(saved)?;
        map(dy, |dy, dx| match nonlinearity {
            Nonlinearity::Relu => cpu::relu_backward(saved, (dy, dx)),
            Nonlinearity::RRelu(op) => cpu::rrelu_infer_backward(op, saved, (dy, dx)),
            Nonlinearity::DropActivation(op) => cpu::infer_backward(op, saved, (dy, dx)),
        })
    })
    .map(|(dx, ())| dx)
}

/// A pass from a tensor to a new one of its length.
fn map<T: Element + WithDType, R>(
    input: Source<'_>,
    pass: impl FnOnce(&[T], &mut [T]) -> drop_activation::Result<R>,
) -> Result<(CpuStorage, R)> {
    let input = elements::<T>(input)?;
    let mut output = vec![T::default(); input.len()];
    let result = pass(input, &mut output).map_err(Error::wrap)?;
    Ok((T::to_cpu_storage_owned(output), result))
}

/// The elements that a contiguous layout selects.
pub(crate) fn elements<'a, T: WithDType>((storage, layout): Source<'a>) -> Result<&'a [T]> {
    let elements = storage.as_slice()?;
    match layout.contiguous_offsets() {
        // Where there are no elements, a narrowed layout may start beyond the end.
        Some((start, end)) if start == end => Ok(&[]),
        Some((start, end)) => Ok(&elements[start..end]),
        None => Err(Error::RequiresContiguous { op: "drop-activation" }.bt()),
    }
}
