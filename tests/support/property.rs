//! Tests of random cases. A failing case is shrunk before it is shown.

use std::cell::RefCell;
use std::collections::BTreeMap;

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngSeed, TestRunner};

fn chosen(name: &str) -> bool {
    std::env::var_os(name).is_some()
}

/// Runs the test on so many cases, the same ones each time. The environment variables `PROPTEST_CASES` and
/// `PROPTEST_RNG_SEED` ask for more and for others.
pub fn check<S: Strategy>(cases: u32, seed: u64, strategy: &S, test: impl Fn(S::Value)) {
    let mut config = Config { failure_persistence: None, ..Config::default() };
    if !chosen("PROPTEST_CASES") {
        config.cases = cases;
    }
    if !chosen("PROPTEST_RNG_SEED") {
        config.rng_seed = RngSeed::Fixed(seed);
    }
    let run = TestRunner::new(config).run(strategy, |case| {
        test(case);
        Ok(())
    });
    run.unwrap_or_else(|failure| panic!("{failure}"));
}

/// How often each thing happened: a test in which nothing succeeds or nothing fails proves little.
#[derive(Debug, Default)]
pub struct Tally(RefCell<BTreeMap<String, usize>>);

impl Tally {
    pub fn count(&self, what: impl Into<String>) {
        *self.0.borrow_mut().entry(what.into()).or_default() += 1;
    }

    /// All of this happened. Other cases than the usual ones may be too few for that.
    pub fn assert_happened<'a>(&self, all: impl IntoIterator<Item = &'a str>) {
        if chosen("PROPTEST_CASES") || chosen("PROPTEST_RNG_SEED") {
            return;
        }
        for what in all {
            assert!(self.0.borrow().contains_key(what), "{what} never happened: {:#?}", self.0.borrow());
        }
    }
}
