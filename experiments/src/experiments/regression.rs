//! Figure 3: twenty noisy points of a function on [0, 10], a fully connected network of widths 1000, 800 and
//! 200, ReLU against Drop-Activation.

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use candle_nn::ModuleT;
use drop_activation_candle::KeySequence;
use rand::Rng;
use rand_distr::{Distribution, StandardNormal};
use serde::{Deserialize, Serialize};

use crate::activation::Activation;
use crate::nets::layers::Builder;
use crate::nets::mlp::Mlp;
use crate::optimiser::Adam;
use crate::options::Options;
use crate::page::table;
use crate::plot::{Chart, Series, Style, draw};
use crate::results::Results;
use crate::stats::{Interval, median, sign_test};
use crate::{progress, random};

const POINTS: usize = 20;
/// Where the function and its regression are compared and drawn.
const GRID: usize = 200;

#[derive(Clone, Copy)]
struct Function {
    name: &'static str,
    at: fn(f64) -> f64,
}

const FUNCTIONS: [Function; 2] = [
    Function { name: "x sin x", at: |x| x * x.sin() },
    // The paper does not say which constants; these are ours.
    Function {
        name: "piecewise constant",
        at: |x| {
            if x < 10.0 / 3.0 {
                -3.0
            } else if x < 20.0 / 3.0 {
                3.0
            } else {
                0.0
            }
        },
    },
];

/// The optimiser and the number of steps are not the paper's, which names none.
#[derive(Serialize)]
struct Settings {
    widths: [usize; 3],
    p: f64,
    adam_rate: f64,
    steps: usize,
}

#[derive(Serialize, Deserialize)]
struct Outcome {
    /// Mean squared error on the noisy points, at inference.
    train: f64,
    /// Mean squared distance from the function without noise, on a grid.
    test: f64,
    first_loss: f64,
    last_loss: f64,
    /// The regression on the grid, of the first seed.
    curve: Vec<f32>,
}

/// What a table's row says.
#[derive(Serialize, Deserialize)]
pub(crate) struct Row {
    function: String,
    activation: String,
    pub(crate) seeds: usize,
    train_error: f64,
    train_half_width: Option<f64>,
    test_error: f64,
    test_half_width: Option<f64>,
    /// Against ReLU, seed by seed: negative is better.
    difference: f64,
    difference_half_width: Option<f64>,
    /// Without trust in means: of the test errors, and with how many seeds it is lower than ReLU's.
    median: f64,
    worst: f64,
    lower: usize,
}

impl Row {
    fn train(&self) -> Interval {
        Interval { mean: self.train_error, half: self.train_half_width, count: self.seeds }
    }

    fn test(&self) -> Interval {
        Interval { mean: self.test_error, half: self.test_half_width, count: self.seeds }
    }

    fn difference(&self) -> Interval {
        Interval { mean: self.difference, half: self.difference_half_width, count: self.seeds }
    }

    fn is_relu(&self) -> bool {
        self.activation == Activation::Relu.to_string()
    }
}

/// The tables in Markdown: means, and what does not trust in them.
pub(crate) fn report(rows: &[Row]) -> String {
    let means = rows.iter().map(|r| {
        let difference = r.difference();
        let less = if r.is_relu() { String::new() } else { format!("{difference:.3}: {}", difference.verdict()) };
        [r.function.clone(), r.activation.clone(), format!("{:.3}", r.train()), format!("{:.3}", r.test()), less]
    });
    let ranks = rows.iter().map(|r| {
        let sign = || format!("with {} of {} seeds (sign test: {:.3})", r.lower, r.seeds, sign_test(r.lower, r.seeds));
        let lower = if r.is_relu() { String::new() } else { sign() };
        [r.function.clone(), r.activation.clone(), format!("{:.2}", r.median), format!("{:.2}", r.worst), lower]
    });
    let means = table(&["function", "activation", "training error", "test error", "less ReLU's"], means);
    let ranks = table(&["function", "activation", "median test error", "worst", "lower than ReLU's"], ranks);
    format!("{means}\n{ranks}")
}

/// What the differences say.
pub(crate) fn summary(rows: &[Row]) -> Vec<String> {
    let ours = rows.iter().filter(|r| !r.is_relu());
    let lines = ours.map(|r| {
        let difference = r.difference();
        format!("{}: {difference:.3}, {}", r.function, difference.verdict())
    });
    lines.collect()
}

