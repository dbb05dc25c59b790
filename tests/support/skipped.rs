//! Tests that need what a machine may lack.

use std::io::Write;

/// Says on standard error that tests are skipped, and why. Not by `eprintln!`, which shows in failing tests only.
pub fn tell(tests: &str, why: &dyn std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {tests}: {why}");
}

/// `tell` for tests that need a GPU; with `DROP_ACTIVATION_REQUIRE_GPU=1` a failure.
pub fn tell_without_gpu(tests: &str, why: &dyn std::fmt::Display) {
    let required = std::env::var_os("DROP_ACTIVATION_REQUIRE_GPU").is_some_and(|v| !v.is_empty() && v != "0");
    assert!(!required, "DROP_ACTIVATION_REQUIRE_GPU is set: {why}");
    tell(tests, why);
}
