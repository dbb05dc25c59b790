//! Keys: where they come from, that they can be stored, and what takes none.

use std::sync::Arc;

use candle_core::{DType, Device, ModuleT, Result, Tensor};
use drop_activation_candle::{Activation, KeySequence, MaskKey, Nonlinearity, RRelu};

fn x() -> Result<Tensor> {
    Tensor::full(-1f32, 256, &Device::Cpu)
}

#[test]
fn each_training_call_takes_the_next_key() -> Result<()> {
    for nonlinearity in [RRelu::default().into(), Nonlinearity::drop_activation(Activation::Relu, 0.5)?] {
        let layer = nonlinearity.layer(KeySequence::new(9));
        let mut results = Vec::new();
        for call in 0..3 {
            let y = layer.forward_t(&x()?, true)?.to_vec1::<f32>()?;
            assert_eq!(y, layer.forward_with_key(&x()?, MaskKey::new(9, call))?.to_vec1::<f32>()?);
            assert!(!results.contains(&y), "{nonlinearity}: one mask for two calls");
            results.push(y);
        }
        assert_eq!(layer.keys().next_offset(), 3);
    }
    Ok(())
}

#[test]
fn inference_and_relu_take_no_key() -> Result<()> {
    let layer = Nonlinearity::drop_activation(Activation::Relu, 0.5)?.layer(KeySequence::new(9));
    layer.forward_t(&x()?, false)?;
    assert_eq!(layer.keys().next_offset(), 0);
    let relu = Nonlinearity::Relu.layer(KeySequence::new(9));
    relu.forward_t(&x()?, true)?;
    assert_eq!(relu.keys().next_offset(), 0);
    Ok(())
}

#[test]
fn a_stored_state_goes_on_with_the_same_masks() -> Result<()> {
    let nonlinearity = Nonlinearity::drop_activation(Activation::Relu, 0.5)?;
    let layer = nonlinearity.layer(KeySequence::new(9));
    layer.forward_t(&x()?, true)?;
    let stored = (layer.keys().seed(), layer.keys().next_offset());
    let next = layer.forward_t(&x()?, true)?.to_vec1::<f32>()?;

    let resumed = nonlinearity.layer(KeySequence::resume(stored.0, stored.1));
    assert_eq!(resumed.forward_t(&x()?, true)?.to_vec1::<f32>()?, next);

    let mut other = nonlinearity.layer(KeySequence::new(1));
    other.set_keys(KeySequence::resume(stored.0, stored.1));
    assert_eq!(other.forward_t(&x()?, true)?.to_vec1::<f32>()?, next);
    Ok(())
}

#[test]
fn layers_that_share_a_sequence_never_share_a_key() -> Result<()> {
    let keys = Arc::new(KeySequence::new(9));
    let nonlinearity = Nonlinearity::drop_activation(Activation::Relu, 0.5)?;
    let layers = [nonlinearity.layer(keys.clone()), nonlinearity.layer(keys.clone())];
    let clone = layers[0].clone();
    let results = [&layers[0], &layers[1], &clone].map(|layer| layer.forward_t(&x().unwrap(), true).unwrap());
    for (call, y) in results.iter().enumerate() {
        let expected = clone.forward_with_key(&x()?, MaskKey::new(9, call as u64))?;
        assert_eq!(y.to_vec1::<f32>()?, expected.to_vec1::<f32>()?);
    }
    assert_eq!(keys.next_offset(), 3);
    Ok(())
}

#[test]
fn the_value_says_what_it_is() -> Result<()> {
    let layer = Nonlinearity::rrelu(0.25, 0.5)?.layer(KeySequence::new(1));
    assert_eq!(layer.nonlinearity(), Nonlinearity::rrelu(0.25, 0.5)?);
    assert_eq!(layer.nonlinearity().to_string(), "RReLU(0.25, 0.5)");
    assert_eq!(Nonlinearity::Relu.to_string(), "ReLU");
    assert_eq!(layer.forward_t(&x()?, false)?.to_dtype(DType::F64)?.mean_all()?.to_scalar::<f64>()?, -0.375);
    Ok(())
}
