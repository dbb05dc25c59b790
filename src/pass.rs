//! One pass over a tensor, as a value: what is computed, which tensors and which mask take part, and what is checked
//! before anything is written. Every backend and every interface makes its calls into a [`Pass`].

use crate::activation::Activation;
use crate::error::{Error, Result, same_length};
use crate::key::MaskKey;
use crate::mask::{MaskOrigin, words_for};
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
    #[inline]
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
    #[inline]
    pub const fn input(&self) -> &'static str {
        if self.is_forward() { "x" } else { "dy" }
    }

    /// What the output is called: `y` or `dx`.
    #[inline]
    pub const fn output(&self) -> &'static str {
        if self.is_forward() { "y" } else { "dx" }
    }

    /// What the saved tensor is called, if there is one: `x` or `y`.
    #[inline]
    pub const fn saved(&self) -> Option<&'static str> {
        match self {
            Self::Backward { op } if op.activation().backward_needs_input() => Some("x"),
            Self::InferBackward { .. } | Self::RreluInferBackward { .. } => Some("x"),
            Self::BackwardFromOutput { .. } | Self::ReluBackward => Some("y"),
            _ => None,
        }
    }

    /// Whether a mask is written.
    #[inline]
    pub const fn writes_mask(&self) -> bool {
        matches!(self, Self::Forward { .. } | Self::RreluForward { .. })
    }

    /// Whether a mask is read.
    #[inline]
    pub const fn reads_mask(&self) -> bool {
        matches!(self, Self::Backward { .. } | Self::RreluBackward { .. })
    }

    /// The key of what draws random numbers.
    #[inline(always)]
    pub(crate) const fn key(&self) -> Option<MaskKey> {
        match self {
            Self::Forward { key, .. }
            | Self::ForwardWithoutMask { key, .. }
            | Self::RreluForward { key, .. }
            | Self::RreluBackward { key, .. } => Some(*key),
            _ => None,
        }
    }

    /// What the mask of the pass is made by, if it has one.
    #[inline(always)]
    pub(crate) const fn mask_origin(&self) -> Option<MaskOrigin> {
        match self {
            Self::Forward { op, .. } | Self::Backward { op } => Some(MaskOrigin::DropActivation(*op)),
            Self::RreluForward { op, key } | Self::RreluBackward { op, key } => Some(MaskOrigin::RRelu(*op, *key)),
            _ => None,
        }
    }

    /// Every check of a call that can be made on a host: of the pass itself, of the tensors' lengths and of the mask.
    /// Returns the number of elements.
    #[inline(always)]
    pub(crate) fn check(&self, call: &Arguments) -> Result<usize> {
        let len = call.input;
        same_length(self.output(), call.output, self.input(), len)?;
        // A mask of another length is the better reason where its key has no room for this one.
        self.check_mask(call.mask, len)?;
        self.check_without_tensors(len)?;
        self.check_saved(call)?;
        Ok(len)
    }

    /// What can be said against the pass itself, for `len` elements. This is all for memory whose length nobody knows.
    #[inline(always)]
    pub(crate) fn check_without_tensors(&self, len: usize) -> Result<()> {
        if let Self::ForwardWithoutMask { op, .. } | Self::BackwardFromOutput { op } = self
            && op.activation() != Activation::Relu
        {
            return Err(Error::NeedsMask { activation: op.activation() });
        }
        self.key().map_or(Ok(()), |key| key.check_covers(len))
    }

    /// A mask must be there if the pass has one, and be its own.
    #[inline(always)]
    fn check_mask(&self, mask: MaskArgument, len: usize) -> Result<()> {
        let Some(expected) = self.mask_origin() else { return Ok(()) };
        match mask {
            MaskArgument::MadeAnew if self.writes_mask() => Ok(()),
            MaskArgument::MadeBy(given, _) if given != expected => {
                Err(Error::MaskOrigin { given, expected: expected.to_string() })
            }
            MaskArgument::MadeBy(_, given) if given != len => {
                Err(Error::MaskLength { given, other: self.input(), expected: len })
            }
            MaskArgument::MadeBy(..) => Ok(()),
            MaskArgument::WordsToRead(given) if self.reads_mask() => word_count(given, len),
            MaskArgument::WordsToWrite(given) if self.writes_mask() => word_count(given, len),
            _ => Err(Error::Missing { argument: "mask" }),
        }
    }

    /// A saved tensor must be there if the pass reads one. Where one is given, it must have the right length, even if
    /// the pass does not read it.
    #[inline(always)]
    fn check_saved(&self, call: &Arguments) -> Result<()> {
        match (self, call.saved) {
            (_, Some(given)) => same_length(self.saved().unwrap_or("x"), given, self.input(), call.input),
            (Self::Backward { op }, None)
                if op.activation().backward_needs_input() && matches!(call.mask, MaskArgument::MadeBy(..)) =>
            {
                Err(Error::MissingInput { activation: op.activation() })
            }
            (_, None) => self.saved().map_or(Ok(()), |argument| Err(Error::Missing { argument })),
        }
    }
}

/// What a call gives a pass, as far as checks need it: lengths in elements, by role.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arguments {
    pub(crate) input: usize,
    pub(crate) output: usize,
    pub(crate) saved: Option<usize>,
    pub(crate) mask: MaskArgument,
}

impl Arguments {
    /// Input and output of `len` elements, and nothing else.
    pub(crate) const fn of_length(len: usize) -> Self {
        Self { input: len, output: len, saved: None, mask: MaskArgument::None }
    }
}

/// The mask of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum MaskArgument {
    /// There is none.
    None,
    /// A forward pass makes it, with as many words as it needs.
    MadeAnew,
    /// It knows what it was made by and for how many elements. A backward pass reads it.
    MadeBy(MaskOrigin, usize),
    /// So many words of the caller's to read. Only the caller knows what they were made by.
    WordsToRead(usize),
    /// So many words of the caller's to write.
    WordsToWrite(usize),
}

/// A mask of `len` elements has exactly this many words.
#[inline(always)]
pub(crate) fn word_count(given: usize, len: usize) -> Result<()> {
    let expected = words_for(len);
    if given == expected { Ok(()) } else { Err(Error::WordCount { given, len, expected }) }
}
