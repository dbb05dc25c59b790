//! Programs in C and C++, compiled as strictly as a careful user does it, on both libraries and under valgrind.
#![cfg(target_os = "linux")]

#[cfg(feature = "cuda")]
#[path = "../../tests/emulator/compile.rs"]
mod compile;

use std::env;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

const STRICT: [&str; 5] = ["-Wall", "-Wextra", "-Werror", "-pedantic", "-O1"];

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where cargo put the libraries that it built for this test.
fn libraries() -> PathBuf {
    env::current_exe().unwrap().parent().unwrap().to_owned()
}

/// A folder in which the loader finds the shared library under the name that programs ask for.
fn loadable() -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER
        .get_or_init(|| {
            let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("loadable-{}", std::process::id()));
            std::fs::create_dir_all(&folder).unwrap();
            let library = libraries().join("libdrop_activation_c.so");
            for name in ["libdrop_activation_c.so", "libdrop_activation_c.so.1"] {
                let _ = std::fs::remove_file(folder.join(name));
                symlink(&library, folder.join(name)).unwrap();
            }
            folder
        })
        .clone()
}

fn skipped(what: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {what}: {why}");
}

/// The compiler as a command, or why there is none.
fn compiler(cpp: bool) -> Result<Command, String> {
    let triple = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    let mut build = cc::Build::new();
    build.cargo_output(false).target(&triple).host(&triple).opt_level(1).cpp(cpp).warnings(false);
    let mut command = build.try_get_compiler().map_err(|error| error.to_string())?.to_command();
    command.arg("--version").output().map_err(|error| error.to_string())?;
    let mut command = Command::new(command.get_program());
    command.args(STRICT).arg("-g");
    Ok(command)
}

/// Compiles a program with either library; `None` where there is no compiler.
fn program(source: &str, standard: &str, shared: bool) -> Option<PathBuf> {
    program_with("../include", source, standard, shared)
}

/// [`program`] with the header of this folder.
fn program_with(header: &str, source: &str, standard: &str, shared: bool) -> Option<PathBuf> {
    let path = here().join(source);
    let cpp = path.extension().is_some_and(|extension| extension == "cpp");
    let mut command = compiler(cpp).map_err(|why| skipped(source, &why)).ok()?;
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let output = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("program-{}-{count}", std::process::id()));
    // What the program has, the library can find.
    command.arg("-I").arg(here().join(header)).args([standard, "-rdynamic"]).arg(&path).arg("-o").arg(&output);
    if shared {
        let folder = loadable();
        command.arg(format!("-Wl,-rpath,{}", folder.display())).arg("-L").arg(folder).arg("-ldrop_activation_c");
    } else {
        command.arg(libraries().join("libdrop_activation_c.a"));
    }
    let made = command.args(["-lpthread", "-ldl", "-lm"]).output().unwrap();
    assert!(made.status.success(), "{source}: {}", String::from_utf8_lossy(&made.stderr));
    Some(output)
}

fn run(mut command: Command) -> String {
    run_with(&mut command)
}

fn run_with(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{text}", output.status);
    text
}

fn on_both_libraries(source: &str, standard: &str) {
    for shared in [true, false] {
        let Some(program) = program(source, standard, shared) else { return };
        run(Command::new(&program));
        std::fs::remove_file(program).unwrap();
    }
}

/// Under valgrind: no access outside the caller's memory, and every error freed.
fn under_valgrind(source: &str) {
    if Command::new("valgrind").arg("--version").output().is_err() {
        return skipped(&format!("{source} under valgrind"), "there is no valgrind");
    }
    let Some(program) = program(source, "-std=c99", true) else { return };
    let mut command = Command::new("valgrind");
    command.args(["--quiet", "--error-exitcode=9", "--fair-sched=yes", "--leak-check=full"]);
    // What rayon's threads hold at the end is "possibly lost".
    command.args(["--errors-for-leak-kinds=definite", "--show-leak-kinds=definite"]).arg(&program);
    run(command);
    std::fs::remove_file(program).unwrap();
}

#[test]
fn every_pass_is_what_plain_c_computes() {
    on_both_libraries("tests/passes.c", "-std=c99");
}

#[test]
fn passes_over_channels_are_what_plain_c_computes() {
    on_both_libraries("tests/channels.c", "-std=c99");
}

