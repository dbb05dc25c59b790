//! What networks are made of, and the builder that owns their parameters.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Shape, Tensor, Var};
use candle_nn::{BatchNorm, Linear, Module, ModuleT};
use drop_activation_candle::KeySequence;
use rand::Rng;
use rand_distr::{Distribution, StandardNormal};

use crate::activation::{Activation, Dropout, Site};
use crate::{ops, random};

/// How a parameter starts.
#[derive(Clone, Copy, Debug)]
enum Init {
    Constant(f32),
    /// Normal with this deviation.
    Normal(f64),
    /// Uniform between minus and plus this bound.
    Uniform(f64),
}

/// A parameter, or a running average that is stored with them.
#[derive(Clone, Debug)]
struct Entry {
    name: String,
    var: Var,
    init: Init,
    trained: bool,
}

/// Makes the layers of a network, names their parameters and keeps them.
#[derive(Debug)]
pub struct Builder {
    device: Device,
    activation: Activation,
    keys: Arc<KeySequence>,
    entries: Vec<Entry>,
}

impl Builder {
    /// For a network with this activation everywhere, whose masks have their keys from `keys`.
    pub fn new(activation: Activation, keys: KeySequence, device: &Device) -> Self {
        Self { device: device.clone(), activation, keys: Arc::new(keys), entries: Vec::new() }
    }

    /// The device of all parameters.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Where the masks of the whole network have their keys from.
    pub fn keys(&self) -> &KeySequence {
        &self.keys
    }

    /// Everything that a checkpoint must hold, by name.
    pub fn state(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.entries.iter().map(|e| (e.name.as_str(), &e.var))
    }

    /// What the optimiser trains.
    pub fn trained(&self) -> Vec<Var> {
        self.entries.iter().filter(|e| e.trained).map(|e| e.var.clone()).collect()
    }

    /// A copy of all running averages, which a forward pass in training mode moves.
    ///
    /// # Errors
    /// Those of the device.
    pub fn averages(&self) -> Result<Vec<Tensor>> {
        self.entries.iter().filter(|e| !e.trained).map(|e| e.var.copy().map(|t| t.detach())).collect()
    }

    /// Puts the copies back.
    ///
    /// # Errors
    /// Those of the device.
    pub fn set_averages(&self, averages: &[Tensor]) -> Result<()> {
        let averages = self.entries.iter().filter(|e| !e.trained).zip(averages);
        averages.into_iter().try_for_each(|(e, average)| e.var.set(average))
    }

    /// How many numbers are trained.
    pub fn parameters(&self) -> usize {
        self.entries.iter().filter(|e| e.trained).map(|e| e.var.elem_count()).sum()
    }

    /// Draws every parameter anew. Until then all are zero: a network can be built to be counted.
    ///
    /// # Errors
    /// Those of the device.
    pub fn initialise(&self, seed: u64) -> Result<()> {
        let rng = &mut random::generator(seed, random::PARAMETERS, 0);
        for entry in &self.entries {
            let mut draw = || match entry.init {
                Init::Constant(v) => v,
                Init::Normal(deviation) => (deviation * Distribution::<f64>::sample(&StandardNormal, rng)) as f32,
                Init::Uniform(bound) => rng.random_range(-bound..bound) as f32,
            };
            let values: Vec<f32> = (0..entry.var.elem_count()).map(|_| draw()).collect();
            entry.var.set(&Tensor::from_vec(values, entry.var.shape(), &self.device)?)?;
        }
        Ok(())
    }

    fn entry(&mut self, name: String, shape: impl Into<Shape>, init: Init, trained: bool) -> Result<Tensor> {
        assert!(self.entries.iter().all(|e| e.name != name), "two parameters are named {name}");
        let var = Var::zeros(shape, DType::F32, &self.device)?;
        let tensor = var.as_tensor().clone();
        self.entries.push(Entry { name, var, init, trained });
        Ok(tensor)
    }

    /// A convolution without bias that keeps the size, divided by `stride`. He et al.'s initialisation for
    /// the outputs, as all the sources' code has it: deviation sqrt(2 / (k^2 outputs)).
    pub fn conv(&mut self, name: &str, inputs: usize, outputs: usize, kernel: usize, stride: usize) -> Result<Conv> {
        self.grouped_conv(name, inputs, outputs, kernel, stride, 1)
    }

    /// The same in groups of channels.
    pub fn grouped_conv(
        &mut self,
        name: &str,
        inputs: usize,
        outputs: usize,
        kernel: usize,
        stride: usize,
        groups: usize,
    ) -> Result<Conv> {
        let init = Init::Normal((2.0 / (kernel * kernel * outputs) as f64).sqrt());
        let weight = self.entry(format!("{name}.weight"), (outputs, inputs / groups, kernel, kernel), init, true)?;
        Ok(Conv { weight, stride, padding: kernel / 2, groups })
    }

