//! What has been measured: kept after every run, so that an interrupted experiment goes on where it stopped.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::options::Options;

/// One experiment's results.
pub struct Results {
    folder: PathBuf,
    content: Content,
    index: HashMap<(String, u64), usize>,
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
        if file.is_file() && !options.quick {
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
        Ok(Self { folder, content, index })
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
        self.write("json", &serde_json::to_vec(&self.content)?)?;
        let _ = fs::remove_file(self.checkpoint(cell, seed));
        Ok(figures)
    }

    /// How long all stored runs took together, in seconds.
    pub fn seconds(&self) -> f64 {
        self.content.runs.iter().map(|r| r.seconds).sum()
    }

    /// Where a run in progress keeps its state.
    pub fn checkpoint(&self, cell: &str, seed: u64) -> PathBuf {
        let cell: String =
            cell.chars().map(|c| if c.is_ascii_alphanumeric() || ".-".contains(c) { c } else { '_' }).collect();
        self.folder.join(format!("{}-{cell}-{seed}.checkpoint", self.content.experiment))
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
        assert_eq!(results.run("a", 1, || Ok(0.1 + 0.2)).expect("a run"), 0.1 + 0.2);
        assert!(results.run::<f64>("b", 1, || bail!("interrupted")).is_err());

        let mut results = Results::open(&options, "theory", &1).expect("the same file");
        let stored: f64 = results.run("a", 1, || bail!("made again")).expect("the stored run");
        assert_eq!(stored, 0.1 + 0.2, "to the last bit");
        assert_eq!(results.run("b", 1, || Ok(5.0)).expect("a run"), 5.0);

        let error = Results::open(&options, "theory", &2).err().expect("other settings").to_string();
        assert!(error.contains("settings 1, this run has 2"), "{error}");
        fs::remove_dir_all(out).expect("the test's own folder");
    }
}
