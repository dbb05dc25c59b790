//! Every pass by itself, with criterion's statistics and throughputs.
//!
//!     cargo bench --bench passes -- [criterion's options] [FILTER]
//!
//! FILTER is a regular expression for names such as `bf16/2^20/cold/p=0.95/drop_forward`, of which there are over a
//! thousand; the largest take more than 8 GiB of the device's memory. The best device that is there is
//! measured, or the one that DROP_ACTIVATION_BENCH_DEVICE names, cpu or cuda. For ratios see the bench `ratios`, in
//! which the passes take turns.

mod cases;

use std::time::Duration;

use cases::{Case, Config};
use criterion::{Criterion, Throughput};
use drop_activation::Dtype;

fn title(config: &Config) -> String {
    let Config { dtype, n, p, cold } = config;
    format!("{}/2^{}/{}/p={p}", dtype.name(), n.ilog2(), if *cold { "cold" } else { "warm" })
}

fn takes_p(case: Case) -> bool {
    use Case::{Draw, DropBackward, DropForward, DropInfer, DropStep, DropStepOneThread};
    matches!(case, DropForward | DropBackward | DropStep | DropStepOneThread | DropInfer | Draw)
}

fn main() {
    let name = std::env::var("DROP_ACTIVATION_BENCH_DEVICE").ok();
    let device = match cases::open(name.as_deref()) {
        Ok(device) => device,
        Err(reason) => panic!("{reason}"),
    };
    let cache = device.cache().map_or("unknown".to_owned(), |bytes| format!("{} MiB", bytes >> 20));
    println!("passes on {}; last-level cache: {cache}", device.name());
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(400))
        .without_plots()
        .configure_from_args();
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
        for log in [10, 14, 16, 18, 20, 22, 24, 26, 28] {
            for cold in [false, true] {
                for p in [0.95, 0.6, 0.5] {
                    let config = Config { dtype, n: 1 << log, p, cold };
                    let mut group = criterion.benchmark_group(title(&config));
                    // Made for the first pass that FILTER lets through.
                    let mut tensors = None;
                    let cases = Case::ALL.into_iter().filter(|case| device.has(*case, &config));
                    for case in cases.filter(|case| p == 0.95 || takes_p(*case)) {
                        let bytes = (case.bytes(dtype.size()) * config.n as f64) as u64;
                        group.throughput(Throughput::ElementsAndBytes { elements: config.n as u64, bytes });
                        group.bench_function(case.name(), |bencher| {
                            let tensors = tensors.get_or_insert_with(|| device.tensors(&config).expect("tensors"));
                            bencher.iter_custom(|calls| tensors.time(case, calls).expect("a measurement"));
                        });
                    }
                }
            }
        }
    }
    criterion.final_summary();
}
