//! What the figures come to.

use drop_activation::Dtype;

use crate::Medians;
use crate::works::{Config, Work};

pub struct Results {
    device: String,
    /// Bytes of its last-level cache.
    cache: Option<usize>,
    rows: Vec<(Config, Medians)>,
}

impl Results {
    pub fn new(device: String, cache: Option<usize>) -> Self {
        Self { device, cache, rows: Vec::new() }
    }

    pub fn add(&mut self, config: Config, medians: Medians) {
        self.rows.push((config, medians));
    }

    /// Times as ratios: to plain ReLU's of the same kind, and bytes a second as a part of the copy's. How
    /// much longer a mask from one number for each element takes, and a step by one thread.
    pub fn print(&self) {
        println!("\ntime / plain ReLU's time (step: forward + backward); of copy: bytes/s / the copy's bytes/s");
        println!("uniform: a mask from 32 bits for each element / draw; alone: one thread's step / step");
        println!(
            "{:<5}{:>6}{:>6} {:<5}{:>8}{:>9}{:>7}{:>7}{:>8}  {:>8}{:>9}{:>9}{:>10}{:>10}{:>12}{:>9}{:>7}",
            "type",
            "n",
            "p",
            "",
            "forward",
            "backward",
            "step",
            "infer",
            "rrelu",
            "copy",
            "fwd/copy",
            "bwd/copy",
            "relu fwd",
            "relu bwd",
            "draw",
            "uniform",
            "alone"
        );
        for (config, medians) in &self.rows {
            let time = |work| medians[&work];
            let size = config.dtype.size() as f64;
            let speed = |work: Work| work.bytes(size) * config.n as f64 / time(work);
            let of_copy = |work| speed(work) / speed(Work::Copy);
            let ratio = |work, other| medians.get(&work).map_or("-".into(), |t| format!("{:.2}", t / time(other)));
            println!(
                "{:<5}{:>6}{:>6} {:<5}{:>8.2}{:>9.2}{:>7.2}{:>7.2}{:>8.2}  \
                 {:>6.1}GB/s{:>7.2}{:>9.2}{:>10.2}{:>10.2}{:>12}{:>9}{:>7}",
                config.dtype.name(),
                format!("2^{}", config.n.ilog2()),
                config.p,
                if config.cold { "cold" } else { "warm" },
                time(Work::DropForward) / time(Work::ReluForward),
                time(Work::DropBackward) / time(Work::ReluBackward),
                time(Work::DropStep) / time(Work::ReluStep),
                time(Work::DropInfer) / time(Work::ReluForward),
                time(Work::RreluStep) / time(Work::ReluStep),
                speed(Work::Copy) / 1e9,
                of_copy(Work::DropForward),
                of_copy(Work::DropBackward),
                of_copy(Work::ReluForward),
                of_copy(Work::ReluBackward),
                medians.get(&Work::Draw).map_or("-".into(), |t| format!("{:.1}Gb/s", config.n as f64 / t / 1e9)),
                ratio(Work::DrawUniform, Work::Draw),
                ratio(Work::DropStepAlone, Work::DropStep),
            );
        }
    }

    /// What it comes to: from the least to the greatest, at p = 0.95. Large tensors are at least four times the
    /// last-level cache, or 2^26 elements where that is not known; those in cache are warm ones of 2^16 to 2^20. The
    /// mask's bits are one thread's.
    pub fn print_summary(&self) {
        println!("\nin short    large tensors                               in cache      mask of   mask");
        println!("type        step        forward/copy  backward/copy     step          2^16 Gb/s uniform/mask");
        for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
            let large = |c: &Config| match self.cache {
                Some(bytes) => c.n * c.dtype.size() >= 4 * bytes,
                None => c.n >= 1 << 26,
            };
            let cached = |c: &Config| !c.cold && (1 << 16..=1 << 20).contains(&c.n);
            let range = |which: &dyn Fn(&Config) -> bool, figure: &dyn Fn(&Config, &Medians) -> Option<f64>| {
                let rows = self.rows.iter().filter(|(c, _)| c.dtype == dtype && c.p == 0.95 && which(c));
                let figures: Vec<f64> = rows.filter_map(|(c, medians)| figure(c, medians)).collect();
                let (least, most) =
                    (figures.iter().copied().reduce(f64::min), figures.iter().copied().reduce(f64::max));
                match least.zip(most) {
                    Some((least, most)) if figures.len() > 1 => format!("{least:.2}-{most:.2}"),
                    Some((figure, _)) => format!("{figure:.2}"),
                    None => "-".to_owned(),
                }
            };
            let time = |a, b| move |_: &Config, medians: &Medians| Some(medians.get(&a)? / medians.get(&b)?);
            let of_copy = |work: Work| {
                move |c: &Config, medians: &Medians| {
                    let bytes = |work: Work| work.bytes(c.dtype.size() as f64);
                    Some(bytes(work) / medians.get(&work)? / (bytes(Work::Copy) / medians.get(&Work::Copy)?))
                }
            };
            println!(
                "{:<12}{:<12}{:<14}{:<18}{:<14}{:<10}{}",
                dtype.name(),
                range(&large, &time(Work::DropStep, Work::ReluStep)),
                range(&large, &of_copy(Work::DropForward)),
                range(&large, &of_copy(Work::DropBackward)),
                range(&cached, &time(Work::DropStep, Work::ReluStep)),
                // No more elements than one thread takes alone.
                range(&|c| !c.cold && c.n == 1 << 16, &|c, m| Some(c.n as f64 / m.get(&Work::Draw)? / 1e9)),
                range(&|c| c.n >= 1 << 16, &time(Work::DrawUniform, Work::Draw)),
            );
        }
    }

    /// One object: the device, the bytes of its last-level cache, and for each configuration the median seconds of each
    /// work.
    pub fn json(&self) -> String {
        let rows: Vec<String> = self
            .rows
            .iter()
            .map(|(config, medians)| {
                let medians: Vec<String> =
                    medians.iter().map(|(work, time)| format!("\"{}\": {time:e}", work.name())).collect();
                format!(
                    "  {{\"dtype\": \"{}\", \"n\": {}, \"p\": {}, \"cold\": {}, \"seconds\": {{{}}}}}",
                    config.dtype.name(),
                    config.n,
                    config.p,
                    config.cold,
                    medians.join(", ")
                )
            })
            .collect();
        let cache = self.cache.map_or("null".to_owned(), |bytes| bytes.to_string());
        format!("{{\"device\": {:?}, \"cache\": {cache}, \"rows\": [\n{}\n]}}\n", self.device, rows.join(",\n"))
    }
}
