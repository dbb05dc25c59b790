//! A whole batch normalisation with its activation, against the composition in f64: values, gradients, running
//! statistics, in training, frozen and in evaluation.

use drop_activation::fused::{BatchNorm, Centred, Gradient, Preactivation, Running, Shape, Sums, cpu};
use drop_activation::half::{bf16, f16};
use drop_activation::{Activation, DropActivation, Element, Error, MaskKey, PackedMask, Real};

use crate::data::{Random, of_f64};

const EPS: f64 = 1e-4;
const MOMENTUM: f64 = 0.3;

struct Case<T: Element> {
    shape: Shape,
    op: DropActivation,
    x: Vec<T>,
    r: Vec<T>,
    dy: Vec<T>,
    weight: Vec<T::Real>,
    bias: Vec<T::Real>,
    /// Mean and variance.
    running: [Vec<T::Real>; 2],
}

fn wide<T: Element>(values: &[T]) -> Vec<f64> {
    values.iter().map(|value| value.to_real().to_f64()).collect()
}

fn reals<R: Real>(values: &[R]) -> Vec<f64> {
    values.iter().map(|value| value.to_f64()).collect()
}

impl<T: Element<Real: From<f32>>> Case<T> {
    fn new(shape: Shape, op: DropActivation, seed: u64) -> Self {
        let mut random = Random(seed);
        let mut tensor = |mean: f64| -> Vec<T> { (0..shape.len()).map(|_| of_f64(mean + random.normal())).collect() };
        let (x, r, dy) = (tensor(3.0), tensor(0.0), tensor(0.5));
        let mut vector = |mean: f64| -> Vec<T::Real> {
            (0..shape.channels()).map(|_| T::Real::from_f64(mean + 0.3 * random.uniform())).collect()
        };
        let (weight, bias, running) = (vector(1.0), vector(0.0), [vector(2.0), vector(1.5)]);
        Self { shape, op, x, r, dy, weight, bias, running }
    }
}

/// What comes out, in f64.
#[derive(Default)]
struct Results {
    y: Vec<f64>,
    dx: Vec<f64>,
    dr: Vec<f64>,
    weight: Vec<f64>,
    bias: Vec<f64>,
    running: [Vec<f64>; 2],
}

fn fused<T: Element<Real: From<f32>>>(case: &Case<T>, frozen: bool) -> (Results, PackedMask) {
    let Case { shape, op, x, r, dy, .. } = case;
    let norm = BatchNorm { weight: Some(&case.weight), bias: Some(&case.bias), eps: EPS };
    let [mut mean, mut variance] = case.running.clone();
    let normalised = if frozen {
        norm.with_statistics(*shape, &mean, &variance).unwrap()
    } else {
        let running = Running { mean: &mut mean, variance: &mut variance, momentum: MOMENTUM };
        norm.of_batch(*shape, x, Some(running)).unwrap()
    };
    let before = normalised.before(Some(r));
    let (mut y, mut dx, mut dr) = (vec![T::default(); x.len()], dy.clone(), vec![T::default(); x.len()]);
    let mask = cpu::forward(op, MaskKey::new(1, 2), *shape, &before, (x, &mut y)).unwrap();
    let z = (op.activation() != Activation::Relu).then_some(Preactivation { x, before });
    let by = Gradient::Training(op, &mask, z);
    let gradients = normalised.backward(*shape, &by, x, &mut dx, Some(&mut dr)).unwrap();
    let results = Results {
        y: wide(&y),
        dx: wide(&dx),
        dr: wide(&dr),
        weight: reals(&gradients.weight),
        bias: reals(&gradients.bias),
        running: [reals(&mean), reals(&variance)],
    };
    (results, mask)
}

