//! Tables 5 and 6: Cutout and AutoAugment, alone and with Drop-Activation.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{Cell, Settings, Size, dataset, error_chart, final_errors, train_all};
use crate::activation::Activation;
use crate::data::augment::Augmentation;
use crate::nets::{Architecture, published};
use crate::options::Options;
use crate::page::table;
use crate::plot::draw;
use crate::presets::{self, Recipe};
use crate::results::Results;
use crate::stats::Interval;

const SIZE: Size = Size { train: 1_500, test: 2_000 };
/// The side of Cutout's square on CIFAR-100, where the paper uses it.
const CUTOUT: usize = 8;

/// What a table's row says.
#[derive(Serialize, Deserialize)]
pub(crate) struct Row {
    network: String,
    augmentation: String,
    activation: String,
    pub(crate) seeds: usize,
    test_error: f64,
    half_width: Option<f64>,
    /// Of Drop-Activation against ReLU with the same augmentation, seed by seed: negative is better.
    difference: f64,
    difference_half_width: Option<f64>,
}

impl Row {
    fn error(&self) -> Interval {
        Interval { mean: self.test_error, half: self.half_width, count: self.seeds }
    }

    /// Nothing for ReLU itself.
    fn difference(&self) -> Option<Interval> {
        let difference = Interval { mean: self.difference, half: self.difference_half_width, count: self.seeds };
        (self.activation != Activation::Relu.to_string()).then_some(difference)
    }
}

/// The table in Markdown.
pub(crate) fn report(rows: &[Row]) -> String {
    let rows = rows.iter().map(|r| {
        let less = r.difference().map_or(String::new(), |d| format!("{d:.2}: {}", d.verdict()));
        [r.network.clone(), r.augmentation.clone(), r.activation.clone(), format!("{:.2}", r.error()), less]
    });
    table(&["network", "augmentation", "activation", "test error (%)", "less ReLU's"], rows)
}

/// What the differences say.
pub(crate) fn summary(rows: &[Row]) -> Vec<String> {
    let lines = rows.iter().filter_map(|r| {
        let difference = r.difference()?;
        let (how, verdict) = (&r.augmentation, difference.verdict());
        Some(format!("{how}: Drop-Activation less ReLU {difference:.2} points, {verdict}"))
    });
    lines.collect()
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
            // So AutoAugment's authors train Wide-ResNet.
            let annealed = options.full && how.policy && matches!(architecture, Architecture::Wide(_));
            for activation in activations {
                labels.push((*network, augmentation, activation));
                cells.push(Cell {
                    name: format!("{network}, {augmentation}, {activation}"),
                    architecture: architecture.clone(),
                    activation,
                    recipe: Recipe { augmentation: how, cosine: annealed, ..recipe.clone() },
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
            Row {
                network: network.into(),
                augmentation: augmentation.into(),
                activation: activation.to_string(),
                seeds: errors[i].len(),
                test_error: error.mean,
                half_width: error.half,
                difference: difference.mean,
                difference_half_width: difference.half,
            }
        })
        .collect();
    results.table(&rows)?;
    print!("{}", report(&rows));
    let of_relu = rows.iter().filter(|r| r.difference().is_none()).enumerate();
    let names = of_relu.map(|(i, r)| format!("{} {}, {}", i + 1, r.network, r.augmentation)).collect::<Vec<_>>();
    let errors = |activation: &str| rows.iter().filter(|r| r.activation == activation).map(Row::error).collect();
    draw(&results.picture(""), &[error_chart(&names.join("; "), &activations, errors)])
}
