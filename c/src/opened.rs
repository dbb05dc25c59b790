//! The kernels of each device, opened once for the adapters to frameworks, which have nobody who closes them.

use std::ptr;
use std::sync::{Mutex, PoisonError};

use crate::error::{Failure, taken};
use crate::{dact_cuda, dact_cuda_open, dact_cuda_preload};

/// The kernels on a device, which live as long as the process.
#[derive(Clone, Copy)]
pub(crate) struct Opened(pub(crate) *const dact_cuda);

// SAFETY: `dact_cuda_open` says that any number of threads may use it.
unsafe impl Send for Opened {}

pub(crate) fn kernels(index: i32) -> Result<Opened, Failure> {
    static KERNELS: Mutex<Vec<(i32, Opened)>> = Mutex::new(Vec::new());
    let mut known = KERNELS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, opened)) = known.iter().find(|(device, _)| *device == index) {
        return Ok(*opened);
    }
    let (mut cuda, mut error) = (ptr::null_mut(), ptr::null_mut());
    // SAFETY: the addresses of pointers; the kernels are loaded now, so that a graph may be captured later.
    unsafe {
        let status = dact_cuda_open(index, &mut cuda, &mut error);
        taken(status, error)?;
        let status = dact_cuda_preload(cuda, &mut error);
        taken(status, error)?;
    }
    known.push((index, Opened(cuda)));
    Ok(Opened(cuda))
}
