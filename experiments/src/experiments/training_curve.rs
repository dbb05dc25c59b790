//! Figure 4: training and test error by epoch, with ReLU and with Drop-Activation.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{Cell, Settings, Size, dataset, train_all};
use crate::activation::Activation;
use crate::nets::{Architecture, resnet};
use crate::options::Options;
use crate::page::table;
use crate::plot::{Chart, Series, Style, draw};
use crate::presets::Recipe;
use crate::results::Results;
use crate::stats::Interval;
use crate::train::Epoch;

const SIZE: Size = Size { train: 1_000, test: 1_000 };

/// What a table's row says.
#[derive(Serialize, Deserialize)]
pub(crate) struct Row {
    activation: String,
    epoch: usize,
    pub(crate) seeds: usize,
    train_loss: f64,
    train_error: f64,
    train_half_width: Option<f64>,
    test_error: f64,
    test_half_width: Option<f64>,
    /// Against ReLU in the same epoch, seed by seed: negative is lower.
    train_difference: f64,
    train_difference_half_width: Option<f64>,
    test_difference: f64,
    test_difference_half_width: Option<f64>,
}

impl Row {
    /// Training and test error.
    fn errors(&self) -> [Interval; 2] {
        let interval = |mean, half| Interval { mean, half, count: self.seeds };
        [interval(self.train_error, self.train_half_width), interval(self.test_error, self.test_half_width)]
    }

    /// Theirs less ReLU's; nothing for ReLU itself.
    fn differences(&self) -> Option<[Interval; 2]> {
        let interval = |mean, half| Interval { mean, half, count: self.seeds };
        let train = interval(self.train_difference, self.train_difference_half_width);
        let test = interval(self.test_difference, self.test_difference_half_width);
        (self.activation != Activation::Relu.to_string()).then_some([train, test])
    }
}

/// The last epoch's rows.
fn at_the_end(rows: &[Row]) -> impl Iterator<Item = &Row> {
    let last = rows.iter().map(|r| r.epoch).max();
    rows.iter().filter(move |r| Some(r.epoch) == last)
}

/// The table of the last epoch in Markdown.
pub(crate) fn report(rows: &[Row]) -> String {
    let rows = at_the_end(rows).map(|r| {
        let [train, test] = r.errors().map(|e| format!("{e:.2}"));
        let less = |d: Interval| format!("{d:.2}: {}", d.direction());
        let [train_less, test_less] = r.differences().map_or_else(Default::default, |d| d.map(less));
        [r.activation.clone(), train, train_less, test, test_less]
    });
    table(&["at the end", "training error (%)", "less ReLU's", "test error (%)", "less ReLU's"], rows)
}

/// What the differences at the end say.
pub(crate) fn summary(rows: &[Row]) -> Vec<String> {
    let say = |what, d: Interval| format!("{what} error less ReLU's: {d:.2} points, {}", d.direction());
    let differences = at_the_end(rows).filter_map(Row::differences);
    differences.flat_map(|[train, test]| [say("training", train), say("test", test)]).collect()
}

/// ResNet-164 as in the paper, or a bottleneck network of 20 layers.
pub(super) fn architecture(full: bool) -> Architecture {
    Architecture::ResNet(config(full))
}

pub(super) fn config(full: bool) -> resnet::Config {
    if full { resnet::Config::bottleneck(164) } else { resnet::Config { width: 4, ..resnet::Config::bottleneck(20) } }
}

/// Runs it.
///
/// # Errors
/// If the data are missing, a file cannot be written or training fails.
pub fn run(options: &Options) -> Result<()> {
    let data = dataset(options, SIZE)?;
    let architecture = architecture(options.full);
    let recipe = match (options.full, options.quick) {
        (true, _) => Recipe::full(&architecture, &data),
        (_, true) => Recipe::small(3),
        _ => Recipe::small(12),
    };
    let own = serde_json::json!({ "architecture": architecture, "recipe": recipe });
    let mut results = Results::open(options, "training-curve", &Settings::new(options, &data, own))?;
    let seeds = options.seeds.unwrap_or(if options.quick || options.full { 1 } else { 5 });
    let activations = [Activation::Relu, Activation::PAPERS];
    let cell = |activation: Activation| Cell {
        name: activation.to_string(),
        architecture: architecture.clone(),
        activation,
        recipe: recipe.clone(),
    };
    let histories = train_all(options, &mut results, &data, &activations.map(cell), seeds)?;

    let mut rows = Vec::new();
    for (activation, of_activation) in activations.iter().zip(&histories) {
        for epoch in 0..recipe.epochs as usize {
            let values = |of: &[Vec<Epoch>], f: fn(&Epoch) -> f64| of.iter().map(|h| f(&h[epoch])).collect::<Vec<_>>();
            let of = |f| Interval::of(&values(of_activation, f));
            let less = |f| Interval::of_differences(&values(of_activation, f), &values(&histories[0], f));
            let train_error: fn(&Epoch) -> f64 = |e| e.train_error;
            let test_error: fn(&Epoch) -> f64 = |e| e.test_error.unwrap_or(f64::NAN);
            rows.push(Row {
                activation: activation.to_string(),
                epoch: epoch + 1,
                seeds: of_activation.len(),
                train_loss: of(|e| e.train_loss).mean,
                train_error: of(train_error).mean,
                train_half_width: of(train_error).half,
                test_error: of(test_error).mean,
                test_half_width: of(test_error).half,
                train_difference: less(train_error).mean,
                train_difference_half_width: less(train_error).half,
                test_difference: less(test_error).mean,
                test_difference_half_width: less(test_error).half,
            });
        }
    }
    results.table(&rows)?;
    print!("{}", report(&rows));
    let mut series = Vec::new();
    for (colour, activation) in activations.iter().enumerate() {
        let of = || rows.iter().filter(|r| r.activation == activation.to_string());
        let test = of().map(|r| (r.epoch as f64, r.test_error, r.test_half_width.unwrap_or(0.0))).collect();
        let train = of().map(|r| (r.epoch as f64, r.train_error));
        series.push(Series { name: format!("{activation}, test"), style: Style::Line, colour, points: test });
        series.push(Series::plain(&format!("{activation}, training"), Style::Dashed, colour, train));
    }
    draw(&results.picture(""), &[Chart { title: "Error by epoch, 95 % bands", x: "epoch", y: "%", series }])
}
