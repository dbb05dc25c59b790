//! Holds `src/cuda/layout.rs` to `kernels/drop_activation.h`: `cargo test -p layout` compares, with BLESS=1
//! it writes.
//!
//! A package of its own, so that neither users of the library nor its everyday tests meet bindgen and
//! libclang. Where libclang is not found the test says so and passes, unless LIBCLANG_PATH promised one.

#![cfg(test)]

use std::{
    env, fs,
    io::{self, Write},
    path::Path,
};

#[path = "../../../build/fingerprint.rs"]
mod fingerprint;

fn generate(root: &Path) -> String {
    let header = root.join("kernels/drop_activation.h");
    let head = format!(
        "//! What host and device share, made by bindgen from kernels/drop_activation.h ({:016x}).\n\
         //! `BLESS=1 cargo test -p layout` makes it anew.\n\
         #![allow(dead_code, non_camel_case_types)]",
        fingerprint::fingerprint(&header)
    );
    bindgen::builder()
        .header(header.to_str().unwrap())
        .clang_arg("-nostdinc")
        .clang_arg(format!("-I{}", root.join("tools/layout/include").display()))
        // One target, so that the result is the same wherever it is made.
        .clang_arg("--target=x86_64-unknown-linux-gnu")
        .allowlist_item("(da|DA)_.*")
        .prepend_enum_name(false)
        .use_core()
        .disable_header_comment()
        .raw_line(head)
        .generate()
        .unwrap()
        .to_string()
}

#[test]
fn layout_is_current() {
    if let Err(message) = clang_sys::load() {
        assert!(env::var_os("LIBCLANG_PATH").is_none(), "{message}");
        // Not by eprintln!, whose output is shown for failing tests only.
        let line = format!("SKIPPED: src/cuda/layout.rs was not compared: {message}\n");
        let _ = io::stderr().write_all(line.as_bytes());
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap();
    let made = generate(&root);
    let file = root.join("src/cuda/layout.rs");
    if env::var_os("BLESS").is_some() {
        fs::write(&file, made).unwrap();
    } else {
        let kept = fs::read_to_string(&file).unwrap().replace('\r', "");
        assert!(made == kept, "src/cuda/layout.rs is not what bindgen makes of the header now:\n{made}");
    }
}
