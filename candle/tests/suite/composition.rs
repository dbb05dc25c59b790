//! What a layer computes is what candle's own operations compute with the same mask, and σ as the library has it: values and
//! gradients, for every nonlinearity and element type, in training and at inference.

use candle_core::{DType, Device, ModuleT, Result, Tensor, Var};
use drop_activation_candle::drop_activation::{Real, cpu, reference};
use drop_activation_candle::{Activation, DropActivation, KeySequence, MaskKey, Nonlinearity, RRelu};

use crate::devices::devices;

pub const DTYPES: [DType; 4] = [DType::F32, DType::F64, DType::F16, DType::BF16];

/// All that a layer can be.
pub fn nonlinearities() -> Vec<Nonlinearity> {
    let mut all = vec![Nonlinearity::Relu, RRelu::default().into()];
    for activation in Activation::ALL {
        all.extend([0.0, 0.6, 1.0].map(|p| Nonlinearity::drop_activation(activation, p).unwrap()));
    }
    all
}

/// Values around zero with many different mantissas, none of them zero, where candle's ReLU has another derivative.
pub fn values(len: usize, seed: u64) -> Vec<f64> {
    let value = |i: usize| ((i as u64 * 2_654_435_761 + seed * 97) % 4099) as f64 / 512.0 - 4.0 + 1.0 / 2048.0;
    (0..len).map(value).collect()
}

/// The keep bits of a tensor's elements as candle's condition.
fn keep(op: &DropActivation, key: MaskKey, x: &Tensor) -> Result<Tensor> {
    let words = cpu::keep_mask(op, key, x.elem_count()).unwrap();
    let bits: Vec<u8> = (0..x.elem_count()).map(|i| (words[i / 32] >> (i % 32) & 1) as u8).collect();
    Tensor::from_vec(bits, x.shape(), x.device())
}

/// The slopes of a tensor's elements: minus what RReLU makes of -1.
fn slopes(op: &RRelu, key: MaskKey, x: &Tensor) -> Result<Tensor> {
    let n = x.elem_count();
    let slopes = if x.dtype() == DType::F64 {
        Tensor::from_vec(reference::rrelu_forward(op, key, &vec![-1f64; n]).unwrap().0, x.shape(), x.device())?
    } else {
        Tensor::from_vec(reference::rrelu_forward(op, key, &vec![-1f32; n]).unwrap().0, x.shape(), x.device())?
    };
    slopes.neg()
}

/// σ(x) with the library's values and slopes in f64, which the library's own tests hold to exact ones.
fn sigma(activation: Activation, x: &Tensor) -> Result<Tensor> {
    if activation == Activation::Relu {
        return x.relu();
    }
    let numbers = x.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
    let of = |function: fn(f64, Activation) -> f64| {
        let values: Vec<_> = numbers.iter().map(|x| function(*x, activation)).collect();
        Tensor::from_vec(values, x.shape(), x.device())?.to_dtype(x.dtype())
    };
    let (value, slope) = (of(Real::sigma)?, of(Real::derivative)?);
    // x less itself is zero, and has x's gradient.
    value + (slope * (x - x.detach())?)?
}

/// The paper's equations 3, 5 and 6 in candle's operations. `key` is there in training.
fn compose(nonlinearity: &Nonlinearity, x: &Tensor, key: Option<MaskKey>) -> Result<Tensor> {
    match (nonlinearity, key) {
        (Nonlinearity::Relu, _) => x.relu(),
        (Nonlinearity::RRelu(op), key) => {
            let scaled = match key {
                Some(key) => x.mul(&slopes(op, key, x)?)?,
                None => (x * op.inference_slope())?,
            };
            x.ge(0.0)?.where_cond(x, &scaled)
        }
        (Nonlinearity::DropActivation(op), Some(key)) => keep(op, key, x)?.where_cond(&sigma(op.activation(), x)?, x),
        (Nonlinearity::DropActivation(op), None) => (x * (1.0 - op.p()))? + (sigma(op.activation(), x)? * op.p())?,
    }
}

