//! What has been measured: kept after every run, so that an interrupted experiment goes on where it stopped.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::options::Options;
use crate::page::grouped;

/// One experiment's results.
pub struct Results {
    folder: PathBuf,
    content: Content,
    index: HashMap<(String, u64), usize>,
    resumable: bool,
}

#[derive(Serialize, Deserialize)]
struct Content {
    experiment: String,
    /// Everything that decides the figures but the seeds.
    settings: Value,
    runs: Vec<Run>,
}

#[derive(Serialize, Deserialize)]
struct Run {
    cell: String,
    seed: u64,
    seconds: f64,
    machine: String,
    figures: Value,
}

impl Results {
    /// Those that are there already, if any.
    ///
    /// # Errors
    /// If what is there was made with other settings, or is damaged.
    pub fn open(options: &Options, experiment: &str, settings: &impl Serialize) -> Result<Self> {
        let folder = options.out.clone();
        fs::create_dir_all(&folder).with_context(|| format!("{}", folder.display()))?;
        let settings = serde_json::to_value(settings)?;
        let mut content = Content { experiment: experiment.into(), settings, runs: Vec::new() };
        let file = folder.join(format!("{experiment}.json"));
        // A quick run is a check: nothing of an earlier one counts.
        let resumable = !options.quick;
        if file.is_file() && resumable {
            let old: Content =
                serde_json::from_slice(&fs::read(&file)?).with_context(|| format!("{}", file.display()))?;
            if old.settings != content.settings {
                bail!(
                    "{}: made with settings {}, this run has {}; move the file away or give another --out",
                    file.display(),
                    old.settings,
                    content.settings
                );
            }
            content.runs = old.runs;
        }
        let index = content.runs.iter().enumerate().map(|(i, r)| ((r.cell.clone(), r.seed), i)).collect();
        let results = Self { folder, content, index, resumable };
        // Before the first checkpoint, which does not say of which settings it is.
        results.store()?;
        Ok(results)
    }

    /// The stored figures of this cell and seed, or those that `measure` gives, which are stored.
    ///
    /// # Errors
    /// Those of `measure`, and if the file cannot be written.
    pub fn run<T>(&mut self, cell: &str, seed: u64, measure: impl FnOnce() -> Result<T>) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
    {
        let key = (cell.to_owned(), seed);
        if let Some(i) = self.index.get(&key) {
            return Ok(T::deserialize(&self.content.runs[*i].figures)?);
        }
        let start = Instant::now();
        let figures = measure().with_context(|| format!("{}, {cell}, seed {seed}", self.content.experiment))?;
        let seconds = (start.elapsed().as_secs_f64() * 10.0).round() / 10.0;
        let value = serde_json::to_value(&figures)?;
        self.content.runs.push(Run { cell: cell.into(), seed, seconds, machine: machine(), figures: value });
        self.index.insert(key, self.content.runs.len() - 1);
        self.store()?;
        if let Some(checkpoint) = self.checkpoint(cell, seed) {
            let _ = fs::remove_file(checkpoint);
        }
        Ok(figures)
    }

    /// Where a run in progress keeps its state, if it is to go on after an interruption.
    pub fn checkpoint(&self, cell: &str, seed: u64) -> Option<PathBuf> {
        let cell: String =
            cell.chars().map(|c| if c.is_ascii_alphanumeric() || ".-".contains(c) { c } else { '_' }).collect();
        let file = format!("{}-{cell}-{seed}.checkpoint", self.content.experiment);
        self.resumable.then(|| self.folder.join(file))
    }

    fn store(&self) -> Result<()> {
        self.write("json", &serde_json::to_vec(&self.content)?)
    }

    /// Writes a table.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn table<T: Serialize>(&self, rows: &[T]) -> Result<()> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        rows.iter().try_for_each(|row| writer.serialize(row))?;
        self.write("csv", &writer.into_inner()?)
    }

    /// The name of a picture.
    pub fn picture(&self, what: &str) -> PathBuf {
        let experiment = &self.content.experiment;
        self.folder.join(if what.is_empty() { format!("{experiment}.svg") } else { format!("{experiment}-{what}.svg") })
    }

    fn write(&self, extension: &str, bytes: &[u8]) -> Result<()> {
        write(&self.folder.join(format!("{}.{extension}", self.content.experiment)), bytes)
    }
}

/// The rows of an experiment's table.
///
/// # Errors
/// If there is none, or it is not that experiment's.
pub fn rows<T: DeserializeOwned>(folder: &Path, experiment: &str) -> Result<Vec<T>> {
    let file = folder.join(format!("{experiment}.csv"));
    let read = || -> Result<Vec<T>> { Ok(csv::Reader::from_path(&file)?.deserialize().collect::<Result<_, _>>()?) };
    read().with_context(|| format!("{}", file.display()))
}

/// How an experiment's stored figures were made. Seeds that an interruption left unfinished do not count.
pub struct Making {
    experiment: String,
    settings: Value,
    /// How many seeds have figures for everything that is compared.
    pub seeds: usize,
    /// Of all their runs together.
    seconds: f64,
    machines: BTreeSet<String>,
}

