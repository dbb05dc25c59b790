//! The experiments, each by the name that the command line has for it.

pub mod keep_probability;
pub mod networks;
pub mod regression;
pub mod regularisers;
pub mod shift_ratio;
pub mod theory;
pub mod training_curve;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::activation::Activation;
use crate::checks;
use crate::data::{self, Dataset};
use crate::nets::Architecture;
use crate::options::{NAMES, Options};
use crate::plot::{Chart, Series, Style};
use crate::presets::Recipe;
use crate::progress;
use crate::results::Results;
use crate::stats::Interval;
use crate::train::{Epoch, Job, Training};

/// Runs what the command line asks for.
///
/// # Errors
/// If a file is not what it should be, training fails, or a check of `--quick` does.
pub fn run(options: &Options) -> Result<()> {
    if options.quick && options.name == "all" {
        checks::parameter_counts()?;
        checks::resuming(&dataset(options, Size { train: 240, test: 100 })?, &options.device)?;
        println!("checks: parameter counts are the published ones, resumed training is the uninterrupted one");
    }
    for name in NAMES.into_iter().filter(|n| options.name == "all" || options.name == *n) {
        let start = std::time::Instant::now();
        match name {
            "theory" => theory::run(options),
            "regression" => regression::run(options),
            "keep-probability" => keep_probability::run(options),
            "networks" => networks::run(options),
            "regularisers" => regularisers::run(options),
            "training-curve" => training_curve::run(options),
            _ => shift_ratio::run(options),
        }
        .with_context(|| name.to_owned())?;
        println!("{name}: {:.0} s, results in {}", start.elapsed().as_secs_f64(), options.out.display());
    }
    Ok(())
}

/// Parts of the data: all of it with `--full`, 240 images with `--quick`.
#[derive(Clone, Copy, Debug)]
struct Size {
    train: usize,
    test: usize,
}

/// The data set asked for, in the size asked for.
fn dataset(options: &Options, size: Size) -> Result<Dataset> {
    if options.quick && options.data.is_none() {
        return Ok(data::carried()?.part(240, 100, 0));
    }
    let folder = options.data.clone().or_else(default_folder);
    let folder = folder.context("no data: give --data DIR, or call scripts/get-fashion-mnist")?;
    let data = data::load(&folder)?;
    Ok(match (options.full, options.quick) {
        (true, _) => data,
        (_, true) => data.part(240, 100, 0),
        _ => data.part(size.train, size.test, 0),
    })
}

/// Where `scripts/get-fashion-mnist` or Debian's package put the files.
fn default_folder() -> Option<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or(Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from);
    let folders =
        [target.join("fashion-mnist/usr/share/datasets/fashion-mnist"), "/usr/share/datasets/fashion-mnist".into()];
    folders.into_iter().find(|f| f.is_dir())
}

/// What decides an experiment's figures, but for the seeds.
#[derive(Serialize)]
struct Settings<'a, T> {
    data: &'a str,
    train_images: usize,
    test_images: usize,
    device: &'static str,
    #[serde(flatten)]
    own: T,
}

impl<'a, T> Settings<'a, T> {
    fn new(options: &Options, data: &'a Dataset, own: T) -> Self {
        let device = if options.device.is_cpu() { "cpu" } else { "cuda" };
        Self { data: data.name, train_images: data.train.len(), test_images: data.test.len(), device, own }
    }
}

/// One network in one setting: a cell of a table.
struct Cell {
    name: String,
    architecture: Architecture,
    activation: Activation,
    recipe: Recipe,
}

/// Trains every cell with every seed; the histories, cell by cell.
fn train_all(
    options: &Options,
    results: &mut Results,
    data: &Dataset,
    cells: &[Cell],
    seeds: u64,
) -> Result<Vec<Vec<Vec<Epoch>>>> {
    let steps = cells.iter().map(|c| u64::from(c.recipe.epochs) * seeds).sum();
    let bar = progress::bar(steps, &options.name);
    let mut histories = vec![Vec::new(); cells.len()];
    // Seed by seed, so that what an interruption leaves is balanced.
    for seed in 0..seeds {
        for (cell, histories) in cells.iter().zip(&mut histories) {
            let checkpoint = results.checkpoint(&cell.name, seed);
            bar.set_message(format!("{} seed {seed}", cell.name));
            let history: Vec<Epoch> = results.run(&cell.name, seed, || {
                let job = Job {
                    activation: cell.activation,
                    recipe: &cell.recipe,
                    data,
                    seed,
                    device: &options.device,
                    checkpoint,
                };
                let training = Training::start(job, |task, builder| cell.architecture.build(task, builder))?;
                training.finish(|_| Ok(Vec::new()), |_| bar.inc(1))
            })?;
            if options.quick {
                losses_fall(&history).with_context(|| cell.name.clone())?;
            }
            histories.push(history);
        }
    }
    bar.finish_and_clear();
    Ok(histories)
}

/// What must hold of any training that works.
fn losses_fall(history: &[Epoch]) -> Result<()> {
    let (first, last) = (history.first().context("no epoch")?, history.last().context("no epoch")?);
    ensure!(
        last.train_loss < first.train_loss,
        "the training loss went from {} to {}",
        first.train_loss,
        last.train_loss
    );
    ensure!(
        last.gradient_norm > 0.0 && last.gradient_norm.is_finite(),
        "the gradient's length is {}",
        last.gradient_norm
    );
    Ok(())
}

/// The errors of the groups that `x` numbers from 1, each activation's beside the others'.
fn error_chart<'a>(x: &'a str, activations: &[Activation], errors: impl Fn(&str) -> Vec<Interval>) -> Chart<'a> {
    let middle = (activations.len() - 1) as f64 / 2.0;
    let series = activations.iter().enumerate().map(|(colour, activation)| {
        let place = |group: usize| group as f64 + 1.0 + 0.15 * (colour as f64 - middle);
        let errors = errors(&activation.to_string()).into_iter().enumerate();
        let points = errors.map(|(group, e)| (place(group), e.mean, e.half.unwrap_or(0.0))).collect();
        Series { name: activation.to_string(), style: Style::Points, colour, points }
    });
    Chart { title: "Test error (%), 95 % intervals", x, y: "%", series: series.collect() }
}

/// How many of these differences are verdicts of each kind.
fn tally(differences: impl IntoIterator<Item = Interval>) -> String {
    let verdicts: Vec<&str> = differences.into_iter().map(|d| d.verdict()).collect();
    let kinds = ["better", "worse", "not told apart"];
    let counts = kinds.map(|kind| format!("{} {kind}", verdicts.iter().filter(|v| **v == kind).count()));
    if verdicts.iter().all(|v| kinds.contains(v)) { counts.join(", ") } else { "one seed, which says nothing".into() }
}

/// The last test error of each history.
fn final_errors(histories: &[Vec<Epoch>]) -> Vec<f64> {
    histories.iter().filter_map(|h| h.last()?.test_error).collect()
}
