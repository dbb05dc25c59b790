//! A kernel launch as a value.

use super::entry::Entry;
use super::layout::da_args;

/// A kernel launch, ready to be made: one-dimensional, without dynamic shared memory, with `args` as the
/// kernel's one argument.
#[derive(Clone, Copy, Debug)]
pub struct Launch {
    /// The kernel.
    pub entry: Entry,
    /// Blocks.
    pub grid: u32,
    /// Threads of a block.
    pub block: u32,
    /// The kernel's argument, by value.
    pub args: da_args,
}
