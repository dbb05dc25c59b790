//! The kernels of the passes over channels, as the library plans to launch them: as sources in any order of lanes, and
//! as nvcc compiles them. They have the reference's bits, whatever the shape, the layout, the addresses and what is
//! absent. (For the smooth nonlinearities, whose last bits may differ, they are near it.)
#![cfg(feature = "cuda")]

mod emulator;
#[path = "support/fused_cases.rs"]
mod fused_cases;
mod ptx_machine;
mod support;

use std::sync::OnceLock;

use drop_activation::half::{bf16, f16};
use emulator::{Emulator, Machine, Order};
use fused_cases::{Finding, Real64, cases, run};
use ptx_machine::{Ptx, compile};
use support::data::Bits;

/// The kernels as nvcc compiles them for 7.5 and 9.0, where there is one; else what is shipped.
fn compiled() -> &'static [&'static Ptx] {
    static COMPILED: OnceLock<Vec<&'static Ptx>> = OnceLock::new();
    COMPILED.get_or_init(|| [Some(compile::shipped()), compile::fresh_90()].into_iter().flatten().collect())
}

fn on_all_machines<T: Bits<Real: Real64>>() {
    fn all_cases<T: Bits<Real: Real64>>(machine: &impl Machine, order: Order) {
        for case in cases::<T>() {
            if let Err(Finding::Report(what) | Finding::Numbers(what)) = run::<T, _>(machine, &case, order) {
                panic!("{what}\n{case:?}");
            }
        }
    }
    if let Some(sources) = Emulator::load_or_tell() {
        for order in Order::ALL {
            all_cases::<T>(sources, order);
        }
    }
    for (ptx, order) in compiled().iter().zip([Order::Reversed, Order::Random(3)]) {
        all_cases::<T>(*ptx, order);
    }
}

#[test]
fn over_f32() {
    on_all_machines::<f32>();
}

#[test]
fn over_f64() {
    on_all_machines::<f64>();
}

#[test]
fn over_f16() {
    on_all_machines::<f16>();
}

#[test]
fn over_bf16() {
    on_all_machines::<bf16>();
}
