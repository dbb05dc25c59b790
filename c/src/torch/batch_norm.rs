//! Batch normalisation with Drop-Activation in it, on a CPU: a whole forward pass and a whole backward pass in one
//! operator each. What has a value for each channel is computed between their passes over the tensor.

use std::slice;

use drop_activation::fused::{BatchNorm, Dz, Normalised, Operands, Shape, Statistics, Sums};
use drop_activation::half::{bf16, f16};
use drop_activation::{DropActivation, Element, Error, MaskKey, Pass, Real, cpu};

use super::threads::with_torch_s_threads;
use super::{Arguments, Outcome, Strides, Tensor, call, code, kernel, pass};
use crate::*;

/// Which of the optional tensors are there. In the place of each of the others is x.
const RESIDUAL: i64 = 1;
const WEIGHT: i64 = 2;
const BIAS: i64 = 4;
const STATISTICS: i64 = 8;
const KEY: i64 = 16;

kernel! {
    /// _batch_norm(Tensor x, Tensor residual, Tensor weight, Tensor bias, Tensor mean, Tensor variance, Tensor key,
    /// int given, float eps, float p, int activation, int layout) -> (Tensor, Tensor, Tensor, Tensor)
    ///
    /// y, the mask, and mean and biased variance of x or copies of those that are given. A key that is not given is drawn
    /// by PyTorch's generator.
    pub(super) forward(arguments; x, residual, weight, bias, mean, variance, key) {
        let given = arguments.integer();
        let there = |bit, tensor| (given & bit != 0).then_some(tensor);
        let (residual, key) = (there(RESIDUAL, residual), there(KEY, key));
        let statistics = (given & STATISTICS != 0).then_some([mean, variance]);
        let layer = Layer::new(arguments, x, residual, there(WEIGHT, weight), there(BIAS, bias), statistics)?;
        let offset = match key {
            Some(key) => key.integer("key")?,
            None => Tensor::draw_offset(layer.x.torch)?,
        };
        let results = with_torch_s_threads(arguments.torch, || match layer.element {
            DACT_DTYPE_F32 => layer.forward::<f32>(offset),
            DACT_DTYPE_F16 => layer.forward::<f16>(offset),
            DACT_DTYPE_BF16 => layer.forward::<bf16>(offset),
            _ => layer.forward::<f64>(offset),
        })?;
        arguments.give(results);
        Ok(())
    }
}

kernel! {
    /// _batch_norm_backward(Tensor dy, Tensor mask, Tensor x, Tensor residual, Tensor weight, Tensor bias, Tensor mean,
    /// Tensor variance, int given, float eps, float p, int activation, int layout, bool of_x, bool of_residual) ->
    /// (Tensor, Tensor, Tensor, Tensor)
    ///
    /// dx, dr (empty unless `of_residual`), and the gradients of weight and bias. `of_x`: the statistics are those of x.
    pub(super) backward(arguments; dy, mask, x, residual, weight, bias, mean, variance) {
        let given = arguments.integer();
        let there = |bit, tensor| (given & bit != 0).then_some(tensor);
        let (residual, statistics) = (there(RESIDUAL, residual), Some([mean, variance]));
        let layer = Layer::new(arguments, x, residual, there(WEIGHT, weight), there(BIAS, bias), statistics)?;
        let (of_x, of_residual) = (arguments.integer() != 0, arguments.integer() != 0);
        like_x("dy", &dy, &layer.x)?;
        mask.check_mask(&layer.x, "x")?;
        let dy = dy.dense(layer.strides.of())?;
        let results = with_torch_s_threads(arguments.torch, || match layer.element {
            DACT_DTYPE_F32 => layer.backward::<f32>(&dy, &mask, of_x, of_residual),
            DACT_DTYPE_F16 => layer.backward::<f16>(&dy, &mask, of_x, of_residual),
            DACT_DTYPE_BF16 => layer.backward::<bf16>(&dy, &mask, of_x, of_residual),
            _ => layer.backward::<f64>(&dy, &mask, of_x, of_residual),
        })?;
        arguments.give(results);
        Ok(())
    }
}

/// What both directions have.
struct Layer {
    x: Tensor,
    residual: Option<Tensor>,
    weight: Option<Tensor>,
    bias: Option<Tensor>,
    /// Mean and variance.
    statistics: Option<[Tensor; 2]>,
    eps: f64,
    op: DropActivation,
    strides: Strides,
    shape: Shape,
    element: u32,
}

