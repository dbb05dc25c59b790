//! What the engine has to know of a pass: what it does to a block of 32 elements, and where the block's bits come from
//! and go to.

use super::keep_stream::KeepStream;
use crate::cpu::simd::{Simd, Task};
use crate::element::Element;

/// What a pass does to a block.
pub(crate) trait BlockPass<T: Element>: Sync + Sized {
    /// What it has to do with bits. Passes get no code for what they don't do.
    const BITS: Bits;

    /// Whether it reads a saved tensor.
    const READS_SAVED: bool = false;

    /// Whether memory bounds it, so that non-temporal stores and blocks on cache lines pay. Blocks may then begin
    /// before the tensor.
    const MEMORY_BOUND: bool = false;

    /// Whether a block takes many instructions. Then the code gets fewer copies of it: words are drawn before each group
    /// of blocks and not in between, and memory is asked for beforehand however small the tensors are.
    const LONG: bool = false;

    /// `e` is the index of the block's first element. Where that lies before the tensor, it has wrapped around.
    /// `saved` is the saved tensor, for a pass that reads one. `bits` holds the block's bits, as they were drawn or
    /// loaded; the result holds those to store. Elements beyond the tensor's ends may be anything.
    fn block<S: Simd>(&self, simd: S, e: u64, input: &[T; 32], saved: &[T; 32], bits: u32) -> ([T; 32], u32);

    /// The same for a block of which only a part is there; [`BlockPass::block`] is called for whole ones alone.
    #[inline(always)]
    fn partial<S: Simd>(&self, simd: S, e: u64, input: &[T; 32], saved: &[T; 32], bits: u32) -> ([T; 32], u32) {
        run_block(self, simd, e, input, saved, bits)
    }
}

/// [`BlockPass::block`], or a call of it where code is to be small.
#[inline(always)]
pub(super) fn run_block<S: Simd, T: Element, P: BlockPass<T>>(
    pass: &P,
    simd: S,
    e: u64,
    input: &[T; 32],
    saved: &[T; 32],
    bits: u32,
) -> ([T; 32], u32) {
    if !S::SMALL_CODE {
        return pass.block(simd, e, input, saved, bits);
    }
    let mut made = ([T::default(); 32], 0);
    simd.outlined(BlockTask { pass, e, input, saved, bits, made: &mut made });
    made
}

/// [`BlockPass::block`] as a task, so that it can be outlined.
struct BlockTask<'a, T, P> {
    pass: &'a P,
    e: u64,
    input: &'a [T; 32],
    saved: &'a [T; 32],
    bits: u32,
    made: &'a mut ([T; 32], u32),
}

impl<T: Element, P: BlockPass<T>> Task for BlockTask<'_, T, P> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        *self.made = self.pass.block(simd, self.e, self.input, self.saved, self.bits);
    }
}

/// What a pass has to do with bits: which of the [`Words`] go with it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bits {
    /// [`Words::None`].
    None,
    /// [`Words::Load`].
    Read,
    /// [`Words::Store`].
    Write,
    /// [`Words::Draw`] or [`Words::DrawStore`].
    Draw,
}

impl Bits {
    pub(crate) const fn reads_bits(self) -> bool {
        matches!(self, Self::Read | Self::Draw)
    }

    pub(crate) const fn writes_bits(self) -> bool {
        matches!(self, Self::Write | Self::Draw)
    }
}

/// Where a block's bits come from and go to.
pub(crate) enum Words<'a> {
    /// There are none.
    None,
    /// From the mask.
    Load(&'a [u32]),
    /// To the mask.
    Store(&'a mut [u32]),
    /// From the keep stream, to nowhere.
    Draw(&'a KeepStream),
    /// From the keep stream to the mask.
    DrawStore(&'a KeepStream, &'a mut [u32]),
}

impl Words<'_> {
    pub(super) fn split(self, words: usize) -> (Self, Self) {
        match self {
            Self::None => (Self::None, Self::None),
            Self::Draw(stream) => (Self::Draw(stream), Self::Draw(stream)),
            Self::Load(mask) => {
                let (a, b) = mask.split_at(words);
                (Self::Load(a), Self::Load(b))
            }
            Self::Store(mask) => {
                let (a, b) = mask.split_at_mut(words);
                (Self::Store(a), Self::Store(b))
            }
            Self::DrawStore(stream, mask) => {
                let (a, b) = mask.split_at_mut(words);
                (Self::DrawStore(stream, a), Self::DrawStore(stream, b))
            }
        }
    }
}
