//! The packed mask in device memory.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, CudaView};

use super::error::{Result as CudaResult, while_doing};
use super::io::same_context;
use crate::check;
use crate::error::{Error, Result};
use crate::mask::{MaskKind, MaskOrigin, PackedMask, words_for};

/// A mask in device memory: `ceil(len / 32)` words, element i at bit i % 32 (least significant first)
/// of word i / 32, tied to the operation that it was made by. [`PackedMask`] is the same on the host.
///
/// It may hold more memory than its words need: [`Kernels::forward_into`](super::Kernels::forward_into) uses
/// that again.
#[derive(Debug)]
pub struct DeviceMask {
    origin: MaskOrigin,
    len: usize,
    words: CudaSlice<u32>,
}

/// Memory for the mask of `len` elements, not yet written. At least one word, because some devices
/// cannot allocate nothing.
pub(super) fn alloc(stream: &Arc<CudaStream>, len: usize) -> CudaResult<CudaSlice<u32>> {
    if len == 0 {
        // No kernel and no copy will write this one.
        return stream.alloc_zeros(1).map_err(while_doing("allocating a mask"));
    }
    // SAFETY: any bits are a valid u32, and nobody gets to see them before a kernel or a copy has written
    // every word of the mask: this memory becomes part of a mask only after that was enqueued.
    unsafe { stream.alloc(words_for(len)) }.map_err(while_doing("allocating a mask"))
}

impl DeviceMask {
    /// For the kernels: a mask whose words are written, or about to be on their stream.
    pub(super) fn assemble(origin: MaskOrigin, len: usize, words: CudaSlice<u32>) -> Self {
        Self { origin, len, words }
    }

    /// Copies a mask to the device. Returns when the words have left the host's memory.
    ///
    /// # Errors
    /// [`CudaError::Driver`](super::CudaError::Driver), out of memory among them.
    pub fn from_host(stream: &Arc<CudaStream>, mask: &PackedMask) -> Result<Self> {
        let mut words = alloc(stream, mask.len())?;
        if !mask.is_empty() {
            stream.memcpy_htod(mask.words(), &mut words).map_err(while_doing("copying a mask to the device"))?;
        }
        Ok(Self::assemble(mask.origin(), mask.len(), words))
    }

    /// Copies the mask to the host. Waits for all work on the stream.
    ///
    /// # Errors
    /// [`CudaError::Context`](super::CudaError::Context) if the stream is of another context than the mask;
    /// [`Error::MaskWords`] if it was made by [`DeviceMask::from_words`] and has unused bits set;
    /// [`CudaError::Driver`](super::CudaError::Driver).
    pub fn to_host(&self, stream: &Arc<CudaStream>) -> Result<PackedMask> {
        same_context(stream, "mask", &self.words)?;
        let mut words = Vec::new();
        if self.len != 0 {
            words = stream.clone_dtoh(&self.words()).map_err(while_doing("copying a mask to the host"))?;
            stream.synchronize().map_err(while_doing("waiting for a mask"))?;
        }
        PackedMask::from_words(self.origin, self.len, words)
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
            let reason = format!("{} words given, at least {needed} needed", words.len());
            return Err(Error::MaskWords { len, reason });
        }
        if let MaskOrigin::RRelu(_, key) = origin {
            check::key_covers(key, len)?;
        }
        Ok(Self { origin, len, words })
    }

    /// What the mask was made by.
    pub const fn origin(&self) -> MaskOrigin {
        self.origin
    }

    /// What a set bit means.
    pub const fn kind(&self) -> MaskKind {
        self.origin.kind()
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

    /// The memory of the words, without a copy. It may be longer than the mask.
    pub fn into_words(self) -> CudaSlice<u32> {
        self.words
    }

    /// All the memory that the mask has, in words.
    pub(super) fn memory_mut(&mut self) -> &mut CudaSlice<u32> {
        &mut self.words
    }

    /// The memory now holds this mask.
    pub(super) fn renew(&mut self, origin: MaskOrigin, len: usize) {
        self.origin = origin;
        self.len = len;
    }
}