/// The textbook's formulas, channel by channel, with the same mask.
fn composed<T: Element<Real: From<f32>>>(case: &Case<T>, frozen: bool, mask: &PackedMask) -> Results {
    let Case { shape, op, .. } = case;
    let (x, r, dy) = (wide(&case.x), wide(&case.r), wide(&case.dy));
    let (weight, bias) = (reals(&case.weight), reals(&case.bias));
    let empty = vec![0.0; x.len()];
    let mut results = Results { y: empty.clone(), dx: empty.clone(), dr: empty, ..Results::default() };
    results.running = case.running.each_ref().map(|vector| reals(vector));
    let count = shape.count() as f64;
    for c in 0..shape.channels() {
        let of_channel: Vec<usize> = (0..x.len()).filter(|i| i / shape.inner() % shape.channels() == c).collect();
        let sum = |f: &dyn Fn(usize) -> f64| of_channel.iter().map(|i| f(*i)).sum::<f64>();
        let (mean, variance) = if frozen {
            (results.running[0][c], results.running[1][c])
        } else {
            let mean = sum(&|i| x[i]) / count;
            (mean, sum(&|i| (x[i] - mean).powi(2)) / count)
        };
        let deviation = (variance + EPS).sqrt();
        let normal = |i: usize| (x[i] - mean) / deviation;
        let z = |i: usize| normal(i) * weight[c] + bias[c] + r[i];
        let dz = |i: usize| {
            let bit = mask.words()[i / 32] >> (i % 32) & 1 == 1;
            match (op.activation(), bit) {
                (Activation::Relu, pass) => dy[i] * f64::from(u8::from(pass)),
                (activation, true) => dy[i] * z(i).derivative(activation),
                (_, false) => dy[i],
            }
        };
        let (of_bias, of_weight) = (sum(&dz), sum(&|i| dz(i) * normal(i)));
        for &i in &of_channel {
            let bit = mask.words()[i / 32] >> (i % 32) & 1 == 1;
            results.y[i] = match (op.activation(), bit) {
                (Activation::Relu, pass) => z(i) * f64::from(u8::from(pass)),
                (activation, true) => z(i).sigma(activation),
                (_, false) => z(i),
            };
            results.dr[i] = dz(i);
            let through_statistics = if frozen { 0.0 } else { of_bias / count + normal(i) * of_weight / count };
            results.dx[i] = weight[c] / deviation * (dz(i) - through_statistics);
        }
        results.weight.push(of_weight);
        results.bias.push(of_bias);
        if !frozen {
            let batch = [mean, variance * count / (count - 1.0)];
            for (running, batch) in results.running.iter_mut().zip(batch) {
                running[c] += MOMENTUM * (batch - running[c]);
            }
        }
    }
    results
}

fn a_block_is_its_composition<T: Element<Real: From<f32>>>(element: f64, real: f64) {
    for activation in Activation::ALL {
        let op = DropActivation::new(activation, 0.8).unwrap();
        for (outer, channels, inner) in [(37, 5, 1), (4, 3, 49), (3000, 2, 1)] {
            let case = Case::<T>::new(Shape::new(outer, channels, inner).unwrap(), op, 11);
            for frozen in [false, true] {
                let (given, mask) = fused(&case, frozen);
                let expected = composed(&case, frozen, &mask);
                let what = format!("{} {op} {:?} frozen {frozen}", T::DTYPE.name(), case.shape);
                let near = |name: &str, given: &[f64], expected: &[f64], unit: f64, size: f64| {
                    assert_eq!(given.len(), expected.len(), "{what}: {name}");
                    for (i, (given, expected)) in given.iter().zip(expected).enumerate() {
                        let error = (given - expected).abs();
                        let allowed = unit * (size + expected.abs());
                        assert!(error <= allowed, "{what}: {name}[{i}] is {given}, not {expected}");
                    }
                };
                // Values are of the order of 1. Sums are of `count` of them.
                let count = case.shape.count() as f64;
                near("y", &given.y, &expected.y, element, 4.0);
                near("dr", &given.dr, &expected.dr, element, 4.0);
                near("dx", &given.dx, &expected.dx, element, 8.0);
                near("dweight", &given.weight, &expected.weight, real, 8.0 * count);
                near("dbias", &given.bias, &expected.bias, real, 8.0 * count);
                near("running mean", &given.running[0], &expected.running[0], real, 4.0);
                near("running variance", &given.running[1], &expected.running[1], real, 4.0);
            }
        }
    }
}

const U32: f64 = 1.0 / (1u64 << 24) as f64;
const U64: f64 = 1.0 / (1u64 << 53) as f64;

#[test]
fn in_f32() {
    a_block_is_its_composition::<f32>(4.0 * U32, 8.0 * U32);
}

#[test]
fn in_f64() {
    a_block_is_its_composition::<f64>(16.0 * U64, 32.0 * U64);
}

/// In 16 bits, results are rounded once, and dz is not.
#[test]
fn in_16_bits() {
    a_block_is_its_composition::<f16>(1.0 / 2048.0, 8.0 * U32);
    a_block_is_its_composition::<bf16>(1.0 / 256.0, 8.0 * U32);
}

/// In evaluation z is that of the running statistics, and the activation its expectation.
#[test]
fn evaluation() {
    let op = DropActivation::relu(0.75).unwrap();
    let case = Case::<f64>::new(Shape::new(6, 2, 3).unwrap(), op, 12);
    let norm = BatchNorm { weight: Some(&case.weight), bias: None, eps: EPS };
    let normalised = norm.with_statistics(case.shape, &case.running[0], &case.running[1]).unwrap();
    let mut y = vec![0.0; case.x.len()];
    cpu::infer(&op, case.shape, &normalised.before(None), (&case.x, &mut y)).unwrap();
    for (i, y) in y.iter().enumerate() {
        let c = i / 3 % 2;
        let z = (case.x[i] - case.running[0][c]) / (case.running[1][c] + EPS).sqrt() * case.weight[c];
        let expected = if z <= 0.0 { 0.25 * z } else { z };
        assert!((y - expected).abs() < 1e-14, "{y} {expected}");
    }
}

