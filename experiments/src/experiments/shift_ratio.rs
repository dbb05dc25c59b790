//! Figure 6: the variance at inference over the variance in training, epoch by epoch, at the output of a
//! ResNet's second module, and within its last block before the second batch normalisation, which is the
//! place that Property 5.2 speaks of.

use anyhow::Result;
use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::{Settings, Size, dataset, losses_fall, training_curve};
use crate::activation::Activation;
use crate::nets::resnet::ResNet;
use crate::options::Options;
use crate::page::table;
use crate::plot::{Chart, Series, Style, draw};
use crate::presets::Recipe;
use crate::progress;
use crate::results::Results;
use crate::stats::Interval;
use crate::train::{Epoch, Job, Training};

use super::theory;

const SIZE: Size = Size { train: 1_000, test: 500 };
/// Training images of the measurement.
const IMAGES: usize = 100;

/// What a table's row says.
#[derive(Serialize, Deserialize)]
pub(crate) struct Row {
    activation: String,
    epoch: usize,
    pub(crate) seeds: usize,
    module: f64,
    module_half_width: Option<f64>,
    inner: f64,
    inner_half_width: Option<f64>,
    /// Property 5.2's, or the same reckoning for dropout; of the inner place.
    predicted: f64,
}

impl Row {
    /// At the module's output, and before the second normalisation.
    fn ratios(&self) -> [Interval; 2] {
        let interval = |mean, half| Interval { mean, half, count: self.seeds };
        [interval(self.module, self.module_half_width), interval(self.inner, self.inner_half_width)]
    }
}

/// The last epoch's rows.
fn at_the_end(rows: &[Row]) -> impl Iterator<Item = &Row> {
    let last = rows.iter().map(|r| r.epoch).max();
    rows.iter().filter(move |r| Some(r.epoch) == last)
}

/// Whether the ratio is the expected one, as far as its interval lets one say.
fn held_to(ratio: &Interval, expected: f64) -> String {
    let distance = Interval { mean: ratio.mean - expected, ..*ratio };
    match distance.direction() {
        "lower" => "below".into(),
        "higher" => "above".into(),
        "not told apart" => "not told apart from".into(),
        other => format!("{other}, against"),
    }
}

/// The table of the last epoch in Markdown.
pub(crate) fn report(rows: &[Row]) -> String {
    let rows = at_the_end(rows).map(|r| {
        let [module, inner] = r.ratios();
        let (one, predicted) = (held_to(&module, 1.0), held_to(&inner, r.predicted));
        let module = format!("{module:.3}: {one} 1");
        [r.activation.clone(), module, format!("{inner:.3}"), format!("{predicted} {:.3}", r.predicted)]
    });
    table(&["at the end", "module's output", "before BN2", "against the prediction"], rows)
}

/// The ratio with Drop-Activation, and with dropout at the same rate.
pub(crate) fn summary(rows: &[Row]) -> Vec<String> {
    let of = |wanted: Activation| {
        let row = at_the_end(rows).find(|r| r.activation == wanted.to_string())?;
        let [ratio, _] = row.ratios();
        Some(format!("{wanted}: {ratio:.3}, {} 1", held_to(&ratio, 1.0)))
    };
    [Activation::PAPERS, Activation::Dropout { rate: 0.05 }].into_iter().filter_map(of).collect()
}

fn predicted(activation: Activation) -> f64 {
    match activation {
        Activation::DropActivation { p } => theory::shift_ratio(p),
        Activation::Dropout { rate } => theory::dropout_shift_ratio(1.0 - rate),
        Activation::Relu | Activation::RRelu => 1.0,
    }
}

