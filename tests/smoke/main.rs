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
//!     SMOKE_FUSED=all           the passes over channels in many shapes, instead of a few
//!
//! Where there is no GPU the test says so; with `DROP_ACTIVATION_REQUIRE_GPU=1` that is a failure. On Linux it is
//! itself tested on a stand-in for the driver that computes (`rehearsal.rs`).
#![cfg(feature = "cuda")]

mod cases;
mod device;
#[path = "../emulator/mod.rs"]
mod emulator;
mod fused;
#[path = "../support/fused_cases.rs"]
mod fused_cases;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod rehearsal;
#[path = "../shipped/mod.rs"]
mod shipped;
#[path = "../support/mod.rs"]
mod support;

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
    let mut items: Vec<(&str, Item)> = cases.iter().map(|case| (case.name, Item::Case(case))).collect();
    items.push(("da_advance", Item::Advance));
    items.extend(fused::DTYPES.map(|dtype| (dtype, Item::Fused(dtype))));
    let all = Image::ALL.into_iter().flat_map(|image| items.iter().map(move |(name, item)| (image, *name, item)));
    // Those over channels are launched together, for one type, if any entry point is chosen that begins with their
    // names.
    let chosen = |name: &str, item: &Item| match item {
        Item::Fused(_) => setting("SMOKE_ENTRIES").is_none_or(|list| list.contains("da_fused_")),
        _ => listed("SMOKE_ENTRIES", name),
    };
    let mut left: Vec<_> =
        all.filter(|(image, name, item)| listed("SMOKE_IMAGES", image.name()) && chosen(name, item)).collect();
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
    let mut of = left.len();
    for (i, &(image, name, item)) in left.iter().enumerate() {
        let mut judge = |name: &str, failure: Option<String>| match failure {
            None => tell("ok\n"),
            Some(why) => {
                tell(&format!("FAILED: {why}\n"));
                failed.push(title(image, name));
            }
        };
        let mut alone = |check: &mut dyn FnMut() -> Result<(), Failure>| {
            tell(&format!("entry {} {name}: ", image.name()));
            let outcome = check();
            let dead = matches!(outcome, Err(Failure::Dead(_)));
            judge(name, outcome.err().map(|why| why.to_string()));
            dead
        };
        let dead = match item {
            Item::Case(case) => alone(&mut || device.check(image, case)),
            Item::Advance => alone(&mut || device.check_advance(image)),
            Item::Fused(dtype) => {
                let all = setting("SMOKE_FUSED").is_some_and(|value| value == "all");
                let (outcomes, alive) = fused::check(&device, image, dtype, all);
                of += outcomes.len() - 1;
                for (name, failure) in outcomes {
                    tell(&format!("entry {} {name}: ", image.name()));
                    judge(name, failure);
                }
                alive.is_err()
            }
        };
        if dead {
            if i + 1 < left.len() {
                go_on_after(&title(image, name));
            }
            // What is left of the context could wait for ever.
            tell(&format!("the process of {} ends here\n", failed.join(", ")));
            std::process::abort();
        }
    }
    assert!(failed.is_empty(), "{} of {of}: {}", failed.len(), failed.join(", "));
}

/// What is launched and judged together.
enum Item<'a> {
    Case(&'a cases::Case),
    Advance,
    /// All entry points over channels, for one type.
    Fused(&'static str),
}

/// The rest in another process, to its end. Whatever becomes of it, this one has failed.
fn go_on_after(last: &str) {
    let itself = std::env::current_exe().expect("a path");
    let mut next = Command::new(itself);
    let ended = next.args(["--exact", "every_entry_point", "--test-threads=1"]).env(AFTER, last).status();
    tell(&format!("after {last}: {ended:?}\n"));
}
