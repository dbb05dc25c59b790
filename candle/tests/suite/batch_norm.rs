//! A batch normalisation with Drop-Activation in it is the composition of candle's operations in f64 with the same mask:
//! values, gradients, running statistics. What does not fit is refused. A training run is in `blocks`.

use candle_core::{DType, Device, ModuleT, Result, Tensor, Var};
use drop_activation_candle::drop_activation::cpu;
use drop_activation_candle::{Activation, BatchNormDropActivation, DropActivation, KeySequence, MaskKey};

use crate::composition::{distance, values};
use crate::devices::devices;

const EPS: f64 = 1e-4;
const MOMENTUM: f64 = 0.3;

pub(crate) fn var(values: Vec<f64>, shape: &[usize], dtype: DType) -> Result<Var> {
    Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)?)
}

/// Parameters and running statistics: weight, bias, mean, variance.
pub(crate) fn parameters(channels: usize, dtype: DType) -> Result<[Var; 4]> {
    let of = |seed: u64, scale: f64, shift: f64| {
        var(values(channels, seed).into_iter().map(|v| v * scale + shift).collect(), &[channels], dtype)
    };
    Ok([of(1, 0.1, 1.0)?, of(2, 0.2, 0.0)?, of(3, 0.2, 0.5)?, of(4, 0.1, 1.5)?])
}

pub(crate) fn layer(op: DropActivation, [weight, bias, mean, variance]: &[Var; 4]) -> Result<BatchNormDropActivation> {
    let (weight, bias) = (weight.as_tensor().clone(), bias.as_tensor().clone());
    BatchNormDropActivation::new(op, KeySequence::new(5), weight, bias, mean.clone(), variance.clone(), EPS, MOMENTUM)
}

/// The composition, in the type of its arguments. Moves the running statistics, unless `frozen`.
pub(crate) fn compose(
    op: &DropActivation,
    key: MaskKey,
    frozen: bool,
    [weight, bias, mean, variance]: &[Var; 4],
    x: &Tensor,
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    let channels = x.dims()[1];
    let mut shape = vec![1; x.dims().len()];
    shape[1] = channels;
    let wide = |t: &Tensor| t.reshape(&shape[..]);
    let rows = x.transpose(0, 1)?.flatten_from(1)?;
    let count = rows.dims()[1] as f64;
    let of_batch = rows.mean(1)?;
    let centred = rows.broadcast_sub(&of_batch.reshape((channels, 1))?)?;
    let biased = centred.sqr()?.mean(1)?;
    let (used_mean, used_variance) = if frozen {
        (mean.as_tensor().clone(), variance.as_tensor().clone())
    } else {
        let moved = |running: &Var, new: Tensor| -> Result<()> {
            running.set(&((running.as_tensor() * (1.0 - MOMENTUM))? + (new.detach() * MOMENTUM)?)?)
        };
        moved(mean, of_batch.clone())?;
        moved(variance, (&biased * (count / (count - 1.0)))?)?;
        (of_batch, biased)
    };
    let inverse = (used_variance + EPS)?.sqrt()?.recip()?;
    let mut z = x.broadcast_sub(&wide(&used_mean)?)?.broadcast_mul(&wide(&(inverse * weight.as_tensor())?)?)?;
    z = z.broadcast_add(&wide(bias)?)?;
    if let Some(residual) = residual {
        z = (z + residual)?;
    }
    let words = cpu::keep_mask(op, key, x.elem_count()).unwrap();
    let bits: Vec<u8> = (0..x.elem_count()).map(|i| (words[i / 32] >> (i % 32) & 1) as u8).collect();
    let keep = Tensor::from_vec(bits, x.shape(), x.device())?;
    let sigma = if op.activation() == Activation::Relu { z.relu()? } else { z.tanh()? };
    keep.where_cond(&sigma, &z)
}

fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 1e-11,
        DType::F32 => 1e-4,
        DType::F16 => 1e-2,
        _ => 5e-2,
    }
}

#[test]
fn layers_are_the_composition() -> Result<()> {
    devices().iter().try_for_each(layers_on)
}