/// Runs it.
///
/// # Errors
/// If the data are missing, a file cannot be written or training fails.
pub fn run(options: &Options) -> Result<()> {
    let data = dataset(options, SIZE)?;
    let config = training_curve::config(options.full);
    let recipe = match (options.full, options.quick) {
        (true, _) => Recipe::full(&training_curve::architecture(true), &data),
        (_, true) => Recipe { test_each_epoch: false, ..Recipe::small(3) },
        _ => Recipe { test_each_epoch: false, ..Recipe::small(8) },
    };
    let own = serde_json::json!({ "architecture": config, "recipe": recipe, "images": IMAGES });
    let mut results = Results::open(options, "shift-ratio", &Settings::new(options, &data, own))?;
    let seeds = options.seeds.unwrap_or(if options.quick || options.full { 1 } else { 5 });
    // Dropout at the same rate of disturbance, and at one that is usual for it; ReLU shows what else differs
    // between training and inference.
    let activations =
        [Activation::PAPERS, Activation::Dropout { rate: 0.05 }, Activation::Dropout { rate: 0.3 }, Activation::Relu];
    let bar = progress::bar(u64::from(recipe.epochs) * activations.len() as u64 * seeds, "shift-ratio");
    let mut histories = vec![Vec::new(); activations.len()];
    for seed in 0..seeds {
        for (activation, histories) in activations.iter().zip(&mut histories) {
            let cell = activation.to_string();
            let checkpoint = results.checkpoint(&cell, seed);
            bar.set_message(format!("{cell} seed {seed}"));
            let history: Vec<Epoch> = results.run(&cell, seed, || {
                let job = Job {
                    activation: *activation,
                    recipe: &recipe,
                    data: &data,
                    seed,
                    device: &options.device,
                    checkpoint,
                };
                let training = Training::start(job, |task, builder| ResNet::new(&config, task, builder).map(Box::new))?;
                training.finish(measure, |_| bar.inc(1))
            })?;
            if options.quick {
                losses_fall(&history)?;
            }
            histories.push(history);
        }
    }
    bar.finish_and_clear();

    let mut rows = Vec::new();
    for (activation, histories) in activations.iter().zip(&histories) {
        for epoch in 0..recipe.epochs as usize {
            let of = |i: usize| Interval::of(&histories.iter().map(|h| h[epoch].probes[i]).collect::<Vec<_>>());
            let (module, inner) = (of(0), of(1));
            rows.push(Row {
                activation: activation.to_string(),
                epoch: epoch + 1,
                seeds: histories.len(),
                module: module.mean,
                module_half_width: module.half,
                inner: inner.mean,
                inner_half_width: inner.half,
                predicted: predicted(*activation),
            });
        }
    }
    results.table(&rows)?;
    print!("{}", report(&rows));
    let chart = |title, inner: bool| {
        let mut series = Vec::new();
        for (colour, activation) in activations.iter().enumerate() {
            let of = || rows.iter().filter(|r| r.activation == activation.to_string());
            let half = |h: Option<f64>| h.unwrap_or(0.0);
            let value = |r: &Row| {
                if inner { (r.inner, half(r.inner_half_width)) } else { (r.module, half(r.module_half_width)) }
            };
            let points = of().map(|r| (r.epoch as f64, value(r).0, value(r).1)).collect();
            series.push(Series { name: activation.to_string(), style: Style::Line, colour, points });
            if inner && *activation != Activation::Relu {
                series.push(Series::plain("", Style::Dashed, colour, of().map(|r| (r.epoch as f64, r.predicted))));
            }
        }
        Chart { title, x: "epoch", y: "shift ratio", series }
    };
    let charts = [
        chart("Output of the second module", false),
        chart("Before the second normalisation (dashed: predicted)", true),
    ];
    draw(&results.picture(""), &charts)
}

/// The ratios at both places, on the same images with the same weights. Training mode draws masks and
/// normalises by the batch, inference by the running averages.
fn measure(training: &Training<ResNet>) -> Result<Vec<f64>> {
    let x = training.some_images(IMAGES)?;
    let averages = training.builder().averages()?;
    let train = training.network().probes(&x, true)?;
    training.builder().set_averages(&averages)?;
    let test = training.network().probes(&x, false)?;
    Ok(vec![variance(&test.module)? / variance(&train.module)?, variance(&test.inner)? / variance(&train.inner)?])
}

/// The mean of the channels' variances.
fn variance(x: &Tensor) -> Result<f64> {
    let by_channel = x.transpose(0, 1)?.flatten_from(1)?;
    Ok(f64::from(by_channel.var(1)?.mean_all()?.to_scalar::<f32>()?))
}
