//! The sizes that decide speed and nothing else: every value gives the same numbers.

/// Elements of the smallest task: large enough that a task's start costs nothing beside it, small enough that a
/// tensor of a few hundred thousand elements feeds several threads. A tensor of no more is done by the calling
/// thread alone, for to wake another takes longer. A multiple of what makes up whole lines and
/// whole groups, so that these begin alike in all tasks.
pub(crate) const TASK: usize = 1 << 16;

/// And of the largest. What a task draws before its first block, nothing hides: the fewer tasks, the better.
pub(crate) const LARGEST_TASK: usize = 1 << 20;

/// Tasks for each thread, from which a thread that is late has the others take some.
pub(crate) const TASKS_A_THREAD: usize = 16;

/// Elements from which on a tensor that has no bits gets blocks that begin on the output's lines: what that saves is
/// more than the parts of blocks at either end cost.
pub(crate) const ALIGNED: usize = 1 << 13;

/// Tensors of at least this many bytes are written past the cache: their beginning would have left
/// it before anyone could use it, and an ordinary store first reads the line that it overwrites.
pub(crate) const STREAM_BYTES: usize = 32 << 20;

/// How far ahead of its use memory is asked for, in bytes: a plain ReLU of 2^26 elements became 1.2 times (f32) to
/// 1.5 times (bf16) as fast by it. 1024 to 16384 made little difference.
pub(crate) const AHEAD: usize = 8192;

/// The same for an output that is not written past the cache. A store to a line that is not there holds up all later
/// ones, and those of a tensor and of its mask come in turns: without this a forward pass of 2^16 elements of bf16
/// took 1.25 times as long. 256 to 4096 made no difference.
pub(crate) const WRITE_AHEAD: usize = 512;

/// The same for the mask of an output that is written past the cache, in groups of 16 words.
pub(crate) const MASK_AHEAD: usize = 4;