impl Layer {
    /// With the four numbers that come next among the arguments.
    fn new(
        arguments: &mut Arguments,
        x: Tensor,
        residual: Option<Tensor>,
        weight: Option<Tensor>,
        bias: Option<Tensor>,
        statistics: Option<[Tensor; 2]>,
    ) -> Outcome<Self> {
        let (eps, p) = (arguments.float(), arguments.float());
        let (activation, layout) = (arguments.integer(), arguments.integer());
        let element = x.element("x")?;
        if x.device.0 != x.torch.cpu {
            return Err(format!("x must be on the CPU, got {}", x.torch.device_name(x.device)));
        }
        if x.sizes.len() < 2 {
            return Err(format!("x must have a batch and channels, so two dimensions or more, got {}", x.sizes.len()));
        }
        let op = dact_pass { p, activation: code(activation)?, ..pass(DACT_PASS_FORWARD) };
        let op = op.op().map_err(|failure| failure.message)?;
        let strides = x.strides_of("x", layout)?;
        let extents = x.sizes[2..].iter().product::<i64>() as usize;
        let (outer, channels, inner) =
            (x.sizes[0] as usize, x.sizes[1] as usize, if layout == 0 { extents } else { 1 });
        let outer = if layout == 0 { outer } else { outer * extents };
        let shape = Shape::new(if x.len == 0 { 0 } else { outer }, channels, inner.max(1)).map_err(text)?;
        if let Some(residual) = &residual {
            like_x("residual", residual, &x)?;
        }
        let x = x.dense(strides.of())?;
        let residual = residual.map(|residual| residual.dense(strides.of())).transpose()?;
        Ok(Self { x, residual, weight, bias, statistics, eps, op, strides, shape, element })
    }

    fn forward<T: Element>(&self, offset: u64) -> Outcome<[Tensor; 4]> {
        // SAFETY: nobody writes to x or the residual meanwhile.
        let (x, residual) = unsafe { (elements::<T>(&self.x)?, self.residual::<T>()?) };
        let parameters = self.parameters::<T::Real>()?;
        let Statistics { mean, variance } = match self.statistics()? {
            Some(statistics) => statistics,
            None => cpu_statistics(self.shape, x)?,
        };
        let normalised = parameters.norm(self.eps).with_statistics(self.shape, &mean, &variance).map_err(text)?;
        let (y, mask) = (self.x.empty_like(self.strides.of())?, self.x.empty_mask()?);
        let before = normalised.before::<T>(residual);
        let operands = Operands { residual, scale: before.scale, shift: before.shift, ..Operands::default() };
        let pass = Pass::FusedForward { op: self.op, key: MaskKey::new(0, offset), shape: self.shape };
        // SAFETY: these tensors were made for this call.
        let (to, words) = unsafe { (elements_to_write::<T>(&y)?, elements_to_write::<u32>(&mask)?) };
        cpu::run_fused(&pass, (x, to), operands, cpu::MaskWords::Write(words)).map_err(text)?;
        Ok([y, mask, self.vector_of(&mean)?, self.vector_of(&variance)?])
    }

    fn backward<T: Element>(&self, dy: &Tensor, mask: &Tensor, of_x: bool, of_residual: bool) -> Outcome<[Tensor; 4]> {
        // SAFETY: nobody writes to these meanwhile.
        let (x, residual, dy, words) =
            unsafe { (elements::<T>(&self.x)?, self.residual::<T>()?, elements::<T>(dy)?, elements::<u32>(mask)?) };
        let (shape, dz) = (self.shape, Dz::Training(self.op));
        let (parameters, statistics) = (self.parameters::<T::Real>()?, self.statistics()?);
        let Statistics { mean, variance } = statistics.ok_or("a backward pass takes statistics")?;
        let norm = parameters.norm(self.eps);
        let normalised: Normalised<T::Real> = match of_x {
            true => norm.with_batch_statistics(shape, &mean, &variance),
            false => norm.with_statistics(shape, &mean, &variance),
        }
        .map_err(text)?;
        let before = normalised.before::<T>(residual);
        let z = || match dz.needs_z() {
            true => Operands { residual, scale: before.scale, shift: before.shift, ..Operands::default() },
            false => Operands::default(),
        };

        let dr = if of_residual {
            self.x.empty_like(self.strides.of())?
        } else {
            Tensor::empty(self.x.torch, &[0], &[1], self.x.dtype, self.x.device)?
        };
        let zeros = vec![T::Real::ZERO; shape.channels()];
        let (mut gradient, mut product) = (zeros.clone(), zeros);
        let results = [Some(&mut gradient[..]), Some(&mut product[..])];
        let operands = Operands { x: Some(x), mean: Some(&mean), results, ..z() };
        // SAFETY: this tensor was made for this call.
        let to = unsafe { elements_to_write::<T>(&dr)? };
        cpu::run_fused(&Pass::FusedSums { dz, shape }, (dy, to), operands, cpu::MaskWords::Read(words))
            .map_err(text)?;

        let sums = Sums { gradient, product: Some(product) };
        let (vectors, gradients) = normalised.gradients(shape, &sums).map_err(text)?;
        let linear = vectors.of::<T>(&normalised, x);
        let [beta, gamma] = [linear.rest.map(|rest| rest.beta), linear.rest.map(|rest| rest.gamma)];
        let mean = linear.rest.map(|rest| rest.centred.mean);
        let operands = Operands { x: Some(x), mean, alpha: linear.alpha, beta, gamma, ..z() };
        let dx = self.x.empty_like(self.strides.of())?;
        // SAFETY: as above.
        let to = unsafe { elements_to_write::<T>(&dx)? };
        cpu::run_fused(&Pass::FusedBackward { dz, shape }, (dy, to), operands, cpu::MaskWords::Read(words))
            .map_err(text)?;
        Ok([dx, dr, self.vector_of(&gradients.weight)?, self.vector_of(&gradients.bias)?])
    }

