//! The C interface: `include/drop_activation.h` is made from what is public here. Each function takes the caller's
//! pointers, has everything about them checked that can be checked, and hands the rest to the safe library.
//!
//! Names are C's, not Rust's. A C comment is made from each doc comment, so they are written for C.
#![allow(non_camel_case_types)]
#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks, missing_docs)]

mod cpu;
mod cuda;
mod error;
mod large_pages;
mod opened;
mod pass;
mod structure;
mod tensors;
/// For the Python package alone.
///
/// cbindgen:ignore
mod torch;
/// Under a convention of its own.
///
/// cbindgen:ignore
#[cfg(any(unix, windows))]
mod tvm_ffi;
mod version;

pub use cpu::*;
pub use cuda::*;
pub use error::*;
pub use pass::*;
pub use tensors::*;
pub use torch::*;
pub use version::*;
