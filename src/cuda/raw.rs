//! The door for raw device pointers, and the way to the GPU that all passes take.

use std::ffi::c_void;

use cudarc::driver::{CudaContext, result, sys};

use super::error::while_doing;
use super::kernels::Kernels;
use super::launch;
use crate::element::Dtype;
use crate::error::Result;
use crate::pass::Pass;

/// Device addresses for one pass; 0 is a null pointer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// What the pass reads: x forward, dy backward.
    pub input: u64,
    /// What a backward pass reads besides, if it does: x or y of the forward pass, as [`Pass`] says.
    pub saved: u64,
    /// What the pass writes: y forward, dx backward.
    pub output: u64,
    /// The mask, if the pass has one: `ceil(n / 32)` words of 32 bits, written forward, read backward.
    pub mask: u64,
}

impl Kernels {
    /// Enqueues `pass` over `n` elements of type `dtype` on `stream`: the way in for adapters whose tensors
    /// are not cudarc's. Returns before the work is done; does nothing for `n == 0`.
    ///
    /// It allocates nothing, waits for nothing and records no event, so it may be captured into a graph; call
    /// [`Kernels::preload`] before the capture begins. Addresses that the pass has no use for are ignored.
    ///
    /// # Errors
    /// [`Error::IndexRange`](crate::Error::IndexRange) and [`Error::NeedsMask`](crate::Error::NeedsMask) for the
    /// pass; [`CudaError::NullPointer`](super::CudaError::NullPointer) and
    /// [`CudaError::Misaligned`](super::CudaError::Misaligned) for the addresses;
    /// [`CudaError::Unsupported`](super::CudaError::Unsupported) and
    /// [`CudaError::Driver`](super::CudaError::Driver) from the driver. In each case nothing was enqueued.
    ///
    /// # Safety
    /// From the call until the work on the stream is done:
    /// 1. `stream` is a stream of the context of these kernels (null for its default stream), and alive.
    /// 2. `at.input`, `at.output` and, where the pass reads one, `at.saved` are addresses of `n` elements of
    ///    type `dtype` each, in memory that the device of that context can access.
    /// 3. `at.mask`, where the pass has a mask, is the address of `ceil(n / 32)` 32-bit words in such memory.
    /// 4. What the pass writes (the output; the mask of a forward pass) overlaps with nothing else of the
    ///    pass, except that `at.output` may be equal to `at.input` or to `at.saved`.
    /// 5. No other work reads what this pass writes, or writes what it reads or writes, unless the caller orders
    ///    the two by streams or events. cudarc's event tracking is not told of this pass.
    ///
    /// Contents are the caller's as well, but no matter of safety: a mask that another operation wrote gives a
    /// wrong gradient.
    pub unsafe fn launch_raw(
        &self,
        stream: sys::CUstream,
        pass: &Pass,
        dtype: Dtype,
        n: usize,
        at: Addresses,
    ) -> Result<()> {
        // SAFETY: lines 1 to 5 are the caller's promise.
        unsafe { self.enqueue(self.context(), stream, pass, dtype, n, at) }
    }

    /// The one way to a launch. `context` is the handle of the kernels' context whose pending errors count.
    ///
    /// # Safety
    /// As for [`Kernels::launch_raw`].
    pub(super) unsafe fn enqueue(
        &self,
        context: &CudaContext,
        stream: sys::CUstream,
        pass: &Pass,
        dtype: Dtype,
        n: usize,
        at: Addresses,
    ) -> Result<()> {
        let Some(mut launch) = launch::plan(pass, dtype, n, at)? else { return Ok(()) };
        let function = self.function(launch.entry)?;
        context.bind_to_thread().map_err(while_doing("entering the context, or in earlier work"))?;
        let mut arguments = [(&raw mut launch.args).cast::<c_void>()];
        let launched = {
            // SAFETY: the function is a kernel of a module that `self` keeps loaded, its one parameter is a
            // `da_args` by value, which the driver copies before it returns, and the plan's geometry is one that
            // every kernel accepts. What the kernel then accesses are the elements and words of lines 2 and 3,
            // on the stream of line 1, in an order that lines 4 and 5 make safe.
            unsafe {
                result::launch_kernel(
                    function.cu_function(),
                    (launch.grid, 1, 1),
                    (launch.block, 1, 1),
                    0,
                    stream,
                    &mut arguments,
                )
            }
        };
        Ok(launched.map_err(while_doing(launch.entry.name()))?)
    }
}