    /// # Safety
    /// Nobody writes to it meanwhile.
    unsafe fn residual<T: Element>(&self) -> Outcome<Option<&[T]>> {
        // SAFETY: by this function's contract.
        self.residual.as_ref().map(|residual| unsafe { elements(residual) }).transpose()
    }

    fn parameters<R: Real>(&self) -> Outcome<Parameters<R>> {
        let of = |name, tensor: &Option<Tensor>| tensor.as_ref().map(|tensor| self.values(name, tensor)).transpose();
        Ok(Parameters { weight: of("weight", &self.weight)?, bias: of("bias", &self.bias)? })
    }

    fn statistics<R: Real>(&self) -> Outcome<Option<Statistics<R>>> {
        let Some([mean, variance]) = &self.statistics else { return Ok(None) };
        Ok(Some(Statistics { mean: self.values("mean", mean)?, variance: self.values("variance", variance)? }))
    }

    /// The values of a vector, of any type of elements.
    fn values<R: Real>(&self, name: &str, vector: &Tensor) -> Outcome<Vec<R>> {
        let channels = self.shape.channels();
        if vector.sizes != [channels as i64] {
            return Err(format!(
                "{name} must have shape ({channels},), a value for each channel of x, got {}",
                super::tuple(vector.sizes)
            ));
        }
        if vector.device != self.x.device {
            let (x, given) = (self.x.torch.device_name(self.x.device), self.x.torch.device_name(vector.device));
            return Err(format!("{name} must be on the device of x, {x}, got {given}"));
        }
        let (element, address, stride) = (vector.element(name)?, vector.address()?, vector.strides[0] as isize);
        // SAFETY: a tensor of that type has an element at each multiple of its stride. Nobody writes to it meanwhile.
        Ok(unsafe {
            match element {
                DACT_DTYPE_F32 => strided::<f32, R>(address, stride, channels),
                DACT_DTYPE_F16 => strided::<f16, R>(address, stride, channels),
                DACT_DTYPE_BF16 => strided::<bf16, R>(address, stride, channels),
                _ => strided::<f64, R>(address, stride, channels),
            }
        })
    }

    /// A tensor with a value for each channel.
    fn vector_of<R: Real>(&self, values: &[R]) -> Outcome<Tensor> {
        let torch = self.x.torch;
        let wanted = if size_of::<R>() == 8 { DACT_DTYPE_F64 } else { DACT_DTYPE_F32 };
        let known = torch.dtypes.iter().find(|(.., element)| *element == wanted);
        let dtype = known.map(|(dtype, ..)| *dtype).ok_or("PyTorch has no such type")?;
        let vector = Tensor::empty(torch, &[values.len() as i64], &[1], dtype, self.x.device)?;
        // SAFETY: this tensor was made for this call.
        unsafe { elements_to_write::<R>(&vector)? }.copy_from_slice(values);
        Ok(vector)
    }
}

/// Weight and bias, in the type of the arithmetic.
struct Parameters<R> {
    weight: Option<Vec<R>>,
    bias: Option<Vec<R>>,
}

impl<R: Real> Parameters<R> {
    fn norm(&self, eps: f64) -> BatchNorm<'_, R> {
        BatchNorm { weight: self.weight.as_deref(), bias: self.bias.as_deref(), eps }
    }
}

fn cpu_statistics<T: Element>(shape: Shape, x: &[T]) -> Outcome<Statistics<T::Real>> {
    drop_activation::fused::cpu::statistics(shape, x).map_err(text)
}

fn text(error: Error) -> String {
    error.to_string()
}

fn like_x(name: &str, tensor: &Tensor, x: &Tensor) -> Outcome<()> {
    if (tensor.dtype, tensor.sizes, tensor.device) == (x.dtype, x.sizes, x.device) {
        return Ok(());
    }
    Err(format!("{name} must be like x, {}, got {}", x.describe(), tensor.describe()))
}

/// A dense tensor's elements, in memory order.
///
/// # Safety
/// T is their type. Nobody writes to them for the time of the reference.
unsafe fn elements<T>(tensor: &Tensor) -> Outcome<&[T]> {
    if tensor.len == 0 {
        return Ok(&[]);
    }
    // SAFETY: a dense tensor has so many elements there, aligned; the rest is this function's contract.
    Ok(unsafe { slice::from_raw_parts(tensor.address()?.cast(), tensor.len) })
}

/// The same, to be written.
///
/// # Safety
/// T is their type, for which all bits are values. Nobody else reads or writes them for the time of the reference.
#[expect(clippy::mut_from_ref)] // PyTorch's memory, not the handle's
unsafe fn elements_to_write<T>(tensor: &Tensor) -> Outcome<&mut [T]> {
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
