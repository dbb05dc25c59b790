//! How every pass walks its tensor.

mod block_pass;
mod blocks;
mod draw;
mod keep_stream;
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
pub(super) use philox::Philox;
pub(super) use pool::Pool;
pub(super) use share::share;
pub(super) use tasks::run_over_tensor;
pub(super) use tuning::{READ_PREFETCH, TASK};