/// In parts, as who puts something of their own between the passes calls them: the same bits.
#[test]
fn in_parts() {
    let (shape, op) = (Shape::new(7, 5, 6).unwrap(), DropActivation::relu(0.7).unwrap());
    let Case { x, dy, weight, bias, .. } = Case::<f32>::new(shape, op, 9);
    let norm = BatchNorm { weight: Some(&weight), bias: Some(&bias), eps: EPS };
    let whole = norm.of_batch(shape, &x, None).unwrap();
    let statistics = cpu::statistics(shape, &x).unwrap();
    let parts = norm.with_batch_statistics(shape, &statistics.mean, &statistics.variance).unwrap();
    let mut y = vec![0.0; x.len()];
    let mask = cpu::forward(&op, MaskKey::new(1, 2), shape, &whole.before(None), (&x, &mut y)).unwrap();
    let by = Gradient::Training(&op, &mask, None);
    let (mut expected, mut dx) = (vec![0.0; x.len()], vec![0.0; x.len()]);
    let of_parameters = whole.backward(shape, &by, &x, (&dy, &mut expected), None).unwrap();

    let centred = Centred { x: &x, mean: &statistics.mean };
    let sums = cpu::reduce(shape, &dy, &by, Some(&centred), None).unwrap();
    let (vectors, gradients) = parts.gradients(shape, &sums).unwrap();
    cpu::backward(shape, &by, &vectors.of(&parts, &x), (&dy, &mut dx)).unwrap();
    assert_eq!((dx, gradients), (expected, of_parameters));
    assert!(vectors.rest.is_some(), "the statistics depend on x");
    let frozen = norm.with_statistics(shape, &statistics.mean, &statistics.variance).unwrap();
    assert_eq!(frozen.gradients(shape, &sums).unwrap().0.rest, None);

    let refused = |shape: Shape, sums: &Sums<f32>| parts.gradients(shape, sums).unwrap_err();
    let vector = |argument, given, channels| Error::ChannelVector { argument, given, channels };
    assert_eq!(refused(Shape::new(7, 6, 5).unwrap(), &sums), vector("mean", 5, 6));
    assert_eq!(refused(shape, &Sums { product: None, ..sums.clone() }), vector("product", 0, 5));
    assert_eq!(refused(shape, &Sums { gradient: vec![1.0; 4], ..sums }), vector("gradient", 4, 5));
    assert_eq!(norm.with_batch_statistics(shape, &[1.0; 4], &[1.0; 5]).unwrap_err(), vector("mean", 4, 5));
}

#[test]
fn bad_input_is_refused() {
    let shape = Shape::new(4, 2, 1).unwrap();
    let (x, two, three) = ([1f32; 8], [1f32; 2], [1f32; 3]);
    let norm = BatchNorm { weight: Some(&two[..]), bias: Some(&two[..]), eps: 1e-5 };
    for eps in [0.0, -0.0, -1.0, f64::NAN, f64::INFINITY] {
        let given = BatchNorm { eps, ..norm }.of_batch(shape, &x, None).unwrap_err();
        assert!(matches!(given, Error::Epsilon { eps: named } if named.to_bits() == eps.to_bits()), "{given}");
    }
    let vector = |argument| Error::ChannelVector { argument, given: 3, channels: 2 };
    let refused = |norm: BatchNorm<'_, f32>| norm.of_batch(shape, &x, None).unwrap_err();
    assert_eq!(refused(BatchNorm { weight: Some(&three), ..norm }), vector("weight"));
    assert_eq!(refused(BatchNorm { bias: Some(&three), ..norm }), vector("bias"));
    assert_eq!(norm.with_statistics(shape, &three, &two).unwrap_err(), vector("mean"));
    assert_eq!(norm.with_statistics(shape, &two, &three).unwrap_err(), vector("variance"));

    let (mut mean, mut variance) = ([5f32; 2], [6f32; 2]);
    let mut moved = |shape: Shape, x: &[f32], momentum| {
        let running = Running { mean: &mut mean, variance: &mut variance, momentum };
        let error = norm.of_batch(shape, x, Some(running)).unwrap_err();
        assert_eq!((mean, variance), ([5.0; 2], [6.0; 2]), "{error}");
        error
    };
    assert_eq!(moved(shape, &x, 1.5), Error::Momentum { momentum: 1.5 });
    assert!(matches!(moved(shape, &x, f64::NAN), Error::Momentum { .. }));
    assert_eq!(moved(Shape::new(1, 2, 1).unwrap(), &x[..2], 0.1), Error::OneElement { channels: 2 });
    let length = Error::ShapeLength { argument: "x", given: 7, outer: 4, channels: 2, inner: 1 };
    assert_eq!(moved(shape, &x[..7], 0.1), length);

    let normalised = norm.of_batch(shape, &x, None).unwrap();
    let (mut dx, mut dr) = ([7f32; 8], [7f32; 7]);
    let error = normalised.backward(shape, &Gradient::Given, &x, (&x, &mut dx), Some(&mut dr)).unwrap_err();
    assert_eq!(error, Error::ShapeLength { argument: "dr", given: 7, outer: 4, channels: 2, inner: 1 });
    assert_eq!((dx, dr), ([7.0; 8], [7.0; 7]));
}