fn layers_on(device: &Device) -> Result<()> {
    let here = |v: &Var| Var::from_tensor(&v.to_device(device)?);
    for dtype in [DType::F64, DType::F32, DType::F16, DType::BF16] {
        for shape in [&[33, 5][..], &[4, 5, 7, 3], &[6, 5, 9]] {
            for activation in [Activation::Relu, Activation::Tanh] {
                for (frozen, with_residual) in [(false, false), (false, true), (true, false), (true, true)] {
                    let what =
                        format!("{device:?} {dtype:?} {shape:?} {activation} frozen {frozen} residual {with_residual}");
                    let op = DropActivation::new(activation, 0.7).unwrap();
                    let n = shape.iter().product();
                    let real = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
                    let ours = parameters(5, real)?;
                    let theirs = ours.each_ref().map(|v| Var::from_tensor(&v.to_dtype(DType::F64).unwrap()).unwrap());
                    let ours = ours.each_ref().map(|v| here(v).unwrap());
                    let mut norm = layer(op, &ours)?;
                    norm.set_frozen(frozen);
                    let (x, r) = (var(values(n, 7), shape, dtype)?, var(values(n, 8), shape, dtype)?);
                    let dy = Tensor::from_vec(values(n, 9), shape, &Device::Cpu)?;
                    let wide = |v: &Var| Var::from_tensor(&v.to_dtype(DType::F64)?);
                    let (x64, r64) = (wide(&x)?, wide(&r)?);
                    let (x, r) = (here(&x)?, here(&r)?);

                    let y = norm.forward_with_residual(&x, with_residual.then_some(r.as_tensor()), true)?;
                    let key = MaskKey::new(5, 0);
                    let residual = with_residual.then_some(r64.as_tensor());
                    let expected = compose(&op, key, frozen, &theirs, &x64, residual)?;
                    let given = (&y * dy.to_dtype(dtype)?.to_device(device)?)?.sum_all()?.backward()?;
                    let wanted = (&expected * dy.to_dtype(dtype)?.to_dtype(DType::F64)?)?.sum_all()?.backward()?;
                    let near = |name: &str, given: &Tensor, expected: &Tensor, scale: f64| -> Result<()> {
                        let distance = distance(&given.to_dtype(DType::F64)?.to_device(&Device::Cpu)?, expected)?;
                        assert!(distance <= scale * tolerance(dtype), "{what}: {name} is off by {distance:e}");
                        Ok(())
                    };
                    assert_eq!((y.dtype(), y.shape()), (x.dtype(), x.shape()));
                    near("y", &y, &expected, 1.0)?;
                    near("dx", given.get(&x).unwrap(), wanted.get(&x64).unwrap(), 1.0)?;
                    if with_residual {
                        near("dr", given.get(&r).unwrap(), wanted.get(&r64).unwrap(), 1.0)?;
                    }
                    for (i, name) in ["dweight", "dbias"].into_iter().enumerate() {
                        let (given, wanted) = (given.get(&ours[i]).unwrap(), wanted.get(&theirs[i]).unwrap());
                        assert_eq!(given.dtype(), real);
                        near(name, given, wanted, 2.0)?;
                    }
                    near("mean", &ours[2], &theirs[2], 1.0)?;
                    near("variance", &ours[3], &theirs[3], 1.0)?;

                    // At inference, with what the running statistics have become.
                    let y = norm.forward_with_residual(&x, residual.map(|_| r.as_tensor()), false)?;
                    let keep_all = DropActivation::new(activation, 1.0).unwrap();
                    let keep_none = DropActivation::new(activation, 0.0).unwrap();
                    let all = compose(&keep_all, key, true, &theirs, &x64, residual)?;
                    let none = compose(&keep_none, key, true, &theirs, &x64, residual)?;
                    near("inference", &y, &((all * 0.7)? + (none * 0.3)?)?, 1.0)?;
                }
            }
        }
    }
    Ok(())
}

