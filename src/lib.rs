//! Drop-Activation as a low-level operation.

mod check;
mod element;
mod error;
mod io;
mod key;
mod mask;
mod operation;
mod real;

pub mod activation;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod reference;

pub use element::{Dtype, Element};
pub use error::{Error, Result};
pub use half;
pub use io::InOut;
pub use key::{KeySequence, MaskKey};
pub use mask::{MaskKind, MaskOrigin, PackedMask};
pub use operation::{Activation, DropActivation, RRelu};
pub use real::Real;
