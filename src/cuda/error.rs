//! What the CUDA backend alone can fail at.

use cudarc::driver::DriverError;

/// Why the CUDA backend cannot do what was asked. The driver's own message is kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CudaError {
    /// There is no CUDA driver on this machine, or none that starts.
    #[error("no CUDA driver: {reason}; install NVIDIA's driver, in a container run it with the GPUs passed through")]
    NoDriver {
        /// What the system's loader or the library said.
        reason: String,
    },

    /// The driver has no such device.
    #[error(
        "device must be one of the {count} that the driver shows, counted from 0, got {ordinal}; nvidia-smi lists \
         them, CUDA_VISIBLE_DEVICES can hide them"
    )]
    NoDevice {
        /// The device asked for, counted from 0.
        ordinal: usize,
        /// How many devices there are.
        count: usize,
    },

    /// The device, or its driver, cannot run the device code that is embedded in this library.
    #[error(
        "{device} (compute capability {}.{}, driver for CUDA {}.{}) cannot run the device code of this library \
         ({code}): {reason}",
        .capability.0, .capability.1, .driver.0, .driver.1
    )]
    Unsupported {
        /// The device's name.
        device: String,
        /// Its compute capability, major and minor.
        capability: (u32, u32),
        /// The newest CUDA version that the driver knows, major and minor.
        driver: (u32, u32),
        /// What is embedded: [`device_code`](super::device_code).
        code: &'static str,
        /// What is wrong and what to do.
        reason: String,
    },

    /// The driver refused a call, or reports an error of earlier work in the context.
    #[error("CUDA driver, {doing}: {message}")]
    Driver {
        /// What was being done.
        doing: &'static str,
        /// The driver's error code (`CUresult`).
        code: u32,
        /// Its name and the driver's own text.
        message: String,
    },

    /// The stream or a tensor belongs to another context.
    #[error(
        "{argument} must be of the same `CudaContext` as kernels, stream, tensors and mask of the call, got one of \
         another"
    )]
    Context {
        /// The argument at fault.
        argument: &'static str,
    },

    /// The stream is being captured into a graph, and what was asked cannot be captured.
    #[error("stream must be outside of a capture into a graph, got one within, {reason}")]
    Capturing {
        /// Why that is in the way, and what to do.
        reason: &'static str,
    },

    /// A raw pointer that the pass needs is null.
    #[error("{argument} must be an address on the device, got NULL")]
    NullPointer {
        /// The argument at fault.
        argument: &'static str,
    },

    /// A raw pointer is not a multiple of its element's size.
    #[error("{argument} must be at a multiple of {alignment} bytes, got {address:#x}")]
    Misaligned {
        /// The argument at fault.
        argument: &'static str,
        /// Its address.
        address: u64,
        /// What the address must be a multiple of, in bytes.
        alignment: usize,
    },
}

/// Results that only CUDA can spoil.
pub(super) type Result<T> = std::result::Result<T, CudaError>;

/// Takes the driver's text now, while the driver is known to be there: cudarc's error fetches it only when
/// it is formatted, and panics where there is no driver.
pub(super) fn driver_text(error: DriverError) -> String {
    let name = error.0;
    match error.error_string() {
        Ok(text) => format!("{name:?}: {}", text.to_string_lossy()),
        Err(_) => format!("{name:?}"),
    }
}

/// Says what was being done when the driver failed. For use with `map_err`, after a call of the driver.
pub(super) fn while_doing(doing: &'static str) -> impl Fn(DriverError) -> CudaError {
    move |error| CudaError::Driver { doing, code: error.0 as u32, message: driver_text(error) }
}
