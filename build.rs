//! Puts the device code into OUT_DIR for `src/cuda/modules.rs`: one image for each `kernels/*.cu`.
//!
//! With an nvcc the images are fatbins of the sources. Without one, or where it fails, they are the PTX
//! in `kernels/prebuilt`, which was made from the same sources. Nothing is downloaded.
//!
//!     NVCC, CUDA_HOME, CUDA_PATH, CUDA_ROOT,
//!     CUDA_TOOLKIT_ROOT_DIR, PATH       where nvcc is sought, in this order; then in /usr/local/cuda
//!     NVCC_CCBIN                        the host compiler that nvcc is to use
//!     CUDA_COMPUTE_CAP                  build for this capability alone ("90", "9.0", "sm_90")
//!     DROP_ACTIVATION_REQUIRE_NVCC=1    an error instead of the prebuilt PTX

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
    if tracked("DOCS_RS").is_none() {
        for path in nvcc::watched(&tracked, &out) {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
    match device_code(&tracked, &kernels, &out, jobs) {
        Ok((origin, remark)) => {
            println!("cargo::rustc-env=DROP_ACTIVATION_DEVICE_CODE={origin}");
            println!("cargo::warning=embedded {origin} ({remark})");
        }
        Err(message) => message.lines().for_each(|line| println!("cargo::error={line}")),
    }
}

/// Writes the images into `out`; says what they are, and why these or whence.
pub fn device_code(env: Env, kernels: &Path, out: &Path, jobs: usize) -> Result<(String, String), String> {
    if env("DOCS_RS").is_some() {
        return embed_prebuilt(kernels, out, "documentation needs no nvcc".into());
    }
    let required = env("DROP_ACTIVATION_REQUIRE_NVCC").is_some_and(|value| value != "0");
    let wanted = env("CUDA_COMPUTE_CAP").map(|value| nvcc::capability(&value.to_string_lossy()));
    let wanted = wanted.transpose()?;
    let Some(path) = nvcc::find(env) else {
        let places = nvcc::TOOLKITS.join(", ");
        let why = format!("no nvcc in NVCC, {places}, PATH or /usr/local/cuda");
        return if required { Err(why) } else { embed_prebuilt(kernels, out, why) };
    };
    let place = path.display();
    let compiled = Nvcc::ask(&path, env).and_then(|nvcc| {
        let targets = nvcc::targets(&nvcc.knows, wanted)?;
        embed_compiled(&nvcc, &targets, kernels, out, jobs)?;
        Ok(format!("fatbin by nvcc {} for {}", nvcc.version, nvcc::list(&targets)))
    });
    match compiled {
        Ok(origin) => Ok((origin, place.to_string())),
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
            embed_prebuilt(kernels, out, why)
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
            nvcc.fatbin(source, &image(out, source), targets, jobs / workers)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().unwrap())
    })
}

/// Takes the PTX of the repository. The driver reads PTX up to a zero byte, which it gets here.
fn embed_prebuilt(kernels: &Path, out: &Path, mut why: String) -> Result<(String, String), String> {
    for source in prebuilt::sources(kernels) {
        let from = prebuilt::ptx(kernels, &source);
        let mut ptx = fs::read(&from).map_err(|e| format!("{}: {e}", from.display()))?;
        ptx.push(0);
        let to = image(out, &source);
        fs::write(&to, ptx).map_err(|e| format!("{}: {e}", to.display()))?;
    }
    if !prebuilt::is_current(kernels) {
        why += "; IT IS OLDER THAN kernels/: scripts/prebuilt-ptx makes it anew";
    }
    let (nvcc, capability) = (prebuilt::NVCC, prebuilt::CAPABILITY);
    Ok((format!("prebuilt PTX by nvcc {nvcc} for compute_{capability}"), why))
}

/// Where `src/cuda/modules.rs` expects the image of a source.
fn image(out: &Path, source: &Path) -> PathBuf {
    out.join(source.with_extension("image").file_name().unwrap())
}
