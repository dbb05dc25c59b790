//! The progress bar.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar of `steps` steps with the time left; nothing where the output is no terminal.
pub fn bar(steps: u64, name: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len} {msg} ({elapsed}, {eta} left)");
    ProgressBar::new(steps).with_style(style.expect("a template")).with_prefix(name.to_owned())
}
