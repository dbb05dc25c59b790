//! Finds an nvcc, asks what it can do, and has it compile.

use std::{
    env,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::Command,
};

/// What turns the sources into the code they become, whatever GPU it is for.
pub const FLAGS: [&str; 3] = ["-std=c++17", "-O3", "-fmad=false"];

/// Capabilities of a fatbin, less those that the nvcc at hand does not know. Plain ones: code for an `a`
/// variant is refused by every later GPU. Devices of 8.6 and 8.9 run the code for 8.0, as those of 10.3 and 12.1 run
/// that for 10.0 and 12.0: code of their own would differ in the order of instructions, and makes the package larger.
pub const CAPABILITIES: [u32; 5] = [75, 80, 90, 100, 120];

pub const TOOLKITS: [&str; 4] = ["CUDA_HOME", "CUDA_PATH", "CUDA_ROOT", "CUDA_TOOLKIT_ROOT_DIR"];

/// Looks an environment variable up; an empty one counts as not set.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The first nvcc of NVCC, the toolkits, PATH, /usr/local/cuda. NVCC is taken at its word even where
/// nothing is there.
pub fn find(env: Env) -> Option<PathBuf> {
    let name = format!("nvcc{}", env::consts::EXE_SUFFIX);
    let on_path = |name: &OsStr| {
        let path = env("PATH")?;
        env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
    };
    let in_toolkit = |home: &OsStr| {
        let file = Path::new(home).join("bin").join(&name);
        file.is_file().then_some(file)
    };
    if let Some(nvcc) = env("NVCC") {
        // A bare name is a command on PATH, as in a shell.
        let bare = Path::new(&nvcc).components().count() == 1;
        return bare.then(|| on_path(&nvcc)).flatten().or(Some(nvcc.into()));
    }
    TOOLKITS
        .iter()
        .find_map(|variable| in_toolkit(&env(variable)?))
        .or_else(|| on_path(name.as_ref()))
        .or_else(|| in_toolkit("/usr/local/cuda".as_ref()))
}

/// Where [`find`] looks, in order, up to where it finds one; and how many folders around it say that one appears.
fn places(env: Env) -> Vec<(PathBuf, usize)> {
    let name = format!("nvcc{}", env::consts::EXE_SUFFIX);
    // A toolkit's `bin`, the toolkit, and where that would be put.
    let in_toolkit = |home: &OsStr| (Path::new(home).join("bin").join(&name), 3);
    let on_path = |name: &OsStr| -> Vec<(PathBuf, usize)> {
        env("PATH").iter().flat_map(|path| env::split_paths(path).map(|folder| (folder.join(name), 1))).collect()
    };
    let mut all: Vec<_> = match env("NVCC") {
        Some(nvcc) if Path::new(&nvcc).components().count() == 1 => on_path(&nvcc),
        Some(nvcc) => vec![(nvcc.into(), 1)],
        None => {
            let toolkits = TOOLKITS.iter().filter_map(|variable| env(variable)).map(|home| in_toolkit(&home));
            toolkits.chain(on_path(name.as_ref())).chain([in_toolkit("/usr/local/cuda".as_ref())]).collect()
        }
    };
    if let Some(found) = all.iter().position(|(file, _)| file.is_file()) {
        all.truncate(found + 1);
    }
    all
}

/// What changes when an nvcc appears where [`find`] looks, or the one that it finds is replaced: that file, and for
/// each place before it the innermost folder that there is. cargo walks all of a folder at each build, so large ones,
/// which also change for other reasons, are left out; and so are those that hold `out`, which every build changes.
pub fn watched(env: Env, out: &Path) -> Vec<PathBuf> {
    const MOST_ENTRIES: usize = 10_000;
    let mut watched = Vec::new();
    for (place, folders) in places(env) {
        if let Some(there) = place.ancestors().take(1 + folders).find(|path| path.exists())
            && !out.starts_with(there)
            && !watched.iter().any(|watched| watched == there)
            && has_at_most(MOST_ENTRIES, there).is_some()
        {
            watched.push(there.to_owned());
        }
    }
    watched
}

/// How many more entries than those of a folder, and of the folders in it, would be allowed; `None` if it has too many.
fn has_at_most(allowed: usize, path: &Path) -> Option<usize> {
    if !path.is_dir() {
        return Some(allowed);
    }
    let mut left = allowed;
    for entry in path.read_dir().ok()? {
        left = left.checked_sub(1)?;
        let entry = entry.ok()?;
        // Links are not followed here: one that leads back up would never end.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            left = has_at_most(left, &entry.path())?;
        }
    }
    Some(left)
}

/// A compiler that answers.
pub struct Nvcc {
    path: PathBuf,
    host_compiler: Option<OsString>,
    pub version: String,
    /// Capabilities it compiles for.
    pub knows: Vec<u32>,
}

impl Nvcc {
    pub fn ask(path: &Path, env: Env) -> Result<Self, String> {
        let mut nvcc =
            Self { path: path.into(), host_compiler: env("NVCC_CCBIN"), version: String::new(), knows: Vec::new() };
        let answer = nvcc.run(&["--version".as_ref()])?;
        nvcc.version = version(&answer).ok_or(format!("no version in: {answer}"))?.into();
        nvcc.knows = capabilities(&nvcc.run(&["--list-gpu-code".as_ref()])?);
        Ok(nvcc)
    }

