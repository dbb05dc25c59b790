//! `include/drop_activation.h` is what cbindgen makes of the sources, and the library of its activations; and
//! `c/tests/activations.h` is what `tests/data/activations.json` says of them. `BLESS=1` writes both anew.

use std::{env, fs, path::Path};

use drop_activation::Activation;
use serde_json::Value;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// A file of this repository must be what was made now.
fn is_current(file: &str, made: &str) {
    let path = root().join(file);
    if env::var_os("BLESS").is_some() {
        fs::write(&path, made).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap();
    assert!(kept == made, "{file} is not current: BLESS=1 cargo test -p drop-activation-c --test header");
}

/// The codes of the activations, each under its formula.
fn codes() -> String {
    let define = |activation: &Activation| {
        let name = activation.name().to_uppercase();
        format!("\n// `{}`.\n#define DACT_ACTIVATION_{name} {}\n", activation.formula(), *activation as u32)
    };
    Activation::ALL.iter().map(define).collect()
}

#[test]
fn the_header_is_current() {
    let crate_root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut config = cbindgen::Config::from_file(crate_root.join("cbindgen.toml")).unwrap();
    let initializers = config.after_includes.expect("what cbindgen.toml has there");
    config.after_includes = Some(format!("{}{initializers}", codes()));
    let mut made = Vec::new();
    cbindgen::generate_with_config(crate_root, config).unwrap().write(&mut made);
    is_current("include/drop_activation.h", &String::from_utf8(made).unwrap());
}

#[test]
fn the_definitions_for_c_are_current() {
    let table = fs::read_to_string(root().join("tests/data/activations.json")).unwrap();
    let table: Value = serde_json::from_str(&table).unwrap();
    let (mut functions, mut rows) = (String::new(), String::new());
    for activation in Activation::ALL {
        let (name, upper) = (activation.name(), activation.name().to_uppercase());
        rows += &format!("    {{DACT_ACTIVATION_{upper}, \"{name}\", {name}_value, {name}_derivative}},\n");
        if activation == Activation::Relu {
            continue;
        }
        for order in ["value", "derivative"] {
            let formula = table[name][order]["formula"].as_str().unwrap();
            functions += &format!("static double {name}_{order}(double x) {{ return {formula}; }}\n");
        }
        functions += "\n";
    }
    let made = format!(
        "/* The activations as plain C computes them. Made of tests/data/activations.json by\n   \
         BLESS=1 cargo test -p drop-activation-c --test header. */\n\
         // clang-format off\n\
         #ifndef ACTIVATIONS_H\n#define ACTIVATIONS_H\n\n\
         #include <drop_activation.h>\n\n#include <math.h>\n\n\
         static const double pi = 3.14159265358979323846;\n\n\
         static double relu_value(double x) {{ return x > 0 ? x : 0; }}\n\
         static double relu_derivative(double x) {{ return x > 0; }}\n\n\
         {functions}/* In the order of their codes, which are 0 and up. */\n\
         static const struct {{\n  uint32_t code;\n  const char *name;\n  double (*value)(double);\n  \
         double (*derivative)(double);\n}} ACTIVATIONS[] = {{\n{rows}}};\n\n\
         enum {{ ACTIVATION_COUNT = sizeof ACTIVATIONS / sizeof *ACTIVATIONS }};\n\n#endif\n"
    );
    is_current("c/tests/activations.h", &made);
}
