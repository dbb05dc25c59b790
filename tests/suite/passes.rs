//! The passes that are exact: ReLU, RReLU and plain ReLU give the reference's bits on every backend,
//! whatever the length, the alignment, the probability and the values, and touch nothing else.

use drop_activation::{DropActivation, InOut, MaskKey, PackedMask, RRelu};

use crate::backend::{Backend, Call, Reference, Run, Tested};
use crate::data::{Bits, Rng, assert_each, same_bits, specials};
use crate::guarded::Guarded;
use crate::support::calls;

/// Around words (32 elements), tiles of the kernels (1024) and pieces of the CPU backend (2048).
pub const LENGTHS: [usize; 20] =
    [0, 1, 2, 7, 31, 32, 33, 63, 64, 65, 127, 1023, 1024, 1025, 2047, 2048, 2049, 3071, 4096, 4097];

/// Around the sizes where work is divided between threads.
const LONG: [usize; 3] = [32_768, 65_537, 150_001];

/// Both ends, neighbours of both ends, the paper's choice, and thresholds with few and with many bits.
pub const PROBABILITIES: [f64; 14] = [
    0.95,
    0.0,
    1.0,
    0.5,
    0.6,
    1.0 / 3.0,
    0.999,
    1e-9,
    1.0 - 1e-9,
    1.0 / 4_294_967_296.0,
    0.4 / 4_294_967_296.0,
    1.0 - 0.4 / 4_294_967_296.0,
    0.75,
    f64::MIN_POSITIVE,
];

/// Where the tensors of a call lie: in elements past a 64-byte boundary.
#[derive(Clone, Copy, Debug, Default)]
pub struct Placement {
    pub input: usize,
    pub output: usize,
    pub saved: usize,
    /// The output replaces the input; `output` does not count.
    pub in_place: bool,
}

/// Out of place and in place, everything aligned.
pub const ALIGNED: [Placement; 2] = [
    Placement { input: 0, output: 0, saved: 0, in_place: false },
    Placement { input: 0, output: 0, saved: 0, in_place: true },
];

/// Runs the call between sentinels and checks what no call may do: write outside its output, or into
/// what it only reads. Returns the output and the mask.
pub fn run<T: Tested>(
    backend: &dyn Backend,
    call: &Call<T>,
    input: &[T],
    at: Placement,
) -> (Vec<T>, Option<PackedMask>) {
    let what = || format!("{} {call:?} {at:?}", backend.name());
    let saved = call.saved().map(|(_, saved)| Guarded::new(saved, at.saved));
    let before = call;
    let call = call.map(|of_call| saved.as_ref().map_or(of_call, Guarded::slice), |mask| mask);
    let mut from = Guarded::new(input, at.input);
    let mut to = Guarded::garbage(input.len(), at.output);
    let io =
        if at.in_place { InOut::InPlace(from.slice_mut()) } else { InOut::OutOfPlace(from.slice(), to.slice_mut()) };
    let mask = backend.run(&call, io).unwrap_or_else(|e| panic!("{}: {e}", what()));
    assert!(from.intact() && to.intact(), "{}: wrote outside its output", what());
    if let Some((now, (_, before))) = saved.as_ref().zip(before.saved()) {
        assert_each(&what, now.slice(), before, same_bits);
    }
    if at.in_place {
        return (from.slice().to_vec(), mask);
    }
    assert_each(&|| format!("{}: its input", what()), from.slice(), input, same_bits);
    (to.slice().to_vec(), mask)
}

/// Runs the call and compares output and mask with the reference's, bit for bit.
pub fn agrees<T: Tested>(backend: &dyn Backend, call: &Call<T>, input: &[T], at: Placement) {
    let what = || format!("{} {call:?} {at:?}", backend.name());
    let mut expected = vec![T::default(); input.len()];
    let expected_mask = Reference.run_call(call, (input, &mut expected).into()).expect("a valid call");
    let (output, mask) = run(backend, call, input, at);
    assert_each(&what, &output, &expected, same_bits);
    assert_same_mask(&what, mask, expected_mask);
}

/// Words first: the message is then about the first word that differs.
pub fn assert_same_mask(what: &dyn Fn() -> String, given: Option<PackedMask>, expected: Option<PackedMask>) {
    if let (Some(given), Some(expected)) = (&given, &expected) {
        let (a, b) = (given.words(), expected.words());
        if let Some(w) = a.iter().zip(b).position(|(a, b)| a != b) {
            panic!("{}: mask word {w} of {} is {:#010x}, expected {:#010x}", what(), a.len(), a[w], b[w]);
        }
    }
    assert_eq!(given, expected, "{}: mask", what());
}

