//! Random calls: any length, probability, seed, offset, shard, alignment and values. (See `tests/support/property.rs`.)

use drop_activation::{DropActivation, MaskKey};
use proptest::prelude::*;

use crate::backend::{Backend, Call, Tested};
use crate::data::Rng;
use crate::passes::{Placement, agrees, each_call};
use crate::sigma::{self, Arithmetic};
use crate::support::activations::SMOOTH;
use crate::support::property;

#[derive(Clone, Debug)]
struct Case {
    len: usize,
    p: f64,
    key: MaskKey,
    at: Placement,
    values: u64,
}

fn case(longest: usize) -> impl Strategy<Value = Case> {
    let near_tiles = (0..6usize, 0..3usize).prop_map(|(k, d)| (1024 * k + d).saturating_sub(1));
    let len = prop_oneof![4 => 0..100usize, 4 => near_tiles, 4 => 0..5_000usize, 1 => 0..longest];
    let p = prop_oneof![0.0..=1.0f64, Just(0.0), Just(1.0), Just(0.95), (1..33i32).prop_map(|e| 2f64.powi(-e))];
    let p = (p, any::<bool>()).prop_map(|(p, other)| if other { 1.0 - p } else { p });
    // Near zero, near the carries of the counters' words, near the end, anywhere.
    let first =
        prop_oneof![Just(0), Just(1 << 34), Just(1 << 37), Just(1 << 63), Just(u64::MAX - (1 << 20)), any::<u64>()];
    let at = (0..9usize, 0..9usize, 0..9usize, any::<bool>());
    let at = at.prop_map(|(input, output, saved, in_place)| Placement { input, output, saved, in_place });
    let key = (any::<u64>(), any::<u64>(), first, 0..100u64).prop_map(|(seed, offset, first, back)| {
        let first = first.saturating_sub(32 * back).min(u64::MAX - (1 << 20)) & !31;
        MaskKey::new(seed, offset).shard(first).expect("a multiple of 32")
    });
    (len, p, key, at, any::<u64>()).prop_map(|(len, p, key, at, values)| Case { len, p, key, at, values })
}

fn check(backend: &dyn Backend, test: impl Fn(Case)) {
    let longest = if backend.is_slow() { 5_000 } else { 80_000 };
    property::check(48, 101, &case(longest), test);
}

/// Every exact pass against the reference.
pub fn exact_passes<T: Tested>(backend: &dyn Backend) {
    check(backend, |Case { len, p, key, at, values }| {
        let mut rng = Rng::new(values);
        let (x, dy) = (rng.values::<T>(len), rng.values(len));
        each_call(p, key, &x, &dy, |call, input| agrees(backend, call, input, at));
    });
}

/// Every pass of one of the other nonlinearities against the equations.
pub fn smooth_passes<T: Arithmetic>(backend: &dyn Backend) {
    check(backend, |Case { len, p, key, at, values }| {
        let mut rng = Rng::new(values);
        let (x, dy) = (rng.values::<T>(len), rng.values(len));
        let row = &SMOOTH[rng.below(SMOOTH.len())];
        let op = DropActivation::new(row.activation, p).expect("a probability");
        sigma::check_calls(backend, op, key, &x, &dy, at);
    });
}

/// The result for a sub-slice depends only on its elements and its place in the whole.
pub fn parts<T: Tested>(backend: &dyn Backend) {
    check(backend, |Case { len, p, key, values, .. }| {
        let mut rng = Rng::new(values);
        let x = rng.values::<T>(len);
        let from = 32 * rng.below(len / 32 + 1);
        let to = from + rng.below(len - from + 1);
        let op = DropActivation::relu(p).expect("a probability");
        let run = |key, x: &[T]| {
            let mut y = x.to_vec();
            let mask = backend.run(&Call::Forward(op, key), (&mut y).into()).expect("a valid call");
            (y, mask.expect("forward makes a mask"))
        };
        let (whole, whole_mask) = run(key, &x);
        let (part, part_mask) = run(key.shard(key.first() + from as u64).expect("a multiple of 32"), &x[from..to]);
        assert!(part.iter().zip(&whole[from..to]).all(|(a, b)| a.bits() == b.bits()));
        assert!((from..to).all(|i| part_mask.bit(i - from) == whole_mask.bit(i)));
    });
}
