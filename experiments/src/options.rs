//! The command line.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_core::Device;
use lexopt::ValueExt;

use crate::activation::Activation;

/// What `--help` prints.
pub const HELP: &str = "\
usage: experiments NAME [options]

  theory            Properties 5.1 and 5.2 by simulation
  regression        Figure 3: x sin x and a piecewise constant function
  keep-probability  Figure 2: test error against p
  networks          Tables 1 to 4: five architectures, three activations
  regularisers      Tables 5 and 6: Cutout and AutoAugment
  training-curve    Figure 4: error by epoch
  shift-ratio       Figure 6: variance at inference over variance in training
  all               all of them, in this order

  --device cpu|cuda      where the networks run; cuda needs a build with --features cuda
  --seeds N              how many repetitions
  --quick                a few small steps of everything, with checks of what must hold
  --full                 the paper's sizes and schedules, for a GPU
  --data DIR             original files of CIFAR-10, CIFAR-100, SVHN, EMNIST or Fashion-MNIST
  --network NAME         networks: only this one
  --activation NAME      networks: only relu, rrelu or drop-activation
  --out DIR              where results go (experiments/results)

An interrupted run goes on where it stopped. Fashion-MNIST is fetched by scripts/get-fashion-mnist.";

/// The experiments by the names that the command line has for them.
pub const NAMES: [&str; 7] =
    ["theory", "regression", "keep-probability", "networks", "regularisers", "training-curve", "shift-ratio"];

/// What the command line asks for.
#[derive(Clone, Debug)]
pub struct Options {
    /// One of [`NAMES`], or `all`.
    pub name: String,
    /// Where the networks run.
    pub device: Device,
    /// How many repetitions, if not each experiment's own number.
    pub seeds: Option<u64>,
    /// A few small steps.
    pub quick: bool,
    /// The paper's sizes.
    pub full: bool,
    /// The folder of the data set.
    pub data: Option<PathBuf>,
    /// The network asked for.
    pub network: Option<String>,
    /// The activation asked for.
    pub activation: Option<Activation>,
    /// Where results go.
    pub out: PathBuf,
}

impl Options {
    /// Reads the command line; nothing if it asks for help.
    ///
    /// # Errors
    /// If it is not what `--help` says.
    pub fn parse(args: impl IntoIterator<Item = impl Into<std::ffi::OsString>>) -> Result<Option<Self>> {
        use lexopt::Arg::{Long, Value};
        let (mut name, mut seeds, mut data, mut network, mut activation, mut out) =
            (None, None, None, None, None, None);
        let (mut device, mut quick, mut full) = (String::from("cpu"), false, false);
        let mut parser = lexopt::Parser::from_iter(args);
        while let Some(arg) = parser.next()? {
            match arg {
                Long("help") => return Ok(None),
                Long("device") => device = parser.value()?.string()?,
                Long("seeds") => {
                    let count: u64 = parser.value()?.parse().context("--seeds")?;
                    if count == 0 {
                        bail!("--seeds 0: allowed are whole numbers from 1");
                    }
                    seeds = Some(count);
                }
                Long("quick") => quick = true,
                Long("full") => full = true,
                Long("data") => data = Some(PathBuf::from(parser.value()?)),
                Long("network") => network = Some(parser.value()?.string()?),
                Long("activation") => activation = Some(self::activation(&parser.value()?.string()?)?),
                Long("out") => out = Some(PathBuf::from(parser.value()?)),
                Value(value) if name.is_none() => name = Some(value.string()?),
                other => return Err(other.unexpected().into()),
            }
        }
        let Some(name) = name else { return Ok(None) };
        if name != "all" && !NAMES.contains(&name.as_str()) {
            bail!("experiment {name:?}: allowed are {} and all", NAMES.join(", "));
        }
        if quick && full {
            bail!("--quick and --full: allowed is one of them");
        }
        let results = Path::new(env!("CARGO_MANIFEST_DIR")).join("results");
        let out = out.unwrap_or_else(|| if quick { results.join("quick") } else { results });
        Ok(Some(Self { name, device: self::device(&device)?, seeds, quick, full, data, network, activation, out }))
    }
}

fn activation(name: &str) -> Result<Activation> {
    match name {
        "relu" => Ok(Activation::Relu),
        "rrelu" => Ok(Activation::RRelu),
        "drop-activation" => Ok(Activation::PAPERS),
        other => bail!("--activation {other}: allowed are relu, rrelu and drop-activation"),
    }
}

fn device(name: &str) -> Result<Device> {
    match name {
        "cpu" => Ok(Device::Cpu),
        "cuda" if cfg!(feature = "cuda") => Device::new_cuda(0).context("--device cuda"),
        "cuda" => bail!("--device cuda: build with `cargo run --release -p experiments --features cuda -- ...`"),
        other => bail!("--device {other}: allowed are cpu and cuda"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Option<Options>> {
        Options::parse(std::iter::once("experiments").chain(line.split_whitespace()))
    }

    #[test]
    fn options_are_read() {
        let options = parse("networks --seeds 3 --activation rrelu --data d --network ResNet-8")
            .expect("options")
            .expect("no help");
        assert_eq!((options.name.as_str(), options.seeds), ("networks", Some(3)));
        assert_eq!(options.activation, Some(Activation::RRelu));
        assert_eq!(options.data.as_deref(), Some(Path::new("d")));
        assert!(parse("all --help").expect("help").is_none());
        assert!(parse("").expect("help").is_none());
        assert!(parse("all --quick").expect("options").expect("no help").out.ends_with("results/quick"));
    }

    #[test]
    fn what_is_wrong_is_named_with_what_is_allowed() {
        for (line, text) in [
            ("tables", "experiment \"tables\": allowed are theory"),
            ("all --device tpu", "--device tpu: allowed are cpu and cuda"),
            ("all --activation gelu", "--activation gelu: allowed are relu"),
            ("all --seeds 0", "--seeds 0: allowed"),
            ("all --quick --full", "allowed is one of them"),
            ("all --frobnicate", "--frobnicate"),
        ] {
            let error = parse(line).expect_err(line).to_string();
            assert!(error.contains(text), "{line}: {error}");
        }
    }
}
