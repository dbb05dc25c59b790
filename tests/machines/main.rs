//! Tests of the two machines that run kernels on a CPU: `tests/emulator` runs the sources, `tests/ptx_machine` what a
//! compiler made of them. Both catch what they are there to catch, and mean by words and instructions what NVIDIA
//! means.
#![cfg(feature = "cuda")]

mod cuda_functions;
mod emulation;
#[path = "../emulator/mod.rs"]
mod emulator;
mod numbers;
mod ptx;
mod ptx_instructions;
#[path = "../ptx_machine/mod.rs"]
mod ptx_machine;
