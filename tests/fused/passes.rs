//! The elementwise passes are the unfused ones on the same z, with its masks, bit for bit.

use drop_activation::fused::{Before, Centred, Gradient, Linear, Preactivation, Rest, Shape, reference as fused};
use drop_activation::half::{bf16, f16};
use drop_activation::{Activation, DropActivation, Element, MaskKey, Real, reference};

use crate::data::{Random, of_f64};

/// Channels-first, with a last word that is not full.
fn shape() -> Shape {
    Shape::new(5, 3, 23).unwrap()
}

/// With NaN, both zeros, infinities, and z that is zero.
fn tensor<T: Element<Real: From<f32>>>(seed: u64) -> Vec<T> {
    let mut random = Random(seed);
    let edges = [f64::NAN, 0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY, 2.0, -2.0];
    let mut value = |i: usize| if i % 11 < 2 { edges[i / 11 % edges.len()] } else { 3.0 * random.normal() };
    (0..shape().len()).map(|i| of_f64(value(i))).collect()
}

fn same<T: Element<Real: From<f32>>>(a: T, b: T) -> bool {
    let (a, b) = (a.to_real().to_f64(), b.to_real().to_f64());
    a.is_nan() && b.is_nan() || a.to_bits() == b.to_bits()
}

fn assert_same<T: Element<Real: From<f32>>>(what: &str, given: &[T], expected: &[T]) {
    assert_eq!(given.len(), expected.len(), "{what}");
    for (i, (given, expected)) in given.iter().zip(expected).enumerate() {
        assert!(same(*given, *expected), "{what}: element {i} is {given:?}, not {expected:?}");
    }
}

fn rounded<T: Element>(values: &[T::Real]) -> Vec<T> {
    values.iter().map(|value| T::from_real(*value)).collect()
}

fn ops() -> Vec<DropActivation> {
    let of = |activation| [0.0, 0.7, 1.0].map(|p| DropActivation::new(activation, p).unwrap());
    Activation::ALL.into_iter().flat_map(of).collect()
}

/// A type of the arithmetic is an element type too.
trait Arithmetic: Real + Element<Real = Self> + From<f32> {}

impl Arithmetic for f32 {}

impl Arithmetic for f64 {}

fn passes_are_the_unfused_ones<T: Element<Real: Arithmetic>>() {
    let shape = shape();
    let (x, r, dy): (Vec<T>, Vec<T>, Vec<T>) = (tensor(1), tensor(2), tensor(3));
    let scale: Vec<T::Real> = [2.0, -0.7, 0.0].map(T::Real::from_f64).into();
    let shift: Vec<T::Real> = [0.3, 4.0, -0.5].map(T::Real::from_f64).into();
    let key = MaskKey::new(9, 4);
    for bits in 0..8u32 {
        let given = |bit: u32| bits >> bit & 1 == 1;
        let before = Before {
            scale: given(0).then_some(&scale[..]),
            shift: given(1).then_some(&shift[..]),
            residual: given(2).then_some(&r[..]),
        };
        let z = Preactivation { x: &x, before };
        // In plain words, and with the channel counted and not computed.
        let mut real = Vec::new();
        for (row, chunk) in x.chunks(shape.inner()).enumerate() {
            let c = row % shape.channels();
            for x in chunk {
                let x = x.to_real();
                let v = match (given(0), given(1)) {
                    (true, true) => scale[c].mul_add(x, shift[c]),
                    (true, false) => scale[c] * x,
                    (false, true) => x + shift[c],
                    (false, false) => x,
                };
                real.push(if given(2) { v + r[real.len()].to_real() } else { v });
            }
        }
        for op in ops() {
            let what = format!("{} {op}, inputs {bits:03b}", T::DTYPE.name());
            let (y, mask) = fused::forward(&op, key, shape, &z).unwrap();
            let (expected, expected_mask) = reference::forward::<T::Real>(&op, key, &real).unwrap();
            assert_eq!(mask, expected_mask, "{what}");
            assert_same(&format!("{what}: y"), &y, &rounded(&expected));
            let y = fused::infer(&op, shape, &z).unwrap();
            assert_same(&format!("{what}: inference"), &y, &rounded(&reference::infer::<T::Real>(&op, &real)));

            let real_dy: Vec<T::Real> = dy.iter().map(|dy| dy.to_real()).collect();
            let needed = (op.activation() != Activation::Relu).then_some(z);
            let dz = reference::backward::<T::Real>(&op, &mask, Some(&real), &real_dy).unwrap();
            backward_of(&what, &x, &dy, &Gradient::Training(&op, &mask, needed), &dz);
            let dz = reference::infer_backward::<T::Real>(&op, &real, &real_dy).unwrap();
            backward_of(&format!("{what}, inference"), &x, &dy, &Gradient::Inference(&op, z), &dz);
        }
    }
}

/// The backward passes, given what dz is.
fn backward_of<T: Element<Real: Real + From<f32>>>(what: &str, x: &[T], dy: &[T], by: &Gradient<T>, dz: &[T::Real]) {
    let shape = shape();
    let of = |values: [f64; 3]| -> Vec<T::Real> { values.map(T::Real::from_f64).into() };
    let (alpha, beta, gamma, mean) = (of([1.5, -2.0, 0.1]), of([0.2, 3.0, -1.0]), of([0.0, 1.0, -7.0]), of([0.5; 3]));
    let (_, dr) = fused::reduce(shape, dy, by, None, true).unwrap();
    assert_same(&format!("{what}: dr"), &dr.unwrap(), &rounded(dz));
    for bits in 0..4u32 {
        let rest = Rest { beta: &beta, gamma: &gamma, centred: Centred { x, mean: &mean } };
        let linear = Linear { alpha: (bits & 1 == 1).then_some(&alpha[..]), rest: (bits & 2 == 2).then_some(rest) };
        let dx = fused::backward(shape, dy, by, &linear).unwrap();
        let mut expected = Vec::new();
        for (i, dz) in dz.iter().enumerate() {
            let c = i / shape.inner() % shape.channels();
            let rest = beta[c].mul_add(x[i].to_real() - mean[c], gamma[c]);
            expected.push(match bits {
                0 => *dz,
                1 => alpha[c] * *dz,
                2 => *dz + rest,
                _ => alpha[c].mul_add(*dz, rest),
            });
        }
        assert_same(&format!("{what}: dx {bits:02b}"), &dx, &rounded(&expected));
    }
}

#[test]
fn in_f32() {
    passes_are_the_unfused_ones::<f32>();
}

#[test]
fn in_f64() {
    passes_are_the_unfused_ones::<f64>();
}

#[test]
fn in_f16() {
    passes_are_the_unfused_ones::<f16>();
}

#[test]
fn in_bf16() {
    passes_are_the_unfused_ones::<bf16>();
}

/// p = 1 is plain ReLU, of which the mask is one bit for each element too.
#[test]
fn plain_relu_is_p_of_one() {
    let (op, shape) = (DropActivation::relu(1.0).unwrap(), shape());
    let x: Vec<f32> = tensor(5);
    let (y, mask) = fused::forward(&op, MaskKey::new(0, 0), shape, &Preactivation::of(&x)).unwrap();
    assert_same("y", &y, &reference::relu_forward(&x));
    let dy: Vec<f32> = tensor(6);
    let by = Gradient::Training(&op, &mask, None);
    let dx = fused::backward(shape, &dy, &by, &Linear { alpha: None, rest: None }).unwrap();
    assert_same("dx", &dx, &reference::relu_backward(&x, &dy).unwrap());
}
