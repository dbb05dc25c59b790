//! One pass over a tensor, as a value: what is computed, which tensors and which mask take part, and what is checked
//! before anything is written. Every backend and every interface makes its calls into a [`Pass`].

use crate::activation::Activation;
use crate::dz::Dz;
use crate::error::{Error, Result, same_length};
use crate::key::MaskKey;
use crate::mask::{MaskOrigin, words_for};
use crate::operation::{DropActivation, RRelu};
use crate::shape::Shape;

/// A pass with its parameters, for adapters that choose it at run time: [`cpu::run`](crate::cpu::run) takes it with
/// slices, `cuda::Kernels::launch_raw` with device addresses.
///
/// A pass reads the *input* and writes the *output*, of the same length: x and y of a forward pass, dy and
/// dx of a backward pass. It may read a *saved* tensor besides and read or write a *mask*.
///
/// The passes of [`fused`](crate::fused) take more, each of which may be absent: a *residual*, as long as the input,
/// and *vectors* with a value for each channel of their shape, in the type of the arithmetic. `docs/fused.md` is the
/// text for what they compute. [`cpu::run_fused`](crate::cpu::run_fused) runs them on slices;
/// `cuda::Kernels::launch_raw` takes their addresses. What takes no such arguments, as [`cpu::run`](crate::cpu::run),
/// runs them with all of these absent.
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
    /// Training forward on `z = scale[c] x + shift[c] + residual`: `y = keep ? σ(z) : z`. Writes the mask. Takes the
    /// residual, scale and shift.
    FusedForward {
        /// The operation.
        op: DropActivation,
        /// The key of the mask.
        key: MaskKey,
        /// Which elements belong to which channel.
        shape: Shape,
    },
    /// Inference forward on the same z: `y = (1-p) z + p σ(z)`.
    FusedInfer {
        /// The operation.
        op: DropActivation,
        /// Which elements belong to which channel.
        shape: Shape,
    },
    /// Mean and biased variance of each channel of x, written to two vectors. There is no output.
    Statistics {
        /// Which elements belong to which channel.
        shape: Shape,
    },
    /// The sums of a backward pass, written to two vectors: `s1[c] = Σ dz`, and where mean is given
    /// `s2[c] = Σ dz (x - mean[c])`. The output, which may be absent, is `dr = dz`. Reads the mask in training. Reads
    /// the saved x, and takes the residual, scale and shift, where dz depends on z ([`Dz::needs_z`]); reads x where
    /// mean is given.
    FusedSums {
        /// Where dz comes from.
        dz: Dz,
        /// Which elements belong to which channel.
        shape: Shape,
    },
    /// Backward, elementwise: `dx = alpha[c] dz + (beta[c] (x - mean[c]) + gamma[c])`. Reads the mask in training.
    /// Reads the saved x, and takes the residual, scale and shift, where dz depends on z; reads x where beta, gamma and
    /// mean are given, which go together.
    FusedBackward {
        /// Where dz comes from.
        dz: Dz,
        /// Which elements belong to which channel.
        shape: Shape,
    },
}

