//! The packed mask: one bit for each element, tied to the call it was made by, and all (for ReLU) or
//! all but x (for the others) that the backward pass needs.

use std::fmt;

use crate::activation::Activation;
use crate::error::{Error, Result};
use crate::key::MaskKey;
use crate::operation::{DropActivation, RRelu};

/// What a mask was made by. The backward pass accepts only the masks of its own operation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MaskOrigin {
    /// A training forward pass of Drop-Activation.
    DropActivation(DropActivation),
    /// A training forward pass of RReLU; the key lets the backward pass draw the slopes again.
    RRelu(RRelu, MaskKey),
}

impl MaskOrigin {
    /// What a set bit means.
    pub const fn kind(&self) -> MaskKind {
        match self {
            Self::DropActivation(op) if matches!(op.activation(), Activation::Relu) => MaskKind::Pass,
            Self::DropActivation(_) => MaskKind::Keep,
            Self::RRelu(..) => MaskKind::Sign,
        }
    }

    /// The key of the slopes, if the mask was made by this RReLU.
    pub(crate) fn slopes_key(&self, op: &RRelu) -> Result<MaskKey> {
        match self {
            Self::RRelu(made_by, key) if made_by == op => Ok(*key),
            _ => Err(Error::MaskOrigin { given: *self, expected: op.to_string() }),
        }
    }
}

impl fmt::Display for MaskOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DropActivation(op) => op.fmt(f),
            Self::RRelu(op, _) => op.fmt(f),
        }
    }
}

/// What a set bit of a mask means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MaskKind {
    /// ReLU: the element and its gradient pass unchanged; a clear bit makes both zero.
    Pass,
    /// Other nonlinearities: σ was kept; a clear bit means the identity took its place.
    Keep,
    /// RReLU: x >= 0, so the element was not scaled.
    Sign,
}

/// A mask in host memory: `ceil(len / 32)` words, element i at bit i % 32 (least significant first)
/// of word i / 32, unused bits of the last word zero.
///
/// On a little-endian machine its words are an Arrow validity bitmap, or numpy's
/// `packbits(bitorder="little")`.
#[derive(Clone, Debug, PartialEq)]
pub struct PackedMask {
    origin: MaskOrigin,
    len: usize,
    words: Vec<u32>,
}

/// Words of a mask for `len` elements.
pub(crate) const fn words_for(len: usize) -> usize {
    len.div_ceil(32)
}

/// The words of a mask for `len` elements, zero. A length that is a mistake must not end the program.
pub(crate) fn zero_words(len: usize) -> Result<Vec<u32>> {
    let mut words = Vec::new();
    resize(&mut words, words_for(len), len)?;
    Ok(words)
}

/// Clears the unused bits of the last word.
pub(crate) fn clear_unused(words: &mut [u32], len: usize) {
    if let (Some(last), used @ 1..) = (words.last_mut(), len % 32) {
        *last &= (1 << used) - 1;
    }
}

/// Makes them so many, new ones zero, for a mask of `len` elements; leaves them as they were if there is no memory.
pub(crate) fn resize(words: &mut Vec<u32>, count: usize, len: usize) -> Result<()> {
    let more = count.saturating_sub(words.len());
    words.try_reserve_exact(more).map_err(|_| Error::MaskMemory { len })?;
    words.resize(count, 0);
    Ok(())
}

impl PackedMask {
    /// For backends: `words` must be as many as `len` needs, with the unused bits zero.
    pub(crate) fn assemble(origin: MaskOrigin, len: usize, words: Vec<u32>) -> Self {
        debug_assert_eq!(words.len(), words_for(len));
        Self { origin, len, words }
    }

    /// For backends that fill a caller's mask anew: sets what it is for, and gives out its words. Without memory for
    /// them it stays the mask that it was.
    pub(crate) fn renew(&mut self, origin: MaskOrigin, len: usize) -> Result<&mut [u32]> {
        resize(&mut self.words, words_for(len), len)?;
        self.origin = origin;
        self.len = len;
        Ok(&mut self.words)
    }