impl Making {
    /// Reads it.
    ///
    /// # Errors
    /// If there are no results, or they are damaged.
    pub fn read(folder: &Path, experiment: &str) -> Result<Self> {
        let file = folder.join(format!("{experiment}.json"));
        let read = || -> Result<Content> { Ok(serde_json::from_slice(&fs::read(&file)?)?) };
        let Content { experiment, settings, runs } = read().with_context(|| format!("{}", file.display()))?;
        let cells: BTreeSet<&str> = runs.iter().map(|r| r.cell.as_str()).collect();
        let whole = |seed: u64| runs.iter().filter(|r| r.seed == seed).count() == cells.len();
        let seeds: BTreeSet<u64> = runs.iter().map(|r| r.seed).filter(|s| whole(*s)).collect();
        let counted = || runs.iter().filter(|r| seeds.contains(&r.seed));
        Ok(Self {
            seeds: seeds.len(),
            seconds: counted().map(|r| r.seconds).sum(),
            machines: counted().map(|r| r.machine.clone()).collect(),
            experiment,
            settings,
        })
    }
}

impl fmt::Display for Making {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { experiment, settings, seeds, seconds, machines } = self;
        writeln!(f, "```sh\ncargo run --release -p experiments -- {experiment} --seeds {seeds}\n```\n")?;
        let number = |name: &str| settings[name].as_u64();
        if let (Some(data), Some(train), Some(test)) =
            (settings["data"].as_str(), number("train_images"), number("test_images"))
        {
            write!(f, "{data}, {} training and {} test images", grouped(train), grouped(test))?;
            let recipe = if settings["recipe"].is_null() { &settings["recipes"][0] } else { &settings["recipe"] };
            if let (Some(epochs), Some(batch), Some(rate)) =
                (recipe["epochs"].as_u64(), recipe["batch"].as_u64(), recipe["rate"].as_f64())
            {
                write!(f, ", {epochs} epochs, batches of {batch}, learning rate {rate} at first")?;
            }
            writeln!(f, ".")?;
        }
        let machines = machines.iter().map(|m| m.replace(", 1 threads", ", one thread")).collect::<Vec<_>>().join("; ");
        write!(f, "Seeds: {seeds}; {}; {machines}.", duration(*seconds))
    }
}

fn duration(seconds: f64) -> String {
    if seconds < 100.0 { format!("{seconds:.0} s") } else { format!("{:.0} min", seconds / 60.0) }
}

/// Writes a file such that whoever reads it sees the old content or the new, whole.
///
/// # Errors
/// If it cannot be written.
pub fn write(file: &Path, bytes: &[u8]) -> Result<()> {
    let new = file.with_extension("new");
    fs::write(&new, bytes).with_context(|| format!("{}", new.display()))?;
    rename(&new, file)
}

/// Puts a file that is written to its end in the place of the old one.
///
/// # Errors
/// If that is not possible.
pub fn rename(new: &Path, file: &Path) -> Result<()> {
    fs::rename(new, file).with_context(|| format!("{}", file.display()))
}

/// The processor and how many threads it runs.
fn machine() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|l| l.strip_prefix("model name")?.split_once(": ")).map_or("unknown", |(_, m)| m);
    format!("{model}, {} threads", rayon::current_num_threads())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finished_runs_are_not_made_again_and_other_settings_are_refused() {
        let out = std::env::temp_dir().join(format!("experiments-results-{}", std::process::id()));
        let line = ["experiments", "theory", "--out", out.to_str().expect("a path")];
        let options = Options::parse(line).expect("options").expect("no help");
        let mut results = Results::open(&options, "theory", &1).expect("a new file");
        assert!(Results::open(&options, "theory", &2).is_err(), "a checkpoint may be there already");
        assert_eq!(results.run("a", 1, || Ok(0.1 + 0.2)).expect("a run"), 0.1 + 0.2);
        assert!(results.run::<f64>("b", 1, || bail!("interrupted")).is_err());

        let mut results = Results::open(&options, "theory", &1).expect("the same file");
        let stored: f64 = results.run("a", 1, || bail!("made again")).expect("the stored run");
        assert_eq!(stored, 0.1 + 0.2, "to the last bit");
        assert_eq!(results.run("b", 1, || Ok(5.0)).expect("a run"), 5.0);

        let error = Results::open(&options, "theory", &2).err().expect("other settings").to_string();
        assert!(error.contains("settings 1, this run has 2"), "{error}");

        assert!(results.checkpoint("a", 1).is_some());
        let mut quick = Results::open(&Options { quick: true, ..options }, "theory", &2).expect("any settings");
        assert!(quick.checkpoint("a", 1).is_none());
        assert_eq!(quick.run("a", 1, || Ok(7.0)).expect("a run"), 7.0, "made again");
        fs::remove_dir_all(out).expect("the test's own folder");
    }

    #[test]
    fn unfinished_seeds_do_not_count() {
        let out = std::env::temp_dir().join(format!("experiments-making-{}", std::process::id()));
        let line = ["experiments", "theory", "--out", out.to_str().expect("a path")];
        let options = Options::parse(line).expect("options").expect("no help");
        let mut results = Results::open(&options, "theory", &1).expect("a new file");
        for (cell, seed) in [("a", 0), ("b", 0), ("a", 1)] {
            results.run(cell, seed, || Ok(0.0)).expect("a run");
        }
        assert_eq!(Making::read(&out, "theory").expect("results").seeds, 1);
        results.run("b", 1, || Ok(0.0)).expect("a run");
        let making = Making::read(&out, "theory").expect("results");
        assert_eq!(making.seeds, 2);
        assert!(making.to_string().contains("-- theory --seeds 2\n"), "{making}");
        fs::remove_dir_all(out).expect("the test's own folder");
    }
}
