//! How the gradient of z comes from that of y, as a value.

use crate::operation::DropActivation;

/// How the gradient of z comes from that of y, without the tensors: what [`Pass`](crate::Pass) says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Dz {
    /// It was computed before: `dz = dy`.
    Given,
    /// As in training: `dz = keep ? dy σ'(z) : dy`, and for ReLU `dz = pass ? dy : +0`.
    Training(DropActivation),
    /// As at inference: `dz = dy ((1-p) + p σ'(z))`.
    Inference(DropActivation),
}

impl Dz {
    /// Whether it depends on z, which is computed from x, scale, shift and the residual.
    pub const fn needs_z(&self) -> bool {
        match self {
            Self::Given => false,
            Self::Training(op) => op.activation().backward_needs_input(),
            Self::Inference(_) => true,
        }
    }
}
