//! Which interface this is.

use std::ffi::{CStr, c_char};

use crate::error::{Failure, dact_error, dact_status, guarded};

/// The version of the binary interface: it grows when a program that was compiled for the one before would no
/// longer work.
pub const DACT_ABI_VERSION: u32 = 1;

/// The version of the library.
pub const DACT_VERSION_MAJOR: u32 = 0;
/// The version of the library.
pub const DACT_VERSION_MINOR: u32 = 1;
/// The version of the library.
pub const DACT_VERSION_PATCH: u32 = 0;

const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
    Ok(version) => version,
    Err(_) => panic!("a version holds no zero byte"),
};

/// The version of the library that is loaded, as "0.1.0".
#[unsafe(no_mangle)]
pub extern "C" fn dact_version() -> *const c_char {
    VERSION.as_ptr()
}

/// The version of the binary interface of the library that is loaded.
#[unsafe(no_mangle)]
pub extern "C" fn dact_abi_version() -> u32 {
    DACT_ABI_VERSION
}

/// Whether the library that is loaded has the binary interface of a header: call it once with DACT_ABI_VERSION,
/// before anything else. Returns DACT_UNSUPPORTED if not.
///
/// `error` may be NULL; else it is set to NULL, or on failure to an error that dact_error_free takes back.
///
/// # Safety
/// `error` is NULL or the address of a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dact_check_abi(abi_version: u32, error: *mut *mut dact_error) -> dact_status {
    let check = || {
        if abi_version == DACT_ABI_VERSION {
            return Ok(());
        }
        let version = env!("CARGO_PKG_VERSION");
        Err(Failure::unsupported(format!(
            "abi_version must be that of the loaded library (drop_activation {version}), {DACT_ABI_VERSION}, got \
             {abi_version}"
        )))
    };
    // SAFETY: `error` is as `guarded` asks, by this function's contract.
    unsafe { guarded(error, check) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_macros_are_the_package_version() {
        let macros = format!("{DACT_VERSION_MAJOR}.{DACT_VERSION_MINOR}.{DACT_VERSION_PATCH}");
        assert_eq!(macros, env!("CARGO_PKG_VERSION"));
        assert_eq!(VERSION.to_str(), Ok(env!("CARGO_PKG_VERSION")));
    }
}
