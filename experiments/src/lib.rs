//! The experiments of the Drop-Activation paper (Liang, Khoo and Yang), with the library's op, through its
//! candle door, inside real networks. `docs/paper.md` shows what came out.

#![warn(missing_docs)]
#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]

pub mod activation;
pub mod checks;
pub mod data;
pub mod experiments;
pub mod nets;
pub mod ops;
pub mod optimiser;
pub mod options;
pub mod page;
pub mod plot;
pub mod presets;
pub mod progress;
pub mod random;
pub mod results;
pub mod stats;
pub mod train;
