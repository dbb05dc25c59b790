//! The backward passes give the derivatives of the forward ones: a whole block with batch normalisation, against
//! central differences in f64.

use drop_activation::fused::{Before, Centred, Gradient, Linear, Preactivation, Rest, Shape, reference};
use drop_activation::{Activation, DropActivation, MaskKey, PackedMask};

use crate::data::Random;

const EPS: f64 = 1e-3;

#[derive(Clone)]
struct Block {
    x: Vec<f64>,
    r: Vec<f64>,
    weight: Vec<f64>,
    bias: Vec<f64>,
}

/// How z comes from x: the statistics, 1 / sqrt(variance + eps), scale and shift.
struct Normalised {
    mean: Vec<f64>,
    inverse: Vec<f64>,
    scale: Vec<f64>,
    shift: Vec<f64>,
}

impl Block {
    fn normalised(&self, shape: Shape) -> Normalised {
        let statistics = reference::statistics(shape, &self.x).unwrap();
        let inverse: Vec<f64> = statistics.variance.iter().map(|variance| 1.0 / (variance + EPS).sqrt()).collect();
        let scale: Vec<f64> = self.weight.iter().zip(&inverse).map(|(w, i)| w * i).collect();
        let shift = (0..scale.len()).map(|c| self.bias[c] - statistics.mean[c] * scale[c]).collect();
        Normalised { mean: statistics.mean, inverse, scale, shift }
    }

    fn preactivation<'a>(&'a self, by: &'a Normalised) -> Preactivation<'a, f64> {
        Preactivation {
            x: &self.x,
            before: Before { scale: Some(&by.scale), shift: Some(&by.shift), residual: Some(&self.r) },
        }
    }

    /// Σ dy y.
    fn loss(&self, op: &DropActivation, key: MaskKey, shape: Shape, dy: &[f64]) -> (f64, PackedMask) {
        let normalised = self.normalised(shape);
        let (y, mask) = reference::forward(op, key, shape, &self.preactivation(&normalised)).unwrap();
        (y.iter().zip(dy).map(|(y, dy)| y * dy).sum(), mask)
    }
}

fn block_with(activation: Activation, shape: Shape) {
    let op = DropActivation::new(activation, 0.8).unwrap();
    let key = MaskKey::new(3, 5);
    let mut random = Random(7);
    let mut values = |n: usize, centre: f64| -> Vec<f64> { (0..n).map(|_| centre + random.normal()).collect() };
    let (n, channels) = (shape.len(), shape.channels());
    let block =
        Block { x: values(n, 3.0), r: values(n, 0.0), weight: values(channels, 1.0), bias: values(channels, 0.0) };
    let dy = values(n, 0.0);

    let normalised = block.normalised(shape);
    let z = block.preactivation(&normalised);
    let (_, mask) = block.loss(&op, key, shape, &dy);
    let by = Gradient::Training(&op, &mask, (activation != Activation::Relu).then_some(z));
    let centred = Centred { x: &block.x, mean: &normalised.mean };
    let (sums, dr) = reference::reduce(shape, &dy, &by, Some(&centred), true).unwrap();
    let (s1, s2, count) = (sums.gradient, sums.product.unwrap(), shape.count() as f64);
    let alpha = &normalised.scale;
    let beta: Vec<f64> = (0..channels).map(|c| -alpha[c] * normalised.inverse[c].powi(2) * s2[c] / count).collect();
    let gamma: Vec<f64> = (0..channels).map(|c| -alpha[c] * s1[c] / count).collect();
    let linear = Linear { alpha: Some(alpha), rest: Some(Rest { beta: &beta, gamma: &gamma, centred }) };
    let dx = reference::backward(shape, &dy, &by, &linear).unwrap();
    let dweight: Vec<f64> = (0..channels).map(|c| normalised.inverse[c] * s2[c]).collect();

    let check = |name: &str, gradient: &[f64], part: fn(&mut Block) -> &mut Vec<f64>| {
        for (i, gradient) in gradient.iter().enumerate() {
            let step = 1e-5;
            let moved = |by: f64| {
                let mut block = block.clone();
                part(&mut block)[i] += by;
                block.loss(&op, key, shape, &dy)
            };
            let ((above, mask_above), (below, mask_below)) = (moved(step), moved(-step));
            if activation == Activation::Relu && mask_above != mask_below {
                continue; // a kink lies between
            }
            let difference = (above - below) / (2.0 * step);
            let error = (gradient - difference).abs();
            assert!(
                error < 1e-7 * (1.0 + gradient.abs()),
                "{op} {name}[{i}] is {gradient}, differences say {difference}"
            );
        }
    };
    check("dx", &dx, |block| &mut block.x);
    check("dr", &dr.unwrap(), |block| &mut block.r);
    check("dweight", &dweight, |block| &mut block.weight);
    check("dbias", &s1, |block| &mut block.bias);
}

#[test]
fn a_block_s_gradients_are_its_derivatives() {
    for activation in Activation::ALL {
        block_with(activation, Shape::new(13, 3, 1).unwrap());
        block_with(activation, Shape::new(4, 2, 5).unwrap());
    }
}

/// At inference z and y depend on x element by element.
#[test]
fn gradients_at_inference_are_derivatives() {
    let shape = Shape::new(6, 2, 3).unwrap();
    let mut random = Random(8);
    let mut values = |n: usize| -> Vec<f64> { (0..n).map(|_| random.normal()).collect() };
    let (x, r, scale, shift, dy) = (values(36), values(36), values(2), values(2), values(36));
    for activation in Activation::ALL {
        let op = DropActivation::new(activation, 0.8).unwrap();
        let y = |x: &[f64]| {
            let z =
                Preactivation { x, before: Before { scale: Some(&scale), shift: Some(&shift), residual: Some(&r) } };
            reference::infer(&op, shape, &z).unwrap()
        };
        let z =
            Preactivation { x: &x, before: Before { scale: Some(&scale), shift: Some(&shift), residual: Some(&r) } };
        let linear = Linear { alpha: Some(&scale), rest: None };
        let dx = reference::backward(shape, &dy, &Gradient::Inference(&op, z), &linear).unwrap();
        for i in 0..shape.len() {
            let at = |by: f64| {
                let mut x = x.clone();
                x[i] += by;
                y(&x)[i]
            };
            let difference = (at(1e-6) - at(-1e-6)) / 2e-6 * dy[i];
            assert!((dx[i] - difference).abs() < 1e-7, "{op}: dx[{i}] is {}, differences say {difference}", dx[i]);
        }
    }
}
