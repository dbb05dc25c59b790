//! The same test without a GPU: in a process of its own on the stand-in driver, which runs the emulated kernels.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use drop_activation::cuda::launch::Entry;

use crate::emulator::compile;

/// A folder with a libcuda, and the library of kernels that it is to launch.
struct StandIn {
    folder: PathBuf,
    kernels: PathBuf,
}

/// `None`, after telling why, on a machine without compilers.
fn stand_in() -> Option<&'static StandIn> {
    static MADE: OnceLock<Result<StandIn, String>> = OnceLock::new();
    MADE.get_or_init(make)
        .as_ref()
        .map_err(|why| writeln!(std::io::stderr(), "SKIPPED: the smoke test's rehearsal: {why}"))
        .ok()
}

fn make() -> Result<StandIn, String> {
    let root = compile::root();
    let kernels = match compile::library(&root.join("kernels")) {
        Ok(library) => library,
        Err(compile::BuildError::Unavailable(why)) => return Err(why),
        Err(compile::BuildError::Failed(why)) => panic!("{why}"),
    };
    let folder = compile::scratch_folder("stand-in-driver");
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut build = cc::Build::new();
    build.cargo_output(false).target(&triple).host(&triple).opt_level(1).pic(true).std("gnu11").warnings(false);
    build.out_dir(&folder).include(root.join("kernels"));
    let mut command = build.try_get_compiler().map_err(|e| e.to_string())?.to_command();
    command.args(["-shared", "-Wl,-soname,libcuda.so.1", "-o"]).arg(folder.join("libcuda.so.1"));
    let made = command.arg(root.join("tests/fake_driver/libcuda.c")).output().map_err(|e| e.to_string())?;
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    std::os::unix::fs::symlink("libcuda.so.1", folder.join("libcuda.so")).map_err(|e| e.to_string())?;
    Ok(StandIn { folder, kernels })
}

impl StandIn {
    fn run(&self, settings: &[(&str, &str)]) -> Output {
        let mut command = Command::new(std::env::current_exe().expect("a path"));
        command.args(["--exact", "every_entry_point", "--test-threads=1"]);
        command.env("LD_LIBRARY_PATH", &self.folder).env("FAKE_DRIVER_KERNELS", &self.kernels);
        command.env("DROP_ACTIVATION_REQUIRE_GPU", "1").env("RUST_BACKTRACE", "0").envs(settings.iter().copied());
        command.output().expect("this test")
    }
}

#[test]
#[ignore = "leaves the stand-in driver and its kernels in the folder STAND_IN, for scripts/gpu-rehearse"]
fn leaves_a_stand_in() {
    let folder = PathBuf::from(std::env::var_os("STAND_IN").expect("STAND_IN names a folder"));
    let Some(stand_in) = stand_in() else { return };
    std::fs::copy(stand_in.folder.join("libcuda.so.1"), folder.join("libcuda.so.1")).expect("a copy");
    // A link: a process that loads both names is to have one driver.
    let link = folder.join("libcuda.so");
    match std::fs::remove_file(&link) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
        _ => std::os::unix::fs::symlink("libcuda.so.1", link).expect("a link"),
    }
    std::fs::copy(&stand_in.kernels, folder.join("kernels.so")).expect("a copy");
}

/// The entry points that were reported with an outcome that `is_such`, as IMAGE NAME.
fn reported(output: &Output, is_such: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text.lines().filter_map(|line| line.split_once("entry ")?.1.split_once(": "));
    lines.filter(|(_, outcome)| is_such(outcome)).map(|(entry, _)| entry.to_owned()).collect()
}

fn every_one() -> BTreeSet<String> {
    let names = |image| Entry::ALL.map(|entry| format!("{image} {}", entry.name()));
    ["embedded", "prebuilt"].into_iter().flat_map(names).collect()
}

fn words(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    format!("{}\n{out}\n{err}", output.status)
}

#[test]
fn every_entry_point_is_launched_and_right() {
    let Some(stand_in) = stand_in() else { return };
    let output = stand_in.run(&[]);
    assert!(output.status.success(), "{}", words(&output));
    assert_eq!(reported(&output, |outcome| outcome == "ok"), every_one());
}

/// All but `entry` are right, which is named with a reason, once for each of its device codes.
fn only_one_fails(trouble: &str, entry: &str, reason: &str) {
    let Some(stand_in) = stand_in() else { return };
    let output = stand_in.run(&[(trouble, entry), ("SMOKE_PATIENCE", "1")]);
    assert!(!output.status.success(), "{}", words(&output));
    let failed: BTreeSet<_> = ["embedded", "prebuilt"].map(|image| format!("{image} {entry}")).into();
    let named = reported(&output, |outcome| outcome.starts_with("FAILED: ") && outcome.contains(reason));
    assert_eq!(named, failed, "{}", words(&output));
    let right = reported(&output, |outcome| outcome == "ok");
    assert_eq!(right, every_one().difference(&failed).cloned().collect(), "{}", words(&output));
}

#[test]
fn a_wrong_result_is_named() {
    only_one_fails("FAKE_DRIVER_WRONG", "da_train_backward_gelu_bf16", "dx[0] is ");
}

#[test]
fn a_wrong_base_is_named() {
    only_one_fails("FAKE_DRIVER_WRONG", "da_advance", "the base is ");
}

#[test]
fn a_fault_is_named_and_the_rest_goes_on() {
    only_one_fails("FAKE_DRIVER_TRAP", "da_infer_forward_relu_f32", "ILLEGAL_ADDRESS");
}

#[test]
fn a_launch_that_does_not_end_is_named_and_the_rest_goes_on() {
    only_one_fails("FAKE_DRIVER_HANG", "da_rrelu_train_forward_f64", "not done after");
}

/// Kernels that are wrong, not a driver that is.
#[test]
fn a_wrong_kernel_is_named() {
    let Some(stand_in) = stand_in() else { return };
    let folder = compile::scratch_folder("smoke-mutant");
    for file in
        std::fs::read_dir(compile::root().join("kernels")).expect("the kernels").map(|file| file.unwrap().path())
    {
        if file.is_file() {
            std::fs::copy(&file, folder.join(file.file_name().unwrap())).expect("a copy");
        }
    }
    let path: &Path = &folder.join("relu.cu");
    let text = std::fs::read_to_string(path).unwrap();
    let wrong = text.replacen("<=", "<", 1);
    assert_ne!(text, wrong);
    std::fs::write(path, wrong).unwrap();
    let kernels = compile::library(&folder).unwrap_or_else(|_| panic!("the mutant does not compile"));
    let output = StandIn { folder: stand_in.folder.clone(), kernels }.run(&[("SMOKE_IMAGES", "embedded")]);
    let failed = reported(&output, |outcome| outcome.starts_with("FAILED: "));
    assert!(!failed.is_empty() && failed.iter().all(|name| name.contains(" da_relu_")), "{}", words(&output));
}
