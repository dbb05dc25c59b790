//! Figure 2: the test error of the simple network against p.

use anyhow::Result;
use serde::Serialize;

use super::{Cell, Settings, Size, dataset, final_errors, train_all};
use crate::activation::Activation;
use crate::options::Options;
use crate::plot::{Chart, Series, Style, draw};
use crate::presets::{self, Recipe};
use crate::results::Results;
use crate::stats::Interval;

const SIZE: Size = Size { train: 3_000, test: 5_000 };

#[derive(Serialize)]
struct Own<'a> {
    architecture: &'a crate::nets::Architecture,
    recipe: &'a Recipe,
}

#[derive(Serialize)]
struct Row {
    p: f64,
    seeds: usize,
    test_error: f64,
    half_width: Option<f64>,
    /// Against p = 1, seed by seed: negative is better than ReLU.
    difference: f64,
    difference_half_width: Option<f64>,
}

/// Runs it.
///
/// # Errors
/// If the data are missing, a file cannot be written or training fails.
pub fn run(options: &Options) -> Result<()> {
    let data = dataset(options, SIZE)?;
    let architecture = presets::simple(options.full);
    let recipe = match (options.full, options.quick) {
        (true, _) => Recipe { test_each_epoch: false, ..Recipe::full(&architecture, &data) },
        (_, true) => Recipe::small(2),
        _ => Recipe { test_each_epoch: false, rate: 0.05, ..Recipe::small(5) },
    };
    let settings = Settings::new(options, &data, Own { architecture: &architecture, recipe: &recipe });
    let mut results = Results::open(options, "keep-probability", &settings)?;
    let seeds = options.seeds.unwrap_or(if options.quick { 1 } else { 20 });
    let grid: Vec<f64> = (if options.quick { 15..=20 } else { 12..=20 }).map(|i| f64::from(i) / 20.0).collect();
    let cells: Vec<Cell> = grid
        .iter()
        .map(|p| Cell {
            name: format!("p {p:.2}"),
            architecture: architecture.clone(),
            activation: Activation::DropActivation { p: *p },
            recipe: recipe.clone(),
        })
        .collect();
    let errors: Vec<Vec<f64>> =
        train_all(options, &mut results, &data, &cells, seeds)?.iter().map(|h| final_errors(h)).collect();

    let relu = errors.last().expect("p = 1 is the last");
    let rows: Vec<Row> = grid
        .iter()
        .zip(&errors)
        .map(|(p, errors)| {
            let (error, difference) = (Interval::of(errors), Interval::of_differences(errors, relu));
            println!("p {p:.2}: test error {error:.2} %, less ReLU's {difference:.2}");
            Row {
                p: *p,
                seeds: errors.len(),
                test_error: error.mean,
                half_width: error.half,
                difference: difference.mean,
                difference_half_width: difference.half,
            }
        })
        .collect();
    results.table(&rows)?;
    let points = |y: fn(&Row) -> (f64, Option<f64>)| {
        rows.iter().map(|r| (r.p, y(r).0, y(r).1.unwrap_or(0.0))).collect::<Vec<_>>()
    };
    let chart = |title, y, points: Vec<(f64, f64, f64)>| {
        let line = points.iter().map(|p| (p.0, p.1)).collect::<Vec<_>>();
        let bars = Series { name: String::new(), style: Style::Points, colour: 0, points };
        Chart { title, x: "p", y, series: vec![Series::plain("", Style::Line, 0, line), bars] }
    };
    let charts = [
        chart("Test error, 95 % intervals", "%", points(|r| (r.test_error, r.half_width))),
        chart(
            "Difference from p = 1, seed by seed",
            "percentage points",
            points(|r| (r.difference, r.difference_half_width)),
        ),
    ];
    draw(&results.picture(""), &charts)
}
