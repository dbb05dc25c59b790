//! The CPU implementation: the passes over slices in host memory, shared by rayon's threads.
//!
//! Results are those of [`crate::reference`], bit for bit, whatever the number of threads, the
//! [instruction set](instruction_set) or the length, and whatever the floating-point environment of the calling thread,
//! which is as before when a call returns. (Which NaN the smooth nonlinearities give is not specified.)
//!
//! The calling thread shares the work with the others of its rayon pool, the global one if it is in none; tensors of up
//! to 2^16 elements it does alone. It runs no other work of the pool and waits for no thread that has not begun to
//! help: it does alone what the others have no time for, and all of it where no thread could be started, in a process
//! that was forked from one that had used this library, and for a while after others were late with what they had begun.
//!
//! A calling thread needs 64 KiB of stack, in an unoptimised build 512 KiB; rayon's and Rust's own have more.
//!
//! Every pass takes its input and output as [`InOut`]: `(&x, &mut y)`, or `&mut x` to overwrite the
//! input. Lengths are in elements; any length will do, 0 too. A call that returns an error has written
//! nothing.

mod engine;
mod fused;
mod lane;
mod mask_words;
mod part;
mod passes;
mod run;
#[allow(unsafe_code)] // vector instructions
mod simd;
mod smooth;

#[doc(hidden)] // for the C interface, in PyTorch
pub use engine::{LentThreads, with_threads};
pub use mask_words::MaskWords;
#[doc(hidden)] // the same
pub use part::as_part_of;
pub use run::{run, run_fused, run_over_saved};

pub(crate) use run::{Mask, call_fused};

use engine::{KeepStream, draw_all};
use run::{call, tensors};

use crate::element::Element;
use crate::error::Result;
use crate::io::InOut;
use crate::key::MaskKey;
use crate::mask::{MaskOrigin, PackedMask, clear_unused, zero_words};
use crate::operation::{DropActivation, RRelu};
use crate::pass::{Pass, word_count};

/// Training forward (the paper's equation 3): `y = keep ? σ(x) : x`. Returns the mask that the backward
/// pass needs.
///
/// ```
/// use drop_activation::{cpu, DropActivation, KeySequence};
/// let op = DropActivation::default();
/// let keys = KeySequence::new(42);
/// let x = [-1.5f32, 0.5, -2.0, 3.0];
/// let (mut y, mut dx) = ([0.0; 4], [0.0; 4]);
/// let mask = cpu::forward(&op, keys.next_key(), (&x, &mut y))?;
/// cpu::backward(&op, &mask, None, (&[1.0; 4], &mut dx))?;
/// assert_eq!(y[1], 0.5);
/// assert_eq!(dx[3], 1.0);
/// # Ok::<(), drop_activation::Error>(())
/// ```
///
/// # Errors
/// [`Error::Length`](crate::Error::Length) if y is not as long as x;
/// [`Error::IndexRange`](crate::Error::IndexRange) if the key's `first` leaves no room for x;
/// [`Error::MaskMemory`](crate::Error::MaskMemory).
pub fn forward<'a, T: Element>(op: &DropActivation, key: MaskKey, io: impl Into<InOut<'a, T>>) -> Result<PackedMask> {
    let mut mask = PackedMask::assemble(MaskOrigin::DropActivation(*op), 0, Vec::new());
    forward_into(op, key, io, &mut mask)?;
    Ok(mask)
}

/// [`forward`] into a mask of the caller's, whose buffer is used again where it is large enough.
/// What the mask was for before is forgotten, unless the call returns an error.
///
/// # Errors
/// Those of [`forward`].
pub fn forward_into<'a, T: Element>(
    op: &DropActivation,
    key: MaskKey,
    io: impl Into<InOut<'a, T>>,
    mask: &mut PackedMask,
) -> Result<()> {
    call(&Pass::Forward { op: *op, key }, tensors(io.into(), None), Mask::Make(mask))
}

