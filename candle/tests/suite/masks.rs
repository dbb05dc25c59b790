//! The mask of a call belongs to that call, whatever else happens between its forward and its backward pass.

use candle_core::{DType, Device, ModuleT, Result, Tensor, Var};
use drop_activation_candle::drop_activation::{PackedMask, cpu};
use drop_activation_candle::{Activation, ActivationLayer, DropActivation, KeySequence, MaskKey, Nonlinearity, RRelu};

use crate::composition::{distance, tolerance, values};
use crate::devices::devices;

const LEN: usize = 1000;

/// One that needs only its mask for the backward pass, one that needs x too, one that draws slopes.
fn random_ones() -> [Nonlinearity; 3] {
    [
        Nonlinearity::drop_activation(Activation::Relu, 0.5).unwrap(),
        Nonlinearity::drop_activation(Activation::Tanh, 0.5).unwrap(),
        RRelu::default().into(),
    ]
}

fn input(device: &Device) -> Result<Var> {
    Var::from_tensor(&Tensor::from_vec(values(LEN, 1), LEN, device)?)
}

/// The gradient for dy = 1 of the call with this key, from the library itself.
fn expected(nonlinearity: Nonlinearity, key: MaskKey, device: &Device) -> Result<Tensor> {
    let x = values(LEN, 1);
    let (mut y, mut dx) = (vec![0.0; LEN], vec![1.0; LEN]);
    match nonlinearity {
        Nonlinearity::Relu => unreachable!("it draws nothing"),
        Nonlinearity::RRelu(op) => {
            let mask = cpu::rrelu_forward(&op, key, (&x, &mut y)).unwrap();
            cpu::rrelu_backward(&op, &mask, &mut dx).unwrap();
        }
        Nonlinearity::DropActivation(op) => {
            let mask = cpu::forward(&op, key, (&x, &mut y)).unwrap();
            cpu::backward(&op, &mask, Some(&x), &mut dx).unwrap();
        }
    }
    Tensor::from_vec(dx, LEN, device)
}

/// How far apart gradients of the same key may be: on a GPU the slopes of smooth activations are within bounds of the
/// CPU's, and all else is the same.
fn apart(nonlinearity: Nonlinearity, device: &Device) -> f64 {
    let smooth = matches!(nonlinearity, Nonlinearity::DropActivation(op) if op.activation() != Activation::Relu);
    if smooth && !device.is_cpu() { tolerance(DType::F64) } else { 0.0 }
}

fn gradient(y: &Tensor, x: &Var) -> Result<Tensor> {
    Ok(y.sum_all()?.backward()?.get(x).expect("a gradient").clone())
}

#[test]
fn many_forward_passes_before_any_backward_pass() -> Result<()> {
    for device in devices() {
        for nonlinearity in random_ones() {
            let layer = nonlinearity.layer(KeySequence::new(7));
            let x = input(&device)?;
            let results = (0..5).map(|_| layer.forward_t(&x, true)).collect::<Result<Vec<_>>>()?;
            // Backwards, and with one left out.
            for call in [4, 3, 1, 0] {
                let expected = expected(nonlinearity, MaskKey::new(7, call as u64), &device)?;
                let distance = distance(&gradient(&results[call], &x)?, &expected)?;
                assert!(distance <= apart(nonlinearity, &device), "{nonlinearity}, call {call}: {distance}");
            }
        }
    }
    Ok(())
}

#[test]
fn backward_twice_gives_the_same_twice() -> Result<()> {
    for device in devices() {
        for nonlinearity in random_ones() {
            let layer = nonlinearity.layer(KeySequence::new(7));
            let x = input(&device)?;
            let y = layer.forward_t(&x, true)?;
            let first = gradient(&y, &x)?;
            layer.forward_t(&x, true)?;
            assert_eq!(distance(&gradient(&y, &x)?, &first)?, 0.0, "{nonlinearity}");
        }
    }
    Ok(())
}

/// One layer at several places of a graph, one of its results used twice: the gradients add up.
#[test]
fn one_layer_at_several_places_of_a_graph() -> Result<()> {
    for device in devices() {
        for nonlinearity in random_ones() {
            let layer = nonlinearity.layer(KeySequence::new(7));
            let x = input(&device)?;
            let (a, b) = (layer.forward_t(&x, true)?, layer.forward_t(&x, true)?);
            let dx = gradient(&((&a + &b)? + (&a * 2.0)?)?, &x)?;
            let of = |call| expected(nonlinearity, MaskKey::new(7, call), &device);
            let distance = distance(&dx, &((of(0)? * 3.0)? + of(1)?)?)?;
            assert!(distance <= 1e-15 + apart(nonlinearity, &device), "{nonlinearity}: {distance}");
        }
    }
    Ok(())
}

/// Each thread's gradients are those of the keys that its own calls got, and no key is used twice.
#[test]
fn one_layer_used_by_several_threads() -> Result<()> {
    const THREADS: usize = 8;
    const CALLS: usize = 20;
    for nonlinearity in random_ones() {
        let layer = nonlinearity.layer(KeySequence::new(7));
        let threads = |layer: &ActivationLayer| -> Result<Vec<Tensor>> {
            let x = input(&Device::Cpu)?;
            let results = (0..CALLS).map(|_| layer.forward_t(&x, true)).collect::<Result<Vec<_>>>()?;
            results.iter().map(|y| gradient(y, &x)).collect()
        };
        let gradients = std::thread::scope(|scope| -> Result<Vec<Tensor>> {
            let running: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| threads(&layer))).collect();
            let mut all = Vec::new();
            for thread in running {
                all.extend(thread.join().expect("no panic")?);
            }
            Ok(all)
        })?;
        assert_eq!(layer.keys().next_offset(), (THREADS * CALLS) as u64);
        let bits = |t: &Tensor| -> Result<Vec<u64>> { Ok(t.to_vec1::<f64>()?.into_iter().map(f64::to_bits).collect()) };
        let mut given = gradients.iter().map(bits).collect::<Result<Vec<_>>>()?;
        let keys = (0..THREADS * CALLS).map(|call| MaskKey::new(7, call as u64));
        let mut wanted =
            keys.map(|key| bits(&expected(nonlinearity, key, &Device::Cpu)?)).collect::<Result<Vec<_>>>()?;
        given.sort();
        wanted.sort();
        assert!(given == wanted, "{nonlinearity}: not one gradient for each key");
    }
    Ok(())
}

/// The device draws what the processor draws.
#[test]
fn every_device_gives_the_same_bits() -> Result<()> {
    let op = DropActivation::new(Activation::Relu, 0.7).unwrap();
    let key = MaskKey::new(1, 2).shard(64).unwrap();
    let x: Vec<f32> = values(LEN, 3).iter().map(|x| *x as f32).collect();
    let mut y = vec![0.0; LEN];
    let _: PackedMask = cpu::forward(&op, key, (&x, &mut y)).unwrap();
    for device in devices() {
        let x = Tensor::from_slice(&x, LEN, &device)?;
        let given = Nonlinearity::from(op).layer(KeySequence::new(0)).forward_with_key(&x, key)?;
        assert!(given.device().same_device(&device) && given.dtype() == DType::F32);
        assert_eq!(given.to_vec1::<f32>()?, y);
    }
    Ok(())
}
