//! Batch normalisation before the activation: from parameters and statistics to what the fused passes take, and back.

use super::{Before, Centred, Gradient, Linear, Rest, Shape, Sums, cpu};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::float_environment::DefaultEnvironment;
use crate::io::InOut;
use crate::real::Real;

/// The parameters of a batch normalisation: `z = weight[c] (x - mean[c]) / sqrt(variance[c] + eps) + bias[c]`.
///
/// ```
/// use drop_activation::fused::{BatchNorm, Gradient, Running, Shape, cpu};
/// use drop_activation::{DropActivation, KeySequence};
///
/// let shape = Shape::new(64, 3, 1)?; // 64 rows of 3 features
/// let x: Vec<f32> = (0..shape.len()).map(|i| (i as f32).sin()).collect();
/// let (weight, bias) = ([1.0; 3], [0.0; 3]);
/// let (mut mean, mut variance) = ([0.0; 3], [1.0; 3]);
/// let norm = BatchNorm { weight: Some(&weight), bias: Some(&bias), eps: 1e-5 };
/// let (op, keys) = (DropActivation::default(), KeySequence::new(42));
///
/// let running = Running { mean: &mut mean, variance: &mut variance, momentum: 0.1 };
/// let normalised = norm.of_batch(shape, &x, Some(running))?;
/// let mut y = vec![0.0; x.len()];
/// let mask = cpu::forward(&op, keys.next_key(), shape, &normalised.before(None), (&x, &mut y))?;
///
/// let mut gradient = vec![1.0; x.len()]; // dy, and dx afterwards
/// let by = Gradient::Training(&op, &mask, None);
/// let of_parameters = normalised.backward(shape, &by, &x, &mut gradient, None)?;
/// assert_eq!(of_parameters.bias.len(), 3);
/// # Ok::<(), drop_activation::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct BatchNorm<'a, R> {
    /// For each channel. None is 1.
    pub weight: Option<&'a [R]>,
    /// For each channel. None is 0.
    pub bias: Option<&'a [R]>,
    /// What is added to the variance: positive and finite.
    pub eps: f64,
}

/// Running statistics, which a training step moves: `running = (1 - momentum) running + momentum batch`, with the
/// unbiased variance of the batch.
#[derive(Debug)]
pub struct Running<'a, R> {
    /// For each channel.
    pub mean: &'a mut [R],
    /// For each channel.
    pub variance: &'a mut [R],
    /// Between 0 and 1.
    pub momentum: f64,
}

/// A batch normalisation with its statistics. The backward pass needs it again.
#[derive(Clone, Debug)]
pub struct Normalised<R> {
    scale: Vec<R>,
    shift: Vec<R>,
    mean: Vec<R>,
    /// 1 / sqrt(variance + eps)
    inverse: Vec<f64>,
    /// Whether the statistics are those of x, and so have a gradient too.
    of_batch: bool,
}

/// Gradients of weight and bias, for each channel.
#[derive(Clone, Debug, PartialEq)]
pub struct ParameterGradients<R> {
    /// `Σ dz (x - mean) / sqrt(variance + eps)`.
    pub weight: Vec<R>,
    /// `Σ dz`.
    pub bias: Vec<R>,
}

/// What makes the gradient of x of that of z, besides the scale: beta and gamma, for each channel, where x has a part in
/// the statistics.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearVectors<R> {
    /// beta and gamma.
    pub rest: Option<[Vec<R>; 2]>,
}

impl<R: Real> LinearVectors<R> {
    /// With x, and what `normalised` has.
    pub fn of<'a, T: Element<Real = R>>(&'a self, normalised: &'a Normalised<R>, x: &'a [T]) -> Linear<'a, T> {
        let rest = self.rest.as_ref().map(|[beta, gamma]| {
            let centred = Centred { x, mean: &normalised.mean };
            Rest { beta, gamma, centred }
        });
        Linear { alpha: Some(&normalised.scale), rest }
    }
}

