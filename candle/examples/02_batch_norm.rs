//! Train a block of a ResNet and one of a WideResNet whose batch normalisations have Drop-Activation in them.
//!
//!     cargo run --release -p drop-activation-candle --example 02_batch_norm

use candle_core::{DType, Device, ModuleT, Result, Tensor, Var};
use drop_activation_candle::{BatchNormDropActivation, DropActivation, KeySequence};

const CHANNELS: usize = 8;

/// Waves instead of random numbers.
fn wave(shape: &[usize], pace: f64) -> Result<Tensor> {
    let n = shape.iter().product::<usize>();
    (Tensor::arange(0u32, n as u32, &Device::Cpu)?.to_dtype(DType::F32)? * pace)?.sin()?.reshape(shape)
}

/// A batch normalisation with its parameters, which a training step moves.
struct Norm {
    weight: Var,
    bias: Var,
    layer: BatchNormDropActivation,
}

impl Norm {
    fn new(seed: u64) -> Result<Self> {
        let vector = |value: f32| Var::from_vec(vec![value; CHANNELS], CHANNELS, &Device::Cpu);
        let (weight, bias) = (vector(1.0)?, vector(0.0)?);
        let layer = BatchNormDropActivation::new(
            DropActivation::default(), // ReLU, p = 0.95
            KeySequence::new(seed),
            weight.as_tensor().clone(),
            bias.as_tensor().clone(),
            vector(0.0)?,
            vector(1.0)?,
            1e-5,
            0.1,
        )?;
        Ok(Self { weight, bias, layer })
    }
}

/// Two convolutions and two normalisations.
struct Block {
    convolutions: [Var; 2],
    norms: [Norm; 2],
}

impl Block {
    fn new(seed: u64) -> Result<Self> {
        let kernel = |pace| Var::from_tensor(&(wave(&[CHANNELS, CHANNELS, 3, 3], pace)? / 12.0)?);
        Ok(Self { convolutions: [kernel(1.3)?, kernel(1.7)?], norms: [Norm::new(seed)?, Norm::new(seed + 1)?] })
    }

    fn convolve(&self, x: &Tensor, i: usize) -> Result<Tensor> {
        x.conv2d(&self.convolutions[i], 1, 1, 1, 1)
    }

    /// A ResNet's: x is added before the second activation, in the pass that normalises.
    fn resnet(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let y = self.norms[0].layer.forward_t(&self.convolve(x, 0)?, train)?;
        self.norms[1].layer.forward_with_residual(&self.convolve(&y, 1)?, Some(x), train)
    }

    /// A WideResNet's: both activations stand before their convolutions, and x is added last.
    fn wide_resnet(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let y = self.convolve(&self.norms[0].layer.forward_t(x, train)?, 0)?;
        x + self.convolve(&self.norms[1].layer.forward_t(&y, train)?, 1)?
    }

    fn variables(&self) -> Vec<&Var> {
        self.convolutions.iter().chain(self.norms.iter().flat_map(|norm| [&norm.weight, &norm.bias])).collect()
    }
}

fn main() -> Result<()> {
    let x = (wave(&[16, CHANNELS, 6, 6], 0.37)? * wave(&[16, 1, 1, 1], 1.1)?.broadcast_as((16, CHANNELS, 6, 6))?)?;
    let target = x.sqr()?.mean((1, 2, 3))?.reshape((16, 1))?;
    type Forward = fn(&Block, &Tensor, bool) -> Result<Tensor>;
    let forwards = [("ResNet", Block::resnet as Forward), ("WideResNet", Block::wide_resnet)];
    for (name, forward) in forwards {
        let (block, last) = (Block::new(1)?, Var::from_tensor(&(wave(&[CHANNELS, 1], 1.1)? / 4.0)?)?);
        let loss = |train: bool| -> Result<Tensor> {
            let features = forward(&block, &x, train)?.mean((2, 3))?;
            (features.matmul(&last)? - &target)?.sqr()?.mean_all()
        };
        let before = loss(true)?.to_scalar::<f32>()?;
        for _ in 0..100 {
            let gradients = loss(true)?.backward()?;
            for variable in block.variables().into_iter().chain([&last]) {
                let gradient = gradients.get(variable).expect("every parameter is used");
                variable.set(&(variable.as_tensor() - (gradient * 0.1)?)?)?;
            }
        }
        let after = loss(false)?.to_scalar::<f32>()?;
        println!("{name}'s block: loss {before:.4} before, {after:.4} after 100 steps, at inference");
        assert!(after < before / 2.0);
    }
    Ok(())
}
