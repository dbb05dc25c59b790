//! The device code that stands in for an nvcc, and the record that holds it to its sources.

use super::{
    fingerprint::fingerprint,
    nvcc::{self, CAPABILITIES, FLAGS, Target},
};
use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

/// What it is made with. The drivers of CUDA 13.0 would refuse the code of a newer nvcc.
pub const NVCC: &str = "13.0.88";

/// What the PTX is for: every supported GPU can run that of the lowest capability.
pub const CAPABILITY: u32 = 75;

/// The version of PTX's text. nvcc writes its own, and a driver refuses one that is newer than itself; the instructions
/// need no more than this, which drivers know since CUDA 10.2. `tests/prebuilt_code.rs` asks an old ptxas.
pub const PTX_VERSION: &str = "6.5";

/// The source whose fatbin is for few GPUs: it is the largest for its use, and the package has to stay small.
const RARE: &str = "fused_smooth";
const CAPABILITIES_OF_RARE: [u32; 2] = [80, 90];

/// What the fatbin of a source is for: what a build with this nvcc makes, but machine code alone, and little of it for
/// [`RARE`]. A driver that finds none for its GPU refuses the fatbin, and gets the PTX beside it.
pub fn targets(source: &Path) -> Vec<Target> {
    let is_rare = source.file_stem() == Some(OsStr::new(RARE));
    let all = nvcc::targets(&CAPABILITIES, None).expect("all of them are known");
    let wanted = all.into_iter().filter(|target| !is_rare || CAPABILITIES_OF_RARE.contains(&target.capability));
    wanted.map(|target| Target { ptx: false, ..target }).collect()
}

/// What is embedded where this is.
pub fn description() -> String {
    let (most, rare) = (nvcc::list(&targets(Path::new(""))), nvcc::list(&targets(Path::new(RARE))));
    format!(
        "prebuilt fatbin by nvcc {NVCC} for {most} ({RARE}: {rare}), and for drivers that refuse it PTX {PTX_VERSION} for \
         compute_{CAPABILITY}"
    )
}

/// nvcc's PTX as text of that version.
#[allow(dead_code)] // scripts/prebuilt-code and the tests use it, builds do not
pub fn of_low_version(ptx: &str) -> String {
    let lines = ptx.lines().map(|line| match line.strip_prefix(".version ") {
        Some(_) => format!(".version {PTX_VERSION}\n"),
        None => format!("{line}\n"),
    });
    lines.collect()
}

/// The device sources, one module each, in a fixed order.
pub fn sources(kernels: &Path) -> Vec<PathBuf> {
    files(kernels, &["cu"])
}

/// What they include.
#[allow(dead_code)] // the tests that compile them ask
pub fn headers(kernels: &Path) -> Vec<PathBuf> {
    files(kernels, &["cuh", "h"])
}

/// Where what was made of a source is: its "fatbin" or its "ptx.gz".
pub fn file(kernels: &Path, source: &Path, extension: &str) -> PathBuf {
    kernels.join("prebuilt").join(source.with_extension(extension).file_name().unwrap())
}

/// Where the record of what it was made from is.
pub fn record_path(kernels: &Path) -> PathBuf {
    kernels.join("prebuilt/made-from.txt")
}

/// That record as it should be now: compared, it shows stale code without an nvcc.
pub fn record(kernels: &Path) -> String {
    let mut record = format!("{}\n{}\n", description(), FLAGS.join(" "));
    for path in files(kernels, &["cu", "cuh", "h"]) {
        record += &format!("{:016x} {}\n", fingerprint(&path), path.file_name().unwrap().display());
    }
    record
}

pub fn is_current(kernels: &Path) -> bool {
    fs::read_to_string(record_path(kernels)).is_ok_and(|text| text == record(kernels))
}

fn files(folder: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let has_one = |path: &PathBuf| extensions.iter().any(|e| path.extension() == Some(OsStr::new(e)));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).filter(has_one).collect();
    files.sort();
    files
}
