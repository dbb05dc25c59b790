//! The suite: what every backend must do, run against every backend there is.
//!
//!     reference   the scalar specification
//!     cpu         the rayon backend
//!     emulated    the sources of the CUDA kernels, compiled for this machine, with every access checked
//!     ptx         what nvcc made of them: the PTX that is shipped, executed with the same checks
//!     ptx_90      the same of a fresh compile for sm_90
//!     gpu         the CUDA kernels on a GPU
//!
//! `backends!` below lists the backends and `table!` the tests that they share: `cpu::lengths::f32` is `lengths` in
//! `passes.rs`, for the backend `cpu` and the element type f32. Tests of a single backend are `#[test]` functions in
//! their files. Statistical tests draw from fixed seeds, so they pass always or never; each states the probability that
//! a perfect generator would have had to fail it.
//!
//! To add a test, write `pub fn name(backend: &dyn Backend)`, or `name<T: Tested>` if it depends on the element type,
//! and name it in `table!`. To add a backend, implement [`backend::Backend`] in a file of `backend/` and name it in
//! `backends!`.

mod accuracy;
mod backend;
mod determinism;
#[cfg(feature = "cuda")]
mod device_offset;
#[cfg(feature = "cuda")]
#[path = "../emulator/mod.rs"]
mod emulator;
mod errors;
mod gradients;
mod hostile;
mod huge;
mod masks;
mod paper;
mod passes;
mod properties;
#[cfg(feature = "cuda")]
#[path = "../ptx_machine/mod.rs"]
mod ptx_machine;
mod random;
mod sigma;
mod statistics;
#[path = "../support/mod.rs"]
mod support;
mod vectors;

use support::{data, guarded};

/// The tests, in sections: a backend names those that it has to pass. A row is `file::test`, with its element types
/// where it depends on one.
macro_rules! table {
    // Every backend.
    (every) => {
        tests! {
            vectors::keep_words;
            vectors::philox_in_masks;
            passes::lengths: f32 f64 f16 bf16;
            passes::alignments: f32 f64 f16 bf16;
            passes::saved_alignments: f32 f64 f16 bf16;
            passes::probabilities: f32 f64 f16 bf16;
            passes::special_values: f32 f64 f16 bf16;
            passes::shards: f32 f64 f16 bf16;
            passes::all_values: f16 bf16;
            sigma::equations: f32 f64 f16 bf16;
            sigma::equations_at_special_values: f32 f64 f16 bf16;
            sigma::limits: f32 f64 f16 bf16;
            sigma::vanishing_p: f32 f64 f16 bf16;
            sigma::mixture_bounds: f32 f64;
            sigma::f32_bounds;
            sigma::f64_bounds;
            gradients::drop_activation;
            gradients::relu_and_rrelu;
            properties::exact_passes: f32 f64 f16 bf16;
            properties::smooth_passes: f32 f64 f16 bf16;
            properties::parts: f32 f64 f16 bf16;
            errors::activations_that_need_a_mask;
            errors::indices_beyond_64_bits;
            errors::nothing_to_do;
        }
    };
    // Those that are called with tensors of any length and any mask, and have to refuse what does not fit.
    (checks_arguments) => {
        tests! {
            errors::lengths_of_saved_tensors;
            errors::masks_of_other_lengths;
            errors::masks_of_other_operations;
            errors::missing_inputs;
        }
    };
    // Those that write into the caller's slices, and do tensors of real size in no time.
    (production) => {
        tests! {
            errors::lengths_of_outputs;
            passes::large: f32 bf16;
        }
    };
    // Those whose σ and σ' are the reference's, bit for bit. The others' are within the bounds.
    (same_sigma) => {
        tests! {
            sigma::sigma_equals_the_reference: f32 f64 f16 bf16;
        }
    };
}

/// For each backend a module of its tests: how the backend is loaded, and its sections of `table!`.
macro_rules! backends {
    ($($(#[$condition:meta])* $name:ident = $load:expr, $($section:ident)+;)*) => {$(
        $(#[$condition])*
        mod $name {
            use crate::backend::*;
            use drop_activation::half::{bf16, f16};

            /// `None` where the machine lacks what the backend needs, which has then been told.
            fn load() -> Option<impl Backend> {
                $load
            }

            $(table!($section);)+
        }
    )*};
}

/// A `#[test]` function for each row of `table!`, or for each of its types.
macro_rules! tests {
    ($($file:ident::$test:ident $(: $($type:ident)+)?;)*) => {
        $(tests!(@row $file $test $($($type)+)?);)*
    };
    (@row $file:ident $test:ident) => {
        #[test]
        fn $test() {
            if let Some(backend) = load() {
                crate::$file::$test(&backend);
            }
        }
    };
    (@row $file:ident $test:ident $($type:ident)+) => {
        mod $test {
            use super::*;

            $(#[test]
            fn $type() {
                if let Some(backend) = load() {
                    crate::$file::$test::<$type>(&backend);
                }
            })+
        }
    };
}

backends! {
    reference = Some(Reference), every checks_arguments same_sigma;
    cpu = Some(Cpu), every checks_arguments production same_sigma;
    #[cfg(feature = "cuda")]
    emulated = Emulated::load(), every;
    #[cfg(feature = "cuda")]
    ptx = Compiled::shipped(), every;
    #[cfg(feature = "cuda")]
    ptx_90 = Compiled::fresh_90(), every;
    #[cfg(feature = "cuda")]
    gpu = Gpu::load(), every checks_arguments production;
}
