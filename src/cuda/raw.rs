//! The entry point for raw device pointers, and the one call that launches a kernel.

use std::ffi::c_void;

use cudarc::driver::{CudaContext, result, sys};

use super::addresses::Addresses;
use super::channels::FusedAddresses;
use super::error::{Result as CudaResult, while_doing};
use super::launch::{self, Launch};
use super::loader::Kernels;
use crate::element::Dtype;
use crate::error::Result;
use crate::pass::Pass;

impl Kernels {
    /// Enqueues `pass` over `n` elements of type `dtype` on `stream`: the way in for adapters whose tensors
    /// are not cudarc's. Returns before the work is done; does nothing for `n == 0`.
    ///
    /// It allocates nothing, waits for nothing and records no event, so it may be captured into a graph; call
    /// [`Kernels::preload`] before the capture begins. Addresses that the pass has no use for are ignored.
    ///
    /// # Masks and cuBLASLt
    /// Where a row of features has a multiple of 128 elements, the mask of ReLU's forward pass over a matrix of rows
    /// is what cuBLASLt calls a ReLU bit mask: element \[row, col\] is bit `row * cols + col`, least significant first,
    /// and the leading dimension is `cols`, which cuBLASLt wants to be a multiple of 128. To cuBLASLt, whose matrices
    /// are stored by columns, that is the mask of a matrix of `cols` rows. So the matrix product of the next layer's
    /// backward pass, which makes dy, can apply this pass's backward to it and sum the gradient of a bias, by the
    /// epilogue `CUBLASLT_EPILOGUE_DRELU_BGRAD`, with `at.mask` of the forward pass as
    /// `CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER` and `cols` as `CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD`.
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
    /// 4. What the pass writes (the output; the mask of a forward pass; the offset) overlaps with nothing else of the
    ///    pass, except that `at.output` may be equal to `at.input` or to `at.saved`.
    /// 5. No other work reads what this pass writes, or writes what it reads or writes, unless the caller orders
    ///    the two by streams or events. cudarc's event tracking is not told of this pass.
    /// 6. `at.offset_at`, `at.seed_at` and, for RReLU's forward pass, `at.offset_out` are null or addresses of one
    ///    64-bit word each in such memory.
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
        let at = FusedAddresses { tensors: at, ..FusedAddresses::default() };
        // SAFETY: lines 1 to 6 are the caller's promise. A pass over channels finds nothing else here, and is refused
        // if it needs that.
        unsafe { self.enqueue_pass(self.context(), stream, pass, dtype, n, &at) }
    }

    /// [`Kernels::launch_raw`] for passes over channels, which take more tensors and vectors; other passes have those
    /// of `at.tensors`. A pass of sums is two launches, any other is one.
    ///
    /// # Errors
    /// Those of [`Kernels::launch_raw`], for each address that the pass needs; and
    /// [`Error::ShapeLength`](crate::Error::ShapeLength) if `n` is not what the pass's shape says,
    /// [`Error::NoElements`](crate::Error::NoElements) for statistics of nothing. Where the driver refuses the second
    /// launch of a pass of sums, the first was enqueued.
    ///
    /// # Safety
    /// As for [`Kernels::launch_raw`], where the tensors of `n` elements include `at.residual`, and `at.output` may be
    /// equal to `at.residual` too; besides
    /// 7. each vector that `at` names, as far as the pass looks at it, is the address of a value for each channel in
    ///    such memory, of f64 for a pass over f64 and of f32 for any other;
    /// 8. `at.workspace`, for sums, is the address of [`workspace_bytes`](super::workspace_bytes) bytes in such memory,
    ///    which line 4 counts among what the pass writes, as it does the results.
    pub unsafe fn launch_fused_raw(
        &self,
        stream: sys::CUstream,
        pass: &Pass,
        dtype: Dtype,
        n: usize,
        at: &FusedAddresses,
    ) -> Result<()> {
        // SAFETY: lines 1 to 8 are the caller's promise.
        unsafe { self.enqueue_pass(self.context(), stream, pass, dtype, n, at) }
    }

    /// The one way to a launch. `context` is the handle of the kernels' context whose pending errors count.
    ///
    /// # Safety
    /// As for [`Kernels::launch_fused_raw`].
    pub(super) unsafe fn enqueue_pass(
        &self,
        context: &CudaContext,
        stream: sys::CUstream,
        pass: &Pass,
        dtype: Dtype,
        n: usize,
        at: &FusedAddresses,
    ) -> Result<()> {
        let launches = launch::plan_all(pass, dtype, n, at)?;
        if launches.iter().all(Option::is_none) {
            return Ok(());
        }
        // Whatever has to be loaded is, and what is pending in the context has been found, before the first of two is
        // enqueued.
        for launch in launches.iter().flatten() {
            self.function(launch.entry)?;
        }
        enter(context)?;
        for launch in launches.into_iter().flatten() {
            // SAFETY: what the kernel accesses are the elements, words and values of lines 2, 3, 6, 7 and 8, on the
            // stream of line 1, in an order that lines 4 and 5 make safe. The context was just entered.
            unsafe { self.launch(stream, launch) }?;
        }
        Ok(())
    }

    /// Enqueues on `stream` what adds `count` to the base of offsets at `base`, modulo 2^64: the end of a step whose
    /// keys had the offsets 0 to `count - 1`. One thread does it, so it costs a launch and nothing else; it may be
    /// captured.
    ///
    /// # Errors
    /// [`CudaError::NullPointer`](super::CudaError::NullPointer) and
    /// [`CudaError::Misaligned`](super::CudaError::Misaligned) for `base`;
    /// [`CudaError::Unsupported`](super::CudaError::Unsupported) and
    /// [`CudaError::Driver`](super::CudaError::Driver) from the driver. In each case nothing was enqueued.
    ///
    /// # Safety
    /// From the call until the work on the stream is done:
    /// 1. `stream` is a stream of the context of these kernels (null for its default stream), and alive.
    /// 2. `base` is the address of one 64-bit word in memory that the device of that context can access.
    /// 3. No other work reads or writes that word, unless the caller orders the two by streams or events.
    pub unsafe fn advance_raw(&self, stream: sys::CUstream, base: u64, count: u64) -> Result<()> {
        let launch = launch::plan_advance(base, count, true)?;
        // SAFETY: lines 1 to 3 are the caller's promise.
        Ok(unsafe { self.enqueue_kernel(self.context(), stream, launch) }?)
    }

    /// Makes a planned launch.
    ///
    /// # Safety
    /// `stream` is a stream of the context of these kernels, and what the planned kernel accesses may be accessed, in
    /// the order of that stream.
    pub(super) unsafe fn enqueue_kernel(
        &self,
        context: &CudaContext,
        stream: sys::CUstream,
        launch: Launch,
    ) -> CudaResult<()> {
        self.function(launch.entry)?;
        enter(context)?;
        // SAFETY: by this function's contract; the context was just entered.
        unsafe { self.launch(stream, launch) }
    }

    /// # Safety
    /// As for [`Kernels::enqueue_kernel`]; the context is the thread's current one.
    unsafe fn launch(&self, stream: sys::CUstream, mut launch: Launch) -> CudaResult<()> {
        let function = self.function(launch.entry)?;
        let mut arguments = [(&raw mut launch.args).cast::<c_void>()];
        let launched = {
            // SAFETY: the function is a kernel of a module that `self` keeps loaded, its one parameter is a
            // `da_args` by value, which the driver copies before it returns, and the plan's geometry is one that
            // the kernel accepts. Stream and accesses are the caller's promise.
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
        launched.map_err(while_doing(launch.entry.name()))
    }
}

/// Makes the context the thread's current one; an error that is pending in it is this call's.
fn enter(context: &CudaContext) -> CudaResult<()> {
    context.bind_to_thread().map_err(while_doing("entering the context, or in earlier work"))
}
