//! The element types: from candle's values to the library's types, in one place.

/// Runs `$body`, whose value is a candle `Result`, with the type that a [`DType`](candle_core::DType) names as `$T`.
macro_rules! with_element {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            candle_core::DType::F32 => {
                type $T = f32;
                $body
            }
            candle_core::DType::F64 => {
                type $T = f64;
                $body
            }
            candle_core::DType::F16 => {
                type $T = drop_activation::half::f16;
                $body
            }
            candle_core::DType::BF16 => {
                type $T = drop_activation::half::bf16;
                $body
            }
            other => Err($crate::element::unsupported(other)),
        }
    };
}

pub(crate) use with_element;

pub(crate) fn unsupported(dtype: candle_core::DType) -> candle_core::Error {
    candle_core::Error::msg(format!("x must be a tensor of f32, f64, f16 or bf16, got {}", dtype.as_str()))
}
