//! Ratios within one run: Drop-Activation beside plain ReLU, RReLU and the memory's own speed.
//!
//!     cargo bench --bench ratios -- [--device cpu|cuda] [--quick | --headline] [--sizes 28,20] [--json FILE]
//!
//! `--headline` takes the configurations alone that the aims speak of, `--sizes` other sizes, as binary logarithms.
//! FILE holds, at any time, what has been measured.
//!
//! All works of a configuration take turns, round after round in another order, so that what disturbs the machine
//! disturbs them alike; the figures are medians over the rounds. The bench `passes` measures the same works one by one.

mod table;
#[path = "../works/mod.rs"]
mod works;

use std::collections::BTreeMap;
use std::error::Error;

use drop_activation::Dtype;
use drop_activation::reference::philox4x32_10;
use works::{Config, Device, Work};

/// Median seconds of each work.
type Medians = BTreeMap<Work, f64>;

fn measure(device: &dyn Device, config: &Config) -> Result<Medians, Box<dyn Error>> {
    let mut tensors = device.tensors(config)?;
    // Enough calls for a clock to see them.
    let calls = (1 << 24 >> config.n.ilog2().min(24)).clamp(1, 128);
    let rounds = if config.n >= 1 << 24 { 15 } else { 51 };
    let mut times: BTreeMap<Work, Vec<f64>> = BTreeMap::new();
    let mut works: Vec<Work> = Work::ALL.into_iter().filter(|work| device.has(*work, config)).collect();
    for round in 0..=rounds {
        // Another order each time: what the work before left in the caches belongs to none.
        works.sort_by_cached_key(|work| philox4x32_10([round, *work as u32, 0, 0], [0, 0])[0]);
        for &work in &works {
            let time = tensors.time(work, calls)?.as_secs_f64() / calls as f64;
            // The first round warms up.
            if round > 0 {
                times.entry(work).or_default().push(time);
            }
        }
    }
    Ok(times.into_iter().map(|(work, times)| (work, median(times))).collect())
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// The largest first: a run that is cut short has them.
fn headline_configs(sizes: Option<Vec<u32>>) -> Vec<Config> {
    let of_size =
        |log: u32| [Dtype::F32, Dtype::Bf16].map(|dtype| Config { dtype, n: 1_usize << log, p: 0.95, cold: true });
    sizes.unwrap_or_else(|| vec![28, 24, 20]).into_iter().flat_map(of_size).collect()
}

fn configs(quick: bool, sizes: Option<Vec<u32>>) -> Vec<Config> {
    let all: &[u32] = if quick { &[16, 20, 26] } else { &[10, 12, 14, 16, 18, 20, 22, 24, 26, 28] };
    let sizes = sizes.unwrap_or_else(|| all.to_vec());
    let mut configs = Vec::new();
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
        for &log in &sizes {
            for cold in [false, true] {
                let other_p: &[f64] = if quick || !matches!(log, 20 | 26 | 28) { &[] } else { &[0.6, 0.5, 0.999] };
                configs.extend([0.95].iter().chain(other_p).map(|&p| Config { dtype, n: 1_usize << log, p, cold }));
            }
        }
    }
    configs
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut device = None;
    let (mut quick, mut headline) = (false, false);
    let (mut sizes, mut json) = (None, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--device" => device = arguments.next(),
            "--quick" => quick = true,
            "--headline" => headline = true,
            "--sizes" => {
                let list = arguments.next().ok_or("--sizes takes numbers, with commas between")?;
                sizes = Some(list.split(',').map(str::parse).collect::<Result<Vec<u32>, _>>()?);
            }
            "--json" => json = arguments.next(),
            // What cargo itself passes.
            "--bench" => {}
            other => return Err(format!("unknown argument {other}").into()),
        }
    }
    let device = works::open(device.as_deref())?;
    println!("ratios on {}", device.name());

    let mut results = table::Results::new(device.name(), device.cache());
    for config in if headline { headline_configs(sizes) } else { configs(quick, sizes) } {
        results.add(config, measure(&*device, &config)?);
        if let Some(file) = &json {
            std::fs::write(file, results.json())?;
        }
    }
    results.print();
    results.print_summary();
    Ok(())
}
