//! The fused passes' reference: what `docs/fused.md` says, held to programs that know nothing of it.

mod accuracy;
mod data;
mod gradients;
mod passes;
mod refusals;
mod vectors;
