//! Names the shared library for the dynamic loader by its ABI version, as `docs/abi.md` promises.

use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=src/version.rs");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libdrop_activation_c.so.{}", abi_version());
    }
}

/// The number is written once, in `src/version.rs`.
fn abi_version() -> u32 {
    let source = fs::read_to_string("src/version.rs").expect("src/version.rs");
    let rest = source.split("DACT_ABI_VERSION: u32 = ").nth(1).expect("DACT_ABI_VERSION in src/version.rs");
    rest.split(';').next().unwrap().parse().expect("a number")
}