impl Pass {
    /// Whether the input is x and the output y; else they are dy and dx, or dr.
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
                | Self::FusedForward { .. }
                | Self::FusedInfer { .. }
                | Self::Statistics { .. }
        )
    }

    /// What the input is called: `x` or `dy`.
    #[inline]
    pub const fn input(&self) -> &'static str {
        if self.is_forward() { "x" } else { "dy" }
    }

    /// What the output is called: `y`, `dx` or `dr`.
    #[inline]
    pub const fn output(&self) -> &'static str {
        match self {
            Self::FusedSums { .. } => "dr",
            _ if self.is_forward() => "y",
            _ => "dx",
        }
    }

    /// What the saved tensor is called, if the pass always reads one: `x` or `y`.
    #[inline]
    pub const fn saved(&self) -> Option<&'static str> {
        match self {
            Self::Backward { op } if op.activation().backward_needs_input() => Some("x"),
            Self::InferBackward { .. } | Self::RreluInferBackward { .. } => Some("x"),
            Self::BackwardFromOutput { .. } | Self::ReluBackward => Some("y"),
            Self::FusedSums { dz, .. } | Self::FusedBackward { dz, .. } if dz.needs_z() => Some("x"),
            _ => None,
        }
    }

    /// The shape of a pass over channels.
    #[inline]
    pub const fn shape(&self) -> Option<Shape> {
        match self {
            Self::FusedForward { shape, .. }
            | Self::FusedInfer { shape, .. }
            | Self::Statistics { shape }
            | Self::FusedSums { shape, .. }
            | Self::FusedBackward { shape, .. } => Some(*shape),
            _ => None,
        }
    }

    /// Whether the pass computes z, and so takes a residual, a scale and a shift.
    #[inline]
    pub const fn computes_z(&self) -> bool {
        match self {
            Self::FusedForward { .. } | Self::FusedInfer { .. } => true,
            Self::FusedSums { dz, .. } | Self::FusedBackward { dz, .. } => dz.needs_z(),
            _ => false,
        }
    }

    /// What the vectors are called that the pass writes: first one, then one that may be absent, unless it is the
    /// variance.
    #[inline]
    pub const fn results(&self) -> Option<[&'static str; 2]> {
        match self {
            Self::Statistics { .. } => Some(["mean", "variance"]),
            Self::FusedSums { .. } => Some(["s1", "s2"]),
            _ => None,
        }
    }

    /// Whether a mask is written.
    #[inline]
    pub const fn writes_mask(&self) -> bool {
        matches!(self, Self::Forward { .. } | Self::RreluForward { .. } | Self::FusedForward { .. })
    }

    /// Whether a mask is read.
    #[inline]
    pub const fn reads_mask(&self) -> bool {
        match self {
            Self::Backward { .. } | Self::RreluBackward { .. } => true,
            Self::FusedSums { dz, .. } | Self::FusedBackward { dz, .. } => matches!(dz, Dz::Training(_)),
            _ => false,
        }
    }

    /// The key of what draws random numbers.
    #[inline(always)]
    pub(crate) const fn key(&self) -> Option<MaskKey> {
        match self {
            Self::Forward { key, .. }
            | Self::ForwardWithoutMask { key, .. }
            | Self::RreluForward { key, .. }
            | Self::RreluBackward { key, .. }
            | Self::FusedForward { key, .. } => Some(*key),
            _ => None,
        }
    }

    /// What the mask of the pass is made by, if it has one.
    #[inline(always)]
    pub(crate) const fn mask_origin(&self) -> Option<MaskOrigin> {
        match self {
            Self::Forward { op, .. }
            | Self::Backward { op }
            | Self::FusedForward { op, .. }
            | Self::FusedSums { dz: Dz::Training(op), .. }
            | Self::FusedBackward { dz: Dz::Training(op), .. } => Some(MaskOrigin::DropActivation(*op)),
            Self::RreluForward { op, key } | Self::RreluBackward { op, key } => Some(MaskOrigin::RRelu(*op, *key)),
            _ => None,
        }
    }

    /// Every check of a call that can be made on a host: of the pass itself, of the tensors' lengths and of the mask.
    /// Returns the number of elements.
    #[inline(always)]
    pub(crate) fn check(&self, call: &Arguments) -> Result<usize> {
        if let Some(shape) = self.shape() {
            return self.check_fused(shape, call);
        }
        let len = call.input;
        let output = call.output.ok_or(Error::Missing { argument: self.output() })?;
        same_length(self.output(), output, self.input(), len)?;
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
        if let Some(shape) = self.shape() {
            shape.holds(self.input(), len)?;
        }
        if let Self::Statistics { shape } = self {
            shape.has_elements()?;
        }
        self.key().map_or(Ok(()), |key| key.check_covers(len))
    }

    /// [`Pass::check`] for a pass over channels.
    fn check_fused(&self, shape: Shape, call: &Arguments) -> Result<usize> {
        let len = shape.len();
        shape.holds(self.input(), call.input)?;
        let may_have_no_output = matches!(self, Self::Statistics { .. } | Self::FusedSums { .. });
        match call.output {
            Some(given) => shape.holds(self.output(), given)?,
            None if may_have_no_output => {}
            None => return Err(Error::Missing { argument: self.output() }),
        }
        self.check_mask(call.mask, len)?;
        self.check_without_tensors(len)?;
        let FusedArguments { residual, scale, shift, mean, alpha, beta, gamma, results } = &call.fused;
        for (argument, given) in [("x", call.saved), ("residual", *residual)] {
            given.map_or(Ok(()), |given| shape.holds(argument, given))?;
        }
        let vectors = [
            ("scale", *scale),
            ("shift", *shift),
            ("mean", *mean),
            ("alpha", *alpha),
            ("beta", *beta),
            ("gamma", *gamma),
        ];
        for (argument, given) in vectors {
            given.map_or(Ok(()), |given| shape.has_channels_of(argument, given))?;
        }
        let present = |argument, given: Option<usize>| given.map_or(Err(Error::Missing { argument }), |_| Ok(()));
        let of_x = match self {
            Self::FusedSums { .. } => mean.is_some(),
            Self::FusedBackward { .. } => {
                let any = mean.or(*beta).or(*gamma).is_some();
                if any {
                    present("beta", *beta)?;
                    present("gamma", *gamma)?;
                    present("mean", *mean)?;
                }
                any
            }
            _ => false,
        };
        match self {
            Self::FusedSums { dz, .. } | Self::FusedBackward { dz, .. } if call.saved.is_none() => match dz {
                Dz::Training(op) if dz.needs_z() && matches!(call.mask, MaskArgument::MadeBy(..)) => {
                    return Err(Error::MissingInput { activation: op.activation() });
                }
                _ if dz.needs_z() || of_x => return Err(Error::Missing { argument: "x" }),
                _ => {}
            },
            _ => {}
        }
        if let Some([first, second]) = self.results() {
            let second_is_asked_for = matches!(self, Self::Statistics { .. }) || of_x;
            for (argument, given, needed) in [(first, results[0], true), (second, results[1], second_is_asked_for)] {
                match given {
                    Some(given) => shape.has_channels_of(argument, given)?,
                    None if needed => return Err(Error::Missing { argument }),
                    None => {}
                }
            }
        }
        Ok(len)
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
    pub(crate) output: Option<usize>,
    pub(crate) saved: Option<usize>,
    pub(crate) mask: MaskArgument,
    pub(crate) fused: FusedArguments,
}

