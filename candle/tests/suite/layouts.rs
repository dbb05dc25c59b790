//! Tensors of every shape and layout: parts of others, transposed, broadcast, empty, without dimensions.

use candle_core::{DType, Device, ModuleT, Result, Shape, Tensor, Var};
use drop_activation_candle::{Activation, KeySequence, MaskKey, Nonlinearity, RRelu};

use crate::composition::{distance, values};
use crate::devices::devices;

/// Each needs something else saved for its backward pass.
fn each_kind() -> [Nonlinearity; 4] {
    [
        Nonlinearity::Relu,
        RRelu::default().into(),
        Nonlinearity::drop_activation(Activation::Relu, 0.5).unwrap(),
        Nonlinearity::drop_activation(Activation::Gelu, 0.5).unwrap(),
    ]
}

/// A tensor that shares another's memory gives what a fresh copy of its elements gives, forward and backward; and so
/// does a gradient with a layout of its own.
fn is_as_a_copy(view: impl Fn(&Tensor) -> Result<Tensor>, shape: impl Into<Shape>, device: &Device) -> Result<()> {
    let shape = shape.into();
    let whole = Tensor::from_vec(values(shape.elem_count(), 1), &shape, device)?;
    for nonlinearity in each_kind() {
        for train in [true, false] {
            let layer = nonlinearity.layer(KeySequence::new(0));
            let forward = |x: &Tensor| {
                if train { layer.forward_with_key(x, MaskKey::new(5, 6)) } else { layer.forward_t(x, false) }
            };
            let source = Var::from_tensor(&whole)?;
            let x = view(&source)?;
            // A copy that remembers nothing of the layout.
            let copy = Tensor::from_vec(x.flatten_all()?.to_vec1::<f64>()?, x.shape(), device)?;
            let copy = Var::from_tensor(&copy)?;
            let (y, copy_y) = (forward(&x)?, forward(&copy)?);
            assert!(y.is_contiguous());
            assert_eq!(distance(&y, &copy_y)?, 0.0, "{nonlinearity}, {:?}", x.layout());

            let dy = Tensor::from_vec(values(y.elem_count(), 2), y.shape(), device)?;
            let copy_dx = copy_y.mul(&dy)?.sum_all()?.backward()?.get(&copy).expect("a gradient").detach();
            // What reaches the source is what the view's own backward makes of the copy's gradient.
            let expected =
                view(&source)?.mul(&copy_dx)?.sum_all()?.backward()?.get(&source).expect("a gradient").clone();
            let dx = y.mul(&dy)?.sum_all()?.backward()?.get(&source).expect("a gradient").clone();
            assert!(distance(&dx, &expected)? < 1e-14, "{nonlinearity}, {:?}", x.layout());
        }
    }
    Ok(())
}

#[test]
fn parts_of_other_tensors() -> Result<()> {
    for device in devices() {
        // Contiguous, at an offset that is no multiple of 32 or of a vector.
        is_as_a_copy(|x| x.narrow(0, 3, 5), (9, 37), &device)?;
        is_as_a_copy(|x| x.get(2), (4, 5, 7), &device)?;
        // With gaps.
        is_as_a_copy(|x| x.narrow(1, 5, 11), (9, 37), &device)?;
        is_as_a_copy(|x| x.narrow(2, 1, 2)?.narrow(0, 1, 1), (3, 4, 5), &device)?;
    }
    Ok(())
}

#[test]
fn transposed_and_permuted() -> Result<()> {
    for device in devices() {
        is_as_a_copy(|x| x.t(), (9, 37), &device)?;
        is_as_a_copy(|x| x.permute((2, 0, 3, 1)), (3, 4, 5, 6), &device)?;
        is_as_a_copy(|x| x.t()?.narrow(0, 4, 9), (9, 37), &device)?;
        // Contiguous in spite of its strides.
        is_as_a_copy(|x| x.t(), (1, 37), &device)?;
    }
    Ok(())
}

/// Stride 0: each copy of an element has a mask bit of its own, and their gradients add up.
#[test]
fn broadcast() -> Result<()> {
    for device in devices() {
        is_as_a_copy(|x| x.broadcast_as((50, 7)), 7, &device)?;
        is_as_a_copy(|x| x.broadcast_as((5, 7, 3)), (7, 1), &device)?;
    }
    Ok(())
}

#[test]
fn without_dimensions_and_with_many() -> Result<()> {
    for device in devices() {
        is_as_a_copy(|x| Ok(x.clone()), (), &device)?;
        is_as_a_copy(|x| Ok(x.clone()), vec![2; 8], &device)?;
        is_as_a_copy(|x| Ok(x.clone()), vec![1; 8], &device)?;
    }
    Ok(())
}

#[test]
fn empty() -> Result<()> {
    for shape in [vec![0], vec![3, 0, 2], vec![0, 3]] {
        is_as_a_copy(|x| Ok(x.clone()), shape, &Device::Cpu)?;
    }
    is_as_a_copy(|x| x.narrow(0, 4, 0), (4, 3), &Device::Cpu)
}

/// A part of nothing may start beyond its end, where candle's own reading of it panics. On CUDA candle's operations fail
/// on empty tensors (candle's issue 2327), and with them a gradient that begins as ones.
#[test]
fn empty_beyond_the_end() -> Result<()> {
    for device in devices() {
        for nonlinearity in each_kind() {
            for train in [true, false] {
                let source = Var::zeros((0, 3), DType::F32, &device)?;
                let x = source.narrow(1, 2, 1)?;
                assert_ne!(x.layout().start_offset(), 0);
                let y = nonlinearity.layer(KeySequence::new(0)).forward_t(&x, train)?;
                assert_eq!(y.dims(), [0, 1]);
                if device.is_cpu() {
                    assert_eq!(y.backward()?.get(&source).expect("a gradient").dims(), [0, 3]);
                }
            }
        }
    }
    Ok(())
}

/// dy comes with whatever layout the next operation's backward pass gives it.
#[test]
fn gradients_that_are_not_contiguous() -> Result<()> {
    for device in devices() {
        for nonlinearity in each_kind() {
            let layer = nonlinearity.layer(KeySequence::new(0));
            let x = Var::from_tensor(&Tensor::from_vec(values(12 * 7, 1), (12, 7), &device)?)?;
            let weights = Tensor::from_vec(values(7 * 12, 2), (7, 12), &device)?;
            let y = layer.forward_with_key(&x, MaskKey::new(1, 2))?;
            let transposed = y.t()?.mul(&weights)?.sum_all()?.backward()?.get(&x).expect("a gradient").clone();
            let plain = y.mul(&weights.t()?.contiguous()?)?.sum_all()?.backward()?.get(&x).expect("a gradient").clone();
            assert_eq!(distance(&transposed, &plain)?, 0.0, "{nonlinearity}");
        }
    }
    Ok(())
}
