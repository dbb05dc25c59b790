//! Second derivatives: right for what is linear in pieces, an error for the others, never a wrong number. candle
//! computes them where the environment says so when a thread first asks, so this is a program of its own.

use std::process::Command;

use candle_core::{Device, ModuleT, Result, Tensor, Var};
use drop_activation_candle::{
    Activation, ActivationLayer, BatchNormDropActivation, DropActivation, KeySequence, MaskKey, Nonlinearity, RRelu,
};

const VARIABLE: &str = "CANDLE_GRAD_DO_NOT_DETACH";

const X: [f64; 6] = [0.5, -0.75, 1.25, -1.5, 2.0, -2.5];

/// d/dx of `(f(x^3))^2`: the layer's own derivative depends on x, and what comes before and behind it curves.
fn first(layer: &ActivationLayer, x: &Tensor, train: bool) -> Result<Tensor> {
    let cube = x.sqr()?.mul(x)?;
    if train { layer.forward_with_key(&cube, MaskKey::new(1, 2)) } else { layer.forward_t(&cube, false) }?.sqr()
}

#[test]
fn second_derivatives_are_right_or_refused() -> Result<()> {
    if std::env::var_os(VARIABLE).is_none() {
        let this = std::env::current_exe().expect("a path");
        let output = Command::new(this).env(VARIABLE, "1").output().expect("this program again");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return Ok(());
    }
    let kinds = [
        (Nonlinearity::Relu, true),
        (RRelu::default().into(), true),
        (Nonlinearity::drop_activation(Activation::Relu, 0.5)?, true),
        (Nonlinearity::drop_activation(Activation::Tanh, 0.5)?, false),
    ];
    for (nonlinearity, linear_in_pieces) in kinds {
        for train in [true, false] {
            let what = format!("{nonlinearity}, train = {train}");
            let layer = nonlinearity.layer(KeySequence::new(1));
            let x = Var::new(&X, &Device::Cpu)?;
            let dx = first(&layer, &x, train)?.backward()?.get(&x).expect("a gradient").clone();
            let second = dx.backward();
            if !linear_in_pieces {
                let text = second.expect_err("an error").to_string();
                assert!(text.starts_with("backward is not supported"), "{what}: {text}");
                continue;
            }
            // f(u) = s u with a slope s that does not change nearby: (s x^3)^2 has the second derivative 30 s^2 x^4.
            let y = first(&layer, &x, train)?.to_vec1::<f64>()?;
            let second = second?.get(&x).expect("a gradient").to_vec1::<f64>()?;
            for ((x, y), second) in X.iter().zip(y).zip(second) {
                let expected = 30.0 * y / (x * x);
                assert!((second - expected).abs() < 1e-9 * (1.0 + expected.abs()), "{what}: {second} at {x}");
            }
        }
    }
    a_batch_normalisation_has_none()
}

fn a_batch_normalisation_has_none() -> Result<()> {
    let vector = |value: f64| Var::from_vec(vec![value], 1, &Device::Cpu);
    let (weight, bias) = (vector(1.1)?, vector(0.2)?);
    let tensors = (weight.as_tensor().clone(), bias.as_tensor().clone());
    let (op, keys) = (DropActivation::default(), KeySequence::new(1));
    let norm = BatchNormDropActivation::new(op, keys, tensors.0, tensors.1, vector(0.0)?, vector(1.0)?, 1e-5, 0.1)?;
    let x = Var::from_slice(&X, (6, 1), &Device::Cpu)?;
    for residual in [false, true] {
        let cube = x.sqr()?.mul(&x)?;
        let residual = residual.then_some(&cube);
        let gradients = norm.forward_with_residual(&cube, residual, true)?.sqr()?.backward()?;
        for of in [&x, &weight, &bias] {
            let second = gradients.get(of).expect("a gradient").backward();
            let text = second.expect_err("an error").to_string();
            assert!(text.starts_with("backward is not supported"), "{text}");
        }
    }
    Ok(())
}
