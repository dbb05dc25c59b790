//! The sizes that decide speed and nothing else: every value gives the same numbers.

use std::time::Duration;

/// A tensor of no more elements is done by the calling thread alone, since waking another takes longer. A larger one has
/// tasks of so many, if that makes neither fewer than [`FEWEST_TASKS_PER_THREAD`] nor more than [`TASKS_PER_THREAD`].
pub(crate) const TASK: usize = 1 << 16;

/// Tasks for each thread of a tensor that is just large enough. Each task that is handed out takes some tenths of a
/// microsecond more, and the tensor ten.
pub(crate) const FEWEST_TASKS_PER_THREAD: usize = 2;

/// Elements of the smallest task, of which there are fewer than there are threads if these are many: as many as have
/// their words drawn in one batch. A multiple of what makes up whole cache lines and whole groups, so that these begin
/// alike in all tasks.
pub(crate) const SMALLEST_TASK: usize = 1 << 14;

/// Elements of the largest task. Nothing hides the time of what a task draws before its first block: the fewer tasks,
/// the better.
pub(crate) const LARGEST_TASK: usize = 1 << 20;

/// Tasks for each thread of a large tensor, so that the others take some of those of a thread that is late.
pub(crate) const TASKS_PER_THREAD: usize = 16;

/// How much of what sharing wins is held for it at most: it may lose as much before calls are made alone.
pub(crate) const LARGEST_CREDIT: Duration = Duration::from_millis(1);

/// How much of what it loses is held against it at most: calls are made alone for [`REPAID_PART`] times as long.
pub(crate) const LARGEST_DEBT: Duration = Duration::from_millis(50);

/// A loss is made up for when calls that were made alone have taken so many times as long.
pub(crate) const REPAID_PART: i64 = 10;

/// A tensor of at least so many elements whose pass has no bits gets blocks that begin on the output's cache lines.
/// That saves more than the partial blocks at either end cost.
pub(crate) const ALIGNED_ELEMENTS: usize = 1 << 13;

/// Outputs of at least so many bytes are written by non-temporal (streaming) stores: their beginning would have left
/// the cache before anyone could use it, and an ordinary store first reads the line that it overwrites.
pub(crate) const NON_TEMPORAL_BYTES: usize = 32 << 20;

/// Tensors of no more bytes together are not prefetched into the second-level cache where memory bounds a pass: a cache
/// holds them, and the processor brings them nearer by itself. With prefetches a plain ReLU of 2^18 to 2^20 f32, 2 to
/// 8 MiB, took 1.3 times as long forward and 1.2 times backward (EPYC, family 26, 32 MiB of third-level cache). From
/// 24 MiB on prefetches won, by 1.3 to 1.5 times (backward with 2^22 bf16 or 2^21 f32, forward with 2^22 f32). Nothing was
/// measured between 16 and 24 MiB.
pub(crate) const CACHED_BYTES: usize = 16 << 20;

/// Prefetch distance of what is read, in bytes: a plain ReLU of 2^26 elements became 1.2 times (f32) to
/// 1.5 times (bf16) as fast by it. 1024 to 16384 made little difference.
pub(crate) const READ_PREFETCH: usize = 8192;

/// Prefetch distance of an output that is written by ordinary stores, in bytes. A store to a line that is not in the
/// cache holds up all later ones, and those of a tensor and of its mask come in turns: without this a forward pass of
/// 2^16 elements of bf16 took 1.25 times as long. 256 to 4096 made no difference.
pub(crate) const WRITE_PREFETCH: usize = 512;

/// Prefetch distance of a mask that is written, in words. Without this and [`NEAR_PREFETCH`] a forward pass of 2^16 to 2^18
/// elements of f32 that no cache held took 1.4 times as long (EPYC, family 26).
pub(crate) const MASK_PREFETCH: usize = 64;

/// Prefetch distance, into the first-level cache, of the input of a pass that reads or writes something besides, where
/// a cache may hold the tensors, in bytes. Where none does, the processor brings lines nearer too late by itself if each
/// is read by one load of 64 bytes: without this plain ReLU's backward pass took 1.2 times as long as with two loads of 32,
/// and Drop-Activation's 1.4 times as long as now (EPYC, family 26, 2^16 to 2^18 f32). In the second-level cache it
/// costs nothing, in the third-level one 1.06 times. 256 to 8192 made no difference.
pub(crate) const NEAR_PREFETCH: usize = 2048;
