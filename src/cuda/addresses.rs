//! The device addresses of a pass, and what can be said against them on the host.

use super::error::{CudaError, Result};

/// Device addresses for one pass; 0 is a null pointer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// What the pass reads: x forward, dy backward.
    pub input: u64,
    /// What a backward pass reads besides, if it does: x or y of the forward pass, as [`Pass`](crate::Pass) says.
    pub saved: u64,
    /// What the pass writes: y forward, dx backward.
    pub output: u64,
    /// The mask, if the pass has one: `ceil(n / 32)` words of 32 bits, written forward, read backward.
    pub mask: u64,
    /// A base in device memory that the offset of the pass's key is counted from, modulo 2^64: one word of 64 bits,
    /// read when the kernel runs. Without one the key's offset is the whole.
    pub offset_at: u64,
    /// Beside `offset_at`: the seed of a generator in device memory, one word of 64 bits, read when the kernel runs. The
    /// pass then draws at an offset that is itself drawn: with `o` as above, words 0 and 1 of Philox4x32-10 at key seed
    /// and counter `o / 4`, the first the upper half, modulo 2^63 - 1. PyTorch's `randint(2**63 - 1, (1,))` draws the
    /// same, so that a captured graph has the key of each replay without a kernel of its own.
    pub seed_at: u64,
    /// Where RReLU's forward stores the offset that it drew with, one word of 64 bits, if that is wanted. Its backward
    /// pass finds it there whatever has become of the base: by a key of offset 0, with this as `offset_at`.
    pub offset_out: u64,
}

impl Addresses {
    /// Where a kernel that draws finds the base of its offset, and the seed of a generator.
    pub(super) fn base(&self) -> Result<(*const u64, *const u64)> {
        if self.seed_at != 0 && self.offset_at == 0 {
            return Err(CudaError::NullPointer { argument: "offset_at" });
        }
        Ok((optional("offset_at", self.offset_at)? as *const u64, optional("seed_at", self.seed_at)? as *const u64))
    }
}

/// The address of a 64-bit word that the caller may leave out.
pub(super) fn optional(argument: &'static str, address: u64) -> Result<u64> {
    if address == 0 { Ok(0) } else { checked(argument, address, size_of::<u64>()) }
}

/// An address that a kernel can take.
pub(super) fn checked(argument: &'static str, address: u64, alignment: usize) -> Result<u64> {
    if address == 0 {
        Err(CudaError::NullPointer { argument })
    } else if !address.is_multiple_of(alignment as u64) {
        Err(CudaError::Misaligned { argument, address, alignment })
    } else {
        Ok(address)
    }
}
