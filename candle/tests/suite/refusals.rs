//! What is refused, in candle's error, with a text that says what was given and what is allowed; and that a
//! refused call changes nothing.

use candle_core::{DType, Device, ModuleT, Result, Tensor};
use drop_activation_candle::{Activation, KeySequence, MaskKey, Nonlinearity, RRelu};

/// The text without the backtrace that candle appends where RUST_BACKTRACE asks for it.
fn text<T>(result: Result<T>) -> String {
    let error = result.err().expect("an error").to_string();
    error.lines().next().expect("a line").to_owned()
}

#[test]
fn integers_are_refused() -> Result<()> {
    for nonlinearity in
        [Nonlinearity::Relu, RRelu::default().into(), Nonlinearity::drop_activation(Activation::Relu, 0.9)?]
    {
        let layer = nonlinearity.layer(KeySequence::new(1));
        for dtype in [DType::U8, DType::U32, DType::I64] {
            let x = Tensor::zeros(5, dtype, &Device::Cpu)?;
            for train in [true, false] {
                let given = text(layer.forward_t(&x, train));
                let expected = format!("x must be a tensor of f32, f64, f16 or bf16, got {}", dtype.as_str());
                assert_eq!(given, expected, "{nonlinearity}, train = {train}");
            }
            assert!(layer.forward_with_key(&x, MaskKey::new(0, 0)).is_err());
        }
        assert_eq!(layer.keys().next_offset(), 0, "{nonlinearity}: a refused call took a key");
    }
    Ok(())
}

#[test]
fn parameters_out_of_range_are_refused() {
    assert_eq!(text(Nonlinearity::drop_activation(Activation::Relu, 1.5)), "p must be in [0, 1], got 1.5");
    assert!(Nonlinearity::drop_activation(Activation::Relu, f64::NAN).is_err());
    assert_eq!(
        text(Nonlinearity::rrelu(0.5, 0.25)),
        "RReLU's slopes must satisfy 0 < lower <= upper <= 1, got lower = 0.5, upper = 0.25"
    );
}

#[test]
fn a_shard_beyond_the_last_index_is_refused() -> Result<()> {
    let key = MaskKey::new(1, 2).shard(u64::MAX - 31).expect("a multiple of 32");
    let layer = Nonlinearity::drop_activation(Activation::Relu, 0.9)?.layer(KeySequence::new(1));
    assert!(layer.forward_with_key(&Tensor::zeros(32, DType::F32, &Device::Cpu)?, key).is_ok());
    let text = text(layer.forward_with_key(&Tensor::zeros(33, DType::F32, &Device::Cpu)?, key));
    assert!(text.contains("33 elements") && text.contains("2^64"), "{text}");
    Ok(())
}