/// Every exact pass with these parameters, and the tensor it reads.
pub fn each_call<T: Bits>(p: f64, key: MaskKey, x: &[T], dy: &[T], mut check: impl FnMut(&Call<T>, &[T])) {
    let op = DropActivation::relu(p).expect("a probability");
    calls::each_of_drop_activation(op, key, (x, dy), &mut check);
    calls::each_of_the_others(RRelu::default(), key, (x, dy), &mut check);
}

pub fn lengths<T: Tested>(backend: &dyn Backend) {
    let mut rng = Rng::new(1);
    let long: &[usize] = if backend.is_slow() { &[] } else { &LONG };
    for (i, &len) in LENGTHS.iter().chain(long).enumerate() {
        let key = MaskKey::new(rng.bits(), rng.bits());
        let (x, dy) = (rng.values::<T>(len), rng.values(len));
        // Bits of both kinds at every length; the extremes of p at some.
        each_call(0.6, key, &x, &dy, |call, input| agrees(backend, call, input, ALIGNED[i % 2]));
        if i < LENGTHS.len() {
            let p = PROBABILITIES[i % PROBABILITIES.len()];
            each_call(p, key, &x, &dy, |call, input| agrees(backend, call, input, ALIGNED[1 - i % 2]));
        }
    }
}

/// Input and output at every pair of addresses that differ in a 16-byte access.
pub fn alignments<T: Tested>(backend: &dyn Backend) {
    let mut rng = Rng::new(2);
    let len = 1024 + 33;
    let (x, dy) = (rng.values::<T>(len), rng.values(len));
    for input in 0..8 {
        for output in 0..8 {
            let at = Placement { input, output, saved: (3 * input + 5 * output) % 8, in_place: false };
            each_call(0.6, MaskKey::new(3, 4), &x, &dy, |call, input| agrees(backend, call, input, at));
        }
        let at = Placement { input, output: 0, saved: 7 - input, in_place: true };
        each_call(0.6, MaskKey::new(3, 4), &x, &dy, |call, input| agrees(backend, call, input, at));
    }
}

/// The saved tensor alone off its boundary, then everything else off and the saved tensor on it.
pub fn saved_alignments<T: Tested>(backend: &dyn Backend) {
    let mut rng = Rng::new(3);
    let len = 2 * 1024 + 5;
    let (x, dy) = (rng.values::<T>(len), rng.values(len));
    for (aligned, saved) in [(0, 1), (0, 7), (1, 0), (1, 1)] {
        let at = Placement { input: aligned, output: aligned, saved, in_place: false };
        each_call(0.95, MaskKey::new(5, 6), &x, &dy, |call, input| agrees(backend, call, input, at));
    }
}

pub fn probabilities<T: Tested>(backend: &dyn Backend) {
    let mut rng = Rng::new(4);
    let len = 1024 + 77;
    let (x, dy) = (rng.values::<T>(len), rng.values(len));
    for p in PROBABILITIES {
        each_call(p, MaskKey::new(7, 8), &x, &dy, |call, input| agrees(backend, call, input, ALIGNED[0]));
    }
}

/// Every pair (x, dy) of special values, kept and dropped: once in whole tiles and once element by
/// element.
pub fn special_values<T: Tested>(backend: &dyn Backend) {
    let specials = specials::<T>();
    let pairs = || specials.iter().flat_map(|x| specials.iter().map(move |dy| (*x, *dy)));
    let (x, dy): (Vec<T>, Vec<T>) = pairs().unzip();
    for p in [0.0, 0.5, 1.0, 1.0 - 1e-9] {
        for at in [Placement::default(), Placement { input: 1, output: 1, saved: 1, in_place: false }] {
            each_call(p, MaskKey::new(9, 10), &x, &dy, |call, input| agrees(backend, call, input, at));
        }
    }
}

/// Every value a 16-bit element can have.
pub fn all_values<T: Tested>(backend: &dyn Backend) {
    assert_eq!(T::width(), 16);
    let x: Vec<T> = (0..1 << 16).map(T::from_bits).collect();
    let dy: Vec<T> = x.iter().rev().copied().collect();
    each_call(0.5, MaskKey::new(11, 12), &x, &dy, |call, input| agrees(backend, call, input, ALIGNED[0]));
}

