//! The functions for tensors in device memory. They exist in every build of the library, so that a program links
//! with each; without the feature `cuda` they say that there is no CUDA.

use std::ffi::{c_char, c_void};

use crate::error::{Failure, dact_error, dact_status, guarded};
use crate::pass::dact_pass;
use crate::structure::read;
use crate::tensors::dact_tensors;

use backend::Device;

/// The kernels on one CUDA device, in its primary context, which is the one that the CUDA runtime and so every
/// framework uses. Opaque.
pub struct dact_cuda(Device);

/// Whether there is a CUDA driver and a device: DACT_OK, or DACT_UNAVAILABLE and the reason. `devices` may be NULL;
/// else it is set to the number of devices.
///
/// `error` may be NULL; else it is set to NULL, or on failure to an error that dact_error_free takes back.
///
/// # Safety
/// `devices` is NULL or the address of an integer, `error` is NULL or the address of a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dact_cuda_available(devices: *mut i32, error: *mut *mut dact_error) -> dact_status {
    let ask = || {
        let result = backend::device_count();
        if !devices.is_null() {
            let count = result.as_ref().map_or(0, |count| i32::try_from(*count).unwrap_or(i32::MAX));
            // SAFETY: not null, and so the address of an integer, by this function's contract.
            unsafe { devices.write_unaligned(count) };
        }
        result.map(|_| ())
    };
    // SAFETY: `error` is as `guarded` asks, by this function's contract.
    unsafe { guarded(error, ask) }
}

/// Which device code the library holds, and who compiled it; never freed.
#[unsafe(no_mangle)]
pub extern "C" fn dact_cuda_device_code() -> *const c_char {
    backend::DEVICE_CODE.as_ptr().cast()
}

/// The kernels on a device, counted from 0 as the CUDA runtime does, for dact_cuda_close to take back. It may be
/// used by any number of threads at once, and for one device there may be several.
///
/// `error` may be NULL; else it is set to NULL, or on failure to an error that dact_error_free takes back.
///
/// # Safety
/// `cuda` is NULL or the address of a pointer, `error` is NULL or the address of a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dact_cuda_open(
    device: i32,
    cuda: *mut *mut dact_cuda,
    error: *mut *mut dact_error,
) -> dact_status {
    let open = || {
        if cuda.is_null() {
            return Err(Failure::invalid("cuda must be the address of a dact_cuda *, got NULL".into()));
        }
        // SAFETY: not null, and so the address of a pointer, by this function's contract.
        unsafe { cuda.write_unaligned(std::ptr::null_mut()) };
        let ordinal = usize::try_from(device)
            .map_err(|_| Failure::invalid(format!("device must be 0 or above, got {device}")))?;
        let opened = Box::new(dact_cuda(Device::open(ordinal)?));
        // SAFETY: as above.
        unsafe { cuda.write_unaligned(Box::into_raw(opened)) };
        Ok(())
    };
    // SAFETY: `error` is as `guarded` asks, by this function's contract.
    unsafe { guarded(error, open) }
}

/// Gives the kernels back: waits for the device's work if nobody else holds them. Does nothing for NULL.
///
/// # Safety
/// `cuda` is NULL or came from dact_cuda_open, was not closed, and is not used again, also by graphs that captured
/// its work.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dact_cuda_close(cuda: *mut dact_cuda) {
    let close = || {
        if !cuda.is_null() {
            // SAFETY: `dact_cuda_open` made it by `Box::into_raw`, and it was not closed, by this function's contract.
            unsafe { Box::from_raw(cuda) }.0.close();
        }
        Ok(())
    };
    // SAFETY: null is allowed.
    unsafe { guarded(std::ptr::null_mut(), close) };
}

