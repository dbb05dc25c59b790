//! The suite: what every backend must do, run against every backend there is.
//!
//!     reference   the scalar specification
//!     cpu         the rayon backend
//!     emulated    the sources of the CUDA kernels, compiled for this machine, with every access checked
//!     ptx         what nvcc made of them: the PTX that is shipped, executed with the same checks
//!     ptx_90      the same of a fresh compile for sm_90
//!     gpu         the CUDA kernels on a GPU
//!
//! A test that is generic over the backend is listed in `backend!` below; the others stand in their
//! files with `#[test]`. Statistical tests draw from fixed seeds, so they pass always or never; each
//! states the probability that a perfect generator would have had to fail it.

mod backend;
mod data;
mod determinism;
#[cfg(feature = "cuda")]
#[path = "../emulator/mod.rs"]
mod emulator;
mod errors;
mod gradients;
mod guarded;
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
mod vectors;

/// What every backend must do, and what those named beside it must do as well.
macro_rules! backend {
    ($name:ident, $load:expr $(, $more:ident)*) => {
        mod $name {
            #[allow(unused_imports)]
            use crate::backend::*;

            plain!($load; vectors: keep_words philox_in_masks);
            typed!($load; passes: lengths alignments saved_alignments probabilities special_values shards);
            types!($load; passes all_values: f16 bf16);
            typed!($load; sigma: equations equations_at_special_values limits vanishing_p);
            types!($load; sigma mixture_bounds: f32 f64);
            plain!($load; sigma: f32_bounds f64_bounds);
            plain!($load; gradients: drop_activation relu_and_rrelu);
            typed!($load; properties: exact_passes smooth_passes parts);
            plain!($load; errors: activations_that_need_a_mask indices_beyond_64_bits nothing_to_do);
            $($more!($load);)*
        }
    };
}

/// It takes tensors of any length and any mask, and so has to refuse what does not fit.
macro_rules! door {
    ($load:expr) => {
        plain!($load; errors: lengths_of_saved_tensors masks_of_other_lengths masks_of_other_operations missing_inputs);
    };
}

/// It writes into the caller's slices, and tensors of real size in no time.
macro_rules! production {
    ($load:expr) => {
        plain!($load; errors: lengths_of_outputs);
        types!($load; passes large: f32 bf16);
    };
}

/// Its σ and σ' are the reference's, bit for bit; elsewhere they are within the bounds.
macro_rules! same_sigma {
    ($load:expr) => {
        typed!($load; sigma: sigma_is_the_reference_s);
    };
}

macro_rules! plain {
    ($load:expr; $file:ident: $($test:ident)*) => {$(
        #[test]
        fn $test() {
            if let Some(backend) = $load {
                crate::$file::$test(&backend);
            }
        }
    )*};
}

macro_rules! typed {
    ($load:expr; $file:ident: $($test:ident)*) => {
        $(types!($load; $file $test: f32 f64 f16 bf16);)*
    };
}

macro_rules! types {
    ($load:expr; $file:ident $test:ident: $($type:ident)*) => {
        mod $test {
            #[allow(unused_imports)]
            use {super::*, drop_activation::half::{bf16, f16}};

            $(#[test]
            fn $type() {
                if let Some(backend) = $load {
                    crate::$file::$test::<_, $type>(&backend);
                }
            })*
        }
    };
}

backend!(reference, Some(Reference), door, same_sigma);
backend!(cpu, Some(Cpu), door, production, same_sigma);
#[cfg(feature = "cuda")]
backend!(emulated, Emulated::load());
#[cfg(feature = "cuda")]
backend!(ptx, Compiled::shipped());
#[cfg(feature = "cuda")]
backend!(ptx_90, Compiled::fresh_90());
#[cfg(feature = "cuda")]
backend!(gpu, Gpu::load(), door, production);
