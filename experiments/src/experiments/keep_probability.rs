//! Figure 2: the test error of the simple network against p.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{Cell, Settings, Size, dataset, final_errors, tally, train_all};
use crate::activation::Activation;
use crate::options::Options;
use crate::page::table;
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

/// What a table's row says.
#[derive(Serialize, Deserialize)]
pub(crate) struct Row {
    p: f64,
    pub(crate) seeds: usize,
    test_error: f64,
    half_width: Option<f64>,
    /// Against p = 1, seed by seed: negative is better than ReLU.
    difference: f64,
    difference_half_width: Option<f64>,
}

impl Row {
    fn error(&self) -> Interval {
        Interval { mean: self.test_error, half: self.half_width, count: self.seeds }
    }

    fn difference(&self) -> Interval {
        Interval { mean: self.difference, half: self.difference_half_width, count: self.seeds }
    }
}

/// The table in Markdown.
pub(crate) fn report(rows: &[Row]) -> String {
    let rows = rows.iter().map(|r| {
        let (difference, relu) = (r.difference(), r.p == 1.0);
        let less = if relu { String::new() } else { format!("{difference:.2}: {}", difference.verdict()) };
        [format!("{:.2}", r.p), format!("{:.2}", r.error()), less]
    });
    table(&["p", "test error (%)", "less that of p = 1 (ReLU)"], rows)
}

/// Where the mean is least, and what the paper's p is against ReLU.
pub(crate) fn summary(rows: &[Row]) -> Vec<String> {
    let least = rows.iter().min_by(|a, b| a.test_error.total_cmp(&b.test_error)).map_or(f64::NAN, |r| r.p);
    let against_relu = tally(rows.iter().filter(|r| r.p < 1.0).map(Row::difference));
    let mut lines = vec![format!("the mean is least at p = {least:.2}; p below 1 against 1: {against_relu}")];
    lines.extend(rows.iter().find(|r| r.p == 0.95).map(|r| {
        let difference = r.difference();
        format!("p = 0.95 less p = 1: {difference:.2} points, {}", difference.verdict())
    }));
    lines
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
    print!("{}", report(&rows));
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
