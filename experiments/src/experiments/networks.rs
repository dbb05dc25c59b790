//! Tables 1 to 4: each architecture with ReLU, RReLU and Drop-Activation.

use anyhow::{Context, Result, ensure};
use candle_core::Device;
use drop_activation_candle::KeySequence;
use serde::{Deserialize, Serialize};

use super::{Cell, Settings, Size, dataset, error_chart, final_errors, tally, train_all};
use crate::activation::Activation;
use crate::nets::layers::Builder;
use crate::nets::{Architecture, Task};
use crate::options::Options;
use crate::page::{grouped, table};
use crate::plot::draw;
use crate::presets::{self, Recipe};
use crate::results::Results;
use crate::stats::Interval;

const SIZE: Size = Size { train: 1_500, test: 2_000 };

/// What a table's row says.
#[derive(Serialize, Deserialize)]
pub(crate) struct Row {
    network: String,
    activation: String,
    parameters: usize,
    pub(crate) seeds: usize,
    train_error: f64,
    test_error: f64,
    half_width: Option<f64>,
    /// Against ReLU, seed by seed: negative is better.
    difference: Option<f64>,
    difference_half_width: Option<f64>,
    /// The same against RReLU.
    from_rrelu: Option<f64>,
    from_rrelu_half_width: Option<f64>,
}

impl Row {
    fn error(&self) -> Interval {
        Interval { mean: self.test_error, half: self.half_width, count: self.seeds }
    }

    fn less_relu(&self) -> Option<Interval> {
        let baseline = self.activation == Activation::Relu.to_string();
        let mean = self.difference.filter(|_| !baseline)?;
        Some(Interval { mean, half: self.difference_half_width, count: self.seeds })
    }

    fn less_rrelu(&self) -> Option<Interval> {
        let ours = self.activation == Activation::PAPERS.to_string();
        let mean = self.from_rrelu.filter(|_| ours)?;
        Some(Interval { mean, half: self.from_rrelu_half_width, count: self.seeds })
    }
}

/// The tables in Markdown: errors, and differences.
pub(crate) fn report(rows: &[Row]) -> String {
    let of = |network: &Row, activation: Activation| {
        rows.iter().find(|r| r.network == network.network && r.activation == activation.to_string())
    };
    let mut networks: Vec<&Row> = rows.iter().collect();
    networks.dedup_by_key(|r| &r.network);
    let all = [Activation::Relu, Activation::RRelu, Activation::PAPERS];
    let errors = networks.iter().map(|n| {
        let [relu, rrelu, ours] = all.map(|a| of(n, a).map_or(String::new(), |r| format!("{:.2}", r.error())));
        [n.network.clone(), grouped(n.parameters as u64), relu, rrelu, ours]
    });
    let say = |d: Option<Interval>| d.map_or(String::new(), |d| format!("{d:.2}: {}", d.verdict()));
    let differences = networks.iter().map(|n| {
        let (rrelu, ours) = (of(n, Activation::RRelu), of(n, Activation::PAPERS));
        let (rrelu_less_relu, less_relu) = (rrelu.and_then(Row::less_relu), ours.and_then(Row::less_relu));
        [n.network.clone(), say(rrelu_less_relu), say(less_relu), say(ours.and_then(Row::less_rrelu))]
    });
    let errors = table(&["test error (%)", "parameters", "ReLU", "RReLU", "Drop-Activation(0.95)"], errors);
    let head = ["difference", "RReLU less ReLU", "Drop-Activation less ReLU", "Drop-Activation less RReLU"];
    format!("{errors}\n{}", table(&head, differences))
}

/// How often Drop-Activation is better.
pub(crate) fn summary(rows: &[Row]) -> Vec<String> {
    let of = |less: fn(&Row) -> Option<Interval>| {
        let ours = rows.iter().filter(|r| r.activation == Activation::PAPERS.to_string());
        let differences: Vec<Interval> = ours.filter_map(less).collect();
        let lower = differences.iter().filter(|d| d.mean < 0.0).count();
        let all = differences.len();
        format!("{}; the mean is lower for {lower} of {all} small networks", tally(differences))
    };
    vec![format!("against ReLU: {}", of(Row::less_relu)), format!("against RReLU: {}", of(Row::less_rrelu))]
}