/// As `docs/abi.md` promises: that header's structures are shorter, and it knows no passes over channels.
#[test]
fn programs_of_the_first_header_still_run() {
    for shared in [true, false] {
        let Some(program) = program_with("tests/version-1", "tests/passes.c", "-std=c99", shared) else { return };
        run(Command::new(&program));
        std::fs::remove_file(program).unwrap();
    }
}

#[test]
fn mistakes_are_refused() {
    on_both_libraries("tests/refusals.c", "-std=c99");
}

/// In both orders: the environment that is set before the pool began is its threads' as well.
#[test]
fn what_surrounds_a_call_does_not_get_into_it() {
    for early in [false, true] {
        let Some(program) = program("tests/surroundings.c", "-std=c99", true) else { return };
        let mut command = Command::new(&program);
        run_with(command.args(early.then_some("early")).env("RAYON_NUM_THREADS", "3"));
        std::fs::remove_file(program).unwrap();
    }
}

#[test]
fn a_framework_calls_it_by_tvm_ffi() {
    on_both_libraries("tests/tvm_ffi.c", "-std=c99");
}

#[test]
fn tvm_ffi_under_valgrind() {
    under_valgrind("tests/tvm_ffi.c");
}

#[test]
fn passes_under_valgrind() {
    under_valgrind("tests/passes.c");
}

#[test]
fn passes_over_channels_under_valgrind() {
    under_valgrind("tests/channels.c");
}

#[test]
fn refusals_under_valgrind() {
    under_valgrind("tests/refusals.c");
}

#[test]
fn the_header_is_good_cpp() {
    on_both_libraries("tests/header.cpp", "-std=c++11");
}

#[test]
fn the_example_runs() {
    let Some(program) = program("examples/01_training_step.c", "-std=c99", true) else { return };
    let text = run(Command::new(&program));
    assert!(text.contains("inference: relu_p(-5) = -0.25"), "{text}");
    std::fs::remove_file(program).unwrap();
}

#[cfg(feature = "cuda")]
mod cuda {
    use super::*;

    /// The library that programs would load as the driver: none, or NVIDIA's.
    fn there_is_a_driver() -> bool {
        let listed = Command::new("sh").args(["-c", "ldconfig -p 2>/dev/null || /sbin/ldconfig -p"]).output();
        listed.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("libcuda.so"))
    }

    #[test]
    fn without_a_driver_every_call_says_so() {
        if there_is_a_driver() {
            return skipped("CUDA without a driver, from C", "there is one");
        }
        on_both_libraries("tests/cuda.c", "-std=c99");
    }

    /// Runs a program on a stand-in for the driver, whose path is its argument, and which launches these kernels.
    fn on_the_stand_in(source: &str, kernels: Option<&Path>) {
        if there_is_a_driver() {
            return skipped(&format!("{source} on a stand-in driver"), "there is a real one");
        }
        let Some(program) = program(source, "-std=c99", true) else { return };
        let folder = compile::scratch_folder(&format!("stand-in-{}", source.replace('/', "-")));
        let driver = folder.join("libcuda.so.1");
        let mut command = Command::new(compiler(false).unwrap().get_program());
        command.args(["-std=gnu11", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-I"]);
        command.arg(compile::root().join("kernels")).arg("-o").arg(&driver);
        run_quietly(command.arg(compile::root().join("tests/fake_driver/libcuda.c")));
        let mut command = Command::new(&program);
        command.env("LD_LIBRARY_PATH", &folder).arg(&driver);
        command.env("FAKE_DRIVER_KERNELS", kernels.unwrap_or(Path::new("")));
        run(command);
        std::fs::remove_file(program).unwrap();
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn passes_are_enqueued_on_the_stream_that_is_given() {
        on_the_stand_in("tests/cuda.c", None);
        on_the_stand_in("tests/tvm_ffi.c", None);
    }

    /// By the kernels' sources, emulated.
    #[test]
    fn passes_over_channels_are_what_plain_c_computes_on_cuda_too() {
        match compile::library(&compile::root().join("kernels")) {
            Ok(kernels) => on_the_stand_in("tests/channels.c", Some(&kernels)),
            Err(compile::BuildError::Unavailable(why)) => skipped("passes over channels on emulated kernels", &why),
            Err(compile::BuildError::Failed(why)) => panic!("{why}"),
        }
    }

    fn run_quietly(command: &mut Command) {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