/// Loads all kernels now, so that no later call has to: before a graph is captured, while which nothing may be
/// loaded.
///
/// `error` may be NULL; else it is set to NULL, or on failure to an error that dact_error_free takes back.
///
/// # Safety
/// `cuda` is NULL or came from dact_cuda_open and was not closed. `error` is NULL or the address of a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dact_cuda_preload(cuda: *const dact_cuda, error: *mut *mut dact_error) -> dact_status {
    // SAFETY: as `opened` asks, by this function's contract.
    let preload = || unsafe { opened(cuda) }?.preload();
    // SAFETY: `error` is as `guarded` asks, by this function's contract.
    unsafe { guarded(error, preload) }
}

/// Enqueues a pass on tensors in device memory and returns before it is done. `stream` is the CUstream or
/// cudaStream_t, NULL for the default stream. Allocates nothing and waits for nothing, so it may be captured into a
/// graph after dact_cuda_preload. A pass of sums is two kernels and takes a workspace; any other is one. The thread's
/// current context is the same afterwards.
///
/// `error` may be NULL; else it is set to NULL, or on failure to an error that dact_error_free takes back.
///
/// # Safety
/// `cuda` is NULL or came from dact_cuda_open and was not closed. `stream` is a stream of its device's primary
/// context. `pass` and `tensors` are NULL or the addresses of such structures. From the call until the work on the
/// stream is done: where the pass reads or writes, there are as many elements or words as `tensors` says, and at
/// the key's device_offset 8 bytes, in memory that the device can access, and no other work writes what it reads or
/// touches what it writes, unless streams or events order the two. `error` is NULL or the address of a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dact_cuda_run(
    cuda: *const dact_cuda,
    stream: *mut c_void,
    pass: *const dact_pass,
    tensors: *const dact_tensors,
    error: *mut *mut dact_error,
) -> dact_status {
    // SAFETY: by this function's contract.
    unsafe { run_with_key_at(cuda, stream, pass, tensors, KeyAt::default(), error) }
}

/// What adapters to frameworks have in device memory beside a key's `device_offset`; 0 is a null pointer.
#[derive(Clone, Copy, Default)]
#[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "there is no device that reads them"))]
pub(crate) struct KeyAt {
    /// The seed of a generator, which draws the pass's offset: `Addresses::seed_at`.
    pub(crate) seed: u64,
    /// Where RReLU's forward pass stores the offset that it drew with.
    pub(crate) offset_out: u64,
}

/// `dact_cuda_run` with a key whose seed is in device memory, or whose offset is stored there.
///
/// # Safety
/// As for `dact_cuda_run`. The two of `key_at` are 0 or addresses of 8 bytes each; that contract applies to the seed as
/// to the key's device_offset and to `offset_out` as to what the pass writes, and the latter overlaps with nothing else.
pub(crate) unsafe fn run_with_key_at(
    cuda: *const dact_cuda,
    stream: *mut c_void,
    pass: *const dact_pass,
    tensors: *const dact_tensors,
    key_at: KeyAt,
    error: *mut *mut dact_error,
) -> dact_status {
    let run = || {
        // SAFETY: as `opened` and `read` ask, by this function's contract.
        let (device, pass, tensors) = unsafe { (opened(cuda)?, read(pass)?, read(tensors)?) };
        let computation = pass.computation(tensors.len)?;
        let workspace_bytes = backend::workspace_bytes(&computation, tensors.dtype()?)?;
        let tensors = tensors.check(&computation, workspace_bytes)?;
        // SAFETY: the tensors are checked, and what is there is as this function's contract says.
        unsafe { device.run(stream, &computation, &tensors, key_at) }
    };
    // SAFETY: `error` is as `guarded` asks, by this function's contract.
    unsafe { guarded(error, run) }
}

