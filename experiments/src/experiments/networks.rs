//! Tables 1 to 4: each architecture with ReLU, RReLU and Drop-Activation.

use anyhow::{Context, Result, ensure};
use candle_core::Device;
use drop_activation_candle::KeySequence;
use serde::Serialize;

use super::{Cell, Settings, Size, dataset, final_errors, train_all};
use crate::activation::Activation;
use crate::nets::layers::Builder;
use crate::nets::{Architecture, Task};
use crate::options::Options;
use crate::plot::{Chart, Series, Style, draw};
use crate::presets::{self, Recipe};
use crate::results::Results;
use crate::stats::Interval;

const SIZE: Size = Size { train: 1_500, test: 2_000 };

/// What a table's row says.
#[derive(Serialize)]
pub struct Row {
    network: String,
    activation: String,
    parameters: usize,
    seeds: usize,
    train_error: f64,
    test_error: f64,
    half_width: Option<f64>,
    /// Against ReLU, seed by seed: negative is better.
    difference: Option<f64>,
    difference_half_width: Option<f64>,
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
        let relu = (of_network[0].activation == Activation::Relu).then(|| final_errors(&histories[0]));
        for (cell, histories) in of_network.iter().zip(histories) {
            let errors = final_errors(histories);
            let error = Interval::of(&errors);
            let difference = relu.as_ref().map(|relu| Interval::of_differences(&errors, relu));
            println!("{}: test error {error:.2} %, less ReLU's {:.2}", cell.name, difference.unwrap_or(error));
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
            });
        }
    }
    results.table(&rows)?;
    let series = |(i, activation): (usize, &Activation)| {
        let of = rows.iter().filter(|r| r.activation == activation.to_string()).enumerate();
        let place = |n: usize| n as f64 + 1.0 + 0.15 * (i as f64 - 1.0);
        let points = of.map(|(n, r)| (place(n), r.test_error, r.half_width.unwrap_or(0.0))).collect();
        Series { name: activation.to_string(), style: Style::Points, colour: i, points }
    };
    let names = networks.iter().enumerate().map(|(i, n)| format!("{} {}", i + 1, n.0)).collect::<Vec<_>>().join(", ");
    let series = activations.iter().enumerate().map(series).collect();
    draw(&results.picture(""), &[Chart { title: "Test error (%), 95 % intervals", x: &names, y: "%", series }])
}
