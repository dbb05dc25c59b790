//! The memory of a launch: every access is looked up in its buffers and checked against what they allow.

use crate::emulator::{Access, Buffer};

/// Of a byte: whether it has contents, whether this launch wrote it.
const DEFINED: u8 = 1;
const WRITTEN: u8 = 2;

/// The buffers of a launch, with a shadow for each that can be read or written wrongly.
pub struct Memory<'a, 'b> {
    buffers: &'a [Buffer<'b>],
    shadows: Vec<Vec<u8>>,
}

impl<'a, 'b> Memory<'a, 'b> {
    pub fn new(buffers: &'a [Buffer<'b>]) -> Result<Self, String> {
        for (i, b) in buffers.iter().enumerate() {
            for other in &buffers[..i] {
                let begins_within =
                    |b: &Buffer, other: &Buffer| b.address.wrapping_sub(other.address) < other.bytes as u64;
                if b.bytes != 0 && other.bytes != 0 && (begins_within(b, other) || begins_within(other, b)) {
                    return Err(format!(
                        "buffers {} and {} overlap: pass what is worked on in place once",
                        other.name, b.name
                    ));
                }
            }
        }
        let shadow = |b: &Buffer| match b.access {
            Access::Input => Vec::new(),
            Access::InPlace => vec![DEFINED; b.bytes],
            Access::Output | Access::Scratch => vec![0; b.bytes],
        };
        Ok(Self { buffers, shadows: buffers.iter().map(shadow).collect() })
    }

    /// The buffer that holds all of the access, which is also aligned.
    fn find(&self, verb: &str, address: u64, bytes: usize) -> Result<(usize, usize), String> {
        let mut nearest: Option<(u64, &Buffer)> = None;
        for (i, b) in self.buffers.iter().enumerate() {
            let offset = address.wrapping_sub(b.address);
            if offset < b.bytes as u64 && bytes as u64 <= b.bytes as u64 - offset {
                if address.is_multiple_of(bytes as u64) {
                    return Ok((i, offset as usize));
                }
                return Err(format!(
                    "{verb} {bytes} bytes of {} at offset {offset}, address {address:#X}, which is no multiple of {bytes}",
                    b.name
                ));
            }
            // Round the end of the address space too, where a sum of addresses may have gone.
            let apart = b.address.wrapping_sub(address).min(offset.saturating_sub(b.bytes as u64));
            if nearest.is_none_or(|(least, _)| apart < least) {
                nearest = Some((apart, b));
            }
        }
        Err(match nearest {
            None => format!("{verb} {bytes} bytes at {address:#X}, but the launch has no buffers"),
            Some((_, b)) => format!(
                "{verb} {bytes} bytes outside every buffer, at offset {} of {} ({} bytes)",
                address.wrapping_sub(b.address) as i64,
                b.name,
                b.bytes
            ),
        })
    }

    /// Reads `to.len()` bytes, a power of two. `unchanging`: by the path that is for memory which no thread of the
    /// launch writes.
    pub fn read(&self, address: u64, to: &mut [u8], unchanging: bool) -> Result<(), String> {
        let bytes = to.len();
        let (i, offset) = self.find("reads", address, bytes)?;
        let b = &self.buffers[i];
        let place = || format!("reads {bytes} bytes of {} at offset {offset}", b.name);
        if b.access == Access::Output {
            return Err(format!("{}, which is not to be read", place()));
        }
        if b.access != Access::Input {
            if unchanging {
                return Err(format!("{} by the read-only path, but the launch may write there", place()));
            }
            let shadow = &self.shadows[i][offset..offset + bytes];
            if shadow.iter().any(|byte| byte & DEFINED == 0) {
                return Err(format!("{}, which nobody has written", place()));
            }
            if b.access == Access::InPlace && shadow.iter().any(|byte| byte & WRITTEN != 0) {
                return Err(format!("{} after this launch has written there", place()));
            }
        }
        // SAFETY: the buffer is valid for reads of `b.bytes` bytes, of which these are a part (`Buffer::raw`).
        unsafe { b.host.add(offset).copy_to_nonoverlapping(to.as_mut_ptr(), bytes) };
        Ok(())
    }

    /// Writes `from.len()` bytes, a power of two.
    pub fn write(&mut self, address: u64, from: &[u8]) -> Result<(), String> {
        let bytes = from.len();
        let (i, offset) = self.find("writes", address, bytes)?;
        let b = &self.buffers[i];
        let place = || format!("writes {bytes} bytes of {} at offset {offset}", b.name);
        if b.access == Access::Input {
            return Err(format!("{}, which is not to be written", place()));
        }
        let shadow = &mut self.shadows[i][offset..offset + bytes];
        if b.access != Access::Scratch && shadow.iter().any(|byte| byte & WRITTEN != 0) {
            return Err(format!("{}, some of them for the second time", place()));
        }
        shadow.fill(DEFINED | WRITTEN);
        // SAFETY: the buffer is valid for writes of `b.bytes` bytes, since it is no input (`Buffer::raw`).
        unsafe { b.host.add(offset).copy_from_nonoverlapping(from.as_ptr(), bytes) };
        Ok(())
    }

    /// What has to be written and was not.
    pub fn unwritten(&self) -> Result<(), String> {
        for (b, shadow) in self.buffers.iter().zip(&self.shadows) {
            if !matches!(b.access, Access::Output | Access::InPlace) {
                continue;
            }
            let left = || shadow.iter().enumerate().filter(|(_, byte)| *byte & WRITTEN == 0);
            if let Some((first, _)) = left().next() {
                return Err(format!(
                    "{} of the {} bytes of {} are never written, the first at offset {first}",
                    left().count(),
                    b.bytes,
                    b.name
                ));
            }
        }
        Ok(())
    }
}
