//! Comparisons of halves and of bfloat16, two at a time: NVIDIA's headers have them as the PTX instruction on a GPU and
//! as C++ elsewhere, and that can be run here.

use std::{env, fmt::Write, fs, path::Path, process::Command};

use crate::table::Case;

/// The function in which the headers use this instruction.
fn function(instruction: &str) -> Option<String> {
    let mut parts = instruction.strip_prefix("set.")?.split('.');
    let [comparison, to, from] = [parts.next()?, parts.next()?, parts.next()?];
    // Those that only ask for NaNs have no function of two sources.
    let asked = from.ends_with("x2") && !matches!(comparison, "num" | "nan");
    asked.then(|| if to == "u32" { format!("__h{comparison}2_mask") } else { format!("__h{comparison}2") })
}

/// By the place of each case that there is a function for, what it returns; `include` is CUDA's.
pub fn computed(include: &Path, folder: &Path, cases: &[Case]) -> Result<Vec<(usize, u64)>, String> {
    let asked: Vec<_> =
        cases.iter().enumerate().filter_map(|(i, case)| Some((i, case, function(case.instruction)?))).collect();
    let mut source = String::from(
        "#include <cstdio>\n#include <cstring>\n#include <cuda_bf16.h>\n#include <cuda_fp16.h>\n\
         template <typename T> T of(unsigned bits) { T t; memcpy((void *)&t, &bits, 4); return t; }\n\
         template <typename T> unsigned bits(T t) { unsigned bits; memcpy(&bits, (const void *)&t, 4); return bits; }\n\
         int main() {\n",
    );
    for (_, case, function) in &asked {
        let kind = if case.instruction.ends_with("bf16x2") { "__nv_bfloat162" } else { "__half2" };
        let of = |i: usize| format!("of<{kind}>({:#x})", case.sources[i].bits);
        let _ = writeln!(source, "    printf(\"%x\\n\", bits({function}({}, {})));", of(0), of(1));
    }
    source.push_str("}\n");

    let (file, program) = (folder.join("host.cpp"), folder.join("host"));
    fs::write(&file, source).expect("a temporary file");
    let compiler = env::var_os("CXX").filter(|name| !name.is_empty()).unwrap_or("c++".into());
    let mut command = Command::new(compiler);
    // cuda_fp16.h takes a header from the second folder, which nvcc finds by itself.
    for folder in [include.to_owned(), include.join("cccl")] {
        command.arg("-I").arg(folder);
    }
    said(command.arg("-std=c++17").arg(file).arg("-o").arg(&program))?;
    let printed = said(&mut Command::new(program))?;
    let results = printed.lines().map(|line| u64::from_str_radix(line, 16).expect("a hexadecimal number"));
    Ok(asked.iter().map(|(place, ..)| *place).zip(results).collect())
}

fn said(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr))),
    }
}
