//! How a task accesses memory, by the size of the tensors: each way is compiled by itself, so that no block asks for it.

/// A way to access memory.
pub(super) trait Access: Copy + Sync {
    /// Whether to ask for memory some time before it is read or written; else for the input alone, a little before.
    const PREFETCH: bool;

    /// Whether to write by non-temporal stores.
    const NON_TEMPORAL: bool;
}

/// A cache may hold the tensors: the processor brings them nearer by itself, once it sees where that goes.
#[derive(Clone, Copy)]
pub(super) struct Cached;

/// No cache holds them.
#[derive(Clone, Copy)]
pub(super) struct Prefetched;

/// Nor does one hold the output until somebody uses it.
#[derive(Clone, Copy)]
pub(super) struct Streamed;

impl Access for Cached {
    const PREFETCH: bool = false;
    const NON_TEMPORAL: bool = false;
}

impl Access for Prefetched {
    const PREFETCH: bool = true;
    const NON_TEMPORAL: bool = false;
}

impl Access for Streamed {
    const PREFETCH: bool = true;
    const NON_TEMPORAL: bool = true;
}
