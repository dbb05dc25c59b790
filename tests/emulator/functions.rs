//! The functions of CUDA that the kernels call, and which of them `functions/functions.cu` tests.
//!
//! What a function does on a CPU was written here, and a misreading of one once stood in the kernels and in the
//! emulation that judged them. So the kernels may call a function only where what it does here is compared with what
//! nvcc makes of it. A function that the emulation's headers lack is a compile error.

use std::{collections::BTreeSet, fs, path::Path};

/// Names that are no functions': qualifiers, and what the compiler of the headers brings itself.
const LANGUAGE: [&str; 7] = [
    "__device__",
    "__forceinline__",
    "__global__",
    "__launch_bounds__",
    "__restrict__",
    "__CUDA_ARCH__",
    "__VA_ARGS__",
];

/// Functions of C that CUDA has too. The headers declare no others.
const OF_C: [&str; 6] = ["copysign", "copysignf", "fabs", "fabsf", "fma", "fmaf"];

/// The functions in the sources of a folder that are not tested.
pub fn untested(kernels: &Path) -> Vec<String> {
    let tested = functions_of(&super::root().join("tests/emulator/functions/functions.cu"));
    let files = fs::read_dir(kernels).into_iter().flatten().flatten().map(|entry| entry.path());
    let sources = files.filter(|path| path.extension().is_some_and(|e| e == "cu" || e == "cuh"));
    let used: BTreeSet<String> = sources.flat_map(|path| functions_of(&path)).collect();
    used.difference(&tested).cloned().collect()
}

fn functions_of(path: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let code = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    let names = code.flat_map(|line| line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'));
    let is_function = |name: &&str| (name.starts_with("__") && !LANGUAGE.contains(name)) || OF_C.contains(name);
    names.filter(is_function).map(str::to_owned).collect()
}
