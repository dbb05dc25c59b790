//! Ratios within one run: Drop-Activation beside plain ReLU, RReLU and the memory's own speed.
//!
//!     cargo bench --bench ratios -- [--device cpu|cuda] [--quick | --headline] [--sizes 28,20] [--json FILE]
//!     cargo bench --bench ratios -- --blocks [--quick] [--json FILE]
//!
//! `--headline` takes the configurations alone that the aims speak of, `--sizes` other sizes, as binary logarithms.
//! FILE holds, at any time, what has been measured. `--blocks` is for the blocks of networks on the CPU: `blocks.rs`.
//!
//! All cases of a configuration take turns, round after round in another order, so that what disturbs the machine
//! disturbs them alike; the figures are medians over the rounds. The baseline of a size and type is the faster of our
//! plain ReLU and an outsider's (for PyTorch's see `benches/pytorch.py`). The bench `passes` measures the same cases
//! one by one.

mod blocks;
#[path = "../cases/mod.rs"]
mod cases;
mod table;

use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;

use cases::{Case, Config, Device};
use drop_activation::Dtype;
use drop_activation::reference::philox4x32_10;

/// Median seconds of each case.
type Medians = BTreeMap<Case, f64>;

fn measure(device: &dyn Device, config: &Config) -> Result<Medians, Box<dyn Error>> {
    let mut tensors = device.tensors(config)?;
    // Enough calls for a clock to see them.
    let calls = (1 << 24 >> config.n.ilog2().min(24)).clamp(1, 128);
    let rounds = if config.n >= 1 << 24 { 15 } else { 51 };
    let mut times: BTreeMap<Case, Vec<f64>> = BTreeMap::new();
    let mut cases: Vec<Case> = Case::ALL.into_iter().filter(|case| device.has(*case, config)).collect();
    for round in 0..=rounds {
        // Another order each time: what the case before left in the caches belongs to none.
        cases.sort_by_cached_key(|case| philox4x32_10([round, *case as u32, 0, 0], [0, 0])[0]);
        for &case in &cases {
            let time = tensors.time(case, calls)?.as_secs_f64() / calls as f64;
            // The first round warms up.
            if round > 0 {
                times.entry(case).or_default().push(time);
            }
        }
    }
    Ok(times.into_iter().map(|(case, times)| (case, median(times))).collect())
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
    let all: &[u32] = if quick { &[16, 20, 26] } else { &[10, 12, 14, 16, 17, 18, 19, 20, 22, 24, 26, 28] };
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

#[derive(Default)]
struct Options {
    device: Option<String>,
    quick: bool,
    headline: bool,
    blocks: bool,
    sizes: Option<Vec<u32>>,
    json: Option<PathBuf>,
}

impl Options {
    fn parse() -> Result<Self, Box<dyn Error>> {
        use lexopt::prelude::*;
        let mut options = Self::default();
        let mut arguments = lexopt::Parser::from_env();
        while let Some(argument) = arguments.next()? {
            match argument {
                Long("device") => options.device = Some(arguments.value()?.string()?),
                Long("quick") => options.quick = true,
                Long("blocks") => options.blocks = true,
                Long("headline") => options.headline = true,
                Long("sizes") => options.sizes = Some(sizes(&arguments.value()?.string()?)?),
                Long("json") => options.json = Some(arguments.value()?.into()),
                // What cargo itself passes.
                Long("bench") => {}
                _ => return Err(argument.unexpected().into()),
            }
        }
        Ok(options)
    }
}

fn sizes(list: &str) -> Result<Vec<u32>, String> {
    let size = |log: &str| log.parse().ok().filter(|log| (5..=32).contains(log));
    let sizes: Option<Vec<u32>> = list.split(',').map(size).collect();
    sizes.ok_or_else(|| format!("--sizes must be binary logarithms from 5 to 32 with commas between, got {list:?}"))
}

fn main() -> Result<(), Box<dyn Error>> {
    let Options { device, quick, headline, blocks, sizes, json } = Options::parse()?;
    if blocks {
        if headline || sizes.is_some() || device.as_deref().is_some_and(|device| device != "cpu") {
            return Err("--blocks must be on the CPU, without --headline and --sizes".into());
        }
        return blocks::run(quick, json.as_deref());
    }
    let device = cases::open(device.as_deref())?;
    println!("ratios on {}", device.name());

    let mut results = table::Results::new(device.name(), device.cache());
    for config in if headline { headline_configs(sizes) } else { configs(quick, sizes) } {
        results.add(config, measure(&*device, &config)?);
        if let Some(file) = &json {
            std::fs::write(file, results.json()?)?;
        }
    }
    results.print();
    results.print_summary();
    Ok(())
}