/// The largest distance between two tensors, in units of `1 + |expected|`.
pub fn distance(given: &Tensor, expected: &Tensor) -> Result<f64> {
    assert_eq!((given.dtype(), given.shape()), (expected.dtype(), expected.shape()));
    let flat = |t: &Tensor| t.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
    let (given, expected) = (flat(given)?, flat(expected)?);
    let distances = given.iter().zip(&expected).map(|(a, b)| (a - b).abs() / (1.0 + b.abs()));
    Ok(distances.fold(0.0, |worst, d| if d > worst || d.is_nan() { d } else { worst }))
}

/// What the last rounding may make of a difference of a few units in the last place of the arithmetic.
pub fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 1e-14,
        DType::F32 => 1e-6,
        DType::F16 => 1.0 / 1024.0,
        DType::BF16 => 1.0 / 128.0,
        other => panic!("{other:?}"),
    }
}

fn check(nonlinearity: Nonlinearity, dtype: DType, device: &Device, train: bool) -> Result<()> {
    let shape = (7, 11, 13);
    let key = MaskKey::new(3, 4);
    let tensor = |seed| Tensor::from_vec(values(7 * 11 * 13, seed), shape, device)?.to_dtype(dtype);
    let (x, dy) = (Var::from_tensor(&tensor(1)?)?, tensor(2)?);

    let layer = nonlinearity.layer(KeySequence::new(0));
    let y = if train { layer.forward_with_key(&x, key)? } else { layer.forward_t(&x, false)? };
    let dx = (&y * &dy)?.sum_all()?.backward()?.get(&x).expect("a gradient").clone();

    // The composition rounds once, as the passes do.
    let real = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
    let composed = compose(&nonlinearity, &x.to_dtype(real)?, train.then_some(key))?.to_dtype(dtype)?;
    let composed_dx = (&composed * &dy)?.sum_all()?.backward()?.get(&x).expect("a gradient").clone();

    // One multiplication, or none: nothing to differ by.
    let exact = match nonlinearity {
        Nonlinearity::DropActivation(op) => {
            op.activation() == Activation::Relu && (train || [0.0, 1.0].contains(&op.p()))
        }
        _ => true,
    };
    let tolerance = if exact { 0.0 } else { tolerance(dtype) };
    let what = format!("{nonlinearity}, {dtype:?}, {device:?}, train = {train}");
    let (y, dx) = (distance(&y, &composed)?, distance(&dx, &composed_dx)?);
    assert!(y <= tolerance, "{what}: y is {y} off");
    assert!(dx <= tolerance, "{what}: dx is {dx} off");
    Ok(())
}

#[test]
fn training_is_the_composition_with_the_same_mask() -> Result<()> {
    for device in devices() {
        for nonlinearity in nonlinearities() {
            for dtype in DTYPES {
                check(nonlinearity, dtype, &device, true)?;
            }
        }
    }
    Ok(())
}

#[test]
fn inference_is_the_composition() -> Result<()> {
    for device in devices() {
        for nonlinearity in nonlinearities() {
            for dtype in DTYPES {
                check(nonlinearity, dtype, &device, false)?;
            }
        }
    }
    Ok(())
}

/// Where the library and candle differ on purpose: a NaN passes ReLU, and what is blocked has no gradient.
#[test]
fn special_values_are_the_librarys() -> Result<()> {
    let device = Device::Cpu;
    let x = Var::new(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0], &device)?;
    let y = Nonlinearity::drop_activation(Activation::Relu, 1.0)?.layer(KeySequence::new(1)).forward_t(&x, true)?;
    let values = y.to_vec1::<f32>()?;
    assert!(values[0].is_nan() && values[1] == f32::INFINITY, "{values:?}");
    assert_eq!(values[2..].iter().map(|v| v.to_bits()).collect::<Vec<_>>(), [0; 3]);
    let dy = Tensor::new(&[1f32, 2.0, f32::NAN, f32::NAN, 3.0], &device)?;
    let dx = (&y * &dy)?.backward()?.get(&x).expect("a gradient").to_vec1::<f32>()?;
    assert_eq!(dx, [1.0, 2.0, 0.0, 0.0, 0.0]);
    Ok(())
}
