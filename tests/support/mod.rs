//! What several test executables share.
#![allow(dead_code)] // each executable uses its own part

pub mod activations;
pub mod calls;
pub mod data;
pub mod guarded;
pub mod own_process;
pub mod property;
pub mod skipped;
