//! Train a residual block whose batch normalisations have Drop-Activation in them, and compare with operations of their
//! own.
//!
//!     cargo run --release -p drop-activation-candle --example 02_batch_norm

use candle_core::{DType, Device, ModuleT, Result, Tensor, Var};
use drop_activation_candle::{BatchNormDropActivation, DropActivation, KeySequence};

const CHANNELS: usize = 32;

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

fn main() -> Result<()> {
    // Waves instead of random numbers.
    let wave = |rows: usize, columns: usize, pace: f64| -> Result<Tensor> {
        let t = Tensor::arange(0u32, (rows * columns) as u32, &Device::Cpu)?.to_dtype(DType::F32)?;
        ((t * pace)?.sin()? / (rows as f64).sqrt())?.reshape((rows, columns))
    };
    let x = (wave(256, 2, 0.37)? * 16.0)?;
    let target = x.sqr()?.mean_keepdim(1)?;

    let enter = Var::from_tensor(&wave(2, CHANNELS, 1.7)?)?;
    let inside = Var::from_tensor(&wave(CHANNELS, CHANNELS, 1.3)?)?;
    let leave = Var::from_tensor(&wave(CHANNELS, 1, 1.1)?)?;
    let (first, second) = (Norm::new(1)?, Norm::new(2)?);
    let network = |train: bool| -> Result<Tensor> {
        let entered = first.layer.forward_t(&x.matmul(&enter)?, train)?;
        // The block's input is added between normalisation and activation, in the same pass.
        let block = second.layer.forward_with_residual(&entered.matmul(&inside)?, Some(&entered), train)?;
        block.matmul(&leave)
    };
    let loss = |train: bool| (network(train)? - &target)?.sqr()?.mean_all();

    let before = loss(true)?.to_scalar::<f32>()?;
    let variables = [&enter, &inside, &leave, &first.weight, &first.bias, &second.weight, &second.bias];
    for _ in 0..200 {
        let gradients = loss(true)?.backward()?;
        for variable in variables {
            let gradient = gradients.get(variable).expect("every parameter is used");
            variable.set(&(variable.as_tensor() - (gradient * 0.01)?)?)?;
        }
    }
    let after = loss(false)?.to_scalar::<f32>()?;
    println!("loss {before:.4} before, {after:.4} after 200 steps, at inference");
    assert!(after < before / 2.0);
    Ok(())
}
