//! Puts the device code into OUT_DIR for `src/cuda/modules.rs`: one fatbin for each `kernels/*.cu`.
//!
//! With an nvcc these are made of the sources. Without one, or where it fails, they are those in `kernels/prebuilt`,
//! which were made from the same sources, and beside them is compressed PTX for the drivers that refuse them. Nothing
//! is downloaded.
//!
//!     DROP_ACTIVATION_DEVICE_CODE       auto: the above, and what is meant if this is not set
//!                                       nvcc: an error where there is no nvcc, or where it fails
//!                                       prebuilt: those, whatever is installed
//!     DOCS_RS                           prebuilt as well, unless the other says something else: docs.rs has no nvcc
//!     NVCC, CUDA_HOME, CUDA_PATH, CUDA_ROOT,
//!     CUDA_TOOLKIT_ROOT_DIR, PATH       where nvcc is sought, in this order; then in /usr/local/cuda
//!     NVCC_CCBIN                        the host compiler that nvcc is to use
//!     CUDA_COMPUTE_CAP                  build for this capability alone ("90", "9.0", "sm_90")

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::Mutex,
    thread,
};

#[path = "build/fingerprint.rs"]
mod fingerprint;
#[path = "build/nvcc.rs"]
pub mod nvcc;
#[path = "build/prebuilt.rs"]
mod prebuilt;

use nvcc::{Env, Nvcc, Target};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    println!("cargo::rerun-if-changed=kernels");
    // Exactly what is looked at brings this script back when it changes: PATH, for one, does not where
    // CUDA_HOME has settled the matter.
    let tracked = |name: &str| {
        println!("cargo::rerun-if-env-changed={name}");
        env::var_os(name).filter(|value| !value.is_empty())
    };
    let from_cargo = |name| env::var(name).unwrap_or_else(|e| panic!("{name}: {e}"));
    let kernels = Path::new(&from_cargo("CARGO_MANIFEST_DIR")).join("kernels");
    let out = PathBuf::from(from_cargo("OUT_DIR"));
    let jobs = from_cargo("NUM_JOBS").parse().unwrap_or(1);
    let embedded = choice(&tracked).and_then(|choice| {
        if choice != Choice::Prebuilt {
            for path in nvcc::watched(&tracked, &out) {
                println!("cargo::rerun-if-changed={}", path.display());
            }
        }
        device_code(choice, &tracked, &kernels, &out, jobs)
    });
    match embedded {
        Ok(Embedded { what, why, warn }) => {
            println!("cargo::rustc-env=DROP_ACTIVATION_EMBEDDED={what}");
            println!("{}embedded {what} ({why})", if warn { "cargo::warning=" } else { "" });
        }
        Err(message) => message.lines().for_each(|line| println!("cargo::error={line}")),
    }
}

/// Where the device code is to come from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Choice {
    /// From nvcc where it works, else prebuilt.
    Auto,
    Nvcc,
    Prebuilt,
}

pub fn choice(env: Env) -> Result<Choice, String> {
    const NAME: &str = "DROP_ACTIVATION_DEVICE_CODE";
    let Some(value) = env(NAME) else {
        return Ok(if env("DOCS_RS").is_some() { Choice::Prebuilt } else { Choice::Auto });
    };
    match value.to_str() {
        Some("auto") => Ok(Choice::Auto),
        Some("nvcc") => Ok(Choice::Nvcc),
        Some("prebuilt") => Ok(Choice::Prebuilt),
        _ => Err(format!("{NAME} must be auto, nvcc or prebuilt, got {value:?}")),
    }
}

/// What became of the images.
#[derive(Debug)]
pub struct Embedded {
    /// What they are; `cuda::device_code()` returns it.
    pub what: String,
    /// Why these, or whence.
    pub why: String,
    /// Whether something is not as it should be.
    pub warn: bool,
}

/// Writes the images into `out`.
pub fn device_code(choice: Choice, env: Env, kernels: &Path, out: &Path, jobs: usize) -> Result<Embedded, String> {
    if choice == Choice::Prebuilt {
        return embed_prebuilt(kernels, out, "as was asked for".into(), false);
    }
    let required = choice == Choice::Nvcc;
    let wanted = env("CUDA_COMPUTE_CAP").map(|value| nvcc::capability(&value.to_string_lossy()));
    let wanted = wanted.transpose()?;
    let Some(path) = nvcc::find(env) else {
        let places = nvcc::TOOLKITS.join(", ");
        let why = format!("no nvcc in NVCC, {places}, PATH or /usr/local/cuda");
        return if required { Err(why) } else { embed_prebuilt(kernels, out, why, false) };
    };
    let place = path.display();
    let compiled = Nvcc::ask(&path, env).and_then(|nvcc| {
        let targets = nvcc::targets(&nvcc.knows, wanted)?;
        embed_compiled(&nvcc, &targets, kernels, out, jobs)?;
        Ok(format!("fatbin by nvcc {} for {}", nvcc.version, nvcc::list(&targets)))
    });
    match compiled {
        Ok(what) => Ok(Embedded { what, why: place.to_string(), warn: false }),
        // A capability asked for by name is not silently replaced; and whoever has just edited a kernel
        // wants nvcc's message, not yesterday's kernels.
        Err(message) if required || wanted.is_some() || !prebuilt::is_current(kernels) => {
            Err(format!("{place}: {message}"))
        }
        Err(message) => {
            eprintln!("{message}");
            let all = out.with_file_name("stderr");
            let first = message.lines().next().unwrap_or_default();
            let why = format!("{place} failed: {first}; its whole message is in {}", all.display());
            embed_prebuilt(kernels, out, why, true)
        }
    }
}

/// Compiles every source, as many at a time as cargo grants.
fn embed_compiled(nvcc: &Nvcc, targets: &[Target], kernels: &Path, out: &Path, jobs: usize) -> Result<(), String> {
    let sources = prebuilt::sources(kernels);
    let workers = sources.len().clamp(1, jobs);
    let queue = Mutex::new(sources.iter());
    let next = || queue.lock().unwrap().next();
    let worker = || -> Result<(), String> {
        while let Some(source) = next() {
            nvcc.fatbin(source, &embedded(out, source, "fatbin"), targets, jobs / workers)?;
            // Who compiles has a fatbin for the drivers that matter.
            let no_ptx = embedded(out, source, "ptx.gz");
            fs::write(&no_ptx, []).map_err(|e| format!("{}: {e}", no_ptx.display()))?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().unwrap())
    })
}

/// Takes the device code of the repository.
fn embed_prebuilt(kernels: &Path, out: &Path, mut why: String, mut warn: bool) -> Result<Embedded, String> {
    for source in prebuilt::sources(kernels) {
        for extension in ["fatbin", "ptx.gz"] {
            let from = prebuilt::file(kernels, &source, extension);
            fs::copy(&from, embedded(out, &source, extension)).map_err(|e| format!("{}: {e}", from.display()))?;
        }
    }
    if !prebuilt::is_current(kernels) {
        why += "; IT IS OLDER THAN kernels/: scripts/prebuilt-code makes it anew";
        warn = true;
    }
    Ok(Embedded { what: prebuilt::description(), why, warn })
}

/// Where `src/cuda/modules.rs` expects what was made of a source.
fn embedded(out: &Path, source: &Path, extension: &str) -> PathBuf {
    out.join(source.with_extension(extension).file_name().unwrap())
}