    /// A mask from words that came from [`PackedMask::words`], a checkpoint or another program.
    ///
    /// # Errors
    /// [`Error::MaskWords`] unless there are exactly `ceil(len / 32)` words and the unused bits of
    /// the last are zero; [`Error::IndexRange`] if `origin` holds a key that `len` elements overrun.
    pub fn from_words(origin: MaskOrigin, len: usize, words: Vec<u32>) -> Result<Self> {
        let expected = words_for(len);
        if words.len() != expected {
            let reason = format!("{expected} words, got {}", words.len());
            return Err(Error::MaskWords { len, reason });
        }
        if let (Some(last), used @ 1..) = (words.last(), len % 32)
            && last >> used != 0
        {
            let reason = format!("with only the lowest {used} bits of the last word set, got {last:#010x}");
            return Err(Error::MaskWords { len, reason });
        }
        if let MaskOrigin::RRelu(_, key) = origin {
            key.check_covers(len)?;
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

    /// The packed words.
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    /// The packed words, without a copy.
    #[must_use]
    pub fn into_words(self) -> Vec<u32> {
        self.words
    }

    /// Element i's bit, or `None` past the end.
    pub fn bit(&self, i: usize) -> Option<bool> {
        (i < self.len).then(|| self.words[i / 32] >> (i % 32) & 1 != 0)
    }

    /// The mask as bytes for a checkpoint: what it was made by, its length, its words and a checksum.
    /// Read back by [`PackedMask::from_bytes`] on any machine.
    ///
    /// # Errors
    /// [`Error::MaskMemory`].
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        bytes
            .try_reserve_exact(stored::HEADER_BYTES + 4 * self.words.len() + 8)
            .map_err(|_| Error::MaskMemory { len: self.len })?;
        bytes.extend_from_slice(&stored::header(&self.origin, self.len));
        for word in &self.words {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(&stored::checksum(&bytes).to_le_bytes());
        Ok(bytes)
    }

    /// The mask that [`PackedMask::to_bytes`] stored.
    ///
    /// # Errors
    /// [`Error::MaskBytes`] if the bytes are cut short, too long, of another format or damaged;
    /// [`Error::MaskMemory`]; the errors of [`PackedMask::from_words`] and of the operation's constructor for what they
    /// hold.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let (origin, len, words) = stored::parse(bytes)?;
        Self::from_words(origin, len, words)
    }
}

/// The stored form, little-endian throughout: 8 bytes of format name and version, the origin (code,
/// activation, two parameters, three key fields), the length, the words, and an FNV-1a checksum of
/// all before it, which catches any single damaged byte.
mod stored {
    use super::*;

    const FORMAT: [u8; 8] = *b"DropMsk1";
    pub(super) const HEADER_BYTES: usize = 64;

    pub(super) fn header(origin: &MaskOrigin, len: usize) -> [u8; HEADER_BYTES] {
        let (code, activation, parameter, key) = match origin {
            MaskOrigin::DropActivation(op) => (0, op.activation() as u32, op.p().to_bits(), MaskKey::new(0, 0)),
            MaskOrigin::RRelu(op, key) => {
                (1, 0, u64::from(op.lower().to_bits()) | u64::from(op.upper().to_bits()) << 32, *key)
            }
        };
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(&FORMAT);
        let fields =
            [u64::from(activation) << 32 | code, parameter, key.seed(), key.offset(), key.first(), len as u64, 0];
        for (bytes, field) in header[8..].chunks_exact_mut(8).zip(fields) {
            bytes.copy_from_slice(&field.to_le_bytes());
        }
        header
    }

    pub(super) fn checksum(bytes: &[u8]) -> u64 {
        bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01B3))
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<(MaskOrigin, usize, Vec<u32>)> {
        let bad = |reason: String| Error::MaskBytes { reason };
        let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return Err(bad(format!("at least {} bytes, got {}", HEADER_BYTES + 8, bytes.len())));
        };
        if header[..8] != FORMAT {
            return Err(bad(format!("which begins with {FORMAT:?}, got {:?}", &header[..8])));
        }
        let mut fields = [0; 7];
        for (field, bytes) in fields.iter_mut().zip(header[8..].chunks_exact(8)) {
            *field = u64::from_le_bytes(bytes.try_into().expect("chunks of 8"));
        }
        let [codes, parameter, seed, offset, first, len, reserved] = fields;

        // The length is checked against the bytes at hand before anything is allocated for it.
        let len = usize::try_from(len).map_err(|_| bad(format!("of at most {} elements, got {len}", usize::MAX)))?;
        let expected = words_for(len).checked_mul(4).and_then(|n| n.checked_add(8));
        if expected != Some(rest.len()) {
            return Err(bad(format!("with what {len} elements take after the header, got {} bytes", rest.len())));
        }
        let (words, sum) = rest.split_at(rest.len() - 8);
        let stored = u64::from_le_bytes(sum.try_into().expect("the last 8 bytes"));
        let sum = checksum(&bytes[..bytes.len() - 8]);
        if stored != sum {
            return Err(bad(format!("whose checksum is {sum:#x}, got {stored:#x}")));
        }

        let origin = match (codes as u32, (codes >> 32) as usize, reserved) {
            (0, activation, 0) if activation < Activation::ALL.len() => {
                MaskOrigin::DropActivation(DropActivation::new(Activation::ALL[activation], f64::from_bits(parameter))?)
            }
            (1, 0, 0) => MaskOrigin::RRelu(
                RRelu::new(f32::from_bits(parameter as u32), f32::from_bits((parameter >> 32) as u32))?,
                MaskKey::new(seed, offset).shard(first)?,
            ),
            _ => return Err(bad(format!("of a known operation, got code {codes:#x}"))),
        };
        let mut mask = zero_words(len)?;
        for (word, bytes) in mask.iter_mut().zip(words.as_chunks().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        Ok((origin, len, mask))
    }
}