    /// Compiles `source` to a fatbin with nvcc's own `threads`.
    pub fn fatbin(&self, source: &Path, to: &Path, targets: &[Target], threads: usize) -> Result<(), String> {
        let mut flags = vec!["-fatbin".to_owned()];
        // Threads lose their files in a temporary folder with a space in its name.
        if !env::temp_dir().to_string_lossy().contains(' ') {
            flags.push(format!("--threads={threads}"));
        }
        // With CUDA 12 this would need a newer driver than the code itself does.
        if self.version.split('.').next().and_then(|major| major.parse().ok()) >= Some(13) {
            flags.push("--compress-mode=size".into());
        }
        flags.extend(targets.iter().map(Target::flag));
        self.compile(source, to, &flags)
    }

    /// Compiles `source` to PTX, with `more` flags.
    #[allow(dead_code)] // scripts/prebuilt-code and the tests use it, builds do not
    pub fn ptx(&self, source: &Path, to: &Path, capability: u32, more: &[&str]) -> Result<(), String> {
        let mut flags = vec!["-ptx".to_owned(), format!("-arch=compute_{capability}")];
        flags.extend(more.iter().map(|flag| (*flag).to_owned()));
        self.compile(source, to, &flags)
    }

    fn compile(&self, source: &Path, to: &Path, flags: &[String]) -> Result<(), String> {
        let mut args: Vec<&OsStr> = FLAGS.iter().map(OsStr::new).collect();
        args.extend(flags.iter().map(OsStr::new));
        if let Some(host_compiler) = &self.host_compiler {
            args.extend(["-ccbin".as_ref(), host_compiler.as_os_str()]);
        }
        args.extend(["-o".as_ref(), to.as_os_str(), source.as_os_str()]);
        self.run(&args).map(drop)
    }

    /// What it printed, as an error where it did not succeed.
    fn run(&self, args: &[&OsStr]) -> Result<String, String> {
        let output = Command::new(&self.path).args(args).output();
        let output = output.map_err(|e| format!("it cannot be run: {e}"))?;
        let printed = [output.stderr, output.stdout].concat();
        let printed = String::from_utf8_lossy(&printed).trim().to_owned();
        match output.status.success() {
            true => Ok(printed),
            false if printed.is_empty() => Err(output.status.to_string()),
            false => Err(printed),
        }
    }
}

/// One capability of a fatbin: machine code, and PTX for other GPUs where `ptx` says so.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    pub capability: u32,
    pub ptx: bool,
}

impl Target {
    fn flag(&self) -> String {
        let c = self.capability;
        let and_ptx = if self.ptx { format!(",compute_{c}") } else { String::new() };
        format!("-gencode=arch=compute_{c},code=[sm_{c}{and_ptx}]")
    }
}

/// The wanted capability alone, or all that both we and nvcc know. The lowest and the highest come as PTX
/// too: for GPUs between the others, and for those that are yet to come.
pub fn targets(knows: &[u32], wanted: Option<u32>) -> Result<Vec<Target>, String> {
    let asked = wanted.map_or(CAPABILITIES.to_vec(), |one| vec![one]);
    let chosen: Vec<u32> = asked.iter().copied().filter(|c| knows.contains(c)).collect();
    let (Some(&first), Some(&last)) = (chosen.first(), chosen.last()) else {
        return Err(format!("it compiles for capabilities {knows:?}; none of {asked:?} is among them"));
    };
    let target = |&capability| Target { capability, ptx: capability == first || capability == last };
    Ok(chosen.iter().map(target).collect())
}

/// "sm_75, sm_80, compute_75" and so on.
pub fn list(targets: &[Target]) -> String {
    let machine = targets.iter().map(|t| format!("sm_{}", t.capability));
    let ptx = targets.iter().filter(|t| t.ptx).map(|t| format!("compute_{}", t.capability));
    machine.chain(ptx).collect::<Vec<_>>().join(", ")
}

/// 90 for "90", "9.0", "sm_90" or "compute_90", with or without the suffix of a variant.
pub fn capability(given: &str) -> Result<u32, String> {
    let number = given.trim().trim_start_matches("sm_").trim_start_matches("compute_");
    let number = number.strip_suffix(['a', 'f']).unwrap_or(number);
    let digits = match number.split_once('.') {
        Some((major, minor)) if minor.len() == 1 => format!("{major}{minor}"),
        _ => number.into(),
    };
    match digits.parse() {
        Ok(capability @ 20..=299) if !digits.starts_with('+') => Ok(capability),
        _ => Err(format!("CUDA_COMPUTE_CAP={given} is no compute capability; write it like 90, 9.0 or sm_90")),
    }
}

/// "13.0.88" in the answer to `nvcc --version`.
pub fn version(answer: &str) -> Option<&str> {
    let mut words = answer.split_whitespace().filter_map(|word| word.strip_prefix('V'));
    words.find(|version| version.contains('.'))
}

/// The plain capabilities in the answer to `nvcc --list-gpu-code`.
pub fn capabilities(answer: &str) -> Vec<u32> {
    let mut all: Vec<u32> =
        answer.split_whitespace().filter_map(|word| word.strip_prefix("sm_")?.parse().ok()).collect();
    all.sort();
    all
}
