#![doc = include_str!("../README.md")]
#![deny(unsafe_code, unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks, missing_docs)]

mod batch_norm;
#[cfg(feature = "cuda")]
mod batch_norm_cuda;
mod call;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod element;
mod layer;
mod nonlinearity;
mod normalisation;

pub use batch_norm::BatchNormDropActivation;
pub use candle_core;
pub use drop_activation;

pub use drop_activation::{Activation, DropActivation, KeySequence, MaskKey, RRelu};
pub use layer::ActivationLayer;
pub use nonlinearity::Nonlinearity;
