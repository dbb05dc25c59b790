//! A network of two layers: its gradients are the slopes of its loss, and one value switches its nonlinearity.

use candle_core::{DType, Device, ModuleT, Result, Tensor, Var};
use drop_activation_candle::{Activation, ActivationLayer, KeySequence, MaskKey, Nonlinearity, RRelu};

use crate::composition::values;
use crate::devices::devices;

struct Network {
    weights: [Var; 2],
    activation: ActivationLayer,
}

impl Network {
    fn new(nonlinearity: Nonlinearity, device: &Device) -> Result<Self> {
        let weight = |shape: (usize, usize), seed| {
            Var::from_tensor(&(Tensor::from_vec(values(shape.0 * shape.1, seed), shape, device)? * 0.2)?)
        };
        Ok(Self {
            weights: [weight((5, 8), 1)?, weight((8, 3), 2)?],
            activation: nonlinearity.layer(KeySequence::new(0)),
        })
    }

    /// The activation behind both layers; with masks of the keys (11, 0) and (11, 1) in training.
    fn loss(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let mut h = x.clone();
        for (i, weight) in self.weights.iter().enumerate() {
            h = h.matmul(weight)?;
            h = if train {
                self.activation.forward_with_key(&h, MaskKey::new(11, i as u64))?
            } else {
                self.activation.forward_t(&h, false)?
            };
        }
        h.sqr()?.mean_all()
    }
}

fn all() -> Result<Vec<Nonlinearity>> {
    let mut all = vec![Nonlinearity::Relu, RRelu::default().into()];
    for activation in Activation::ALL {
        all.push(Nonlinearity::drop_activation(activation, 0.7)?);
    }
    Ok(all)
}

#[test]
fn gradients_are_central_differences() -> Result<()> {
    const STEP: f64 = 1e-6;
    for device in devices() {
        let x = Tensor::from_vec(values(4 * 5, 3), (4, 5), &device)?;
        for nonlinearity in all()? {
            let network = Network::new(nonlinearity, &device)?;
            for train in [true, false] {
                let gradients = network.loss(&x, train)?.backward()?;
                for (layer, weight) in network.weights.iter().enumerate() {
                    let gradient = gradients.get(weight).expect("a gradient").flatten_all()?.to_vec1::<f64>()?;
                    let at = weight.flatten_all()?.to_vec1::<f64>()?;
                    for i in 0..at.len() {
                        let loss_at = |value: f64| -> Result<f64> {
                            let mut moved = at.clone();
                            moved[i] = value;
                            weight.set(&Tensor::from_vec(moved, weight.shape(), &device)?)?;
                            network.loss(&x, train)?.to_scalar::<f64>()
                        };
                        let slope = (loss_at(at[i] + STEP)? - loss_at(at[i] - STEP)?) / (2.0 * STEP);
                        let off = (gradient[i] - slope).abs() / (1.0 + slope.abs());
                        assert!(off < 1e-7, "{nonlinearity}, train = {train}, weight {i} of layer {layer}: {off}");
                    }
                    weight.set(&Tensor::from_vec(at, weight.shape(), &device)?)?;
                }
            }
        }
    }
    Ok(())
}

/// The same network and the same steps, three nonlinearities: each of them learns.
#[test]
fn one_value_switches_the_nonlinearity() -> Result<()> {
    let device = Device::Cpu;
    let x = Tensor::from_vec(values(4 * 5, 3), (4, 5), &device)?;
    let mut trained = Vec::new();
    for nonlinearity in
        [Nonlinearity::Relu, RRelu::default().into(), Nonlinearity::drop_activation(Activation::Relu, 0.95)?]
    {
        let network = Network::new(nonlinearity, &device)?;
        let before = network.loss(&x, false)?.to_scalar::<f64>()?;
        for _ in 0..20 {
            let gradients = network.loss(&x, true)?.backward()?;
            for weight in &network.weights {
                weight.set(&(weight.as_tensor() - (gradients.get(weight).expect("a gradient") * 0.01)?)?)?;
            }
        }
        let after = network.loss(&x, false)?.to_scalar::<f64>()?;
        assert!(after < 0.5 * before, "{nonlinearity}: {before} before, {after} after");
        assert_eq!(network.activation.nonlinearity(), nonlinearity);
        trained.push(after);
    }
    assert!(trained[0] != trained[1] && trained[1] != trained[2], "{trained:?}");
    Ok(())
}

/// An element type that candle computes in itself, end to end.
#[test]
fn half_precision_flows_through() -> Result<()> {
    let x = Var::from_tensor(&Tensor::from_vec(values(4 * 5, 3), (4, 5), &Device::Cpu)?.to_dtype(DType::BF16)?)?;
    let layer = Nonlinearity::drop_activation(Activation::Silu, 0.5)?.layer(KeySequence::new(0));
    let y = layer.forward_t(&x, true)?.t()?.contiguous()?.sum_all()?;
    assert_eq!((y.dtype(), y.backward()?.get(&x).expect("a gradient").dtype()), (DType::BF16, DType::BF16));
    Ok(())
}