/// [`forward`] for ReLU and a caller that keeps y anyway: stores no mask.
/// [`backward_from_output`] goes with it.
///
/// # Errors
/// [`Error::NeedsMask`](crate::Error::NeedsMask) for another nonlinearity, and those of [`forward`].
pub fn forward_without_mask<'a, T: Element>(
    op: &DropActivation,
    key: MaskKey,
    io: impl Into<InOut<'a, T>>,
) -> Result<()> {
    call(&Pass::ForwardWithoutMask { op: *op, key }, tensors(io.into(), None), Mask::None)
}

/// Training backward, from dy to dx: `dx = keep ? dy σ'(x) : dy`, and for ReLU `dx = pass ? dy : +0`,
/// which needs no x.
///
/// # Errors
/// [`Error::MaskOrigin`](crate::Error::MaskOrigin) if the mask was made by another operation;
/// [`Error::MaskLength`](crate::Error::MaskLength) if it is for another length;
/// [`Error::MissingInput`](crate::Error::MissingInput) if the nonlinearity needs x;
/// [`Error::Length`](crate::Error::Length) if x or dx is not as long as dy.
pub fn backward<'a, T: Element>(
    op: &DropActivation,
    mask: &PackedMask,
    x: Option<&[T]>,
    io: impl Into<InOut<'a, T>>,
) -> Result<()> {
    call(&Pass::Backward { op: *op }, tensors(io.into(), x), Mask::Made(mask))
}

/// ReLU's training backward for a caller that stored y and no mask: `dx = (y == 0) ? +0 : dy`.
///
/// It differs from [`backward`] only where x was exactly zero and σ was dropped.
///
/// # Errors
/// [`Error::NeedsMask`](crate::Error::NeedsMask) for another nonlinearity;
/// [`Error::Length`](crate::Error::Length) if y or dx is not as long as dy.
pub fn backward_from_output<'a, T: Element>(op: &DropActivation, y: &[T], io: impl Into<InOut<'a, T>>) -> Result<()> {
    call(&Pass::BackwardFromOutput { op: *op }, tensors(io.into(), Some(y)), Mask::None)
}

/// Inference forward (the paper's equation 5): `y = (1-p) x + p σ(x)`; for ReLU the Leaky ReLU of
/// slope 1 - p.
///
/// # Errors
/// [`Error::Length`](crate::Error::Length) if y is not as long as x.
pub fn infer<'a, T: Element>(op: &DropActivation, io: impl Into<InOut<'a, T>>) -> Result<()> {
    call(&Pass::Infer { op: *op }, tensors(io.into(), None), Mask::None)
}

/// Inference backward, from dy to dx: `dx = dy ((1-p) + p σ'(x))`.
///
/// # Errors
/// [`Error::Length`](crate::Error::Length) if x or dx is not as long as dy.
pub fn infer_backward<'a, T: Element>(op: &DropActivation, x: &[T], io: impl Into<InOut<'a, T>>) -> Result<()> {
    call(&Pass::InferBackward { op: *op }, tensors(io.into(), Some(x)), Mask::None)
}

/// RReLU's training forward (the paper's equation 6): `y = x >= 0 ? x : U x`. Returns the mask of
/// signs, which with its key is all that the backward pass needs.
///
/// # Errors
/// Those of [`forward`].
pub fn rrelu_forward<'a, T: Element>(op: &RRelu, key: MaskKey, io: impl Into<InOut<'a, T>>) -> Result<PackedMask> {
    let mut mask = PackedMask::assemble(MaskOrigin::RRelu(*op, key), 0, Vec::new());
    rrelu_forward_into(op, key, io, &mut mask)?;
    Ok(mask)
}

/// [`rrelu_forward`] into a mask of the caller's, as [`forward_into`] does it.
///
/// # Errors
/// Those of [`forward`].
pub fn rrelu_forward_into<'a, T: Element>(
    op: &RRelu,
    key: MaskKey,
    io: impl Into<InOut<'a, T>>,
    mask: &mut PackedMask,
) -> Result<()> {
    call(&Pass::RreluForward { op: *op, key }, tensors(io.into(), None), Mask::Make(mask))
}

