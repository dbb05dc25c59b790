//! What build.rs decides, tried with compilers that only pretend.
#![cfg(unix)]

#[path = "../build.rs"]
#[allow(dead_code)]
mod build_script;

use build_script::{
    Embedded, choice, device_code,
    nvcc::{self, CAPABILITIES, Target},
};
use std::{
    collections::HashMap,
    ffi::OsString,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// One test at a time: a script can't be run while a child that another thread has just forked still
/// holds it open for writing.
static ALONE: Mutex<()> = Mutex::new(());

/// A folder of one test, with a space in its name as some homes have, and a copy of the kernels.
struct Place {
    _alone: MutexGuard<'static, ()>,
    folder: PathBuf,
    env: HashMap<&'static str, OsString>,
}

impl Place {
    fn new(name: &str) -> Self {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("build script {name}"));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(folder.join("out")).unwrap();
        let original = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
        for inner in ["", "prebuilt"] {
            fs::create_dir_all(folder.join("kernels").join(inner)).unwrap();
            for entry in fs::read_dir(original.join(inner)).unwrap() {
                let (from, name) = entry.map(|e| (e.path(), e.file_name())).unwrap();
                if from.is_file() {
                    fs::copy(from, folder.join("kernels").join(inner).join(name)).unwrap();
                }
            }
        }
        Self { _alone, folder, env: HashMap::new() }
    }

    fn set(&mut self, name: &'static str, value: impl Into<OsString>) -> &mut Self {
        self.env.insert(name, value.into());
        self
    }

    /// A script that answers like an nvcc of this version and then does `compile`.
    fn nvcc(&self, file: &str, version: &str, knows: &str, compile: &str) -> PathBuf {
        let path = self.folder.join(file);
        let script = format!(
            "#!/bin/sh\ncase $1 in\n--version) echo 'release, V{version}';;\n\
             --list-gpu-code) printf '%s\\n' {knows};;\n*) {compile};;\nesac\n"
        );
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn find(&self) -> Option<PathBuf> {
        nvcc::find(&|name| self.env.get(name).cloned())
    }

    fn build(&self) -> Result<Embedded, String> {
        let env = |name: &str| self.env.get(name).cloned();
        device_code(choice(&env)?, &env, &self.folder.join("kernels"), &self.folder.join("out"), 2)
    }

    fn embedded(&self, name: &str) -> Vec<u8> {
        fs::read(self.folder.join("out").join(name)).unwrap()
    }
}

/// Writes its arguments where the image should be.
const ECHO: &str = r#"all="$*"; while [ "$1" != -o ]; do shift; done; echo "$all" > "$2""#;
const FAIL: &str = "echo 'unsupported GNU version!' >&2; echo more >&2; exit 1";

#[test]
fn nvcc_is_sought_in_the_order_that_is_promised() {
    let mut place = Place::new("order");
    let paths = ["named/cc", "home/bin/nvcc", "path/bin/nvcc", "root/bin/nvcc", "dir/bin/nvcc", "bin/nvcc"];
    let files = paths.map(|file| place.nvcc(file, "13.0.88", "sm_90", ECHO));
    let toolkit = |i: usize| files[i].parent().unwrap().parent().unwrap();
    place
        .set("NVCC", &files[0])
        .set("CUDA_HOME", toolkit(1))
        .set("CUDA_PATH", toolkit(2))
        .set("CUDA_ROOT", toolkit(3))
        .set("CUDA_TOOLKIT_ROOT_DIR", toolkit(4))
        .set("PATH", files[5].parent().unwrap());
    let names = ["NVCC", "CUDA_HOME", "CUDA_PATH", "CUDA_ROOT", "CUDA_TOOLKIT_ROOT_DIR", "PATH"];
    for (name, file) in names.into_iter().zip(&files) {
        assert_eq!(place.find().as_ref(), Some(file), "{name}");
        place.env.remove(name);
    }
    // A toolkit without an nvcc, as on machines that only run CUDA, does not end the search.
    place.set("CUDA_HOME", "/nowhere").set("CUDA_PATH", toolkit(2));
    assert_eq!(place.find().as_ref(), Some(&files[2]));
    // A bare name is a command; any other NVCC is believed.
    place.set("NVCC", "cc").set("PATH", files[0].parent().unwrap());
    assert_eq!(place.find().as_ref(), Some(&files[0]));
    place.set("NVCC", "/nowhere/nvcc");
    assert_eq!(place.find(), Some("/nowhere/nvcc".into()));
}

#[test]
fn every_source_is_compiled_for_what_nvcc_knows() {
    let mut place = Place::new("compile");
    let nvcc = place.nvcc("nvcc", "12.4.131", "sm_50 sm_75 sm_80 sm_86 sm_89 sm_90 sm_90a", ECHO);
    place.set("NVCC", &nvcc).set("NVCC_CCBIN", "g++-12");
    let Embedded { what, why, warn } = place.build().unwrap();
    assert_eq!(what, "fatbin by nvcc 12.4.131 for sm_75, sm_80, sm_90, compute_75, compute_90");
    assert_eq!(why, nvcc.display().to_string());
    assert!(!warn, "all went well");
    for name in ["relu", "smooth", "rrelu"] {
        let args = String::from_utf8(place.embedded(&format!("{name}.fatbin"))).unwrap();
        assert!(args.contains("code=[sm_75,compute_75] "), "{args}");
        assert!(args.contains("code=[sm_80] "), "{args}");
        assert!(args.contains("code=[sm_90,compute_90] -ccbin g++-12 -o "), "{args}");
        assert!(args.contains(&format!("{name}.cu")), "{args}");
        assert!(!args.contains("compress-mode"), "drivers of CUDA 12 may not know it: {args}");
    }
}

#[test]
fn one_capability_makes_a_quick_build() {
    let mut place = Place::new("capability");
    let nvcc = place.nvcc("nvcc", "13.0.88", "sm_75 sm_90 sm_120", ECHO);
    place.set("NVCC", &nvcc).set("CUDA_COMPUTE_CAP", "9.0");
    assert_eq!(place.build().unwrap().what, "fatbin by nvcc 13.0.88 for sm_90, compute_90");
    let args = String::from_utf8(place.embedded("relu.fatbin")).unwrap();
    assert_eq!(args.matches("-gencode").count(), 1, "{args}");
    assert!(args.contains("--compress-mode=size"), "{args}");
    // What was asked for by name and can't be had is an error, not something else.
    for (value, message) in [("100", "none of [100]"), ("ninety", "CUDA_COMPUTE_CAP=ninety")] {
        let error = place.set("CUDA_COMPUTE_CAP", value).build().unwrap_err();
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn a_missing_nvcc_is_replaced_by_the_prebuilt_code_unless_required() {
    if Path::new("/usr/local/cuda/bin/nvcc").exists() {
        return; // it would be found
    }
    let mut place = Place::new("missing");
    let Embedded { what, why, warn } = place.build().unwrap();
    assert_eq!(
        what,
        "prebuilt fatbin by nvcc 13.0.88 for sm_75, sm_80, sm_90, sm_100, sm_120 (fused_smooth: sm_80, sm_90), \
         and for drivers that refuse it PTX 6.5 for compute_75"
    );
    assert!(why.contains("no nvcc in NVCC, CUDA_HOME"), "{why}");
    assert!(!warn, "most users have none");
    for file in ["smooth.fatbin", "smooth.ptx.gz"] {
        let prebuilt = fs::read(place.folder.join("kernels/prebuilt").join(file)).unwrap();
        assert!(!prebuilt.is_empty() && place.embedded(file) == prebuilt, "{file}");
    }
    let error = place.set("DROP_ACTIVATION_DEVICE_CODE", "nvcc").build().unwrap_err();
    assert!(error.contains("no nvcc in NVCC"), "{error}");
}

#[test]
fn where_the_device_code_comes_from_can_be_chosen() {
    let mut place = Place::new("choice");
    let nvcc = place.nvcc("nvcc", "13.0.88", "sm_75", ECHO);
    place.set("NVCC", &nvcc);
    for (value, made_by) in [("auto", "fatbin by nvcc"), ("nvcc", "fatbin by nvcc"), ("prebuilt", "prebuilt fatbin")] {
        let Embedded { what, warn, .. } = place.set("DROP_ACTIVATION_DEVICE_CODE", value).build().unwrap();
        assert!(what.starts_with(made_by) && !warn, "{value}: {what}");
    }
    for value in ["1", "NVCC", "nvcc ", "ptx"] {
        let error = place.set("DROP_ACTIVATION_DEVICE_CODE", value).build().unwrap_err();
        assert_eq!(error, format!("DROP_ACTIVATION_DEVICE_CODE must be auto, nvcc or prebuilt, got {value:?}"));
    }
    // docs.rs sets a variable of its own, and has no nvcc.
    place.env.remove("DROP_ACTIVATION_DEVICE_CODE");
    assert!(place.set("DOCS_RS", "1").build().unwrap().what.starts_with("prebuilt fatbin"));
    assert!(place.set("DROP_ACTIVATION_DEVICE_CODE", "nvcc").build().unwrap().what.starts_with("fatbin"));
}

/// A package of this build script alone is built by cargo, again and again.
#[test]
fn an_nvcc_that_appears_is_used_by_the_next_build() {
    let nvcc_on = |folder: &PathBuf| folder.join("nvcc").exists();
    let path: Vec<_> = std::env::split_paths(&std::env::var_os("PATH").unwrap()).filter(|it| !nvcc_on(it)).collect();
    if Path::new("/usr/local/cuda/bin/nvcc").exists() {
        return; // it would be found first
    }
    let place = Place::new("appears");
    let (package, toolkits) = (place.folder.join("package"), place.folder.join("toolkits"));
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for folder in [&package.join("src"), &toolkits] {
        fs::create_dir_all(folder).unwrap();
    }
    for linked in ["build.rs", "build", "kernels"] {
        std::os::unix::fs::symlink(root.join(linked), package.join(linked)).unwrap();
    }
    let manifest = "[package]\nname = 'images'\nversion = '0.1.0'\nedition = '2024'\n\
                    [features]\ndefault = ['cuda']\ncuda = []\n[workspace]\n";
    fs::write(package.join("Cargo.toml"), manifest).unwrap();
    fs::write(package.join("src/lib.rs"), "").unwrap();
    let build = || {
        let mut cargo = std::process::Command::new(std::env::var_os("CARGO").unwrap());
        cargo.args(["build", "--offline", "-vv"]).current_dir(&package);
        for name in nvcc::TOOLKITS.iter().chain(&["NVCC", "DOCS_RS", "CUDA_COMPUTE_CAP", "DROP_ACTIVATION_DEVICE_CODE"])
        {
            cargo.env_remove(name);
        }
        cargo.env("PATH", std::env::join_paths(&path).unwrap()).env("CUDA_HOME", toolkits.join("home"));
        let output = cargo.env("CARGO_TARGET_DIR", place.folder.join("target")).output().unwrap();
        // What the build script prints goes to one of the two, what cargo says to the other.
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(output.status.success(), "{text}");
        assert!(!text.contains("warning"), "all went well: {text}");
        text
    };
    let first = build();
    assert!(first.contains("embedded prebuilt fatbin"), "{first}");
    let second = build();
    assert!(second.contains("Fresh images"), "nothing has changed: {second}");
    place.nvcc("toolkits/home/bin/nvcc", "13.0.88", "sm_75 sm_90", ECHO);
    let third = build();
    assert!(third.contains("embedded fatbin by nvcc 13.0.88"), "{third}");
    assert!(build().contains("Fresh images"));
    place.nvcc("toolkits/home/bin/nvcc", "13.0.99", "sm_75 sm_90", ECHO);
    let replaced = build();
    assert!(replaced.contains("embedded fatbin by nvcc 13.0.99"), "{replaced}");
}

#[test]
fn a_failing_nvcc_is_replaced_too_and_its_message_is_kept() {
    let mut place = Place::new("failing");
    let nvcc = place.nvcc("nvcc", "13.0.88", "sm_75 sm_90", FAIL);
    let Embedded { what, why, warn } = place.set("NVCC", &nvcc).build().unwrap();
    assert!(what.starts_with("prebuilt fatbin"), "{what}");
    assert!(warn);
    assert!(why.contains("failed: unsupported GNU version!; its whole message"), "{why}");
    assert!(!why.contains("OLDER"), "{why}");
    let error = place.set("DROP_ACTIVATION_DEVICE_CODE", "nvcc").build().unwrap_err();
    assert!(error.contains("unsupported GNU version!\nmore"), "{error}");

    place.env.remove("DROP_ACTIVATION_DEVICE_CODE");
    let why = place.set("NVCC", "/nowhere/nvcc").build().unwrap().why;
    assert!(why.contains("/nowhere/nvcc failed: it cannot be run"), "{why}");
}

#[test]
fn prebuilt_code_does_not_stand_in_for_kernels_that_were_edited() {
    let mut place = Place::new("edited");
    let header = place.folder.join("kernels/philox.cuh");
    fs::write(&header, fs::read_to_string(&header).unwrap() + "// edited\n").unwrap();
    let nvcc = place.nvcc("nvcc", "13.0.88", "sm_75", FAIL);
    let error = place.set("NVCC", &nvcc).build().unwrap_err();
    assert!(error.contains("unsupported GNU version!\nmore"), "{error}");
    let Embedded { why, warn, .. } = place.set("DROP_ACTIVATION_DEVICE_CODE", "prebuilt").build().unwrap();
    assert!(why.contains("IT IS OLDER") && warn, "{why}");
}

#[test]
fn capabilities_are_read_in_every_usual_spelling() {
    for given in ["90", "9.0", "sm_90", "compute_90", "90a", "sm_90a", " 90\n"] {
        assert_eq!(nvcc::capability(given), Ok(90), "{given}");
    }
    assert_eq!(nvcc::capability("12.0"), Ok(120));
    for given in ["", "9", "9.", "9.00", ".9", "native", "sm_", "-90", "+90", "80,90", "9000", "90.0"] {
        assert!(nvcc::capability(given).is_err(), "{given}");
    }
}

#[test]
fn a_fatbin_covers_older_and_later_gpus_with_ptx() {
    let all: Vec<u32> = vec![75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121];
    let targets = nvcc::targets(&all, None).unwrap();
    assert_eq!(targets.iter().map(|t| t.capability).collect::<Vec<_>>(), CAPABILITIES);
    let with_ptx: Vec<u32> = targets.iter().filter(|t| t.ptx).map(|t| t.capability).collect();
    assert_eq!(with_ptx, [75, 120]);
    let one = [Target { capability: 87, ptx: true }];
    assert_eq!(nvcc::targets(&all, Some(87)).unwrap(), one);
    assert!(nvcc::targets(&[50, 60], None).is_err());
}
