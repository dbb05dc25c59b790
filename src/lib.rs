//! Drop-Activation (Liang, Khoo and Yang, [doi:10.1007/s42967-020-00085-3]) as a low-level operation: while a network
//! trains, each element keeps its nonlinearity σ with probability p and passes unchanged otherwise. One packed bit per
//! element is all that ReLU's backward pass needs. The same key gives the same bits on every device.
//!
//! ```
//! use drop_activation::{DropActivation, KeySequence, cpu};
//!
//! let op = DropActivation::relu(0.95)?; // p, the probability of keeping the ReLU
//! let keys = KeySequence::new(42); // a fresh key for each call
//!
//! let x = [-1.0f32, 0.5, -2.0, 3.0];
//! let mut y = [0.0; 4];
//! let mask = cpu::forward(&op, keys.next_key(), (&x, &mut y))?; // or &mut x, in place
//!
//! let mut gradient = [1.0f32; 4];
//! cpu::backward(&op, &mask, None, &mut gradient)?; // dx takes the place of dy
//!
//! cpu::infer(&op, (&x, &mut y))?; // at inference nothing is random
//! # Ok::<(), drop_activation::Error>(())
//! ```
//!
//! # Where to go
//!
//! | what | where |
//! |---|---|
//! | tensors in host memory | [`cpu`] |
//! | tensors on a GPU, as slices of cudarc or as raw addresses | `cuda`, with the feature of that name (a default) |
//! | the operations and their parameters | [`DropActivation`], [`RRelu`], [`Activation`] |
//! | which random bits a call draws, and how to resume | [`MaskKey`], [`KeySequence`], [`reference::keep_word`] |
//! | the mask, its bits and its storage | [`PackedMask`], [`MaskOrigin`] |
//! | element types: f32, f64, f16, bf16 | [`Element`], [`Dtype`] |
//! | adapters, which have memory of their own and choose a pass at run time | [`Pass`], [`cpu::run`], `cuda::Kernels::launch_raw` |
//! | passes fused with a normalisation or bias before the activation, and a residual | [`fused`] |
//! | the passes in plain code, to compare with | [`mod@reference`] |
//! | the nonlinearities by themselves, and how exact they are | [`activation`] |
//! | what can go wrong | [`Error`] |
//!
//! No function panics on bad input: each returns an [`Error`] that names the argument, before anything is written.
//!
//! [doi:10.1007/s42967-020-00085-3]: https://doi.org/10.1007/s42967-020-00085-3
#![deny(unsafe_code, unsafe_op_in_unsafe_fn, missing_docs)]

mod dz;
mod element;
mod error;
mod float_environment;
mod io;
mod key;
mod mask;
mod operands;
mod operation;
mod pass;
mod real;
mod shape;
mod stream;
mod sum_order;

pub mod activation;
pub mod cpu;
#[cfg(feature = "cuda")]
#[allow(unsafe_code)] // the driver's interface; each block names the contract that makes it sound
pub mod cuda;
pub mod fused;
pub mod reference;

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