/// RReLU's training backward, from dy to dx: `dx = x >= 0 ? dy : U dy`, with U drawn again.
///
/// # Errors
/// Those of [`backward`].
pub fn rrelu_backward<'a, T: Element>(op: &RRelu, mask: &PackedMask, io: impl Into<InOut<'a, T>>) -> Result<()> {
    let key = mask.origin().slopes_key(op)?;
    call(&Pass::RreluBackward { op: *op, key }, tensors(io.into(), None), Mask::Made(mask))
}

/// RReLU at inference: `y = x >= 0 ? x : (lower + upper)/2 x`.
///
/// # Errors
/// [`Error::Length`](crate::Error::Length) if y is not as long as x.
pub fn rrelu_infer<'a, T: Element>(op: &RRelu, io: impl Into<InOut<'a, T>>) -> Result<()> {
    call(&Pass::RreluInfer { op: *op }, tensors(io.into(), None), Mask::None)
}

/// RReLU's inference backward, from dy to dx: `dx = x >= 0 ? dy : (lower + upper)/2 dy`.
///
/// # Errors
/// [`Error::Length`](crate::Error::Length) if x or dx is not as long as dy.
pub fn rrelu_infer_backward<'a, T: Element>(op: &RRelu, x: &[T], io: impl Into<InOut<'a, T>>) -> Result<()> {
    call(&Pass::RreluInferBackward { op: *op }, tensors(io.into(), Some(x)), Mask::None)
}

/// Plain ReLU: `y = x <= 0 ? +0 : x`.
///
/// # Errors
/// [`Error::Length`](crate::Error::Length) if y is not as long as x.
pub fn relu_forward<'a, T: Element>(io: impl Into<InOut<'a, T>>) -> Result<()> {
    call(&Pass::ReluForward, tensors(io.into(), None), Mask::None)
}

/// Plain ReLU's backward from its output, from dy to dx: `dx = y <= 0 ? +0 : dy`.
///
/// # Errors
/// [`Error::Length`](crate::Error::Length) if y or dx is not as long as dy.
pub fn relu_backward<'a, T: Element>(y: &[T], io: impl Into<InOut<'a, T>>) -> Result<()> {
    call(&Pass::ReluBackward, tensors(io.into(), Some(y)), Mask::None)
}

/// The instructions that this module runs with: `"avx512"`, `"avx2"` or `"portable"`, the best that the machine has.
///
/// For measurements, the environment variable `DROP_ACTIVATION_CPU` with one of these names keeps it from a better
/// one. It is read once, when first needed; other values have no effect. Compiled for machines of which all have AVX-512
/// or AVX2 (by `-C target-cpu`), the library has no code for less.
pub fn instruction_set() -> &'static str {
    simd::set::Set::chosen().name()
}

/// The keep bits of `len` elements, packed as a mask's words are: what [`forward`] draws, by itself.
///
/// # Errors
/// [`Error::IndexRange`](crate::Error::IndexRange) if the key's `first` leaves no room for `len` elements;
/// [`Error::MaskMemory`](crate::Error::MaskMemory).
pub fn keep_mask(op: &DropActivation, key: MaskKey, len: usize) -> Result<Vec<u32>> {
    key.check_covers(len)?;
    let mut words = zero_words(len)?;
    keep_words(op, key, len, &mut words)?;
    Ok(words)
}

/// The keep bits of `len` elements, as [`keep_mask`] returns them, into words of the caller's.
///
/// # Errors
/// [`Error::WordCount`](crate::Error::WordCount) unless there are `ceil(len / 32)` words;
/// [`Error::IndexRange`](crate::Error::IndexRange) if the key's `first` leaves no room for `len` elements.
pub fn keep_words(op: &DropActivation, key: MaskKey, len: usize, words: &mut [u32]) -> Result<()> {
    key.check_covers(len)?;
    word_count(words.len(), len)?;
    draw_all(KeepStream::new(op, key), words);
    clear_unused(words, len);
    Ok(())
}
