//! `src/cuda/layout.rs` names the header it was made from, so that it can't go stale where there is no
//! libclang. What bindgen makes of the header is compared by `cargo test -p layout`.

use std::{fs, path::Path};

#[path = "../build/fingerprint.rs"]
mod fingerprint;

#[test]
fn layout_names_the_header_as_it_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let header = fingerprint::fingerprint(&root.join("kernels/drop_activation.h"));
    let layout = fs::read_to_string(root.join("src/cuda/layout.rs")).unwrap();
    assert!(
        layout.contains(&format!("drop_activation.h ({header:016x})")),
        "kernels/drop_activation.h has changed; `BLESS=1 cargo test -p layout` makes src/cuda/layout.rs anew"
    );
}
