//! From a folder of kernels to a shared library.
//!
//! Objects and libraries are named after a hash of everything they are made from, so that a test binary
//! finds what another one has built, and a folder that differs in one `.cu` file compiles that file alone.

use std::{
    env,
    fs::{self, File},
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    process::{self, Command},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

/// Why there is no library.
#[derive(Clone, Debug)]
pub enum BuildError {
    /// This machine can't: it has no C++ compiler, or is of a kind that the emulation doesn't know.
    Unavailable(String),
    /// The sources are at fault; the compiler's own words.
    Failed(String),
}

impl From<std::io::Error> for BuildError {
    fn from(e: std::io::Error) -> Self {
        BuildError::Failed(e.to_string())
    }
}

/// Of the workspace, of which other packages test on the emulation too.
pub fn root() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.ancestors().find(|folder| folder.join("tests/emulator").is_dir()).unwrap_or(package)
}

/// An empty folder for a test's own kernels: a mutated copy, say.
pub fn scratch_folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("cargo's folder for the temporary files of tests can be written");
    folder
}

/// The library of a folder's `.cu` files and the emulation itself, built unless it is there already.
pub fn library(sources: &Path) -> Result<PathBuf, BuildError> {
    let compiler = compiler()?;
    let here = root().join("tests/emulator");
    let fallback = root().join("kernels"); // for the shared header
    if !sources.is_dir() || !here.is_dir() {
        return Err(BuildError::Unavailable(format!("its sources are not here: {}", sources.display())));
    }
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulator");
    fs::create_dir_all(&cache)?;

    let mut common = DefaultHasher::new();
    compiler.id.hash(&mut common);
    for folder in [&here, &here.join("include"), &fallback, sources] {
        for header in files(folder, &["h", "cuh"])? {
            header.file_name().hash(&mut common);
            fs::read(&header)?.hash(&mut common);
        }
    }

    let mut units = vec![here.join("cuda_on_cpu.cpp")];
    units.extend(files(sources, &["cu"])?);
    let mut objects = Vec::new();
    for unit in &units {
        let mut hash = common.clone();
        unit.file_name().hash(&mut hash);
        fs::read(unit)?.hash(&mut hash);
        let stem = unit.file_stem().unwrap_or_default().to_string_lossy();
        objects.push(cache.join(format!("{stem}-{:016x}.o", hash.finish())));
    }
    let mut hash = DefaultHasher::new();
    objects.hash(&mut hash);
    let name = format!("kernels-{:016x}", hash.finish());
    let library = cache.join(format!("{name}.so"));

    // Whoever comes second finds the library. The lock goes with the file handle.
    let lock = File::create(cache.join(format!("{name}.lock")))?;
    lock.lock()?;
    if library.exists() {
        return Ok(library);
    }

    let missing: Vec<_> = units.iter().zip(&objects).filter(|(_, object)| !object.exists()).collect();
    thread::scope(|scope| {
        let jobs: Vec<_> = missing
            .into_iter()
            .map(|(unit, object)| {
                let (here, fallback) = (&here, &fallback);
                scope.spawn(move || {
                    let mut command = compiler.command();
                    // From within the folder, so that reports name files without a path, and nothing
                    // of the path gets into an object that another folder may use.
                    command.current_dir(sources).arg("-I.").arg("-I").arg(fallback).arg("-I").arg(here.join("include"));
                    if unit.extension().is_some_and(|e| e == "cu") {
                        command.arg("-include").arg(here.join("cuda_on_cpu.h")).arg("-c").arg("-xc++");
                        command.arg(unit.file_name().unwrap_or_default());
                    } else {
                        command.arg("-c").arg(unit);
                    }
                    run(command, object)
                })
            })
            .collect();
        jobs.into_iter().try_for_each(|job| job.join().expect("the compiling thread does not panic"))
    })?;

    let mut link = compiler.command();
    link.arg("-shared").args(&objects);
    run(link, &library)?;
    Ok(library)
}