/// A shard gets its part of the whole tensor's numbers, wherever it is cut.
pub fn shards<T: Tested>(backend: &dyn Backend) {
    let mut rng = Rng::new(5);
    let len = 5000;
    let (x, dy) = (rng.values::<T>(len), rng.values::<T>(len));
    let (op, rrelu) = (DropActivation::relu(0.7).unwrap(), RRelu::default());
    // From the very beginning, across the carry into the counter's second word (for the keep stream
    // and for RReLU), and at the very end of all indices.
    let carries = [1u64 << 37, 1 << 34];
    let firsts = [0, 32, carries[0] - 1024, carries[1] - 1024, 0u64.wrapping_sub(5024)];
    for first in firsts {
        let key = MaskKey::new(13, 14).shard(first).unwrap();
        for cut in [32, 1024, 1056, 4992] {
            let part = key.shard(first + cut as u64).unwrap();
            for (whole, head, tail) in [
                (Call::Forward(op, key), Call::Forward(op, key), Call::Forward(op, part)),
                (Call::RreluForward(rrelu, key), Call::RreluForward(rrelu, key), Call::RreluForward(rrelu, part)),
            ] {
                let what = || format!("{} {whole:?} cut at {cut}", backend.name());
                let (y, mask) = run(backend, &whole, &x, Placement::default());
                let (mut pieces, head_mask) = run(backend, &head, &x[..cut], Placement::default());
                let (rest, tail_mask) = run(backend, &tail, &x[cut..], Placement::default());
                pieces.extend(rest);
                assert_each(&what, &pieces, &y, same_bits);

                let (mask, head_mask, tail_mask) = (mask.unwrap(), head_mask.unwrap(), tail_mask.unwrap());
                assert_eq!([head_mask.words(), tail_mask.words()].concat(), mask.words(), "{}", what());

                let back = |mask| match whole {
                    Call::Forward(..) => Call::Backward(op, mask, None),
                    _ => Call::RreluBackward(rrelu, mask),
                };
                let (dx, _) = run(backend, &back(&mask), &dy, Placement::default());
                let (mut pieces, _) = run(backend, &back(&head_mask), &dy[..cut], Placement::default());
                pieces.extend(run(backend, &back(&tail_mask), &dy[cut..], Placement::default()).0);
                assert_each(&what, &pieces, &dx, same_bits);
            }
        }
        each_call(0.7, key, &x[..1100], &dy[..1100], |call, input| agrees(backend, call, input, ALIGNED[0]));
    }
}

/// Tensors so long that a backend may write them with non-temporal stores: the same numbers as piece by piece.
pub fn large<T: Tested>(backend: &dyn Backend) {
    const PIECE: usize = 1 << 20;
    let len = (33 << 20) / size_of::<T>() + 7;
    let mut rng = Rng::new(6);
    let pattern: Vec<T> = rng.values(PIECE / 8 + 5);
    let x: Vec<T> = pattern.iter().cycle().take(len).copied().collect();
    let dy: Vec<T> = pattern.iter().rev().cycle().take(len).copied().collect();
    let (op, key) = (DropActivation::default(), MaskKey::new(15, 16));
    let at = Placement { input: 1, output: 3, saved: 2, in_place: false };

    let (y, mask) = run(backend, &Call::Forward(op, key), &x, at);
    let mask = mask.unwrap();
    let (dx, _) = run(backend, &Call::InferBackward(op, &x), &dy, at);
    for from in (0..len).step_by(PIECE) {
        let piece = from..len.min(from + PIECE);
        let what = || format!("{}: elements {piece:?} of {len}", backend.name());
        let part = Call::Forward(op, key.shard(from as u64).unwrap());
        let (expected, part) = run(backend, &part, &x[piece.clone()], Placement::default());
        assert_each(&what, &y[piece.clone()], &expected, same_bits);
        let words = part.unwrap().into_words();
        assert!(mask.words()[from / 32..][..words.len()] == words, "{}: mask", what());
        let part = Call::InferBackward(op, &x[piece.clone()]);
        let (expected, _) = run(backend, &part, &dy[piece.clone()], Placement::default());
        assert_each(&what, &dx[piece.clone()], &expected, same_bits);
    }
}