    /// Batch normalisation: scale 1 and shift 0 to start with, running averages with momentum 0.1.
    pub fn norm(&mut self, name: &str, channels: usize) -> Result<Norm> {
        let scale = self.entry(format!("{name}.norm.weight"), channels, Init::Constant(1.0), true)?;
        let shift = self.entry(format!("{name}.norm.bias"), channels, Init::Constant(0.0), true)?;
        let mean = self.entry(format!("{name}.norm.mean"), channels, Init::Constant(0.0), false)?;
        let variance = self.entry(format!("{name}.norm.variance"), channels, Init::Constant(1.0), false)?;
        let variance_var = Var::from_tensor(&variance)?;
        let mean_var = Var::from_tensor(&mean)?;
        Ok(Norm { candles: BatchNorm::new(channels, mean, variance, scale, shift, EPSILON)?, mean_var, variance_var })
    }

    /// A fully connected layer: He et al.'s initialisation, bias 0.
    pub fn linear(&mut self, name: &str, inputs: usize, outputs: usize) -> Result<Linear> {
        let init = Init::Normal((2.0 / inputs as f64).sqrt());
        let weight = self.entry(format!("{name}.weight"), (outputs, inputs), init, true)?;
        let bias = self.entry(format!("{name}.bias"), outputs, Init::Constant(0.0), true)?;
        Ok(Linear::new(weight, Some(bias)))
    }

    /// A fully connected layer as PyTorch starts it: uniform within 1 / sqrt(inputs), bias and all, which
    /// spreads the kinks of a network of one input.
    pub fn uniform_linear(&mut self, name: &str, inputs: usize, outputs: usize) -> Result<Linear> {
        let init = Init::Uniform(1.0 / (inputs as f64).sqrt());
        let weight = self.entry(format!("{name}.weight"), (outputs, inputs), init, true)?;
        let bias = self.entry(format!("{name}.bias"), outputs, init, true)?;
        Ok(Linear::new(weight, Some(bias)))
    }

    /// Normalisation, nonlinearity and convolution in PreResNet's order.
    pub fn pre_activated(
        &mut self,
        name: &str,
        inputs: usize,
        outputs: usize,
        kernel: usize,
        stride: usize,
    ) -> Result<PreActivated> {
        let norm = self.norm(name, inputs)?;
        Ok(PreActivated {
            norm,
            activation: self.activation()?,
            conv: self.conv(name, inputs, outputs, kernel, stride)?,
        })
    }

    /// The end of a network of such layers.
    pub fn head(&mut self, channels: usize, classes: usize) -> Result<Head> {
        let norm = self.norm("head", channels)?;
        Ok(Head { norm, activation: self.activation()?, classifier: self.linear("classifier", channels, classes)? })
    }

    /// One place of the network's nonlinearity.
    ///
    /// # Errors
    /// If the activation's probability is none.
    pub fn activation(&self) -> Result<Site> {
        self.activation.site(&self.keys)
    }

    /// Dropout of this rate, with scaling while training.
    ///
    /// # Errors
    /// Unless 0 <= rate <= 1.
    pub fn dropout(&self, rate: f64) -> Result<Dropout> {
        Dropout::new(rate, &self.keys)
    }
}

const EPSILON: f64 = 1e-5;

/// A convolution without bias.
#[derive(Clone, Debug)]
pub struct Conv {
    weight: Tensor,
    stride: usize,
    padding: usize,
    groups: usize,
}

impl Module for Conv {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::convolution(x, &self.weight, self.stride, self.padding, self.groups)
    }
}

/// Batch normalisation.
#[derive(Clone, Debug)]
pub struct Norm {
    candles: BatchNorm,
    mean_var: Var,
    variance_var: Var,
}

impl ModuleT for Norm {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        if !x.device().is_cpu() {
            return self.candles.forward_t(x, train)?.contiguous();
        }
        let (scale, shift) = self.candles.weight_and_bias().expect("made with both");
        if !train {
            let moments = (self.mean_var.to_vec1()?, &self.variance_var.to_vec1::<f32>()?[..]);
            return ops::normalise(x, scale, shift, moments, EPSILON, false);
        }
        let (mean, variance) = ops::channel_moments(x)?;
        let count = (x.elem_count() / mean.len()) as f64;
        let blend = |var: &Var, new: &[f32], factor: f64| {
            let momentum = self.candles.momentum();
            let old: Vec<f32> = var.to_vec1()?;
            let average = |(old, new): (&f32, &f32)| {
                (f64::from(*old) * (1.0 - momentum) + f64::from(*new) * factor * momentum) as f32
            };
            var.set(&Tensor::from_vec(old.iter().zip(new).map(average).collect(), old.len(), x.device())?)
        };
        blend(&self.mean_var, &mean, 1.0)?;
        blend(&self.variance_var, &variance, count / (count - 1.0))?;
        ops::normalise(x, scale, shift, (mean, &variance), EPSILON, true)
    }
}

