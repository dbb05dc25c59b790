//! Gradients against central differences, in f64: the backward passes are the derivatives of the
//! forward passes, in training (with the mask held fixed) and at inference.

use drop_activation::{Activation, DropActivation, MaskKey, RRelu};

use crate::backend::{Backend, Call};
use crate::data::Rng;
use crate::passes::{Placement, run};

const STEP: f64 = 1e-5;

/// Truncation is of the order STEP^2, rounding of the order 2^-52 / STEP: both near 1e-10 here.
const TOLERANCE: f64 = 1e-9;

/// `dx` must be `dy` times the slope of `forward` at every x.
fn check(backend: &dyn Backend, forward: &Call<f64>, x: &[f64], dx: &[f64], dy: &[f64]) {
    let shifted = |by: f64| {
        let x: Vec<f64> = x.iter().map(|x| x + by).collect();
        run(backend, forward, &x, Placement::default()).0
    };
    let (above, below) = (shifted(STEP), shifted(-STEP));
    for i in 0..x.len() {
        let slope = (above[i] - below[i]) / ((x[i] + STEP) - (x[i] - STEP));
        let off = (dx[i] - dy[i] * slope).abs();
        let what = || format!("{} {forward:?} at {}: dx = {}", backend.name(), x[i], dx[i]);
        assert!(off <= TOLERANCE * dy[i].abs().max(1.0), "{}, differences give {}", what(), dy[i] * slope);
    }
}

/// Numbers away from the corner at zero, where ReLU has no derivative.
fn inputs() -> (Vec<f64>, Vec<f64>) {
    let mut rng = Rng::new(31);
    let x: Vec<f64> = (0..1500).map(|_| 2.0 * rng.normal()).map(|x: f64| x + 0.01f64.copysign(x)).collect();
    let dy = (0..x.len()).map(|_| rng.normal()).collect();
    (x, dy)
}

pub fn drop_activation(backend: &dyn Backend) {
    let (x, dy) = inputs();
    let key = MaskKey::new(32, 33);
    for activation in Activation::ALL {
        for p in [0.0, 0.5, 0.95, 1.0] {
            let op = DropActivation::new(activation, p).unwrap();
            let forward = Call::Forward(op, key);
            let (y, mask) = run(backend, &forward, &x, Placement::default());
            let saved = activation.backward_needs_input().then_some(&x[..]);
            let backward = Call::Backward(op, mask.as_ref().unwrap(), saved);
            check(backend, &forward, &x, &run(backend, &backward, &dy, Placement::default()).0, &dy);

            if activation == Activation::Relu {
                let backward = Call::BackwardFromOutput(op, &y);
                check(backend, &forward, &x, &run(backend, &backward, &dy, Placement::default()).0, &dy);
            }

            let backward = Call::InferBackward(op, &x);
            let dx = run(backend, &backward, &dy, Placement::default()).0;
            check(backend, &Call::Infer(op), &x, &dx, &dy);
        }
    }
}

pub fn relu_and_rrelu(backend: &dyn Backend) {
    let (x, dy) = inputs();
    let op = RRelu::default();
    let forward = Call::RreluForward(op, MaskKey::new(34, 35));
    let (_, mask) = run(backend, &forward, &x, Placement::default());
    let backward = Call::RreluBackward(op, mask.as_ref().unwrap());
    check(backend, &forward, &x, &run(backend, &backward, &dy, Placement::default()).0, &dy);

    let backward = Call::RreluInferBackward(op, &x);
    check(backend, &Call::RreluInfer(op), &x, &run(backend, &backward, &dy, Placement::default()).0, &dy);

    let (y, _) = run(backend, &Call::ReluForward, &x, Placement::default());
    let dx = run(backend, &Call::ReluBackward(&y), &dy, Placement::default()).0;
    check(backend, &Call::ReluForward, &x, &dx, &dy);
}
