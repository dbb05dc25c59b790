//! A mask as memory of the caller's.

/// The mask's words of a pass: `ceil(len / 32)` of them, element i at bit i % 32 of word i / 32.
///
/// Unlike a [`PackedMask`](crate::PackedMask) they do not know what they were made for: words of another
/// operation or key give a wrong gradient, and that the caller has to see to.
#[derive(Debug)]
pub enum MaskWords<'a> {
    /// The pass has no mask.
    None,
    /// A backward pass reads them. Unused bits of the last word are not looked at.
    Read(&'a [u32]),
    /// A forward pass writes them; unused bits of the last word become zero.
    Write(&'a mut [u32]),
}
