//! Batch normalisation with Drop-Activation in it, on a CPU: a whole forward pass and a whole backward pass in one
//! operator each. What has a value for each channel is computed between their passes over the tensor.

use drop_activation::fused::cpu::statistics as statistics_of;
use drop_activation::fused::{BatchNorm, Dz, Normalised, Operands, Statistics, Sums};
use drop_activation::{Element, MaskKey, Pass, Real, cpu};

use super::channels::{Layer, by_element, elements, elements_of, elements_to_write, text};
use super::threads::with_torch_s_threads;
use super::{Arguments, Outcome, Tensor, call, kernel};
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
        let norm = Norm::new(arguments, x, residual, there(WEIGHT, weight), there(BIAS, bias), statistics)?;
        let offset = match key {
            Some(key) => key.integer("key")?,
            None => Tensor::draw_offset(norm.layer.tensor.torch)?,
        };
        let results = with_torch_s_threads(arguments.torch, || {
            by_element!(norm.layer.element, T => norm.forward::<T>(offset))
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
        let norm = Norm::new(arguments, x, residual, there(WEIGHT, weight), there(BIAS, bias), statistics)?;
        let (of_x, of_residual) = (arguments.integer() != 0, arguments.integer() != 0);
        let dy = norm.layer.like("dy", dy)?;
        norm.layer.check_mask(&mask)?;
        let results = with_torch_s_threads(arguments.torch, || {
            by_element!(norm.layer.element, T => norm.backward::<T>(&dy, &mask, of_x, of_residual))
        })?;
        arguments.give(results);
        Ok(())
    }
}

/// What both directions have.
struct Norm {
    /// With x.
    layer: Layer,
    residual: Option<Tensor>,
    weight: Option<Tensor>,
    bias: Option<Tensor>,
    /// Mean and variance.
    statistics: Option<[Tensor; 2]>,
    eps: f64,
}

impl Norm {
    /// With the four numbers that come next among the arguments.
    fn new(
        arguments: &mut Arguments,
        x: Tensor,
        residual: Option<Tensor>,
        weight: Option<Tensor>,
        bias: Option<Tensor>,
        statistics: Option<[Tensor; 2]>,
    ) -> Outcome<Self> {
        let eps = arguments.float();
        if x.sizes.len() < 2 {
            return Err(format!("x must have a batch and channels, so two dimensions or more, got {}", x.sizes.len()));
        }
        let layer = Layer::new(arguments, "x", x, 1)?;
        let residual = residual.map(|residual| layer.like("residual", residual)).transpose()?;
        Ok(Self { layer, residual, weight, bias, statistics, eps })
    }

    fn forward<T: Element>(&self, offset: u64) -> Outcome<[Tensor; 4]> {
        let (layer, shape) = (&self.layer, self.layer.shape);
        // SAFETY: nobody writes to x or the residual meanwhile.
        let (x, residual) = unsafe { (elements::<T>(&layer.tensor)?, elements_of::<T>(self.residual.as_ref())?) };
        let parameters = self.parameters::<T::Real>()?;
        let Statistics { mean, variance } = match self.statistics()? {
            Some(statistics) => statistics,
            None => statistics_of(shape, x).map_err(text)?,
        };
        let normalised = parameters.norm(self.eps).with_statistics(shape, &mean, &variance).map_err(text)?;
        let (y, mask) = (layer.empty()?, layer.tensor.empty_mask()?);
        let before = normalised.before::<T>(residual);
        let operands = Operands { residual, scale: before.scale, shift: before.shift, ..Operands::default() };
        let pass = Pass::FusedForward { op: layer.op, key: MaskKey::new(0, offset), shape };
        // SAFETY: these tensors were made for this call.
        let (to, words) = unsafe { (elements_to_write::<T>(&y)?, elements_to_write::<u32>(&mask)?) };
        cpu::run_fused(&pass, (x, to), operands, cpu::MaskWords::Write(words)).map_err(text)?;
        Ok([y, mask, layer.vector_of(&mean)?, layer.vector_of(&variance)?])
    }

    fn backward<T: Element>(&self, dy: &Tensor, mask: &Tensor, of_x: bool, of_residual: bool) -> Outcome<[Tensor; 4]> {
        let (layer, shape) = (&self.layer, self.layer.shape);
        // SAFETY: nobody writes to these meanwhile.
        let (x, residual, dy, words) = unsafe {
            let residual = elements_of::<T>(self.residual.as_ref())?;
            (elements::<T>(&layer.tensor)?, residual, elements::<T>(dy)?, elements::<u32>(mask)?)
        };
        let dz = Dz::Training(layer.op);
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
            layer.empty()?
        } else {
            let x = &layer.tensor;
            Tensor::empty(x.torch, &[0], &[1], x.dtype, x.device)?
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
        let dx = layer.empty()?;
        // SAFETY: as above.
        let to = unsafe { elements_to_write::<T>(&dx)? };
        cpu::run_fused(&Pass::FusedBackward { dz, shape }, (dy, to), operands, cpu::MaskWords::Read(words))
            .map_err(text)?;
        Ok([dx, dr, layer.vector_of(&gradients.weight)?, layer.vector_of(&gradients.bias)?])
    }

    fn parameters<R: Real>(&self) -> Outcome<Parameters<R>> {
        let of =
            |name, tensor: &Option<Tensor>| tensor.as_ref().map(|tensor| self.layer.values(name, tensor)).transpose();
        Ok(Parameters { weight: of("weight", &self.weight)?, bias: of("bias", &self.bias)? })
    }

    fn statistics<R: Real>(&self) -> Outcome<Option<Statistics<R>>> {
        let Some([mean, variance]) = &self.statistics else { return Ok(None) };
        Ok(Some(Statistics {
            mean: self.layer.values("mean", mean)?,
            variance: self.layer.values("variance", variance)?,
        }))
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
