//! Whether there is a CUDA driver to talk to. cudarc panics where there is none, so every way into this
//! backend asks here first, or holds a cudarc object that only a driver can have made.

use std::sync::{Arc, OnceLock};

use cudarc::driver::result::DriverError;
use cudarc::driver::{CudaContext, sys};

use super::error::{CudaError, Result, driver_text, while_doing};

/// Under which names the driver's library is looked for. cudarc finds it under each of them too.
const LIBRARIES: &[&str] = if cfg!(windows) { &["nvcuda.dll"] } else { &["libcuda.so.1", "libcuda.so"] };

/// Whether the CUDA backend has a driver and a device: `Ok`, or the reason why not. It never panics.
///
/// # Errors
/// [`CudaError::NoDriver`], [`CudaError::NoDevice`] or, if the driver does not start, [`CudaError::Driver`].
pub fn available() -> Result<()> {
    device_count().map(|_| ())
}

/// How many devices the driver shows; at least 1. It never panics.
///
/// # Errors
/// Those of [`available`].
pub fn device_count() -> Result<usize> {
    static LIBRARY: OnceLock<Result<()>> = OnceLock::new();
    LIBRARY.get_or_init(|| load(LIBRARIES)).clone()?;
    match CudaContext::device_count() {
        Ok(count @ 1..) => Ok(count as usize),
        Ok(_) | Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => {
            Err(CudaError::NoDevice { ordinal: 0, count: 0 })
        }
        // What a toolkit offers for linking, in the place of the driver's library.
        Err(stub @ DriverError(sys::CUresult::CUDA_ERROR_STUB_LIBRARY)) => {
            Err(CudaError::NoDriver { reason: driver_text(stub) })
        }
        Err(other) => Err(while_doing("starting")(other)),
    }
}

/// The primary context of device `ordinal`, counted from 0. Like [`CudaContext::new`], but without a panic
/// where there is no driver.
///
/// # Errors
/// Those of [`available`]; [`CudaError::NoDevice`] if there are not that many devices;
/// [`CudaError::Driver`] if the driver cannot make the context.
pub fn context(ordinal: usize) -> Result<Arc<CudaContext>> {
    let count = device_count()?;
    if ordinal >= count {
        return Err(CudaError::NoDevice { ordinal, count });
    }
    CudaContext::new(ordinal).map_err(while_doing("making a context"))
}

/// The newest CUDA version that the driver knows, major and minor. Only for when there is a driver.
pub(super) fn version() -> std::result::Result<(u32, u32), DriverError> {
    let mut version = 0;
    // SAFETY: the driver writes one integer to the address given.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result()?;
    let version = version as u32;
    Ok((version / 1000, version % 1000 / 10))
}

/// Loads the first of the libraries that can be loaded, for good.
fn load(names: &[&str]) -> Result<()> {
    let mut reasons = Vec::new();
    for name in names {
        // SAFETY: loading runs the library's initialisers. By these names it is NVIDIA's driver, whose
        // initialisers expect nothing from the program, and which cudarc is about to load as well.
        match unsafe { libloading::Library::new(*name) } {
            Ok(library) => {
                // Unloading a driver while the process lives would be asking for trouble.
                std::mem::forget(library);
                return Ok(());
            }
            Err(error) => {
                // What the system says is the source; it mostly names the file.
                let text = std::error::Error::source(&error).map_or(error.to_string(), ToString::to_string);
                reasons.push(if text.contains(name) { text } else { format!("{name}: {text}") });
            }
        }
    }
    Err(CudaError::NoDriver { reason: reasons.join("; ") })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_missing_library_is_an_error_that_names_it() {
        let error = load(&["libno-such-driver.so.1", "libno-such-driver.so"]).unwrap_err();
        let CudaError::NoDriver { reason } = &error else { panic!("{error:?}") };
        assert!(reason.contains("libno-such-driver.so.1"), "{reason}");
        let text = error.to_string();
        assert!(text.contains(reason.as_str()) && text.contains("install"), "{text}");
    }

    #[test]
    fn without_a_driver_there_are_errors_and_no_panics() {
        if load(LIBRARIES).is_ok() {
            // Not by eprintln!, whose output is shown for failing tests only.
            let _ = writeln!(std::io::stderr(), "SKIPPED: what happens without a CUDA driver, since there is one");
            return;
        }
        let no_driver = |error: CudaError| matches!(error, CudaError::NoDriver { .. });
        for _ in 0..2 {
            assert!(no_driver(available().unwrap_err()));
            assert!(no_driver(device_count().unwrap_err()));
            assert!(no_driver(context(0).unwrap_err()));
            assert!(no_driver(context(usize::MAX).unwrap_err()));
        }
    }
}
