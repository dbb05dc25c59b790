//! What the figures come to.

use crate::Medians;
use crate::works::{Config, Work};

pub struct Results {
    device: String,
    rows: Vec<(Config, Medians)>,
}

impl Results {
    pub fn new(device: String) -> Self {
        Self { device, rows: Vec::new() }
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
            "forward",
            "backward",
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

    /// One object: the device, and for each configuration the median seconds of each work.
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
        format!("{{\"device\": {:?}, \"rows\": [\n{}\n]}}\n", self.device, rows.join(",\n"))
    }
}
