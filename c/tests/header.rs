//! `include/drop_activation.h` is what cbindgen makes of the sources, and the library of its activations. `BLESS=1` writes
//! it anew.

use std::{env, fs, path::Path};

use drop_activation::Activation;

/// The codes of the activations, each under its formula.
fn activations() -> String {
    let define = |activation: &Activation| {
        let name = activation.name().to_uppercase();
        format!("\n// `{}`.\n#define DACT_ACTIVATION_{name} {}\n", activation.formula(), *activation as u32)
    };
    Activation::ALL.iter().map(define).collect()
}

#[test]
fn the_header_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join("../include/drop_activation.h");
    let mut config = cbindgen::Config::from_file(root.join("cbindgen.toml")).unwrap();
    let initializers = config.after_includes.expect("what cbindgen.toml has there");
    config.after_includes = Some(format!("{}{initializers}", activations()));
    let mut made = Vec::new();
    cbindgen::generate_with_config(root, config).unwrap().write(&mut made);
    let made = String::from_utf8(made).unwrap();
    if env::var_os("BLESS").is_some() {
        fs::write(&path, &made).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap();
    assert!(
        kept == made,
        "include/drop_activation.h is not what c/src says: BLESS=1 cargo test -p drop-activation-c --test header"
    );
}
