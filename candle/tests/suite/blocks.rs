//! A block of a WideResNet and one of a ResNet, convolutions and all, train for ten steps as their compositions of
//! candle's operations do, with the same masks.

use candle_core::{DType, Device, Result, Tensor, Var};
use drop_activation_candle::{BatchNormDropActivation, DropActivation, MaskKey};

use crate::batch_norm::{compose, layer, parameters, var};
use crate::composition::{distance, values};

const CHANNELS: usize = 4;
const STEPS: usize = 10;
const RATE: f64 = 0.02;

/// What stands between two convolutions.
trait Norm {
    fn forward(&self, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor>;
}

impl Norm for BatchNormDropActivation {
    fn forward(&self, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        self.forward_with_residual(x, residual, true)
    }
}

/// The same made of candle's operations, with the key of the step.
struct Composition<'a> {
    op: DropActivation,
    step: usize,
    parameters: &'a [Var; 4],
}

impl Norm for Composition<'_> {
    fn forward(&self, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        compose(&self.op, MaskKey::new(5, self.step as u64), false, self.parameters, x, residual)
    }
}

/// What is trained: three convolutions, the parameters of two normalisations, and a linear map behind the block.
struct Parameters {
    convolutions: [Var; 3],
    norms: [[Var; 4]; 2],
    last: Var,
}

impl Parameters {
    fn new() -> Result<Self> {
        let convolution = |seed, from: usize| {
            let weights = values(CHANNELS * from * 9, seed).into_iter().map(|v| v / 6.0).collect();
            var(weights, &[CHANNELS, from, 3, 3], DType::F64)
        };
        Ok(Self {
            convolutions: [convolution(2, 2)?, convolution(3, CHANNELS)?, convolution(4, CHANNELS)?],
            norms: [parameters(CHANNELS, DType::F64)?, parameters(CHANNELS, DType::F64)?],
            last: var(values(CHANNELS, 6).into_iter().map(|v| v / 8.0).collect(), &[CHANNELS, 1], DType::F64)?,
        })
    }

    /// Those that a gradient moves.
    fn trained(&self) -> Vec<&Var> {
        let of_norms = self.norms.iter().flat_map(|[weight, bias, ..]| [weight, bias]);
        self.convolutions.iter().chain(of_norms).chain([&self.last]).collect()
    }

    fn loss(&self, wide: bool, norms: [&dyn Norm; 2], x: &Tensor, target: &Tensor) -> Result<Tensor> {
        let convolved = |x: &Tensor, i: usize| x.conv2d(&self.convolutions[i], 1, 1, 1, 1);
        let x = convolved(x, 0)?;
        let y = if wide {
            // The activations stand before the convolutions, and nothing behind the sum.
            let inner = convolved(&norms[0].forward(&x, None)?, 1)?;
            (&x + convolved(&norms[1].forward(&inner, None)?, 2)?)?
        } else {
            let inner = norms[0].forward(&convolved(&x, 1)?, None)?;
            norms[1].forward(&convolved(&inner, 2)?, Some(&x))?
        };
        (y.mean((2, 3))?.matmul(&self.last)? - target)?.sqr()?.mean_all()
    }

    fn step(&self, loss: &Tensor) -> Result<f64> {
        let gradients = loss.backward()?;
        for var in self.trained() {
            var.set(&(var.as_tensor() - (gradients.get(var).expect("it is used") * RATE)?)?)?;
        }
        loss.to_scalar()
    }
}

fn trains_as_its_composition(wide: bool) -> Result<()> {
    let op = DropActivation::relu(0.8).unwrap();
    let x = Tensor::from_vec(values(6 * 2 * 5 * 5, 1), (6, 2, 5, 5), &Device::Cpu)?;
    let target = (x.mean((1, 2, 3))?.reshape((6, 1))? * 4.0)?;
    let (ours, theirs) = (Parameters::new()?, Parameters::new()?);
    let layers = [layer(op, &ours.norms[0])?, layer(op, &ours.norms[1])?];
    let mut losses = Vec::new();
    for step in 0..STEPS {
        let loss = ours.step(&ours.loss(wide, [&layers[0], &layers[1]], &x, &target)?)?;
        let composed = theirs.norms.each_ref().map(|parameters| Composition { op, step, parameters });
        let expected = theirs.step(&theirs.loss(wide, [&composed[0], &composed[1]], &x, &target)?)?;
        assert!((loss - expected).abs() <= 1e-10 * expected.abs(), "step {step}: {loss} and {expected}");
        losses.push(loss);
    }
    assert!(losses[STEPS - 1] < losses[0], "{losses:?}");
    let running = |of: &Parameters| {
        of.norms.iter().flat_map(|[.., mean, variance]| [mean.clone(), variance.clone()]).collect::<Vec<_>>()
    };
    let (given, expected) = (running(&ours), running(&theirs));
    for (ours, theirs) in ours.trained().into_iter().chain(&given).zip(theirs.trained().into_iter().chain(&expected)) {
        assert!(distance(ours, theirs)? < 1e-10);
    }
    Ok(())
}

#[test]
fn a_block_of_a_wide_resnet_trains_as_its_composition() -> Result<()> {
    trains_as_its_composition(true)
}

#[test]
fn a_block_of_a_resnet_trains_as_its_composition() -> Result<()> {
    trains_as_its_composition(false)
}