/// How much memory dact_cuda_run needs at `tensors.workspace` for a pass: `bytes` is set to 0 but for
/// DACT_PASS_STATISTICS and DACT_PASS_FUSED_SUMS. It looks at the type and the length of the tensors alone, and takes
/// no device.
///
/// `error` may be NULL; else it is set to NULL, or on failure to an error that dact_error_free takes back.
///
/// # Safety
/// `pass` and `tensors` are NULL or the addresses of such structures. `bytes` is NULL or the address of a size. `error`
/// is NULL or the address of a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dact_cuda_workspace_bytes(
    pass: *const dact_pass,
    tensors: *const dact_tensors,
    bytes: *mut usize,
    error: *mut *mut dact_error,
) -> dact_status {
    let ask = || {
        // SAFETY: as `read` asks, by this function's contract.
        let (pass, tensors) = unsafe { (read(pass)?, read(tensors)?) };
        if bytes.is_null() {
            return Err(Failure::invalid("bytes must be the address of a size_t, got NULL".into()));
        }
        let needed = backend::workspace_bytes(&pass.computation(tensors.len)?, tensors.dtype()?)?;
        // SAFETY: not null, and so the address of a size, by this function's contract.
        unsafe { bytes.write_unaligned(needed) };
        Ok(())
    };
    // SAFETY: `error` is as `guarded` asks, by this function's contract.
    unsafe { guarded(error, ask) }
}

/// Enqueues what adds `count` to the number at `base` in device memory, modulo 2^64: the end of a step whose keys had
/// the offsets 0 to count - 1 and this address as device_offset. Captured into a graph with the step, it gives every
/// replay fresh masks. `stream` and capture are as for dact_cuda_run.
///
/// `error` may be NULL; else it is set to NULL, or on failure to an error that dact_error_free takes back.
///
/// # Safety
/// `cuda` is NULL or came from dact_cuda_open and was not closed. `stream` is a stream of its device's primary
/// context. From the call until the work on the stream is done, `base` is NULL or the address of 8 bytes that the
/// device can access, and no other work reads or writes them, unless streams or events order the two. `error` is
/// NULL or the address of a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dact_cuda_advance(
    cuda: *const dact_cuda,
    stream: *mut c_void,
    base: *mut u64,
    count: u64,
    error: *mut *mut dact_error,
) -> dact_status {
    // SAFETY: as `opened` and `advance` ask, by this function's contract; null and misaligned bases are refused.
    let advance = || unsafe { opened(cuda)?.advance(stream, base, count) };
    // SAFETY: `error` is as `guarded` asks, by this function's contract.
    unsafe { guarded(error, advance) }
}

/// # Safety
/// `cuda` is null or came from `dact_cuda_open` and is alive for 'a.
unsafe fn opened<'a>(cuda: *const dact_cuda) -> Result<&'a Device, Failure> {
    // SAFETY: null or alive, by this function's contract.
    let cuda = unsafe { cuda.as_ref() };
    cuda.map(|cuda| &cuda.0).ok_or_else(|| Failure::invalid("cuda must be what dact_cuda_open gave, got NULL".into()))
}

#[cfg(feature = "cuda")]
mod backend {
    use std::ffi::c_void;
    use std::sync::Arc;

    use drop_activation::Dtype;
    use drop_activation::cuda::cudarc::driver::{result, sys};
    use drop_activation::cuda::{self, Addresses, FusedAddresses, Kernels};

    use super::KeyAt;
    use crate::error::Failure;
    use crate::pass::Computation;
    use crate::tensors::Checked;

    /// Closed by a zero byte.
    pub(super) const DEVICE_CODE: &[u8] = &{
        let text = cuda::device_code().as_bytes();
        let mut closed = [0; cuda::device_code().len() + 1];
        let mut i = 0;
        while i < text.len() {
            closed[i] = text[i];
            i += 1;
        }
        closed
    };

    pub(super) struct Device(Arc<Kernels>);

    impl Device {
        pub(super) fn open(ordinal: usize) -> Result<Self, Failure> {
            device_count()?;
            let _current = Current::keep();
            Ok(Self(Kernels::get(&cuda::context(ordinal)?)?))
        }

        pub(super) fn close(self) {
            let _current = Current::keep();
            drop(self);
        }

        pub(super) fn preload(&self) -> Result<(), Failure> {
            let _current = Current::keep();
            Ok(self.0.preload()?)
        }

