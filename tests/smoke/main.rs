//! What a first run on a GPU asks first: does each entry point of the device code load, run and give what the CPU
//! backend gives? One launch of each, from the device code that the library embeds and from the prebuilt PTX, and one
//! line for each:
//!
//!     entry embedded da_relu_forward_f32: ok
//!
//! An entry point that takes the context down with it is named, and another process goes on with the next.
//!
//!     SMOKE_IMAGES=embedded     this device code alone, or prebuilt
//!     SMOKE_ENTRIES=NAME,NAME   these entry points alone
//!     SMOKE_PATIENCE=20         seconds that a launch may take
//!
//! Where there is no GPU the test says so; with `DROP_ACTIVATION_REQUIRE_GPU=1` that is a failure. On Linux it is
//! itself tested on a stand-in for the driver that computes (`rehearsal.rs`).
#![cfg(feature = "cuda")]

mod cases;
mod device;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod rehearsal;
#[path = "../shipped/mod.rs"]
mod shipped;

use std::io::Write;
use std::process::Command;

use device::{Device, Failure, Image};
use drop_activation::cuda;

/// What is set to NAME/IMAGE in a process that goes on after another.
const AFTER: &str = "SMOKE_AFTER";

/// Shows whatever the test harness does with its tests' output.
fn tell(text: &str) {
    let mut out = std::io::stdout();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn listed(name: &str, word: &str) -> bool {
    setting(name).is_none_or(|list| list.split(',').any(|one| one == word))
}

#[test]
fn every_entry_point() {
    if let Err(why) = cuda::available() {
        assert!(setting("DROP_ACTIVATION_REQUIRE_GPU").is_none_or(|v| v == "0"), "a GPU is required: {why}");
        // Not by eprintln!, which shows in failing tests only.
        let _ = writeln!(std::io::stderr(), "SKIPPED: each entry point on a GPU: {why}");
        return;
    }
    let mut device = Device::open().expect("a GPU");
    let cases = cases::all();
    let names = cases.iter().map(|case| (case.name, Some(case))).chain([("da_advance", None)]);
    let all = Image::ALL.into_iter().flat_map(|image| names.clone().map(move |(name, case)| (image, name, case)));
    let chosen = all.filter(|(image, name, _)| listed("SMOKE_IMAGES", image.name()) && listed("SMOKE_ENTRIES", name));
    let mut left: Vec<_> = chosen.collect();
    assert!(!left.is_empty(), "there is no such image or entry point");
    let title = |image: Image, name: &str| format!("{name}/{}", image.name());
    match setting(AFTER) {
        None => tell(&format!("device {}\n", device.name())),
        Some(last) => {
            let place =
                left.iter().position(|(image, name, _)| title(*image, name) == last).expect("such an entry point");
            left.drain(..=place);
        }
    }

    let mut failed = Vec::new();
    for (i, &(image, name, case)) in left.iter().enumerate() {
        tell(&format!("entry {} {name}: ", image.name()));
        let outcome = match case {
            Some(case) => device.check(image, case),
            None => device.check_advance(image),
        };
        match outcome {
            Ok(()) => tell("ok\n"),
            Err(why) => {
                tell(&format!("FAILED: {why}\n"));
                failed.push(title(image, name));
                if let Failure::Dead(_) = why {
                    if i + 1 < left.len() {
                        go_on_after(&title(image, name));
                    }
                    // What is left of the context could wait for ever.
                    tell(&format!("the process of {} ends here\n", failed.join(", ")));
                    std::process::abort();
                }
            }
        }
    }
    assert!(failed.is_empty(), "{} of {}: {}", failed.len(), left.len(), failed.join(", "));
}

/// The rest in another process, to its end. Whatever becomes of it, this one has failed.
fn go_on_after(last: &str) {
    let itself = std::env::current_exe().expect("a path");
    let mut next = Command::new(itself);
    let ended = next.args(["--exact", "every_entry_point", "--test-threads=1"]).env(AFTER, last).status();
    tell(&format!("after {last}: {ended:?}\n"));
}
