//! Figure 4: training and test error by epoch, with ReLU and with Drop-Activation.

use anyhow::Result;
use serde::Serialize;

use super::{Cell, Settings, Size, dataset, train_all};
use crate::activation::Activation;
use crate::nets::{Architecture, resnet};
use crate::options::Options;
use crate::plot::{Chart, Series, Style, draw};
use crate::presets::Recipe;
use crate::results::Results;
use crate::stats::Interval;
use crate::train::Epoch;

const SIZE: Size = Size { train: 1_000, test: 1_000 };

#[derive(Serialize)]
struct Row {
    activation: String,
    epoch: usize,
    seeds: usize,
    train_loss: f64,
    train_error: f64,
    train_half_width: Option<f64>,
    test_error: f64,
    test_half_width: Option<f64>,
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
    for (activation, histories) in activations.iter().zip(&histories) {
        for epoch in 0..recipe.epochs as usize {
            let of = |f: fn(&Epoch) -> f64| Interval::of(&histories.iter().map(|h| f(&h[epoch])).collect::<Vec<_>>());
            let (train, test) = (of(|e| e.train_error), of(|e| e.test_error.unwrap_or(f64::NAN)));
            rows.push(Row {
                activation: activation.to_string(),
                epoch: epoch + 1,
                seeds: histories.len(),
                train_loss: of(|e| e.train_loss).mean,
                train_error: train.mean,
                train_half_width: train.half,
                test_error: test.mean,
                test_half_width: test.half,
            });
        }
        let last = rows.last().expect("an epoch");
        println!("{activation}: training error {:.2} %, test error {:.2} %", last.train_error, last.test_error);
    }
    results.table(&rows)?;
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
