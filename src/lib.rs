#![doc = include_str!("../README.md")]
#![deny(unsafe_code, unsafe_op_in_unsafe_fn, missing_docs)]

mod element;
mod error;
mod float_environment;
#[doc(hidden)] // until every backend and language has it
pub mod fused;
mod io;
mod key;
mod mask;
mod operation;
mod pass;
mod real;

pub mod activation;
pub mod cpu;
#[cfg(feature = "cuda")]
#[allow(unsafe_code)] // the driver's interface; each block names the contract that makes it sound
pub mod cuda;
pub mod reference;
pub mod stream;

pub use activation::Activation;
pub use element::{Dtype, Element};
pub use error::{Error, Result};
#[doc(hidden)] // for the C interface
pub use float_environment::in_default_environment;
pub use half;
pub use io::InOut;
pub use key::{KeySequence, MaskKey};
pub use mask::{MaskKind, MaskOrigin, PackedMask};
pub use operation::{DropActivation, RRelu};
pub use pass::Pass;
pub use real::Real;

/// The examples of README are compiled and run by `cargo test --doc`.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
