//! A bias with Drop-Activation behind it, and a residual between the two, on a CPU: one pass over the tensor forward, and
//! one backward, which sums the gradient of the bias while it writes that of x.

use drop_activation::fused::{Dz, Operands};
use drop_activation::{Element, MaskKey, Pass, Real, cpu};

use super::channels::{Layer, by_element, elements, elements_of, elements_to_write, text};
use super::threads::with_torch_s_threads;
use super::{Arguments, Outcome, Tensor, call, kernel};
use crate::*;

/// Which of the optional tensors are there. In the place of each of the others is the first tensor.
const RESIDUAL: i64 = 1;
const KEY: i64 = 2;
const X: i64 = 2;

kernel! {
    /// _bias(Tensor x, Tensor residual, Tensor bias, Tensor key, int given, int dim, float p, int activation, int layout)
    /// -> (Tensor, Tensor)
    ///
    /// y and the mask. A key that is not given is drawn by PyTorch's generator.
    pub(super) forward(arguments; x, residual, bias, key) {
        let (given, dim) = (arguments.integer(), arguments.integer());
        let layer = Layer::new(arguments, "x", x, dim)?;
        let residual = (given & RESIDUAL != 0).then(|| layer.like("residual", residual)).transpose()?;
        let offset = match given & KEY != 0 {
            true => key.integer("key")?,
            false => Tensor::draw_offset(layer.tensor.torch)?,
        };
        let results = with_torch_s_threads(arguments.torch, || {
            by_element!(layer.element, T => y_of::<T>(&layer, residual.as_ref(), &bias, offset))
        })?;
        arguments.give(results);
        Ok(())
    }
}

kernel! {
    /// _bias_backward(Tensor dy, Tensor mask, Tensor x, Tensor residual, Tensor bias, int given, int dim, float p,
    /// int activation, int layout) -> (Tensor, Tensor)
    ///
    /// dx, which is the gradient of the residual too, and the gradient of the bias. ReLU needs neither x nor what comes
    /// after it.
    pub(super) backward(arguments; dy, mask, x, residual, bias) {
        let (given, dim) = (arguments.integer(), arguments.integer());
        let layer = Layer::new(arguments, "dy", dy, dim)?;
        layer.check_mask(&mask)?;
        let x = (given & X != 0).then(|| layer.like("x", x)).transpose()?;
        let residual = (given & RESIDUAL != 0).then(|| layer.like("residual", residual)).transpose()?;
        let of_z = x.map(|x| OfZ { x, residual, bias });
        let results = with_torch_s_threads(arguments.torch, || {
            by_element!(layer.element, T => dx_of::<T>(&layer, &mask, of_z.as_ref()))
        })?;
        arguments.give(results);
        Ok(())
    }
}

/// What z is computed from.
struct OfZ {
    x: Tensor,
    residual: Option<Tensor>,
    bias: Tensor,
}

fn y_of<T: Element>(layer: &Layer, residual: Option<&Tensor>, bias: &Tensor, offset: u64) -> Outcome<[Tensor; 2]> {
    let bias = layer.values::<T::Real>("bias", bias)?;
    let (y, mask) = (layer.empty()?, layer.tensor.empty_mask()?);
    // SAFETY: nobody writes to x or the residual meanwhile.
    let (x, residual) = unsafe { (elements::<T>(&layer.tensor)?, elements_of::<T>(residual)?) };
    // SAFETY: these tensors were made for this call.
    let (to, words) = unsafe { (elements_to_write::<T>(&y)?, elements_to_write::<u32>(&mask)?) };
    let pass = Pass::FusedForward { op: layer.op, key: MaskKey::new(0, offset), shape: layer.shape };
    let operands = Operands { residual, shift: Some(&bias), ..Operands::default() };
    cpu::run_fused(&pass, (x, to), operands, cpu::MaskWords::Write(words)).map_err(text)?;
    Ok([y, mask])
}

fn dx_of<T: Element>(layer: &Layer, mask: &Tensor, of_z: Option<&OfZ>) -> Outcome<[Tensor; 2]> {
    let (shape, dz) = (layer.shape, Dz::Training(layer.op));
    if dz.needs_z() && of_z.is_none() {
        return Err(format!("x must be given for {}, whose derivative depends on it", layer.op.activation()));
    }
    let of_z = of_z.filter(|_| dz.needs_z());
    let bias = of_z.map(|z| layer.values::<T::Real>("bias", &z.bias)).transpose()?;
    let dx = layer.empty()?;
    // SAFETY: nobody writes to these meanwhile.
    let (dy, words, x, residual) = unsafe {
        let x = elements_of::<T>(of_z.map(|z| &z.x))?;
        let residual = elements_of::<T>(of_z.and_then(|z| z.residual.as_ref()))?;
        (elements::<T>(&layer.tensor)?, elements::<u32>(mask)?, x, residual)
    };
    // SAFETY: this tensor was made for this call.
    let to = unsafe { elements_to_write::<T>(&dx)? };
    let mut gradient = vec![T::Real::ZERO; shape.channels()];
    let results = [Some(&mut gradient[..]), None];
    let operands = Operands { x, residual, shift: bias.as_deref(), results, ..Operands::default() };
    // What the sums' pass writes is dz, and dx is that.
    cpu::run_fused(&Pass::FusedSums { dz, shape }, (dy, to), operands, cpu::MaskWords::Read(words)).map_err(text)?;
    Ok([dx, layer.vector_of(&gradient)?])
}
