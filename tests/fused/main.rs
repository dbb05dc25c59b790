//! The fused passes' reference: what `docs/fused.md` says, held to programs that know nothing of it.

mod accuracy;
mod batch_norm;
mod data;
mod gradients;
mod passes;
mod refusals;
mod vectors;