/// Runs it.
///
/// # Errors
/// If the data are missing, no network has the name asked for, a file cannot be written or training fails.
pub fn run(options: &Options) -> Result<()> {
    let data = dataset(options, SIZE)?;
    let mut networks = if options.full { presets::full(&data) } else { presets::small() };
    if let Some(wanted) = &options.network {
        let names = networks.iter().map(|n| n.0).collect::<Vec<_>>().join(", ");
        networks.retain(|n| n.0 == wanted);
        ensure!(!networks.is_empty(), "--network {wanted}: allowed are {names}");
    }
    let all = [Activation::Relu, Activation::RRelu, Activation::PAPERS];
    let activations = options.activation.map_or(all.to_vec(), |a| vec![a]);
    let recipe = |architecture: &Architecture| match (options.full, options.quick) {
        (true, _) => Recipe::full(architecture, &data),
        (_, true) => Recipe::small(2),
        _ => Recipe { test_each_epoch: false, ..Recipe::small(6) },
    };
    let cells: Vec<Cell> = networks
        .iter()
        .flat_map(|(name, architecture)| activations.iter().map(move |a| (name, architecture, *a)))
        .map(|(name, architecture, activation)| Cell {
            name: format!("{name}, {activation}"),
            architecture: architecture.clone(),
            activation,
            recipe: recipe(architecture),
        })
        .collect();
    let own = if options.full { "full" } else { "small" };
    let settings =
        Settings::new(options, &data, serde_json::json!({ "preset": own, "recipe": recipe(&networks[0].1) }));
    let mut results = Results::open(options, "networks", &settings)?;
    let seeds = options.seeds.unwrap_or(if options.quick || options.full { 1 } else { 5 });
    let histories = train_all(options, &mut results, &data, &cells, seeds)?;

    let task = Task { channels: data.train.channels, side: data.train.height, classes: data.classes };
    let mut rows = Vec::new();
    for (of_network, histories) in cells.chunks(activations.len()).zip(histories.chunks(activations.len())) {
        let mut builder = Builder::new(Activation::Relu, KeySequence::new(0), &Device::Cpu);
        of_network[0].architecture.build(task, &mut builder)?;
        let of = |activation| {
            let place = of_network.iter().position(|c| c.activation == activation)?;
            Some(final_errors(&histories[place]))
        };
        let (relu, rrelu) = (of(Activation::Relu), of(Activation::RRelu));
        for (cell, histories) in of_network.iter().zip(histories) {
            let errors = final_errors(histories);
            let error = Interval::of(&errors);
            let less = |baseline: &Option<Vec<f64>>| baseline.as_ref().map(|b| Interval::of_differences(&errors, b));
            let (difference, from_rrelu) = (less(&relu), less(&rrelu));
            let train: Vec<f64> = histories.iter().filter_map(|h| Some(h.last()?.train_error)).collect();
            let (network, _) = cell.name.split_once(", ").context("a name")?;
            rows.push(Row {
                network: network.into(),
                activation: cell.activation.to_string(),
                parameters: builder.parameters(),
                seeds: errors.len(),
                train_error: Interval::of(&train).mean,
                test_error: error.mean,
                half_width: error.half,
                difference: difference.map(|d| d.mean),
                difference_half_width: difference.and_then(|d| d.half),
                from_rrelu: from_rrelu.map(|d| d.mean),
                from_rrelu_half_width: from_rrelu.and_then(|d| d.half),
            });
        }
    }
    results.table(&rows)?;
    print!("{}", report(&rows));
    let names = networks.iter().enumerate().map(|(i, n)| format!("{} {}", i + 1, n.0)).collect::<Vec<_>>().join(", ");
    let errors = |activation: &str| rows.iter().filter(|r| r.activation == activation).map(Row::error).collect();
    draw(&results.picture(""), &[error_chart(&names, &activations, errors)])
}