/// Runs it.
///
/// # Errors
/// If a file cannot be written, or with `--quick` a loss does not fall.
pub fn run(options: &Options) -> Result<()> {
    let activations = [Activation::Relu, Activation::PAPERS];
    let settings = if options.quick {
        Settings { widths: [100, 80, 20], p: 0.95, adam_rate: 1e-3, steps: 100 }
    } else {
        Settings { widths: [1000, 800, 200], p: 0.95, adam_rate: 1e-3, steps: 500 }
    };
    let mut results = Results::open(options, "regression", &settings)?;
    let seeds = options.seeds.unwrap_or(if options.quick { 2 } else { 20 });
    let bar = progress::bar(4 * seeds, "regression");
    let mut outcomes: [[Vec<Outcome>; 2]; 2] = Default::default();
    for seed in 0..seeds {
        for (function, outcomes) in FUNCTIONS.iter().zip(&mut outcomes) {
            for (activation, outcomes) in activations.iter().zip(outcomes) {
                let cell = format!("{}, {activation}", function.name);
                bar.set_message(cell.clone());
                let outcome =
                    results.run(&cell, seed, || fit(&settings, function, *activation, seed, &options.device))?;
                if options.quick {
                    ensure!(outcome.last_loss < outcome.first_loss, "{cell}: the loss does not fall");
                }
                outcomes.push(outcome);
                bar.inc(1);
            }
        }
    }
    bar.finish_and_clear();

    let mut rows = Vec::new();
    for (function, outcomes) in FUNCTIONS.iter().zip(&outcomes) {
        let tests = |of: &[Outcome]| of.iter().map(|o| o.test).collect::<Vec<_>>();
        let baseline = tests(&outcomes[0]);
        for (activation, outcomes) in activations.iter().zip(outcomes) {
            let train = Interval::of(&outcomes.iter().map(|o| o.train).collect::<Vec<_>>());
            let errors = tests(outcomes);
            let test = Interval::of(&errors);
            let difference = Interval::of_differences(&errors, &baseline);
            rows.push(Row {
                function: function.name.into(),
                activation: activation.to_string(),
                seeds: outcomes.len(),
                train_error: train.mean,
                train_half_width: train.half,
                test_error: test.mean,
                test_half_width: test.half,
                difference: difference.mean,
                difference_half_width: difference.half,
                median: median(&errors),
                worst: errors.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                lower: errors.iter().zip(&baseline).filter(|(ours, relu)| ours < relu).count(),
            });
        }
    }
    results.table(&rows)?;
    print!("{}", report(&rows));
    picture(&results, &outcomes)
}

/// The noisy points.
fn sample(function: &Function, seed: u64) -> (Vec<f64>, Vec<f64>) {
    let rng = &mut random::generator(seed, random::NOISE, 0);
    let x: Vec<f64> = (0..POINTS).map(|_| rng.random_range(0.0..10.0)).collect();
    let y = x.iter().map(|x| (function.at)(*x) + Distribution::<f64>::sample(&StandardNormal, rng)).collect();
    (x, y)
}

fn grid() -> impl Iterator<Item = f64> {
    (0..GRID).map(|i| 10.0 * i as f64 / (GRID - 1) as f64)
}

/// A column for the network, with [0, 10] mapped to [-1, 1].
fn column(x: impl Iterator<Item = f64>, device: &Device) -> Result<Tensor> {
    let x: Vec<f32> = x.map(|x| (x / 5.0 - 1.0) as f32).collect();
    let rows = x.len();
    Ok(Tensor::from_vec(x, (rows, 1), device)?)
}

fn fit(
    settings: &Settings,
    function: &Function,
    activation: Activation,
    seed: u64,
    device: &Device,
) -> Result<Outcome> {
    let (x, y) = sample(function, seed);
    let x = column(x.into_iter(), device)?;
    let y = Tensor::from_vec(y.into_iter().map(|y| y as f32).collect::<Vec<_>>(), (POINTS, 1), device)?;
    let mut builder = Builder::new(activation, KeySequence::new(seed), device);
    let network = Mlp::new(&settings.widths, &mut builder)?;
    builder.initialise(seed)?;
    let mut adam = Adam::new(builder.trained(), settings.adam_rate);
    let error = |train: bool| -> Result<Tensor> { Ok((network.forward_t(&x, train)? - &y)?.sqr()?.mean_all()?) };
    let mut losses = Vec::new();
    for step in 0..settings.steps {
        let loss = error(true)?;
        let value = f64::from(loss.to_scalar::<f32>()?);
        ensure!(value.is_finite(), "step {step}: the loss is {value}");
        losses.push(value);
        adam.step(&loss.backward()?)?;
    }
    let curve: Vec<f32> = network.forward_t(&column(grid(), device)?, false)?.flatten_all()?.to_vec1()?;
    let distances = curve.iter().zip(grid()).map(|(y, x)| (f64::from(*y) - (function.at)(x)).powi(2));
    Ok(Outcome {
        train: f64::from(error(false)?.to_scalar::<f32>()?),
        test: distances.sum::<f64>() / GRID as f64,
        first_loss: *losses.first().context("no step")?,
        last_loss: *losses.last().context("no step")?,
        curve: if seed == 0 { curve } else { Vec::new() },
    })
}

fn picture(results: &Results, outcomes: &[[Vec<Outcome>; 2]; 2]) -> Result<()> {
    let charts: Vec<Chart> = FUNCTIONS
        .iter()
        .zip(outcomes)
        .map(|(function, [relu, ours])| {
            let curve =
                |outcomes: &[Outcome]| grid().zip(outcomes[0].curve.iter().map(|y| f64::from(*y))).collect::<Vec<_>>();
            let (x, y) = sample(function, 0);
            Chart {
                title: function.name,
                x: "x",
                y: "y",
                series: vec![
                    Series::plain("truth", Style::Line, 0, grid().map(|x| (x, (function.at)(x)))),
                    Series::plain("ReLU", Style::Line, 1, curve(relu)),
                    Series::plain("Drop-Activation", Style::Line, 2, curve(ours)),
                    Series::plain("training points", Style::Points, 3, x.into_iter().zip(y)),
                ],
            }
        })
        .collect();
    draw(&results.picture(""), &charts)
}
