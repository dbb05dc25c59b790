//! Tables 5 and 6: Cutout and AutoAugment, alone and with Drop-Activation.

use anyhow::Result;
use serde::Serialize;

use super::{Cell, Settings, Size, dataset, final_errors, train_all};
use crate::activation::Activation;
use crate::data::augment::Augmentation;
use crate::nets::{Architecture, published};
use crate::options::Options;
use crate::presets::{self, Recipe};
use crate::results::Results;
use crate::stats::Interval;

const SIZE: Size = Size { train: 1_500, test: 2_000 };
/// The side of Cutout's square on CIFAR-100, where the paper uses it.
const CUTOUT: usize = 8;

#[derive(Serialize)]
struct Row {
    network: &'static str,
    augmentation: &'static str,
    activation: String,
    seeds: usize,
    test_error: f64,
    half_width: Option<f64>,
    /// Of Drop-Activation against ReLU with the same augmentation, seed by seed: negative is better.
    difference: f64,
    difference_half_width: Option<f64>,
}

/// Runs it.
///
/// # Errors
/// If the data are missing, a file cannot be written or training fails.
pub fn run(options: &Options) -> Result<()> {
    let data = dataset(options, SIZE)?;
    let networks: Vec<(&str, Architecture)> = if options.full {
        let names = ["ResNet-18", "ResNet-164", "WideResNet-28-10"];
        published().into_iter().filter(|n| names.contains(&n.name)).map(|n| (n.name, n.architecture)).collect()
    } else {
        presets::small().into_iter().take(1).collect()
    };
    let standard = Augmentation::standard(&data);
    let augmentations = [
        ("standard", standard),
        ("Cutout", Augmentation { cutout: Some(CUTOUT), ..standard }),
        ("AutoAugment", Augmentation { policy: true, cutout: Some(16), ..standard }),
    ];
    let activations = [Activation::Relu, Activation::PAPERS];
    let mut cells = Vec::new();
    let mut labels = Vec::new();
    for (network, architecture) in &networks {
        let recipe = match (options.full, options.quick) {
            (true, _) => Recipe::full(architecture, &data),
            (_, true) => Recipe::small(3),
            _ => Recipe { test_each_epoch: false, ..Recipe::small(8) },
        };
        for (augmentation, how) in augmentations {
            for activation in activations {
                labels.push((*network, augmentation, activation));
                cells.push(Cell {
                    name: format!("{network}, {augmentation}, {activation}"),
                    architecture: architecture.clone(),
                    activation,
                    recipe: Recipe { augmentation: how, ..recipe.clone() },
                });
            }
        }
    }
    let recipes: Vec<&Recipe> = cells.iter().step_by(activations.len()).map(|c| &c.recipe).collect();
    let settings = Settings::new(options, &data, serde_json::json!({ "recipes": recipes }));
    let mut results = Results::open(options, "regularisers", &settings)?;
    let seeds = options.seeds.unwrap_or(if options.quick || options.full { 1 } else { 5 });
    let histories = train_all(options, &mut results, &data, &cells, seeds)?;
    let errors: Vec<Vec<f64>> = histories.iter().map(|h| final_errors(h)).collect();
    let rows: Vec<Row> = labels
        .into_iter()
        .enumerate()
        .map(|(i, (network, augmentation, activation))| {
            let relu = &errors[i / activations.len() * activations.len()];
            let (error, difference) = (Interval::of(&errors[i]), Interval::of_differences(&errors[i], relu));
            println!("{}: test error {error:.2} %, less ReLU's {difference:.2}", cells[i].name);
            Row {
                network,
                augmentation,
                activation: activation.to_string(),
                seeds: errors[i].len(),
                test_error: error.mean,
                half_width: error.half,
                difference: difference.mean,
                difference_half_width: difference.half,
            }
        })
        .collect();
    results.table(&rows)
}
