//! Large pages for large tensors of PyTorch's.
//!
//! PyTorch gives the memory of a large tensor back to the system and asks for it anew in each step. The system then maps
//! and clears it page by page while a pass writes to it: with pages of 4 KiB that took three times as long as the passes
//! of a batch normalisation of 84 MB themselves, with pages of 2 MiB a third of that time. NumPy asks for them too, from
//! the same size on.

use std::ffi::c_void;

/// Bytes from which on it is worth a call.
const LARGE: usize = 4 << 20;

/// Asks for large pages where memory has none yet. What is in it does not change, and nothing happens where the system
/// has no such pages or grants none.
pub(crate) fn ask_for_large_pages(address: *mut c_void, bytes: usize) {
    if bytes >= LARGE {
        ask(address, bytes);
    }
}

#[cfg(target_os = "linux")]
fn ask(address: *mut c_void, bytes: usize) {
    use std::ffi::c_int;

    unsafe extern "C" {
        fn madvise(address: *mut c_void, length: usize, advice: c_int) -> c_int;
    }
    const MADV_HUGEPAGE: c_int = 14;
    /// As large as they are on x86-64, and a multiple of any page that is mapped otherwise.
    const LARGE_PAGE: usize = 2 << 20;

    let to_next = address.addr().wrapping_neg() % LARGE_PAGE;
    let whole = bytes.saturating_sub(to_next) / LARGE_PAGE * LARGE_PAGE;
    // SAFETY: it changes how memory is mapped and not what is in it, and these pages hold nothing but this tensor.
    unsafe { madvise(address.wrapping_byte_add(to_next), whole, MADV_HUGEPAGE) };
}

#[cfg(not(target_os = "linux"))]
fn ask(_: *mut c_void, _: usize) {}
