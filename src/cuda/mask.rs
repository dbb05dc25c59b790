//! The packed mask in device memory.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, CudaView, result};

use super::error::{Result as CudaResult, while_doing};
use super::order;
use super::stream_checks::{not_capturing, same_context};
use crate::error::{Error, Result};
use crate::key::MaskKey;
use crate::mask::{MaskKind, MaskOrigin, PackedMask, resize, words_for};
use crate::operation::RRelu;

/// A mask in device memory: `ceil(len / 32)` words, element i at bit i % 32 (least significant first)
/// of word i / 32, tied to the operation that it was made by. [`PackedMask`] is the same on the host.
///
/// It may hold more memory than its words need: [`Kernels::forward_into`](super::Kernels::forward_into) uses
/// that again. RReLU's mask of a [`DeviceKey`](super::DeviceKey) keeps there the offset that the slopes were drawn
/// with, so that the backward pass is right whatever has become of the sequence since.
#[derive(Debug)]
pub struct DeviceMask {
    origin: Origin,
    len: usize,
    words: CudaSlice<u32>,
}

/// What a mask was made by, as far as the host knows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Origin {
    Known(MaskOrigin),
    /// RReLU with a key whose offset, 0 here, is in the mask's memory, at [`offset_place`].
    OffsetInMemory(RRelu, MaskKey),
}

/// The index of the word at which the mask of `len` elements keeps its offset: after its own words, 8-byte aligned.
pub(super) const fn offset_place(len: usize) -> usize {
    words_for(len).next_multiple_of(2)
}

/// Words of memory for the mask of `len` elements and its offset.
pub(super) const fn words_with_offset(len: usize) -> usize {
    offset_place(len) + 2
}

/// Memory for the mask of `len` elements and an offset, not yet written unless there are none.
pub(super) fn alloc(stream: &Arc<CudaStream>, len: usize) -> CudaResult<CudaSlice<u32>> {
    not_capturing(stream, "so no memory for a mask can be allocated: give forward_into a mask that is large enough")?;
    let words = words_with_offset(len);
    // SAFETY: any bits are a valid u32, and nobody gets to see them before something was enqueued that writes all of
    // them: a kernel or a copy the mask's words, and a clearing the others. Only then this memory becomes part of a
    // mask.
    let mut memory = unsafe { stream.alloc(words) }.map_err(while_doing("allocating a mask"))?;
    if len == 0 {
        order::writing(stream, &mut memory, "allocating a mask", |at| {
            // SAFETY: all of the memory, which is new.
            unsafe { result::memset_d8_async(at, 0, size_of::<u32>() * words, stream.cu_stream()) }
        })?;
    }
    Ok(memory)
}

impl DeviceMask {
    /// For the kernels: a mask whose words are written, or about to be on their stream.
    pub(super) fn assemble(origin: Origin, len: usize, words: CudaSlice<u32>) -> Self {
        Self { origin, len, words }
    }

    /// Copies a mask to the device. Returns when the words have left the host's memory.
    ///
    /// # Errors
    /// [`CudaError::Capturing`](super::CudaError::Capturing) if the stream is being captured;
    /// [`CudaError::Driver`](super::CudaError::Driver), out of memory among them.
    pub fn from_host(stream: &Arc<CudaStream>, mask: &PackedMask) -> Result<Self> {
        let mut words = alloc(stream, mask.len())?;
        if !mask.is_empty() {
            let (given, all) = (mask.words(), words.len());
            order::writing(stream, &mut words, "copying a mask to the device", |at| {
                let rest = (all - given.len()) * size_of::<u32>();
                // SAFETY: the slice's first words and all others. The driver has copied the host's when it returns,
                // since they are in memory that it does not know.
                unsafe {
                    result::memset_d8_async(at + size_of_val(given) as u64, 0, rest, stream.cu_stream())?;
                    result::memcpy_htod_async(at, given, stream.cu_stream())
                }
            })?;
        }
        Ok(Self::assemble(Origin::Known(mask.origin()), mask.len(), words))
    }

