//! NVIDIA's tools that read and write machine code.

use std::{env, path::PathBuf, process::Command};

use crate::nvcc;

/// Beside nvcc, or else on PATH.
pub fn tool(name: &str) -> Result<PathBuf, String> {
    let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    let beside = nvcc::find(&variable).and_then(|nvcc| Some(nvcc.parent()?.to_owned()));
    let path = variable("PATH").unwrap_or_default();
    let file = format!("{name}{}", env::consts::EXE_SUFFIX);
    let places = beside.into_iter().chain(env::split_paths(&path)).map(|folder| folder.join(&file));
    let found = places.into_iter().find(|path| path.is_file());
    found.ok_or(format!("there is no {name} beside nvcc or on PATH"))
}

pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("code is printed in ASCII")
}