/// What a call gives a pass over channels besides: lengths, by role. None of these is looked at by other passes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FusedArguments {
    pub(crate) residual: Option<usize>,
    pub(crate) scale: Option<usize>,
    pub(crate) shift: Option<usize>,
    pub(crate) mean: Option<usize>,
    pub(crate) alpha: Option<usize>,
    pub(crate) beta: Option<usize>,
    pub(crate) gamma: Option<usize>,
    /// The vectors that [`Pass::results`] names.
    pub(crate) results: [Option<usize>; 2],
}

impl Arguments {
    /// Input and output of `len` elements, and nothing else.
    pub(crate) const fn of_length(len: usize) -> Self {
        let fused = FusedArguments {
            residual: None,
            scale: None,
            shift: None,
            mean: None,
            alpha: None,
            beta: None,
            gamma: None,
            results: [None; 2],
        };
        Self { input: len, output: Some(len), saved: None, mask: MaskArgument::None, fused }
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

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: usize = 12;

    fn shape() -> Shape {
        Shape::new(2, 3, 2).unwrap()
    }

    /// Everything that the passes over channels take.
    fn everything() -> Arguments {
        let fused = FusedArguments {
            residual: Some(LEN),
            scale: Some(3),
            shift: Some(3),
            mean: Some(3),
            alpha: Some(3),
            beta: Some(3),
            gamma: Some(3),
            results: [Some(3); 2],
        };
        Arguments { saved: Some(LEN), mask: MaskArgument::None, fused, ..Arguments::of_length(LEN) }
    }

    /// The passes over channels with a mask that fits each.
    fn passes(activation: Activation) -> Vec<(Pass, MaskArgument)> {
        let op = DropActivation::new(activation, 0.75).unwrap();
        let (shape, key) = (shape(), MaskKey::new(1, 2));
        let made = MaskArgument::MadeBy(MaskOrigin::DropActivation(op), LEN);
        let mut passes = vec![
            (Pass::FusedForward { op, key, shape }, MaskArgument::WordsToWrite(1)),
            (Pass::FusedInfer { op, shape }, MaskArgument::None),
            (Pass::Statistics { shape }, MaskArgument::None),
        ];
        let sources = [
            (Dz::Given, MaskArgument::None),
            (Dz::Training(op), made),
            (Dz::Training(op), MaskArgument::WordsToRead(1)),
            (Dz::Inference(op), MaskArgument::None),
        ];
        for (dz, mask) in sources {
            passes.extend([(Pass::FusedSums { dz, shape }, mask), (Pass::FusedBackward { dz, shape }, mask)]);
        }
        passes
    }

    #[test]
    fn passes_over_channels_want_their_shape_and_their_channels() {
        for activation in [Activation::Relu, Activation::Gelu] {
            for (pass, mask) in passes(activation) {
                let good = Arguments { mask, ..everything() };
                assert_eq!(pass.check(&good), Ok(LEN), "{pass:?}");
                let length =
                    |argument| Err(Error::ShapeLength { argument, given: 11, outer: 2, channels: 3, inner: 2 });
                assert_eq!(pass.check(&Arguments { input: 11, ..good }), length(pass.input()));
                assert_eq!(pass.check(&Arguments { output: Some(11), ..good }), length(pass.output()));
                assert_eq!(pass.check(&Arguments { saved: Some(11), ..good }), length("x"));
                type Set = fn(&mut FusedArguments, Option<usize>);
                let residual: Set = |fused, to| fused.residual = to;
                let mut wrong = good;
                residual(&mut wrong.fused, Some(11));
                assert_eq!(pass.check(&wrong), length("residual"));
                let mut vectors: Vec<(&str, Set)> = vec![
                    ("scale", |fused, to| fused.scale = to),
                    ("shift", |fused, to| fused.shift = to),
                    ("mean", |fused, to| fused.mean = to),
                    ("alpha", |fused, to| fused.alpha = to),
                    ("beta", |fused, to| fused.beta = to),
                    ("gamma", |fused, to| fused.gamma = to),
                ];
                if let Some([first, second]) = pass.results() {
                    vectors.push((first, |fused, to| fused.results[0] = to));
                    vectors.push((second, |fused, to| fused.results[1] = to));
                }
                for (argument, set) in vectors {
                    let mut wrong = good;
                    set(&mut wrong.fused, Some(4));
                    let error = Err(Error::ChannelVector { argument, given: 4, channels: 3 });
                    assert_eq!(pass.check(&wrong), error, "{pass:?}");
                }
            }
        }
    }

    #[test]
    fn passes_over_channels_want_what_they_cannot_do_without() {
        for activation in [Activation::Relu, Activation::Gelu] {
            for (pass, mask) in passes(activation) {
                let missing = |argument| Err(Error::Missing { argument });
                let nothing = FusedArguments { results: [Some(3); 2], ..FusedArguments::default() };
                let good = Arguments { mask, fused: nothing, ..everything() };
                assert_eq!(pass.check(&good), Ok(LEN), "{pass:?}");

                let without = Arguments { output: None, ..good };
                let expected = if pass.results().is_some() { Ok(LEN) } else { missing(pass.output()) };
                assert_eq!(pass.check(&without), expected, "{pass:?}");

                if pass.writes_mask() || pass.reads_mask() {
                    assert_eq!(pass.check(&Arguments { mask: MaskArgument::None, ..good }), missing("mask"));
                    let words = Error::WordCount { given: 2, len: LEN, expected: 1 };
                    let mask = match pass.writes_mask() {
                        true => MaskArgument::WordsToWrite(2),
                        false => MaskArgument::WordsToRead(2),
                    };
                    assert_eq!(pass.check(&Arguments { mask, ..good }), Err(words));
                }

                let without_x = Arguments { saved: None, ..good };
                let expected = match mask {
                    _ if pass.is_forward() || !pass.computes_z() => Ok(LEN),
                    MaskArgument::MadeBy(..) => Err(Error::MissingInput { activation }),
                    _ => missing("x"),
                };
                assert_eq!(pass.check(&without_x), expected, "{pass:?}");

                let of_x = FusedArguments { mean: Some(3), ..nothing };
                match pass {
                    Pass::FusedSums { .. } => {
                        assert_eq!(pass.check(&Arguments { fused: of_x, ..good }), Ok(LEN));
                        let sums = Arguments { fused: of_x, ..without_x };
                        assert!(pass.check(&sums).is_err(), "s2 without x");
                        let one = FusedArguments { results: [Some(3), None], ..of_x };
                        assert_eq!(pass.check(&Arguments { fused: one, ..good }), missing("s2"));
                        let one = FusedArguments { mean: None, ..one };
                        assert_eq!(pass.check(&Arguments { fused: one, ..good }), Ok(LEN));
                    }
                    Pass::FusedBackward { .. } => {
                        assert_eq!(pass.check(&Arguments { fused: of_x, ..good }), missing("beta"));
                        let of_x = FusedArguments { beta: Some(3), ..of_x };
                        assert_eq!(pass.check(&Arguments { fused: of_x, ..good }), missing("gamma"));
                        let of_x = FusedArguments { gamma: Some(3), mean: None, ..of_x };
                        assert_eq!(pass.check(&Arguments { fused: of_x, ..good }), missing("mean"));
                        let of_x = FusedArguments { mean: Some(3), ..of_x };
                        assert_eq!(pass.check(&Arguments { fused: of_x, ..good }), Ok(LEN));
                        assert!(pass.check(&Arguments { fused: of_x, ..without_x }).is_err(), "beta without x");
                    }
                    _ => {}
                }
                if let Some([first, _]) = pass.results() {
                    let none = FusedArguments { results: [None; 2], ..nothing };
                    assert_eq!(pass.check(&Arguments { fused: none, ..good }), missing(first));
                }
            }
        }
        let nothing = Pass::Statistics { shape: Shape::new(0, 3, 2).unwrap() };
        let call = Arguments { input: 0, output: None, saved: None, fused: everything().fused, ..everything() };
        let call = Arguments { fused: FusedArguments { residual: None, ..call.fused }, ..call };
        assert_eq!(nothing.check(&call), Err(Error::NoElements { outer: 0, channels: 3, inner: 2 }));
    }

    #[test]
    fn a_mask_of_another_pass_is_refused() {
        let op = DropActivation::relu(0.75).unwrap();
        let given = MaskOrigin::DropActivation(DropActivation::relu(0.5).unwrap());
        let expected = MaskOrigin::DropActivation(op);
        let pass = Pass::FusedSums { dz: Dz::Training(op), shape: shape() };
        let error = Error::MaskOrigin { given, expected: expected.to_string() };
        let call = Arguments { mask: MaskArgument::MadeBy(given, LEN), ..everything() };
        assert_eq!(pass.check(&call), Err(error));
        let call = Arguments { mask: MaskArgument::MadeBy(expected, 11), ..everything() };
        assert_eq!(pass.check(&call), Err(Error::MaskLength { given: 11, other: "dy", expected: LEN }));
        let key = MaskKey::new(1, 2).shard(u64::MAX - 31).unwrap();
        let last = Pass::FusedForward { op, key, shape: Shape::new(33, 1, 1).unwrap() };
        let call = Arguments { mask: MaskArgument::MadeAnew, ..Arguments::of_length(33) };
        assert!(matches!(last.check(&call), Err(Error::IndexRange { .. })));
    }
}
