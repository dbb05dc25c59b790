//! What the figures come to.

use drop_activation::Dtype;
use serde_json::{Map, Value, json};

use crate::Medians;
use crate::cases::{Case, Config, bytes};

/// The baseline of a pass: the faster of our plain ReLU and an outsider's, as far as there is one.
const FORWARD: [Case; 2] = [Case::ReluForward, Case::NdarrayReluForward];
const BACKWARD: [Case; 2] = [Case::ReluBackward, Case::NdarrayReluBackward];
const STEP: [Case; 2] = [Case::ReluStep, Case::NdarrayReluStep];

pub struct Results {
    device: String,
    /// Bytes of its last-level cache.
    cache: Option<usize>,
    rows: Vec<Row>,
}

/// A configuration, and what was measured.
struct Row {
    config: Config,
    medians: Medians,
}

impl Row {
    /// The time of a case in the least of these others' times, if it and one of them were measured.
    fn ratio(&self, case: Case, others: &[Case]) -> Option<f64> {
        let others = others.iter().filter_map(|other| self.medians.get(other)).copied();
        Some(self.medians.get(&case)? / others.reduce(f64::min)?)
    }

    /// Bytes a second.
    fn speed(&self, case: Case) -> Option<f64> {
        Some(case.bytes(self.config.dtype.size()) * self.config.n as f64 / self.medians.get(&case)?)
    }

    fn of_copy(&self, case: Case) -> Option<f64> {
        Some(self.speed(case)? / self.speed(Case::Copy)?)
    }

    /// Bits of the mask a second, in 10^9.
    fn mask_bits(&self) -> Option<f64> {
        Some(self.config.n as f64 / self.medians.get(&Case::Draw)? / 1e9)
    }
}

fn shown(figure: Option<f64>) -> String {
    figure.map_or("-".to_owned(), |figure| format!("{figure:.2}"))
}

impl Results {
    pub fn new(device: String, cache: Option<usize>) -> Self {
        Self { device, cache, rows: Vec::new() }
    }

    pub fn add(&mut self, config: Config, medians: Medians) {
        self.rows.push(Row { config, medians });
    }

    /// Times as ratios: to the baseline's of the same kind, and bytes a second as a part of the copy's. How much longer
    /// a step by one thread takes.
    pub fn print(&self) {
        println!(
            "\nbaseline: the faster of our plain ReLU and ndarray's; step: forward + backward; relu: ours / baseline"
        );
        println!("of copy: bytes/s / the copy's bytes/s");
        println!("1 thread: the step on the calling thread alone, / the step, / the baseline's on one thread");
        println!(
            "{:<5}{:>6}{:>6} {:<5}{:>8}{:>9}{:>7}{:>7}{:>7}{:>8}  {:>10}{:>9}{:>9}{:>10}{:>10}{:>12}{:>10}{:>10}",
            "type",
            "n",
            "p",
            "",
            "forward",
            "backward",
            "step",
            "relu",
            "infer",
            "rrelu",
            "copy",
            "fwd/copy",
            "bwd/copy",
            "relu fwd",
            "relu bwd",
            "draw",
            "1 thread",
            "/ base"
        );
        for row in &self.rows {
            let Config { dtype, n, p, cold } = row.config;
            println!(
                "{:<5}{:>6}{:>6} {:<5}{:>8}{:>9}{:>7}{:>7}{:>7}{:>8}  {:>10}{:>9}{:>9}{:>10}{:>10}{:>12}{:>10}{:>10}",
                dtype.name(),
                format!("2^{}", n.ilog2()),
                p,
                if cold { "cold" } else { "warm" },
                shown(row.ratio(Case::DropForward, &FORWARD)),
                shown(row.ratio(Case::DropBackward, &BACKWARD)),
                shown(row.ratio(Case::DropStep, &STEP)),
                shown(row.ratio(Case::ReluStep, &STEP)),
                shown(row.ratio(Case::DropInfer, &FORWARD)),
                shown(row.ratio(Case::RreluStep, &STEP)),
                row.speed(Case::Copy).map_or("-".to_owned(), |speed| format!("{:.1}GB/s", speed / 1e9)),
                shown(row.of_copy(Case::DropForward)),
                shown(row.of_copy(Case::DropBackward)),
                shown(row.of_copy(Case::ReluForward)),
                shown(row.of_copy(Case::ReluBackward)),
                row.mask_bits().map_or("-".to_owned(), |bits| format!("{bits:.1}Gb/s")),
                shown(row.ratio(Case::DropStepOneThread, &[Case::DropStep])),
                shown(row.ratio(Case::DropStepOneThread, &[Case::ReluStepOneThread, Case::NdarrayReluStepOneThread])),
            );
        }
    }

    /// What it comes to: from the least to the greatest, at p = 0.95. Large tensors are at least four times the
    /// last-level cache, or 2^26 elements where that is not known; those in cache are warm ones of 2^16 to 2^20. The
    /// mask's bits are one thread's.
    pub fn print_summary(&self) {
        println!("\nin short    large tensors                               in cache      mask of");
        println!("type        step        forward/copy  backward/copy     step          2^16 Gb/s");
        for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
            let large = |c: &Config| match self.cache {
                Some(bytes) => c.n * c.dtype.size() >= 4 * bytes,
                None => c.n >= 1 << 26,
            };
            let cached = |c: &Config| !c.cold && (1 << 16..=1 << 20).contains(&c.n);
            let range = |which: &dyn Fn(&Config) -> bool, figure: &dyn Fn(&Row) -> Option<f64>| {
                let chosen = |row: &&Row| row.config.dtype == dtype && row.config.p == 0.95 && which(&row.config);
                let figures: Vec<f64> = self.rows.iter().filter(chosen).filter_map(figure).collect();
                let (least, most) =
                    (figures.iter().copied().reduce(f64::min), figures.iter().copied().reduce(f64::max));
                match least.zip(most) {
                    Some((least, most)) if figures.len() > 1 => format!("{least:.2}-{most:.2}"),
                    Some((figure, _)) => format!("{figure:.2}"),
                    None => "-".to_owned(),
                }
            };
            println!(
                "{:<12}{:<12}{:<14}{:<18}{:<14}{}",
                dtype.name(),
                range(&large, &|row| row.ratio(Case::DropStep, &STEP)),
                range(&large, &|row| row.of_copy(Case::DropForward)),
                range(&large, &|row| row.of_copy(Case::DropBackward)),
                range(&cached, &|row| row.ratio(Case::DropStep, &STEP)),
                // No more elements than one thread takes alone.
                range(&|c| !c.cold && c.n == 1 << 16, &Row::mask_bits),
            );
        }
    }

    /// One object: the device, the bytes of its last-level cache, the bytes that each case moves, and for each
    /// configuration the median seconds of each case.
    pub fn json(&self) -> serde_json::Result<String> {
        let seconds = |medians: &Medians| -> Map<String, Value> {
            medians.iter().map(|(case, time)| (case.name().to_owned(), (*time).into())).collect()
        };
        let row = |Row { config, medians }: &Row| {
            let Config { dtype, n, p, cold } = *config;
            json!({ "dtype": dtype.name(), "n": n, "p": p, "cold": cold, "seconds": seconds(medians) })
        };
        let rows: Vec<Value> = self.rows.iter().map(row).collect();
        let results = json!({ "device": self.device, "cache": self.cache, "bytes": &*bytes::TABLE, "rows": rows });
        Ok(serde_json::to_string_pretty(&results)? + "\n")
    }
}
