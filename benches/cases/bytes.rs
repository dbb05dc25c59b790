//! Bytes that must move, by the names of the cases. They are written once, in `benches/bytes.json`, for Rust and
//! Python alike: how many tensors, and how many bytes for each element besides.

use std::collections::BTreeMap;
use std::sync::LazyLock;

/// All of them: (tensors, bytes besides).
pub static TABLE: LazyLock<BTreeMap<String, (f64, f64)>> =
    LazyLock::new(|| serde_json::from_str(include_str!("../bytes.json")).expect("pairs of numbers by name"));

/// Bytes that a case moves for each element of `size` bytes.
pub fn per_element(case: &str, size: usize) -> f64 {
    let (tensors, besides) = TABLE.get(case).unwrap_or_else(|| panic!("benches/bytes.json has no {case}"));
    tensors * size as f64 + besides
}
