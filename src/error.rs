//! The one error type. Every variant names the argument, what was given and what is allowed; it is
//! returned before anything is written or launched.

use crate::activation::Activation;
use crate::mask::MaskOrigin;

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// What can be wrong with a call.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The probability of keeping the nonlinearity is not between 0 and 1.
    #[error("p must be in [0, 1], got {p:?}")]
    Probability {
        /// What was given.
        p: f64,
    },

    /// RReLU's bounds are out of order or out of range.
    #[error("RReLU's slopes must satisfy 0 < lower <= upper <= 1, got lower = {lower}, upper = {upper}")]
    Slopes {
        /// What was given as lower bound.
        lower: f32,
        /// What was given as upper bound.
        upper: f32,
    },

    /// A name that stands for no nonlinearity.
    #[error("activation must be one of {}, got {name:?}", Activation::ALL.map(Activation::name).join(", "))]
    UnknownActivation {
        /// What was given.
        name: String,
    },

    /// A shard's first index does not fall on a mask word.
    #[error("first must be a multiple of 32, the elements of a mask word, got {first}")]
    First {
        /// What was given.
        first: u64,
    },

    /// The tensor's last element would have an index beyond 64 bits.
    #[error("first + elements must be at most 2^64, got first = {first} with {len} elements")]
    IndexRange {
        /// The shard's first index.
        first: u64,
        /// The tensor's length in elements.
        len: usize,
    },

    /// Two arguments that must be equally long are not.
    #[error("{argument} must have {expected} elements, as many as {other}, got {given}")]
    Length {
        /// The argument at fault.
        argument: &'static str,
        /// Its length in elements.
        given: usize,
        /// The argument that sets the length.
        other: &'static str,
        /// That argument's length in elements.
        expected: usize,
    },

    /// The mask was made for another number of elements.
    #[error("mask must be for {expected} elements, as many as {other} has, got one for {given}")]
    MaskLength {
        /// The mask's length in elements.
        given: usize,
        /// The argument it is used with.
        other: &'static str,
        /// That argument's length in elements.
        expected: usize,
    },

    /// The mask was made by another operation.
    #[error("mask must be made by {expected}, got one made by {given}")]
    MaskOrigin {
        /// What the mask was made for.
        given: MaskOrigin,
        /// What the call is for, in words.
        expected: String,
    },

    /// There is no memory for so long a mask.
    #[error("len must be of a mask that memory has room for, got {len}")]
    MaskMemory {
        /// The length in elements that was asked for.
        len: usize,
    },

    /// Words that do not make up a mask.
    #[error("words must be a mask of {len} elements, {reason}")]
    MaskWords {
        /// The length in elements that was asked for.
        len: usize,
        /// What is wrong with them.
        reason: String,
    },

    /// Bytes that are no stored mask.
    #[error("bytes must be a stored mask, {reason}")]
    MaskBytes {
        /// What is wrong with them.
        reason: String,
    },

    /// The backward pass of this nonlinearity needs the input.
    #[error("x must be the input of the forward pass, which the backward pass of {activation} needs, got none")]
    MissingInput {
        /// The nonlinearity.
        activation: Activation,
    },

    /// A pass was given no saved tensor, or no mask words to read or to write, that it needs.
    #[error("{argument} must be given for this pass, got none")]
    Missing {
        /// The argument that is missing.
        argument: &'static str,
    },

    /// The mask words that a pass was given are too many or too few.
    #[error("mask must have {expected} words for {len} elements, got {given}")]
    WordCount {
        /// How many words were given.
        given: usize,
        /// The length of the tensor in elements.
        len: usize,
        /// How many words that length has.
        expected: usize,
    },

    /// Only ReLU can do without a mask.
    #[error("activation must be relu where there is no mask (the gradient is then made of y), got {activation}")]
    NeedsMask {
        /// The nonlinearity.
        activation: Activation,
    },

    /// A shape without channels, or of more elements than can be counted.
    #[error("shape must have a channel, and at most {} elements, got [{outer}, {channels}, {inner}]", usize::MAX)]
    Shape {
        /// The outermost extent.
        outer: usize,
        /// The number of channels.
        channels: usize,
        /// Neighbouring elements of one channel.
        inner: usize,
    },

    /// A tensor that cannot be divided into so many channels.
    #[error("channels times inner must divide the tensor's {len} elements, got channels = {channels}, inner = {inner}")]
    ChannelsOf {
        /// The tensor's length in elements.
        len: usize,
        /// The number of channels.
        channels: usize,
        /// Neighbouring elements of one channel.
        inner: usize,
    },

    /// A tensor has another number of elements than the shape.
    #[error(
        "{argument} must have {} elements, as the shape [{outer}, {channels}, {inner}] has, got {given}",
        outer * channels * inner
    )]
    ShapeLength {
        /// The argument at fault.
        argument: &'static str,
        /// Its length in elements.
        given: usize,
        /// The shape's outermost extent.
        outer: usize,
        /// Its number of channels.
        channels: usize,
        /// Its neighbouring elements of one channel.
        inner: usize,
    },

    /// A vector that has a value for each channel is too long or too short.
    #[error("{argument} must have {channels} values, one for each channel, got {given}")]
    ChannelVector {
        /// The argument at fault.
        argument: &'static str,
        /// Its length.
        given: usize,
        /// The number of channels.
        channels: usize,
    },

    /// A backward pass was given two slices for x.
    #[error("x must be the same slice in z and beside its mean, got two")]
    AnotherX,

    /// Statistics of nothing.
    #[error("shape must have an element in each channel to take statistics of, got [{outer}, {channels}, {inner}]")]
    NoElements {
        /// The shape's outermost extent.
        outer: usize,
        /// Its number of channels.
        channels: usize,
        /// Its neighbouring elements of one channel.
        inner: usize,
    },

    /// One element for each channel has no unbiased variance.
    #[error("shape must have two elements in each channel for running statistics, got one in each of {channels}")]
    OneElement {
        /// The number of channels.
        channels: usize,
    },

    /// What is added to a variance would not keep it positive.
    #[error("eps must be positive and finite, got {eps:?}")]
    Epsilon {
        /// What was given.
        eps: f64,
    },

    /// The share of a batch in running statistics is no share.
    #[error("momentum must be in [0, 1], got {momentum:?}")]
    Momentum {
        /// What was given.
        momentum: f64,
    },

    /// There is no memory for intermediate sums.
    #[error("shape must leave room in memory for {values} intermediate sums, got {len} elements")]
    SumMemory {
        /// How many values were asked for.
        values: usize,
        /// The tensor's length in elements.
        len: usize,
    },

    /// A pass over channels was given to a function that takes none.
    #[error("pass must be one without channels for {function}, got one over channels")]
    HasChannels {
        /// What it was given to.
        function: &'static str,
    },

    /// The CUDA backend cannot do what was asked.
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Cuda(#[from] crate::cuda::CudaError),
}

/// `argument` must be as long as `other`.
#[inline(always)]
pub(crate) fn same_length(argument: &'static str, given: usize, other: &'static str, expected: usize) -> Result<()> {
    if given == expected { Ok(()) } else { Err(Error::Length { argument, given, other, expected }) }
}
