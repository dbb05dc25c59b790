//! The fused passes: their reference is what `docs/fused.md` says, held to programs that know nothing of it, and the
//! CPU's entry points are the reference.

mod accuracy;
mod batch_norm;
mod data;
mod entry_points;
mod gradients;
mod passes;
mod refusals;
mod vectors;