/// Has `command` write to a temporary name first: `to` is whole whenever it exists.
fn run(mut command: Command, to: &Path) -> Result<(), BuildError> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let unique = COUNT.fetch_add(1, Ordering::Relaxed);
    let temporary = to.with_extension(format!("{}-{unique}.tmp", process::id()));
    let output = command.arg("-o").arg(&temporary).output()?;
    if !output.status.success() {
        let _ = fs::remove_file(&temporary);
        // Not the command's Debug form, which shows the whole environment.
        let words: Vec<_> =
            [command.get_program()].into_iter().chain(command.get_args()).map(|w| w.to_string_lossy()).collect();
        return Err(BuildError::Failed(format!("{}\n{}", words.join(" "), String::from_utf8_lossy(&output.stderr))));
    }
    fs::rename(&temporary, to)?;
    Ok(())
}

/// The files of a folder with one of these extensions, in the order of their names.
fn files(folder: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>, BuildError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| extensions.iter().any(|&wanted| e == wanted)) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

struct Compiler {
    tool: cc::Tool,
    /// Beyond the tool's own.
    flags: Vec<&'static str>,
    /// Version and options: what a hash has to cover.
    id: String,
}

impl Compiler {
    fn command(&self) -> Command {
        let mut command = self.tool.to_command();
        command.args(&self.flags);
        command
    }
}

fn compiler() -> Result<&'static Compiler, BuildError> {
    static FOUND: OnceLock<Result<Compiler, BuildError>> = OnceLock::new();
    FOUND.get_or_init(find_compiler).as_ref().map_err(Clone::clone)
}

/// What the cc crate takes (CXX and its kin, or c++), then the usual names.
fn find_compiler() -> Result<Compiler, BuildError> {
    // The emulation makes its fibers with getcontext and makecontext. The cc crate has to be told the triple, which
    // cargo gives to build scripts only.
    let triple = match env::consts::OS {
        "linux" if cfg!(target_env = "gnu") => format!("{}-unknown-linux-gnu", env::consts::ARCH),
        "macos" => format!("{}-apple-darwin", env::consts::ARCH),
        other => {
            return Err(BuildError::Unavailable(format!(
                "the emulation knows Linux with glibc and macOS, not {other}"
            )));
        }
    };
    let mut tried = Vec::new();
    for name in [None, Some("g++"), Some("clang++")] {
        let mut build = cc::Build::new();
        build.cpp(true).cargo_metadata(false).cargo_warnings(false).cargo_debug(false).cargo_output(false);
        build.target(&triple).host(&triple).out_dir(env!("CARGO_TARGET_TMPDIR"));
        build.opt_level(1).debug(false).pic(true).warnings(false).std("c++17");
        if let Some(name) = name {
            build.compiler(name);
        }
        let Ok(tool) = build.try_get_compiler() else { continue };
        tried.push(tool.path().display().to_string());
        let Ok(version) = Command::new(tool.path()).arg("--version").output() else { continue };
        if !version.status.success() || !(tool.is_like_gnu() || tool.is_like_clang()) {
            continue;
        }
        let mut flags = vec![
            "-w",
            // Each operation rounded by itself, as nvcc is told too; fused ones are written as such.
            "-ffp-contract=off",
            // Reading a float's bits through a cast is usual in device code.
            "-fno-strict-aliasing",
            "-fno-exceptions",
            "-fno-rtti",
            // Two libraries of the same kernels, one of them mutated, must not share anything.
            "-fvisibility=hidden",
            // It would refuse to jump from one fiber's stack to another's.
            "-U_FORTIFY_SOURCE",
        ];
        if tool.is_like_gnu() {
            flags.push("-fno-gnu-unique");
        }
        let id = format!("{}{:?}{flags:?}", String::from_utf8_lossy(&version.stdout), tool.args());
        return Ok(Compiler { tool, flags, id });
    }
    tried.dedup();
    Err(BuildError::Unavailable(format!(
        "no C++ compiler was found (tried {}): install g++ or clang++, or name one in CXX",
        tried.join(", ")
    )))
}
