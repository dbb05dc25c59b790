//! The candle module against candle's own operations, on every device there is.

mod batch_norm;
mod blocks;
mod composition;
mod devices;
mod layouts;
mod masks;
mod network;
mod refusals;
mod state;
