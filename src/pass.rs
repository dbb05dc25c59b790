//! One pass over a tensor: what is computed, as a value.

use crate::check;
use crate::error::Result;
use crate::key::MaskKey;
use crate::operation::{DropActivation, RRelu};

/// A pass with its parameters, for adapters that choose it at run time: [`cpu::run`](crate::cpu::run) takes it with
/// slices, `cuda::Kernels::launch_raw` with device addresses.
///
/// A pass reads the *input* and writes the *output*, of the same length: x and y of a forward pass, dy and
/// dx of a backward pass. It may read a *saved* tensor besides and read or write a *mask*.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Pass {
    /// Training forward (the paper's equation 3): `y = keep ? σ(x) : x`. Writes the mask.
    Forward {
        /// The operation.
        op: DropActivation,
        /// The key of the mask.
        key: MaskKey,
    },
    /// The same for ReLU alone, without a mask.
    ForwardWithoutMask {
        /// The operation.
        op: DropActivation,
        /// The key of the mask that is not stored.
        key: MaskKey,
    },
    /// Training backward: `dx = keep ? dy σ'(x) : dy`. Reads the mask and, but for ReLU, the saved x.
    Backward {
        /// The operation.
        op: DropActivation,
    },
    /// ReLU's training backward without a mask: `dx = (y == 0) ? +0 : dy`. Reads the saved y.
    BackwardFromOutput {
        /// The operation.
        op: DropActivation,
    },
    /// Inference forward (the paper's equation 5): `y = (1-p) x + p σ(x)`.
    Infer {
        /// The operation.
        op: DropActivation,
    },
    /// Inference backward: `dx = dy ((1-p) + p σ'(x))`. Reads the saved x.
    InferBackward {
        /// The operation.
        op: DropActivation,
    },
    /// RReLU's training forward (the paper's equation 6): `y = x >= 0 ? x : U x`. Writes the mask.
    RreluForward {
        /// The operation.
        op: RRelu,
        /// The key of the slopes U.
        key: MaskKey,
    },
    /// RReLU's training backward: `dx = x >= 0 ? dy : U dy`. Reads the mask.
    RreluBackward {
        /// The operation.
        op: RRelu,
        /// The key of the forward pass.
        key: MaskKey,
    },
    /// RReLU's inference forward: `y = x >= 0 ? x : (lower + upper)/2 x`.
    RreluInfer {
        /// The operation.
        op: RRelu,
    },
    /// RReLU's inference backward: `dx = x >= 0 ? dy : (lower + upper)/2 dy`. Reads the saved x.
    RreluInferBackward {
        /// The operation.
        op: RRelu,
    },
    /// Plain ReLU: `y = x <= 0 ? +0 : x`.
    ReluForward,
    /// Plain ReLU's backward: `dx = y <= 0 ? +0 : dy`. Reads the saved y.
    ReluBackward,
}

impl Pass {
    /// Whether the input is x and the output y; else they are dy and dx.
    pub const fn is_forward(&self) -> bool {
        matches!(
            self,
            Self::Forward { .. }
                | Self::ForwardWithoutMask { .. }
                | Self::Infer { .. }
                | Self::RreluForward { .. }
                | Self::RreluInfer { .. }
                | Self::ReluForward
        )
    }

    /// What the input is called: `x` or `dy`.
    pub const fn input(&self) -> &'static str {
        if self.is_forward() { "x" } else { "dy" }
    }

    /// What the output is called: `y` or `dx`.
    pub const fn output(&self) -> &'static str {
        if self.is_forward() { "y" } else { "dx" }
    }

    /// What the saved tensor is called, if there is one: `x` or `y`.
    pub const fn saved(&self) -> Option<&'static str> {
        match self {
            Self::Backward { op } if op.activation().backward_needs_input() => Some("x"),
            Self::InferBackward { .. } | Self::RreluInferBackward { .. } => Some("x"),
            Self::BackwardFromOutput { .. } | Self::ReluBackward => Some("y"),
            _ => None,
        }
    }

    /// Whether a mask is written.
    pub const fn writes_mask(&self) -> bool {
        matches!(self, Self::Forward { .. } | Self::RreluForward { .. })
    }

    /// Whether a mask is read.
    pub const fn reads_mask(&self) -> bool {
        matches!(self, Self::Backward { .. } | Self::RreluBackward { .. })
    }

    /// The key of what draws random numbers.
    pub(crate) const fn key(&self) -> Option<MaskKey> {
        match self {
            Self::Forward { key, .. }
            | Self::ForwardWithoutMask { key, .. }
            | Self::RreluForward { key, .. }
            | Self::RreluBackward { key, .. } => Some(*key),
            _ => None,
        }
    }

    /// What can be said against the pass itself, for `n` elements.
    pub(crate) fn check(&self, n: usize) -> Result<()> {
        if let Self::ForwardWithoutMask { op, .. } | Self::BackwardFromOutput { op } = self {
            check::can_go_without_mask(op)?;
        }
        self.key().map_or(Ok(()), |key| check::key_covers(key, n))
    }
}
