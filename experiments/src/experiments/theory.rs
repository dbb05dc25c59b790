//! Properties 5.1 and 5.2 by simulation with the op itself, on the paper's terms: one hidden layer, and
//! independent standard normal inputs.
//!
//! Property 5.1 does not hold as it is printed. With `u` the negative part of `W1 x`, which a dropped ReLU lets
//! pass, the mean over masks adds `p (1 - p) sum_j |W2_j|^2 u_j^2` to the loss at inference, where `W2_j` is the
//! column of the hidden unit j: the units are dropped independently, so there are no cross terms. That is what
//! the paper's appendix derives, too, as a trace; its next line, and equation 10, have
//! `p (1 - p) |sum_j W2_j u_j|^2` instead. The two agree where a single unit's `u` is not zero, or where the
//! columns are orthogonal. The simulation is held to the sum, and equation 10 is drawn beside it.

use std::f64::consts::PI;
use std::sync::Arc;

use anyhow::{Result, ensure};
use candle_core::{Device, ModuleT, Tensor};
use drop_activation_candle::KeySequence;
use rand_distr::{Distribution, StandardNormal};
use serde::{Deserialize, Serialize};

use crate::activation::Activation;
use crate::options::Options;
use crate::page::table;
use crate::plot::{Chart, Series, Style, draw};
use crate::results::Results;
use crate::stats::Interval;
use crate::{progress, random};

#[derive(Serialize)]
struct Settings {
    inputs: usize,
    hidden: usize,
    outputs: usize,
    samples: usize,
    /// Property 5.1: masks drawn for each p.
    masks: usize,
    /// Property 5.2: independent ratios for each p, each from this many inputs.
    ratios: usize,
    inputs_for_each: usize,
}

/// A simulation beside its prediction.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Simulated {
    /// With a confidence such that all p's intervals hold the truth at once with 95 %.
    interval: Interval,
    predicted: f64,
    /// Equation 10, where it speaks of the same.
    printed: Option<f64>,
}

/// What a table's row says.
#[derive(Serialize, Deserialize)]
pub(crate) struct Row {
    property: String,
    p: f64,
    seed: u64,
    predicted: f64,
    simulated: f64,
    half_width: f64,
    within: bool,
    printed: Option<f64>,
    printed_within: Option<bool>,
}

/// How many values there are of a kind, and how many of them are within their intervals.
#[derive(Clone, Copy)]
struct Count {
    within: usize,
    all: usize,
}

impl Count {
    fn of(values: impl IntoIterator<Item = bool>) -> Self {
        let (mut within, mut all) = (0, 0);
        values.into_iter().for_each(|is_within| (within, all) = (within + usize::from(is_within), all + 1));
        Self { within, all }
    }

    fn verdict(self) -> &'static str {
        if self.within == self.all { "holds" } else { "does not hold" }
    }

    fn summary(self, what: &str) -> String {
        format!(
            "{what} {}: {} of {} values are within the simulation's intervals",
            self.verdict(),
            self.within,
            self.all
        )
    }
}

/// Property 5.2, 5.1 without cross terms, and equation 10.
fn counts(rows: &[Row]) -> [Count; 3] {
    let of = |property| Count::of(rows.iter().filter(|r| r.property == property).map(|r| r.within));
    [of("5.2"), of("5.1"), Count::of(rows.iter().filter_map(|r| r.printed_within))]
}

/// The counts in Markdown.
pub(crate) fn report(rows: &[Row]) -> String {
    let names =
        ["Property 5.2, equation 15", "Property 5.1 without cross terms", "Property 5.1, equation 10 as printed"];
    let rows = names.into_iter().zip(counts(rows)).map(|(name, count)| {
        [name.to_owned(), format!("{} of {}", count.within, count.all), count.verdict().to_owned()]
    });
    table(&["prediction", "values within the simulation's intervals", "so it"], rows)
}

/// What the simulation says of Property 5.1.
pub(crate) fn summary_of_loss(rows: &[Row]) -> Vec<String> {
    let [_, without_cross_terms, printed] = counts(rows);
    vec![printed.summary("as printed it"), without_cross_terms.summary("without cross terms it")]
}