        /// # Safety
        /// `stream` is null or a stream of the kernels' context, and the memory of the tensors and of the key's
        /// `device_offset` is as `Kernels::launch_fused_raw` asks.
        pub(super) unsafe fn run(
            &self,
            stream: *mut c_void,
            computation: &Computation,
            tensors: &Checked,
            key_at: KeyAt,
        ) -> Result<(), Failure> {
            let _current = Current::keep();
            let [scale, shift, mean, alpha, beta, gamma] = tensors.vectors.map(|vector| vector as u64);
            let at = FusedAddresses {
                tensors: Addresses {
                    input: tensors.input as u64,
                    saved: tensors.saved as u64,
                    output: tensors.output as u64,
                    mask: tensors.mask as u64,
                    offset_at: computation.device_offset.addr() as u64,
                    seed_at: key_at.seed,
                    offset_out: key_at.offset_out,
                },
                residual: tensors.residual as u64,
                scale,
                shift,
                mean,
                alpha,
                beta,
                gamma,
                results: tensors.results.map(|result| result as u64),
                workspace: tensors.workspace as u64,
            };
            let stream: sys::CUstream = stream.cast();
            // SAFETY: lines 1 to 8 are this function's contract; for line 4, overlaps have been refused.
            Ok(unsafe { self.0.launch_fused_raw(stream, &computation.pass, tensors.dtype, tensors.len, &at) }?)
        }

        /// # Safety
        /// As for `Kernels::advance_raw`.
        pub(super) unsafe fn advance(&self, stream: *mut c_void, base: *mut u64, count: u64) -> Result<(), Failure> {
            let _current = Current::keep();
            // SAFETY: by this function's contract.
            Ok(unsafe { self.0.advance_raw(stream.cast(), base.addr() as u64, count) }?)
        }
    }

    pub(super) fn device_count() -> Result<usize, Failure> {
        Ok(cuda::device_count()?)
    }

    pub(super) fn workspace_bytes(computation: &Computation, dtype: Dtype) -> Result<usize, Failure> {
        Ok(cuda::workspace_bytes(&computation.pass, dtype))
    }

    /// The thread's current context, which is the caller's business: made current again at the end.
    struct Current(Option<sys::CUcontext>);

    impl Current {
        /// Only for when there is a driver: a device is open, or was counted.
        fn keep() -> Self {
            Self(result::ctx::get_current().ok().flatten())
        }
    }

    impl Drop for Current {
        fn drop(&mut self) {
            // SAFETY: it was this thread's current context a moment ago; null stands for none. The contract of the
            // interface's functions leaves no room for its destruction in between.
            let _ = unsafe { result::ctx::set_current(self.0.unwrap_or(std::ptr::null_mut())) };
        }
    }
}

#[cfg(not(feature = "cuda"))]
mod backend {
    use std::ffi::c_void;

    use drop_activation::Dtype;

    use super::KeyAt;
    use crate::error::{DACT_UNAVAILABLE, Failure};
    use crate::pass::Computation;
    use crate::tensors::Checked;

    pub(super) const DEVICE_CODE: &[u8] = b"none: built without CUDA\0";

    /// There is none.
    pub(super) enum Device {}

    impl Device {
        pub(super) fn open(_: usize) -> Result<Self, Failure> {
            Err(unavailable())
        }

        pub(super) fn close(self) {}

        pub(super) fn preload(&self) -> Result<(), Failure> {
            match *self {}
        }

        /// # Safety
        /// None.
        pub(super) unsafe fn run(&self, _: *mut c_void, _: &Computation, _: &Checked, _: KeyAt) -> Result<(), Failure> {
            match *self {}
        }

        /// # Safety
        /// None.
        pub(super) unsafe fn advance(&self, _: *mut c_void, _: *mut u64, _: u64) -> Result<(), Failure> {
            match *self {}
        }
    }

    pub(super) fn device_count() -> Result<usize, Failure> {
        Err(unavailable())
    }

    pub(super) fn workspace_bytes(_: &Computation, _: Dtype) -> Result<usize, Failure> {
        Err(unavailable())
    }

    fn unavailable() -> Failure {
        let message = "this library was built without CUDA: build it with the feature cuda".into();
        Failure { status: DACT_UNAVAILABLE, message }
    }
}
