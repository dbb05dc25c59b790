//! PyTorch's threads, lent to the passes of a call: those of another pool would compete with them for the same cores.

use std::ffi::c_void;

use drop_activation::cpu::{LentThreads, with_threads};

use super::{TORCH, Torch};

/// Calls `run`, whose passes share their tensors by as many threads as PyTorch has for that.
pub(super) fn with_torch_s_threads<R>(torch: &Torch, run: impl FnOnce() -> R) -> R {
    let mut count = 0;
    // SAFETY: the address of a number.
    let status = unsafe { (torch.functions.torch_get_num_threads)(&mut count) };
    let count = if status == 0 { count.max(1) as usize } else { 1 };
    with_threads(LentThreads { count, run: on_threads }, run)
}

fn on_threads(count: usize, work: &(dyn Fn() + Sync)) {
    unsafe extern "C" fn parts(begin: i64, end: i64, context: *mut c_void) {
        // SAFETY: the address of the reference that is given to `torch_parallel_for` below, which outlives that call.
        let work = unsafe { *context.cast::<&(dyn Fn() + Sync)>() };
        (begin..end).for_each(|_| work());
    }
    let context = (&raw const work).cast_mut().cast::<c_void>();
    // SAFETY: `parts` is for what `context` is the address of; `work` does not unwind and may be called by any thread.
    let called =
        TORCH.get().map(|torch| unsafe { (torch.functions.torch_parallel_for)(0, count as i64, 1, parts, context) });
    if called != Some(0) {
        work();
    }
}
