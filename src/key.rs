//! What names a mask: the key of one call, and a sequence that hands out a fresh one for each call.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// Names the random stream of one call: equal keys give equal masks on every backend.
///
/// `seed` and `offset` choose the stream; a caller that wants a fresh mask takes a new offset for
/// each call ([`KeySequence`] does). `first` is the global index of the tensor's element 0: it is 0
/// unless the tensor is a shard of a larger one, and then the shard gets its part of the whole
/// tensor's mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MaskKey {
    seed: u64,
    offset: u64,
    first: u64,
}

impl MaskKey {
    /// The key of a whole tensor.
    pub const fn new(seed: u64, offset: u64) -> Self {
        Self { seed, offset, first: 0 }
    }

    /// The same stream for a shard whose element 0 is element `first` of the whole tensor.
    ///
    /// # Errors
    /// [`Error::First`] unless `first` is a multiple of 32.
    pub const fn shard(self, first: u64) -> Result<Self> {
        if first.is_multiple_of(32) { Ok(Self { first, ..self }) } else { Err(Error::First { first }) }
    }

    /// The stream's seed: the key of the generator.
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// The call's offset: the upper half of the generator's counter.
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// The global index of the tensor's element 0, a multiple of 32.
    pub const fn first(&self) -> u64 {
        self.first
    }

    /// The same part of another call's stream.
    #[cfg(feature = "cuda")]
    pub(crate) const fn at_offset(self, offset: u64) -> Self {
        Self { offset, ..self }
    }

    /// The index of each of `len` elements must fit in 64 bits.
    #[inline(always)]
    pub(crate) fn check_covers(self, len: usize) -> Result<()> {
        let first = self.first;
        if u128::from(first) + len as u128 <= 1 << 64 { Ok(()) } else { Err(Error::IndexRange { first, len }) }
    }

    /// The global index of the tensor's mask word 0.
    pub(crate) const fn first_word(&self) -> u64 {
        self.first / 32
    }
}

/// Hands out one key for each call: the same seed with offsets that count up.
///
/// Its state is the pair (seed, next offset), to be stored in a checkpoint and given back to
/// [`KeySequence::resume`]. It may be shared by threads: each call gets an offset of its own. The
/// offsets wrap around after 2^64 calls.
///
/// ```
/// use drop_activation::KeySequence;
/// let keys = KeySequence::new(42);
/// let first = keys.next_key();
/// let resumed = KeySequence::resume(keys.seed(), keys.next_offset());
/// assert_ne!(first, keys.next_key());
/// assert_eq!(resumed.next_key().offset(), 1);
/// ```
#[derive(Debug)]
pub struct KeySequence {
    seed: u64,
    next_offset: AtomicU64,
}

impl KeySequence {
    /// Starts at offset 0.
    pub const fn new(seed: u64) -> Self {
        Self::resume(seed, 0)
    }

    /// Goes on where a stored sequence stood.
    pub const fn resume(seed: u64, next_offset: u64) -> Self {
        Self { seed, next_offset: AtomicU64::new(next_offset) }
    }

    /// The key for one call.
    #[must_use = "the next call gets another key"]
    pub fn next_key(&self) -> MaskKey {
        MaskKey::new(self.seed, self.next_offset.fetch_add(1, Ordering::Relaxed))
    }

    /// The seed of all its keys.
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// The offset of the next key: with the seed, all there is to store.
    pub fn next_offset(&self) -> u64 {
        self.next_offset.load(Ordering::Relaxed)
    }
}

impl Clone for KeySequence {
    /// A copy at the same place; from there each hands out its own, equal, keys.
    fn clone(&self) -> Self {
        Self::resume(self.seed, self.next_offset())
    }
}
