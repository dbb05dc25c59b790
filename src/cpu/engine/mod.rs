//! How every pass goes over its tensor.
//!
//! ```text
//! run_over_tensor(pass, tensors, words):
//!     up to 2^16 elements: one task, by the calling thread
//!     more:                tasks of equal length, which the threads of the pool take from a queue (share, pool, ledger)
//!
//! task:                                           compiled for each instruction set and way of access  (tasks, access)
//!     block 0 ends where the output's first whole cache line begins, if lines matter; the others have 32 elements
//!     if the pass draws:                                                                           (draw, keep_stream)
//!         draw the first batch of keep words
//!         until all blocks are done:
//!             if the batch is used up: finish the next one, and begin the one after it
//!             if words of the next batch are to be drawn:
//!                 16 blocks, with words for 16 more drawn meanwhile: a processor draws while it waits for memory
//!             else: all blocks that the batch has words for
//!     else: all blocks
//!     shift the stored bits of blocks into words of the mask, if blocks do not begin where words do            (shift)
//!
//! block:                                                                                                      (blocks)
//!     a part of a block, at either end, is copied to the stack and back
//!     ask for memory ahead: far if no cache holds the tensors, else a little
//!     bits    = the block's: drawn, or of the mask that is read, shifted into place
//!     y, bits = pass.block(x, saved, bits)
//!     store y, by a non-temporal store if the tensor is large; store bits, if the pass writes some
//! ```
//!
//! As a rule, block i has the elements of word i of the mask. Non-temporal stores take whole cache lines; so where they
//! are used, blocks begin where the output's lines do, and a block has its bits in two words. The same is done for other
//! tensors of 2^13 elements and more if there are no bits, for then there is nothing to shift.
//!
//! An example: f32, whose cache line has 16 elements. The output begins 10 elements before a line, and the tensor has
//! 100 elements.
//!
//! ```text
//! element     0         10                              42                              74                        100
//! lines       |  part   |       |       |       |       |       |       |       |       |       |       |     part |
//! blocks      | 0: 10   | 1: elements 10 to 41          | 2: elements 42 to 73          | 3: 74 to 99, a part      |
//! words       | 0: elements 0 to 31           | 1: elements 32 to 63          | 2: 64 to 95                  | 3: 96..|
//! ```
//!
//! Block i ends in word i. Block 1 has the upper 22 bits of word 0 and the lower 10 of word 1. Drawn words are shifted
//! into bits of blocks, and bits of blocks into words to store, many at a time; the words of a mask that is read are
//! shifted one by one.
//!
//! How keep words are drawn: [`keep_stream`]. All numbers that decide speed alone: [`tuning`].

mod access;
mod block_pass;
mod blocks;
mod draw;
mod keep_stream;
mod ledger;
mod lent;
mod philox;
mod pool;
mod scratch;
mod share;
mod shift;
mod tasks;
mod tuning;

pub(super) use block_pass::{Bits, BlockPass, Words};
#[cfg(test)]
pub(super) use draw::DrawTask;
pub(super) use draw::draw_all;
pub(super) use keep_stream::KeepStream;
pub use lent::{LentThreads, with_threads};
pub(super) use philox::Philox;
pub(super) use pool::Pool;
pub(super) use share::share;
pub(super) use tasks::run_over_tensor;
pub(super) use tuning::{CACHED_BYTES, NON_TEMPORAL_BYTES, READ_PREFETCH, TASK};
