//! What the stream of a call must be: of the slices' context, and not in the way of a capture.

use std::sync::Arc;

use cudarc::driver::sys::CUstreamCaptureStatus;
use cudarc::driver::{CudaStream, DeviceSlice};

use super::error::{CudaError, Result as CudaResult, while_doing};

/// A slice must come from the stream's own [`CudaContext`](cudarc::driver::CudaContext) object: another one of
/// the same device is the same to the driver, but cudarc's event tracking orders the streams of one object
/// only.
pub(super) fn same_context<T>(
    stream: &CudaStream,
    argument: &'static str,
    slice: &impl DeviceSlice<T>,
) -> CudaResult<()> {
    if Arc::ptr_eq(slice.stream().context(), stream.context()) { Ok(()) } else { Err(CudaError::Context { argument }) }
}

/// Refuses a stream that is being captured into a graph. The reason says why, and what to do.
pub(super) fn not_capturing(stream: &CudaStream, reason: &'static str) -> CudaResult<()> {
    let status = stream.capture_status().map_err(while_doing("asking whether the stream is being captured"))?;
    if status == CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE {
        Ok(())
    } else {
        Err(CudaError::Capturing { reason })
    }
}

/// Refuses a stream that is being captured, unless cudarc's event tracking was turned off. Events of work outside the
/// capture would spoil it, and the error show later and elsewhere; and a graph can be replayed when its memory was
/// freed, against which nothing helps but the promise that `disable_event_tracking` takes.
pub(super) fn not_tracking_a_capture(stream: &CudaStream) -> CudaResult<()> {
    if stream.context().is_event_tracking() {
        not_capturing(
            stream,
            "where waiting for cudarc's events does harm: call disable_event_tracking on its context",
        )?;
    }
    Ok(())
}
