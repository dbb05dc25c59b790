//! Train a small network with each of the three nonlinearities that the paper compares, one value apart.
//!
//!     cargo run --release -p drop-activation-candle --example 01_train
//!
//! With `--features cuda` it runs on the first GPU.

use candle_core::{DType, Device, ModuleT, Result, Tensor, Var};
use drop_activation_candle::{Activation, ActivationLayer, KeySequence, Nonlinearity, RRelu};

/// Two layers with an activation between them.
struct Network {
    hidden: Var,
    output: Var,
    activation: ActivationLayer,
}

impl Network {
    fn new(nonlinearity: Nonlinearity, device: &Device) -> Result<Self> {
        // Equal for all three: waves instead of random numbers.
        let wave = |rows: usize, columns: usize| -> Result<Var> {
            let t = Tensor::arange(0u32, (rows * columns) as u32, device)?.to_dtype(DType::F32)?;
            Var::from_tensor(&((t * 1.7)?.sin()? / (rows as f64).sqrt())?.reshape((rows, columns))?)
        };
        let activation = nonlinearity.layer(KeySequence::new(42));
        Ok(Self { hidden: wave(2, 64)?, output: wave(64, 1)?, activation })
    }

    fn parameters(&self) -> [&Var; 2] {
        [&self.hidden, &self.output]
    }
}

impl ModuleT for Network {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        x.matmul(&self.hidden)?.apply_t(&self.activation, train)?.matmul(&self.output)
    }
}

fn main() -> Result<()> {
    let device = Device::cuda_if_available(0)?;

    // The function to learn: |a| of points (a, 1) between -1 and 1.
    let a = ((Tensor::arange(0f32, 256.0, &device)? / 128.0)? - 1.0)?.reshape((256, 1))?;
    let x = Tensor::cat(&[&a, &a.ones_like()?], 1)?;
    let target = a.abs()?;
    let loss = |network: &Network, train| (network.forward_t(&x, train)? - &target)?.sqr()?.mean_all();

    let three = [
        Nonlinearity::Relu,
        Nonlinearity::RRelu(RRelu::default()),
        Nonlinearity::drop_activation(Activation::Relu, 0.95)?,
    ];
    for nonlinearity in three {
        let network = Network::new(nonlinearity, &device)?;
        let before = loss(&network, false)?.to_scalar::<f32>()?;
        for _ in 0..300 {
            let gradients = loss(&network, true)?.backward()?;
            for parameter in network.parameters() {
                let gradient = gradients.get(parameter).expect("every parameter is used");
                parameter.set(&(parameter.as_tensor() - (gradient * 0.02)?)?)?;
            }
        }
        let after = loss(&network, false)?.to_scalar::<f32>()?;
        println!("{nonlinearity}: loss {before:.4} before training, {after:.4} after");

        // All that a checkpoint needs besides the parameters: where the masks go on.
        let keys = network.activation.keys();
        println!("  masks go on at seed {}, offset {}", keys.seed(), keys.next_offset());
    }
    Ok(())
}
