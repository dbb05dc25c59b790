//! Compares the public Rust interface with the listings in `tools/interface`: `cargo test -p interface` compares, with
//! BLESS=1 it writes. A removed or changed line is a breaking change, as `docs/abi.md` says.
//!
//! The interface is read from rustdoc's JSON, whose format changes with Rust. With a Rust that writes another format
//! than the listings were made from, the test says so and passes.

#![cfg(all(test, unix))]

use std::{
    env, fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
};

/// What rustdoc 1.95 writes.
const FORMAT: u64 = 57;

#[test]
fn the_public_interface_is_the_one_that_is_listed() {
    compare("drop-activation");
    compare("drop-activation-candle");
}

fn compare(package: &str) {
    let json = document(package);
    let text = fs::read_to_string(&json).unwrap();
    let format = serde_json::from_str::<serde_json::Value>(&text).unwrap()["format_version"].as_u64();
    if format != Some(FORMAT) {
        // Not by eprintln!, whose output is shown for failing tests only.
        let line = format!("SKIPPED: the interface of {package}: rustdoc writes format {format:?}, not {FORMAT}\n");
        let _ = io::stderr().write_all(line.as_bytes());
        return;
    }
    let made = listing(&json);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(package).with_extension("txt");
    if env::var_os("BLESS").is_some() {
        fs::write(&path, made).unwrap();
        return;
    }
    let kept = fs::read_to_string(&path).unwrap().replace('\r', "");
    let added: Vec<_> = made.lines().filter(|line| !kept.lines().any(|other| other == *line)).collect();
    let removed: Vec<_> = kept.lines().filter(|line| !made.lines().any(|other| other == *line)).collect();
    assert!(
        made == kept,
        "the interface of {package} has changed; BLESS=1 cargo test -p interface writes the listing anew\n\
         removed:\n{}\nadded:\n{}",
        removed.join("\n"),
        added.join("\n")
    );
}

/// Has rustdoc describe the workspace's packages, with all that docs.rs shows of them, and returns the file of this
/// one.
fn document(package: &str) -> PathBuf {
    let tool = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = tool.join("../..").canonicalize().unwrap();
    // The whole workspace, as `scripts/test docs` does it: then little is left to be compiled.
    let output = Command::new(env::var_os("CARGO").unwrap())
        .args(["doc", "--locked", "--offline", "--no-deps", "--lib", "--workspace"])
        .current_dir(&root)
        .env("RUSTDOC", tool.join("rustdoc"))
        .env("RUSTDOCFLAGS", "-Zunstable-options --output-format=json")
        // The device code is no part of the interface.
        .env("DROP_ACTIVATION_DEVICE_CODE", "prebuilt")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    root.join(target).join("doc").join(package.replace('-', "_")).with_extension("json")
}

/// One line for each public item, without what every type has.
fn listing(json: &Path) -> String {
    let interface = public_api::Builder::from_rustdoc_json(json)
        .omit_blanket_impls(true)
        .omit_auto_trait_impls(true)
        .omit_auto_derived_impls(true)
        .build()
        .unwrap();
    interface.items().map(|item| format!("{item}\n")).collect()
}