    /// Copies the mask to the host. Waits for all work on the stream.
    ///
    /// # Errors
    /// [`CudaError::Context`](super::CudaError::Context) if the stream is of another context than the mask;
    /// [`CudaError::Capturing`](super::CudaError::Capturing) if it is being captured;
    /// [`Error::MaskWords`] if the mask was made by [`DeviceMask::from_words`] and has unused bits set;
    /// [`Error::MaskMemory`](crate::Error::MaskMemory) if the host has no memory for it;
    /// [`CudaError::Driver`](super::CudaError::Driver).
    pub fn to_host(&self, stream: &Arc<CudaStream>) -> Result<PackedMask> {
        same_context(stream, "mask", &self.words)?;
        not_capturing(stream, "so no mask can be waited for: copy it outside the capture")?;
        let copied = match self.origin {
            Origin::Known(_) => words_for(self.len),
            Origin::OffsetInMemory(..) => words_with_offset(self.len),
        };
        let mut words = Vec::new();
        if self.len != 0 {
            resize(&mut words, copied, self.len)?;
            words = order::to_host(stream, self.words.slice(..copied), words, "copying a mask to the host")?;
        }
        let origin = match self.origin {
            Origin::Known(origin) => origin,
            Origin::OffsetInMemory(op, key) => {
                let place = offset_place(self.len);
                let offset = u64::from(words[place]) | u64::from(words[place + 1]) << 32;
                MaskOrigin::RRelu(op, MaskKey::new(key.seed(), offset).shard(key.first())?)
            }
        };
        words.truncate(words_for(self.len));
        PackedMask::from_words(origin, self.len, words)
    }

    /// A mask from words that are on the device already. There may be more of them than `len` needs.
    ///
    /// The words themselves are not looked at, since that would mean waiting for the device. If unused
    /// bits of the last word are set, the kernels ignore them, and [`DeviceMask::to_host`] reports them.
    ///
    /// # Errors
    /// [`Error::MaskWords`] if there are fewer than `ceil(len / 32)` words;
    /// [`Error::IndexRange`] if `origin` holds a key that `len` elements overrun.
    pub fn from_words(origin: MaskOrigin, len: usize, words: CudaSlice<u32>) -> Result<Self> {
        let needed = words_for(len);
        if words.len() < needed {
            let reason = format!("at least {needed} words, got {}", words.len());
            return Err(Error::MaskWords { len, reason });
        }
        if let MaskOrigin::RRelu(_, key) = origin {
            key.check_covers(len)?;
        }
        Ok(Self::assemble(Origin::Known(origin), len, words))
    }

    /// What the mask was made by. RReLU's mask of a [`DeviceKey`](super::DeviceKey) has the offset 0 here: see
    /// [`DeviceMask::offset_is_on_device`].
    pub const fn origin(&self) -> MaskOrigin {
        match self.origin {
            Origin::Known(origin) => origin,
            Origin::OffsetInMemory(op, key) => MaskOrigin::RRelu(op, key),
        }
    }

    /// Whether the offset of RReLU's slopes is in the mask's memory and not in its [`origin`](DeviceMask::origin).
    /// [`DeviceMask::to_host`] finds it out. Words taken from such a mask are not to be made into a mask again by
    /// [`DeviceMask::from_words`] with this origin: its slopes would be others.
    pub const fn offset_is_on_device(&self) -> bool {
        matches!(self.origin, Origin::OffsetInMemory(..))
    }

    /// What a set bit means.
    pub const fn kind(&self) -> MaskKind {
        self.origin().kind()
    }

    /// Where the offset is, in bytes after the beginning of the memory, if it is there.
    pub(super) const fn offset_at(&self) -> Option<u64> {
        match self.origin {
            Origin::Known(_) => None,
            Origin::OffsetInMemory(..) => Some(size_of::<u32>() as u64 * offset_place(self.len) as u64),
        }
    }

    /// Elements, that is bits.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether the mask is for a tensor without elements.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The packed words: `ceil(len / 32)`.
    pub fn words(&self) -> CudaView<'_, u32> {
        self.words.slice(..words_for(self.len))
    }

    /// The memory of the words, without a copy. It may be longer than the mask, with anything in what is left.
    pub fn into_words(self) -> CudaSlice<u32> {
        self.words
    }

    /// All the memory that the mask has, in words.
    pub(super) const fn memory(&self) -> &CudaSlice<u32> {
        &self.words
    }

    /// The same, to be written.
    pub(super) fn memory_mut(&mut self) -> &mut CudaSlice<u32> {
        &mut self.words
    }

    /// The memory now holds this mask.
    pub(super) fn renew(&mut self, origin: Origin, len: usize) {
        self.origin = origin;
        self.len = len;
    }
}
