//! The two machines that run kernels on a CPU, `tests/emulator` the sources and `tests/ptx_machine` what a compiler made of
//! them: that they catch what they are there to catch, and mean by words and instructions what NVIDIA does.
#![cfg(feature = "cuda")]

mod cuda_words;
mod emulation;
#[path = "../emulator/mod.rs"]
mod emulator;
mod numbers;
mod ptx;
mod ptx_instructions;
#[path = "../ptx_machine/mod.rs"]
mod ptx_machine;
