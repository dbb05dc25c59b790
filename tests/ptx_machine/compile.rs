//! Where PTX comes from: the repository ships some, and an nvcc makes more.

use std::{
    env,
    ffi::OsString,
    fs::{self, File},
    hash::{DefaultHasher, Hash, Hasher},
    io::Write,
    path::Path,
    process,
    sync::OnceLock,
    thread,
};

#[path = "../../build/fingerprint.rs"]
mod fingerprint;
#[path = "../../build/nvcc.rs"]
mod nvcc;
#[path = "../../build/prebuilt.rs"]
mod prebuilt;
#[path = "../shipped/mod.rs"]
mod shipped;

use super::Ptx;
use crate::emulator::root;
use nvcc::Nvcc;

/// The PTX that is shipped, which is what users run who have no nvcc; or, where `DROP_ACTIVATION_PTX` names a folder,
/// the files of the same names in it, which another compiler may have made.
pub fn shipped() -> &'static Ptx {
    static FOUND: OnceLock<Ptx> = OnceLock::new();
    FOUND.get_or_init(|| {
        let ptx = match env::var_os("DROP_ACTIVATION_PTX").filter(|folder| !folder.is_empty()) {
            None => Ptx::new(shipped::ptx().iter().map(|(name, text)| (*name, text.as_str()))),
            Some(folder) => {
                let read = |(name, _): &(&'static str, String)| {
                    let path = Path::new(&folder).join(name);
                    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                    (*name, text)
                };
                let texts: Vec<_> = shipped::ptx().iter().map(read).collect();
                Ptx::new(texts.iter().map(|(name, text)| (*name, text.as_str())))
            }
        };
        ptx.unwrap_or_else(|why| panic!("{why}"))
    })
}

/// What the nvcc of this machine makes of the kernels for compute capability 9.0. `None`, after telling so once,
/// without an nvcc. (What it makes for 7.5 is what is shipped, to which tests/prebuilt_code.rs holds it.)
pub fn fresh_90() -> Option<&'static Ptx> {
    static FRESH: OnceLock<Option<Ptx>> = OnceLock::new();
    let fresh = FRESH.get_or_init(|| match self::nvcc() {
        Ok(_) => Some(of_folder(&root().join("kernels"), 90).unwrap_or_else(|why| panic!("{why}"))),
        Err(why) => {
            tell_skipped(why);
            None
        }
    });
    fresh.as_ref()
}

/// Says once on standard error, past the test harness' capture, what is skipped without an nvcc.
pub fn tell_skipped(why: &str) {
    static TOLD: OnceLock<()> = OnceLock::new();
    TOLD.get_or_init(|| {
        let _ = writeln!(std::io::stderr(), "SKIPPED: what a fresh compile makes of the kernels: {why}");
    });
}

/// The nvcc that a build would take, or why there is none.
pub fn nvcc() -> Result<&'static Nvcc, &'static str> {
    static FOUND: OnceLock<Result<Nvcc, String>> = OnceLock::new();
    let variable = |name: &str| -> Option<OsString> { env::var_os(name).filter(|value| !value.is_empty()) };
    let find = || Nvcc::ask(&nvcc::find(&variable).ok_or("there is no nvcc")?, &variable);
    FOUND.get_or_init(find).as_ref().map_err(String::as_str)
}

/// The kernels of a folder's `.cu` files, compiled unless another test has done so. Headers are those beside them; the
/// shared header may be missing.
pub fn of_folder(sources: &Path, capability: u32) -> Result<Ptx, String> {
    let nvcc = nvcc()?;
    let units = prebuilt::sources(sources);
    let texts = thread::scope(|scope| {
        let jobs: Vec<_> = units.iter().map(|unit| scope.spawn(|| compiled(nvcc, sources, unit, capability))).collect();
        jobs.into_iter()
            .map(|job| job.join().expect("the compiling thread does not panic"))
            .collect::<Result<Vec<_>, _>>()
    })?;
    let name = |unit: &Path| unit.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let named: Vec<_> = units.iter().map(|unit| name(unit)).zip(texts).collect();
    Ptx::new(named.iter().map(|(name, text)| (name.as_str(), text.as_str())))
}

/// PTX of one source, kept under a hash of all that it is made from.
fn compiled(nvcc: &Nvcc, sources: &Path, unit: &Path, capability: u32) -> Result<String, String> {
    let mut hash = DefaultHasher::new();
    (&nvcc.version, nvcc::FLAGS, capability).hash(&mut hash);
    for folder in [sources, &root().join("kernels")] {
        for header in prebuilt::headers(folder) {
            (header.file_name(), fs::read(&header).map_err(|e| e.to_string())?).hash(&mut hash);
        }
    }
    fs::read(unit).map_err(|e| e.to_string())?.hash(&mut hash);
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ptx");
    fs::create_dir_all(&cache).map_err(|e| e.to_string())?;
    let stem = unit.file_stem().unwrap_or_default().to_string_lossy();
    let file = cache.join(format!("{stem}-{:016x}.ptx", hash.finish()));

    // Whoever comes second finds the file. The lock goes with its handle.
    let lock = File::create(file.with_extension("lock")).map_err(|e| e.to_string())?;
    lock.lock().map_err(|e| e.to_string())?;
    if !file.exists() {
        let temporary = file.with_extension(format!("{}.tmp", process::id()));
        let headers = root().join("kernels");
        nvcc.ptx(unit, &temporary, capability, &["-w", "-I", &headers.to_string_lossy()])?;
        fs::rename(&temporary, &file).map_err(|e| e.to_string())?;
    }
    fs::read_to_string(&file).map_err(|e| e.to_string())
}
