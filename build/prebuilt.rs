//! The PTX that stands in for an nvcc, and the record that holds it to its sources.

use super::{fingerprint::fingerprint, nvcc::FLAGS};
use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

/// What the PTX is made with and for. A newer nvcc would write PTX that the drivers of CUDA 13.0 refuse,
/// and every supported GPU can run PTX of the lowest capability.
pub const NVCC: &str = "13.0.88";
pub const CAPABILITY: u32 = 75;

/// The device sources, one image each, in a fixed order.
pub fn sources(kernels: &Path) -> Vec<PathBuf> {
    files(kernels, &["cu"])
}

/// What they include.
#[allow(dead_code)] // the tests that compile them ask
pub fn headers(kernels: &Path) -> Vec<PathBuf> {
    files(kernels, &["cuh", "h"])
}

/// Where the PTX of a source is.
pub fn ptx(kernels: &Path, source: &Path) -> PathBuf {
    kernels.join("prebuilt").join(source.with_extension("ptx").file_name().unwrap())
}

/// Where the record of what the PTX was made from is.
pub fn record_path(kernels: &Path) -> PathBuf {
    kernels.join("prebuilt/made-from.txt")
}

/// That record as it should be now: compared, it shows stale PTX without an nvcc.
pub fn record(kernels: &Path) -> String {
    let mut record = format!("nvcc {NVCC} {} -arch=compute_{CAPABILITY}\n", FLAGS.join(" "));
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
