//! Status, message, and the one place where failures and panics become them.

use std::any::Any;
use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

#[cfg(feature = "cuda")]
use drop_activation::cuda::CudaError;
use drop_activation::{Error, in_default_environment};

/// How a call ended: one of the DACT_ status codes. Later versions may add others.
pub type dact_status = i32;

/// All went well.
pub const DACT_OK: dact_status = 0;
/// An argument is not allowed.
pub const DACT_INVALID_ARGUMENT: dact_status = 1;
/// There is no CUDA driver or no such device, or the library was built without CUDA.
pub const DACT_UNAVAILABLE: dact_status = 2;
/// This library, or its device code on this device, cannot do it.
pub const DACT_UNSUPPORTED: dact_status = 3;
/// The CUDA driver refused, or reports an error of earlier work.
pub const DACT_DRIVER_ERROR: dact_status = 4;
/// A defect of this library. Please report the message.
pub const DACT_INTERNAL_ERROR: dact_status = 5;

/// Why a call failed. Opaque; taken back by dact_error_free.
pub struct dact_error {
    message: CString,
}

/// A failure on its way to the caller.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: dact_status,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn invalid(message: String) -> Self {
        Self { status: DACT_INVALID_ARGUMENT, message }
    }

    pub(crate) fn unsupported(message: String) -> Self {
        Self { status: DACT_UNSUPPORTED, message }
    }

    fn panic(payload: &(dyn Any + Send)) -> Self {
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or(payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic without a message");
        Self { status: DACT_INTERNAL_ERROR, message: format!("defect in drop_activation, please report it: {text}") }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            #[cfg(feature = "cuda")]
            Error::Cuda(error) => error.into(),
            _ => Self::invalid(message),
        }
    }
}

#[cfg(feature = "cuda")]
impl From<CudaError> for Failure {
    fn from(error: CudaError) -> Self {
        let status = match error {
            CudaError::NoDriver { .. } | CudaError::NoDevice { .. } => DACT_UNAVAILABLE,
            CudaError::Unsupported { .. } => DACT_UNSUPPORTED,
            CudaError::Driver { .. } => DACT_DRIVER_ERROR,
            _ => DACT_INVALID_ARGUMENT,
        };
        Self { status, message: error.to_string() }
    }
}

/// The border: every function that can fail does its work in here, in the default floating-point environment. A failure
/// becomes a status and, if the caller wants it, an error; so does a panic.
///
/// # Safety
/// `error` is null or the address of a pointer, which need not be aligned or initialised.
pub(crate) unsafe fn guarded(error: *mut *mut dact_error, work: impl FnOnce() -> Result<(), Failure>) -> dact_status {
    // What is half-done when a call panics lives in `work` alone, or is the caller's output.
    let work = AssertUnwindSafe(|| in_default_environment(work));
    let result = catch_unwind(work).unwrap_or_else(|payload| Err(Failure::panic(&*payload)));
    let (status, given) = match result {
        Ok(()) => (DACT_OK, std::ptr::null_mut()),
        Err(_) if error.is_null() => return result.map_or_else(|failure| failure.status, |()| DACT_OK),
        Err(Failure { status, message }) => {
            let message = CString::new(message.replace('\0', "\\0")).unwrap_or_default();
            (status, Box::into_raw(Box::new(dact_error { message })))
        }
    };
    if !error.is_null() {
        // SAFETY: not null, and so the address of a pointer, by this function's contract.
        unsafe { error.write_unaligned(given) };
    }
    status
}

/// What a call of the interface's own ended with, the error taken back.
///
/// # Safety
/// `error` is null or came with this status, was not freed, and is not used again.
pub(crate) unsafe fn taken(status: dact_status, error: *mut dact_error) -> Result<(), Failure> {
    if status == DACT_OK {
        return Ok(());
    }
    // SAFETY: by this function's contract.
    unsafe {
        let message = CStr::from_ptr(dact_error_message(error)).to_string_lossy().into_owned();
        dact_error_free(error);
        Err(Failure { status, message })
    }
}

/// The message of an error: which argument, what was given, what is allowed. Valid until the error is freed; ""
/// for NULL.
///
/// # Safety
/// `error` is NULL or came from this library and was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dact_error_message(error: *const dact_error) -> *const c_char {
    // SAFETY: null, or an error that is alive, by this function's contract.
    unsafe { error.as_ref() }.map_or(c"".as_ptr(), |error| error.message.as_ptr())
}

/// Frees an error. Does nothing for NULL.
///
/// # Safety
/// `error` is NULL or came from this library, was not freed, and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dact_error_free(error: *mut dact_error) {
    if !error.is_null() {
        // SAFETY: `guarded` made it by `Box::into_raw`, and it was not freed, by this function's contract.
        drop(unsafe { Box::from_raw(error) });
    }
}

/// What a status means, in a few words that are never freed.
#[unsafe(no_mangle)]
pub extern "C" fn dact_status_name(status: dact_status) -> *const c_char {
    let name: &'static CStr = match status {
        DACT_OK => c"ok",
        DACT_INVALID_ARGUMENT => c"invalid argument",
        DACT_UNAVAILABLE => c"CUDA is not available",
        DACT_UNSUPPORTED => c"not supported",
        DACT_DRIVER_ERROR => c"error of the CUDA driver",
        DACT_INTERNAL_ERROR => c"defect in drop_activation",
        _ => c"unknown status",
    };
    name.as_ptr()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(work: impl FnOnce() -> Result<(), Failure>) -> (dact_status, String) {
        let mut error = std::ptr::dangling_mut();
        // SAFETY: `error` is the address of a pointer; what it then points to is alive until it is freed.
        unsafe {
            let status = guarded(&mut error, work);
            let message = CStr::from_ptr(dact_error_message(error)).to_str().unwrap().to_owned();
            dact_error_free(error);
            (status, message)
        }
    }

    #[test]
    fn success_clears_the_error() {
        assert_eq!(end(|| Ok(())), (DACT_OK, String::new()));
    }

    #[test]
    fn failures_and_panics_become_a_status_and_a_message() {
        let (status, message) = end(|| Err(Failure::invalid("len\0 is 3".into())));
        assert_eq!((status, message.as_str()), (DACT_INVALID_ARGUMENT, "len\\0 is 3"));
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| ()));
        let panics = [end(|| panic!("one")), end(|| panic!("{}", 2)), end(|| std::panic::panic_any(3))];
        std::panic::set_hook(hook);
        for ((status, message), text) in panics.into_iter().zip(["one", "2", "without a message"]) {
            assert_eq!(status, DACT_INTERNAL_ERROR);
            assert!(message.contains(text), "{message}");
        }
    }

    #[test]
    fn nobody_need_take_the_error() {
        // SAFETY: null is allowed.
        let status = unsafe { guarded(std::ptr::null_mut(), || Err(Failure::unsupported("no".into()))) };
        assert_eq!(status, DACT_UNSUPPORTED);
    }
}