impl<R: Real> BatchNorm<'_, R> {
    /// In training: with the statistics of x, which move the running ones.
    ///
    /// # Errors
    /// [`Error::ShapeLength`], [`Error::ChannelVector`], [`Error::Epsilon`], [`Error::Momentum`];
    /// [`Error::NoElements`]; [`Error::OneElement`], with running statistics; [`Error::SumMemory`]. The running
    /// statistics are as they were then.
    pub fn of_batch<T: Element<Real = R>>(
        &self,
        shape: Shape,
        x: &[T],
        running: Option<Running<'_, R>>,
    ) -> Result<Normalised<R>> {
        self.check(shape)?;
        let count = shape.count();
        if let Some(running) = &running {
            shape.has_channels_of("running mean", running.mean.len())?;
            shape.has_channels_of("running variance", running.variance.len())?;
            if !(0.0..=1.0).contains(&running.momentum) {
                return Err(Error::Momentum { momentum: running.momentum });
            }
            if count == 1 {
                return Err(Error::OneElement { channels: shape.channels() });
            }
        }
        let statistics = cpu::statistics(shape, x)?;
        let _environment = DefaultEnvironment::enter();
        if let Some(Running { mean, variance, momentum }) = running {
            let unbiased = count as f64 / (count as f64 - 1.0);
            for c in 0..shape.channels() {
                let moved = |from: R, to: f64| R::from_f64((1.0 - momentum) * from.to_f64() + momentum * to);
                mean[c] = moved(mean[c], statistics.mean[c].to_f64());
                variance[c] = moved(variance[c], statistics.variance[c].to_f64() * unbiased);
            }
        }
        Ok(self.normalised(statistics.mean, &statistics.variance, true))
    }

    /// With statistics that do not depend on x: in evaluation, and in training with frozen ones.
    ///
    /// # Errors
    /// [`Error::ChannelVector`], [`Error::Epsilon`].
    pub fn with_statistics(&self, shape: Shape, mean: &[R], variance: &[R]) -> Result<Normalised<R>> {
        self.check(shape)?;
        shape.has_channels_of("mean", mean.len())?;
        shape.has_channels_of("variance", variance.len())?;
        let _environment = DefaultEnvironment::enter();
        Ok(self.normalised(mean.to_vec(), variance, false))
    }

    /// In training, with the statistics of x, which were computed before: as [`of_batch`](Self::of_batch), for who puts
    /// something of their own between the passes.
    ///
    /// # Errors
    /// [`Error::ChannelVector`], [`Error::Epsilon`].
    pub fn with_batch_statistics(&self, shape: Shape, mean: &[R], variance: &[R]) -> Result<Normalised<R>> {
        Ok(Normalised { of_batch: true, ..self.with_statistics(shape, mean, variance)? })
    }

    fn check(&self, shape: Shape) -> Result<()> {
        self.weight.map_or(Ok(()), |weight| shape.has_channels_of("weight", weight.len()))?;
        self.bias.map_or(Ok(()), |bias| shape.has_channels_of("bias", bias.len()))?;
        // Compared as bits, for which no floating-point environment makes a difference: positive and finite.
        let bits = self.eps.to_bits();
        if bits > 0 && bits < f64::INFINITY.to_bits() { Ok(()) } else { Err(Error::Epsilon { eps: self.eps }) }
    }

    fn normalised(&self, mean: Vec<R>, variance: &[R], of_batch: bool) -> Normalised<R> {
        let inverse: Vec<f64> = variance.iter().map(|variance| 1.0 / (variance.to_f64() + self.eps).sqrt()).collect();
        let weight = |c: usize| self.weight.map_or(1.0, |weight| weight[c].to_f64());
        let bias = |c: usize| self.bias.map_or(0.0, |bias| bias[c].to_f64());
        let scale: Vec<R> = inverse.iter().enumerate().map(|(c, inverse)| R::from_f64(weight(c) * inverse)).collect();
        // By the scale as it was rounded, so that x = mean becomes the bias.
        let shift = (0..mean.len()).map(|c| R::from_f64(bias(c) - mean[c].to_f64() * scale[c].to_f64())).collect();
        Normalised { scale, shift, mean, inverse, of_batch }
    }
}

impl<R: Real> Normalised<R> {
    /// What the fused passes do to x before the activation.
    pub fn before<'a, T: Element<Real = R>>(&'a self, residual: Option<&'a [T]>) -> Before<'a, T> {
        Before { scale: Some(&self.scale), shift: Some(&self.shift), residual }
    }

    /// From dy to dx, and the gradients of weight and bias; the residual's goes to `dr`.
    ///
    /// # Errors
    /// Lengths that do not fit the shape; a mask of another operation or length; [`Error::MissingInput`];
    /// [`Error::SumMemory`]. Nothing was written then.
    pub fn backward<'a, T: Element<Real = R>>(
        &self,
        shape: Shape,
        by: &Gradient<'_, T>,
        x: &[T],
        io: impl Into<InOut<'a, T>>,
        dr: Option<&mut [T]>,
    ) -> Result<ParameterGradients<R>> {
        let io = io.into();
        shape.holds("dx", io.output_len())?;
        let centred = Centred { x, mean: &self.mean };
        let sums = cpu::reduce(shape, io.input(), by, Some(&centred), dr)?;
        let (linear, gradients) = self.gradients(shape, &sums)?;
        cpu::backward(shape, by, &linear.of(self, x), io)?;
        Ok(gradients)
    }

    /// What the sums of a backward pass make of it: [`backward`](Self::backward) in parts, for who puts something of their
    /// own between the passes. The sums of products are those with x - mean.
    ///
    /// # Errors
    /// [`Error::ChannelVector`] for sums of another length, or without products.
    pub fn gradients(&self, shape: Shape, sums: &Sums<R>) -> Result<(LinearVectors<R>, ParameterGradients<R>)> {
        let product = sums.product.as_deref().unwrap_or_default();
        shape.has_channels_of("mean", self.mean.len())?;
        shape.has_channels_of("gradient", sums.gradient.len())?;
        shape.has_channels_of("product", product.len())?;
        let _environment = DefaultEnvironment::enter();
        let count = shape.count() as f64;
        let each = |f: &dyn Fn(usize) -> f64| -> Vec<R> { (0..shape.channels()).map(|c| R::from_f64(f(c))).collect() };
        let alpha = |c: usize| self.scale[c].to_f64();
        let rest = (self.of_batch && count > 0.0).then(|| {
            let beta = each(&|c| -alpha(c) * self.inverse[c] * self.inverse[c] * product[c].to_f64() / count);
            let gamma = each(&|c| -alpha(c) * sums.gradient[c].to_f64() / count);
            [beta, gamma]
        });
        let weight = each(&|c| self.inverse[c] * product[c].to_f64());
        Ok((LinearVectors { rest }, ParameterGradients { weight, bias: sums.gradient.clone() }))
    }
}
