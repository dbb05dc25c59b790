//! The sizes that decide speed and nothing else: every value gives the same numbers.

/// Elements of one task. A multiple of [`PIECE`]. Large enough that a task's start costs nothing
/// beside it, small enough that a tensor of a few hundred thousand elements feeds several threads.
pub(crate) const TASK: usize = 1 << 16;

/// Tensors up to here are done by the calling thread: waking another one takes longer.
pub(crate) const SEQUENTIAL: usize = 1 << 15;

/// Elements handled together where results do not go straight to their place: they stay in the first-level
/// cache. A multiple of 32 that divides what a batch of mask words covers. 512 and 2048 took the same time.
pub(crate) const PIECE: usize = 512;

/// Tensors of at least this many bytes are written past the cache: their beginning would have left
/// it before anyone could use it, and an ordinary store first reads the line that it overwrites.
pub(crate) const STREAM_BYTES: usize = 32 << 20;

/// How far ahead of its use memory is asked for, in bytes: a plain ReLU of 2^26 elements became 1.2 times (f32) to
/// 1.5 times (bf16) as fast by it. 1024 to 16384 made little difference.
pub(crate) const AHEAD: usize = 8192;