/// Normalisation, nonlinearity and convolution.
#[derive(Debug)]
pub struct PreActivated {
    norm: Norm,
    activation: Site,
    /// What follows [`activated`](Self::activated).
    pub conv: Conv,
}

impl PreActivated {
    /// As far as the convolution, where a shortcut may begin.
    pub fn activated(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        self.activation.forward_t(&self.norm.forward_t(x, train)?, train)
    }
}

impl ModuleT for PreActivated {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        self.conv.forward(&self.activated(x, train)?)
    }
}

/// Normalisation, nonlinearity, the mean of each channel, and the classifier.
#[derive(Debug)]
pub struct Head {
    norm: Norm,
    activation: Site,
    classifier: Linear,
}

impl ModuleT for Head {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let x = self.activation.forward_t(&self.norm.forward_t(x, train)?, train)?;
        self.classifier.forward(&global_pool(&x)?)
    }
}

/// Average pooling of 2 x 2 pixels; an odd last row or column is left out.
pub fn pool(x: &Tensor) -> Result<Tensor> {
    let (_, _, height, width) = x.dims4()?;
    // candle's gradient of a pooling is right only where it divides the image.
    x.narrow(2, 0, height / 2 * 2)?.narrow(3, 0, width / 2 * 2)?.contiguous()?.avg_pool2d(2)
}

/// The mean of each channel.
pub fn global_pool(x: &Tensor) -> Result<Tensor> {
    x.flatten_from(2)?.mean(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn builder() -> Builder {
        Builder::new(Activation::Relu, KeySequence::new(1), &Device::Cpu)
    }

    fn values(builder: &Builder, name: &str) -> Vec<f32> {
        let (_, var) = builder.state().find(|(n, _)| *n == name).expect("a parameter of that name");
        var.flatten_all().and_then(|v| v.to_vec1()).expect("values")
    }

    #[test]
    fn parameters_start_as_the_sources_have_them() {
        let mut b = builder();
        b.grouped_conv("conv", 32, 64, 3, 1, 4).expect("a layer");
        b.linear("linear", 100, 50).expect("a layer");
        b.norm("norm", 3).expect("a layer");
        b.initialise(1).expect("parameters");
        for (name, count, variance) in [("conv.weight", 64 * 8 * 9, 2.0 / (9.0 * 64.0)), ("linear.weight", 5_000, 0.02)]
        {
            let values = values(&b, name);
            assert_eq!(values.len(), count, "{name}");
            let mean_of = |f: fn(f64) -> f64| values.iter().map(|v| f(f64::from(*v))).sum::<f64>() / count as f64;
            // Five standard deviations of either mean: right values fail once in 1.7 million seeds; this one is fixed.
            let spread = 5.0 / (count as f64).sqrt();
            assert!(mean_of(|v| v).abs() < spread * f64::sqrt(variance), "{name}");
            assert!((mean_of(|v| v * v) / variance - 1.0).abs() < spread * 2f64.sqrt(), "{name}");
        }
        assert_eq!(values(&b, "linear.bias"), [0.0; 50]);
        assert_eq!([values(&b, "norm.norm.weight"), values(&b, "norm.norm.bias")], [[1.0; 3], [0.0; 3]]);
    }

    /// Averages that two batches have moved, and what inference makes of them.
    #[test]
    fn running_averages_are_candles() {
        let mut b = builder();
        let ours = b.norm("norm", 4).expect("a layer");
        b.initialise(1).expect("parameters");
        let start = |v: f32| Tensor::full(v, 4, &Device::Cpu).expect("a tensor");
        let candles = BatchNorm::new(4, start(0.0), start(1.0), start(1.0), start(0.0), EPSILON).expect("candle's");
        let batch = || Tensor::randn(2f32, 3.0, (5, 4, 3, 3), &Device::Cpu).expect("a batch");
        for _ in 0..2 {
            let x = batch();
            ours.forward_t(&x, true).expect("values");
            candles.forward_t(&x, true).expect("values");
        }
        let close = |a: &[f32], b: &[f32]| {
            assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5 * b.abs().max(1.0)), "{a:?} {b:?}");
        };
        close(&values(&b, "norm.norm.mean"), &candles.running_mean().to_vec1().expect("means"));
        close(&values(&b, "norm.norm.variance"), &candles.running_var().to_vec1().expect("variances"));
        let x = batch();
        let [ours, candles] = [ours.forward_t(&x, false), candles.forward_t(&x, false)]
            .map(|y| y.and_then(|y| y.flatten_all()?.to_vec1::<f32>()).expect("values"));
        close(&ours, &candles);
    }
}