/// An optimizer that has all variables of a `VarMap` would move them otherwise, at inference and where it is trained
/// through.
#[test]
fn running_statistics_have_no_gradient() -> Result<()> {
    for (frozen, train) in [(false, true), (true, true), (false, false)] {
        let parameters = parameters(5, DType::F32)?;
        let mut norm = layer(DropActivation::default(), &parameters)?;
        norm.set_frozen(frozen);
        let x = var(values(60, 7), &[4, 5, 3], DType::F32)?;
        let gradients = norm.forward_t(&x, train)?.sqr()?.sum_all()?.backward()?;
        let has_one = [&x, &parameters[0], &parameters[1], &parameters[2], &parameters[3]]
            .map(|variable| gradients.get(variable).is_some());
        assert_eq!(has_one, [true, true, true, false, false], "frozen {frozen}, training {train}");
    }
    Ok(())
}

#[test]
fn what_does_not_fit_is_refused() -> Result<()> {
    let op = DropActivation::default();
    let good = parameters(5, DType::F32)?;
    let norm = layer(op, &good)?;
    let x = Tensor::ones((4, 5, 3), DType::F32, &Device::Cpu)?;
    let before = good[2].to_vec1::<f32>()?;
    let refused = |result: Result<Tensor>, words: &[&str]| {
        let text = result.expect_err("an error").to_string();
        for word in words {
            assert!(text.contains(word), "{word:?} is not in {text}");
        }
    };
    refused(norm.forward_t(&x.to_dtype(DType::U8)?, true), &["f32, f64, f16 or bf16", "got u8"]);
    refused(
        norm.forward_t(&x.to_dtype(DType::F64)?, true),
        &["x must be a tensor of f32, f16 or bf16, since weight is of f32", "got f64"],
    );
    refused(norm.forward_t(&x.narrow(1, 0, 4)?, true), &["[4, 4, 3]", "5 channels"]);
    refused(norm.forward_t(&x.flatten_all()?, true), &["[60]", "5 channels"]);
    refused(norm.forward_t(&x.narrow(0, 0, 1)?.narrow(2, 0, 1)?, true), &["[1, 5, 1]", "more than one element"]);
    refused(norm.forward_t(&x.narrow(0, 0, 0)?, true), &["[0, 5, 3]", "more than one element"]);
    let short = x.narrow(0, 0, 2)?;
    refused(
        norm.forward_with_residual(&x, Some(&short), true),
        &["residual must be like x, of shape [4, 5, 3]", "got shape [2, 5, 3]"],
    );
    let wide = x.to_dtype(DType::F64)?;
    refused(
        norm.forward_with_residual(&x, Some(&wide), false),
        &["residual must be like x", "type f32, got", "type f64"],
    );
    assert_eq!(norm.keys().next_key(), MaskKey::new(5, 0), "a call that fails takes no key");
    assert_eq!(good[2].to_vec1::<f32>()?, before, "a call that fails moves nothing");

    let four = parameters(4, DType::F32)?;
    let mixed = [good[0].clone(), four[1].clone(), good[2].clone(), good[3].clone()];
    refused(
        layer(op, &mixed).map(|_| x.clone()),
        &["bias must be a vector like weight, of shape [5]", "got shape [4]"],
    );
    let double = parameters(5, DType::F64)?;
    let mixed = [good[0].clone(), good[1].clone(), double[2].clone(), good[3].clone()];
    refused(layer(op, &mixed).map(|_| x.clone()), &["running_mean must be", "type f32, got", "type f64"]);
    let of = |eps, momentum| {
        let [weight, bias, mean, variance] = parameters(5, DType::F32).unwrap();
        let (weight, bias) = (weight.into_inner(), bias.into_inner());
        let norm = BatchNormDropActivation::new(op, KeySequence::new(1), weight, bias, mean, variance, eps, momentum);
        norm.map(|_| x.clone())
    };
    refused(of(0.0, 0.1), &["eps must be positive", "0.0"]);
    refused(of(f64::NAN, 0.1), &["eps must be positive", "NaN"]);
    refused(of(1e-5, 1.5), &["momentum must be in [0, 1]", "1.5"]);
    Ok(())
}