/// What it says of Property 5.2.
pub(crate) fn summary_of_ratio(rows: &[Row]) -> Vec<String> {
    let [ratio, ..] = counts(rows);
    vec![ratio.summary("it")]
}

/// Equation 15.
pub fn shift_ratio(p: f64) -> f64 {
    ((0.5 - 0.5 / PI) * p * p - p + 1.0) / (1.0 - 0.5 * p - 0.5 / PI * p * p)
}

/// The same for ReLU and then dropout that keeps with probability `keep`, by the same reckoning: the output
/// of the layer has the variance 1/(2 keep) - 1/(2 pi) in training for each squared weight.
pub fn dropout_shift_ratio(keep: f64) -> f64 {
    (0.5 - 0.5 / PI) / (0.5 / keep - 0.5 / PI)
}

/// Runs it.
///
/// # Errors
/// If a file cannot be written, or with `--quick` a simulation contradicts its prediction.
pub fn run(options: &Options) -> Result<()> {
    let scale = if options.quick { 1 } else { 10 };
    let settings = Settings {
        inputs: 10,
        hidden: 64,
        outputs: 5,
        samples: 8,
        masks: 2_000 * scale,
        ratios: 20 * scale,
        inputs_for_each: 2_000,
    };
    let mut results = Results::open(options, "theory", &settings)?;
    let seeds = options.seeds.unwrap_or(1);
    let grid: Vec<f64> = (0..=20).map(|i| f64::from(i) / 20.0).collect();
    let level = 1.0 - 0.05 / (grid.len() as u64 * seeds) as f64;
    let bar = progress::bar(2 * grid.len() as u64 * seeds, "theory");
    let mut rows = Vec::new();
    for seed in 0..seeds {
        for p in grid.iter().copied() {
            // Equation 10 divides by p.
            if p > 0.0 {
                let loss = results.run(&format!("5.1, p {p:.2}"), seed, || expected_loss(&settings, p, seed, level))?;
                rows.push(row("5.1", p, seed, loss));
            }
            bar.inc(1);
            let ratio = results.run(&format!("5.2, p {p:.2}"), seed, || simulated_ratio(&settings, p, seed, level))?;
            rows.push(row("5.2", p, seed, ratio));
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    results.table(&rows)?;
    pictures(&results, &rows)?;
    for row in &rows {
        let Row { property, p, predicted, simulated, half_width, .. } = row;
        ensure!(
            !options.quick || row.within,
            "property {property} at p = {p}: simulated {simulated} ± {half_width}, predicted {predicted}"
        );
    }
    print!("{}", report(&rows));
    Ok(())
}

fn row(property: &str, p: f64, seed: u64, simulated: Simulated) -> Row {
    let Simulated { interval, predicted, printed } = simulated;
    let half_width = interval.half.unwrap_or(0.0);
    // Without randomness (p is 0 or 1) the interval is a point: rounding is all that may differ.
    let holds = |value: f64| (interval.mean - value).abs() <= half_width.max(1e-9 * value.abs());
    let (within, printed_within) = (holds(predicted), printed.map(holds));
    let property = property.to_owned();
    Row { property, p, seed, predicted, simulated: interval.mean, half_width, within, printed, printed_within }
}

fn normal(shape: (usize, usize), deviation: f64, rng: &mut impl rand::Rng) -> Result<Tensor> {
    let normal = StandardNormal.sample_iter(rng).take(shape.0 * shape.1);
    let values: Vec<f64> = normal.map(|v: f64| deviation * v).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

/// The training loss averaged over masks (expression 9) against the sum that it should be, and equation 10.
fn expected_loss(settings: &Settings, p: f64, seed: u64, level: f64) -> Result<Simulated> {
    let Settings { inputs, hidden, outputs, samples, masks, .. } = *settings;
    let rng = &mut random::generator(seed, random::NOISE, 0);
    let x = normal((samples, inputs), 1.0, rng)?;
    let y = normal((samples, outputs), 1.0, rng)?;
    let first = normal((inputs, hidden), (inputs as f64).powf(-0.5), rng)?;
    let second = normal((hidden, outputs), (hidden as f64).powf(-0.5), rng)?;

    let site = Activation::DropActivation { p }.site(&Arc::new(KeySequence::new(seed)))?;
    let hidden_values = x.matmul(&first)?;
    let prediction = site.forward_t(&hidden_values, false)?.matmul(&second)?;
    let linear = hidden_values.matmul(&second)?;
    let squares = |t: &Tensor| -> Result<f64> { Ok(t.sqr()?.sum_all()?.to_scalar()?) };
    let at_inference = squares(&(&prediction - &y)?)?;
    let printed = at_inference + (1.0 - p) / p * squares(&(linear - &prediction)?)?;
    let negative = hidden_values.minimum(0.0)?;
    let lengths = second.sqr()?.sum(1)?;
    let sum: f64 = negative.sqr()?.broadcast_mul(&lengths)?.sum_all()?.to_scalar()?;
    let predicted = at_inference + p * (1.0 - p) * sum;

    let mut losses = Vec::new();
    // Each of these calls draws the masks of this many trainings.
    let at_once = 200;
    for _ in 0..masks / at_once {
        let repeated = hidden_values.unsqueeze(0)?.repeat((at_once, 1, 1))?.contiguous()?;
        let out = site.forward_t(&repeated, true)?.broadcast_matmul(&second)?;
        let loss = out.broadcast_sub(&y)?.sqr()?.sum((1, 2))?;
        losses.extend(loss.to_vec1::<f64>()?);
    }
    Ok(Simulated { interval: Interval::at_level(&losses, level), predicted, printed: Some(printed) })
}

/// The ratio of variances against equation 15.
fn simulated_ratio(settings: &Settings, p: f64, seed: u64, level: f64) -> Result<Simulated> {
    let rng = &mut random::generator(seed, random::NOISE, 1);
    let weights = normal((settings.hidden, 1), 1.0, rng)?;
    let site = Activation::DropActivation { p }.site(&Arc::new(KeySequence::new(seed)))?;
    let mut ratios = Vec::new();
    for _ in 0..settings.ratios {
        let x = normal((settings.inputs_for_each, settings.hidden), 1.0, rng)?;
        let variance = |train: bool| -> Result<f64> {
            Ok(site.forward_t(&x, train)?.matmul(&weights)?.flatten_all()?.var(0)?.to_scalar::<f64>()?)
        };
        ratios.push(variance(false)? / variance(true)?);
    }
    Ok(Simulated { interval: Interval::at_level(&ratios, level), predicted: shift_ratio(p), printed: None })
}

fn pictures(results: &Results, rows: &[Row]) -> Result<()> {
    let of = |property: &'static str| rows.iter().filter(move |r| r.property == property && r.seed == 0);
    let bars = |property| of(property).map(|r| (r.p, r.simulated, r.half_width)).collect();
    let fine = || (0..=200).map(|i| f64::from(i) / 200.0);
    let ratio = Chart {
        title: "Property 5.2: variance at inference over variance in training",
        x: "p",
        y: "shift ratio",
        series: vec![
            Series::plain("equation 15", Style::Line, 0, fine().map(|p| (p, shift_ratio(p)))),
            Series { name: "simulated".into(), style: Style::Points, colour: 1, points: bars("5.2") },
            Series::plain(
                "ReLU, dropout keeping p",
                Style::Line,
                2,
                fine().map(|p| (p, dropout_shift_ratio(p.max(1e-9)))),
            ),
        ],
    };
    let loss = Chart {
        title: "Property 5.1: mean training loss",
        x: "p",
        y: "loss",
        series: vec![
            Series::plain("without cross terms", Style::Line, 0, of("5.1").map(|r| (r.p, r.predicted))),
            Series { name: "simulated".into(), style: Style::Points, colour: 1, points: bars("5.1") },
            Series::plain("equation 10", Style::Line, 3, of("5.1").filter_map(|r| Some((r.p, r.printed?)))),
        ],
    };
    draw(&results.picture(""), &[loss, ratio])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_what_the_paper_says() {
        assert!((shift_ratio(0.95) - 0.9377).abs() < 5e-5);
        assert_eq!((shift_ratio(0.0), shift_ratio(1.0)), (1.0, 1.0));
        let least = (0..=10_000).map(|i| shift_ratio(f64::from(i) / 1e4)).fold(1.0, f64::min);
        assert!((0.8..0.82).contains(&least), "{least}");
        assert!((dropout_shift_ratio(0.5) - 0.4054).abs() < 1e-4);
    }
}
