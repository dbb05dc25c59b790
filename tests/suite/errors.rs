//! Bad input: a typed error that names the argument, what was given and what is allowed, before
//! anything is written.

use drop_activation::{
    Activation, DropActivation, Error, InOut, MaskKey, MaskOrigin, PackedMask, RRelu, cpu, reference,
};

use crate::backend::{Backend, Call};
use crate::data::same_bits;
use crate::guarded::Guarded;

const LEN: usize = 40;
const KEY: MaskKey = MaskKey::new(41, 42);

fn op(activation: Activation, p: f64) -> DropActivation {
    DropActivation::new(activation, p).unwrap()
}

/// Its message must contain all of these.
fn says(error: &Error, parts: &[&str]) {
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}

#[test]
fn probabilities() {
    let beyond = 1.0 + f64::EPSILON;
    for p in [-f64::MIN_POSITIVE, -1.0, beyond, 95.0, f64::INFINITY, f64::NEG_INFINITY] {
        for activation in Activation::ALL {
            let error = DropActivation::new(activation, p).unwrap_err();
            assert_eq!(error, Error::Probability { p });
            says(&error, &["p must be in [0, 1]", &format!("got {p:?}")]);
        }
    }
    let error = DropActivation::relu(f64::NAN).unwrap_err();
    assert!(matches!(error, Error::Probability { p } if p.is_nan()));
    says(&error, &["NaN", "[0, 1]"]);
    for p in [0.0, -0.0, f64::MIN_POSITIVE, 0.5, 1.0 - f64::EPSILON, 1.0] {
        assert_eq!(DropActivation::relu(p).unwrap().p(), p);
    }
}

#[test]
fn slopes() {
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let bad = [(0.0, 0.5), (-0.1, 0.5), (0.5, 0.25), (0.5, 1.01), (nan, 0.5), (0.5, nan), (0.5, inf), (-inf, 0.5)];
    for (lower, upper) in bad {
        let error = RRelu::new(lower, upper).unwrap_err();
        assert!(matches!(error, Error::Slopes { .. }), "{error:?}");
        says(&error, &["lower", &lower.to_string(), "upper", &upper.to_string(), "0 < lower <= upper <= 1"]);
    }
    for (lower, upper) in [(f32::MIN_POSITIVE, 1.0), (0.25, 0.25), (0.125, 0.5)] {
        assert_eq!((RRelu::new(lower, upper).unwrap().lower(), RRelu::default().lower()), (lower, 0.125));
    }
}

#[test]
fn activation_names() {
    let allowed = Activation::ALL.map(Activation::name).join(", ");
    for name in ["", "ReLU", "relu ", "swish", "leaky_relu"] {
        let error = name.parse::<Activation>().unwrap_err();
        assert_eq!(error, Error::UnknownActivation { name: name.to_owned() });
        says(&error, &[name, &allowed]);
    }
    for activation in Activation::ALL {
        assert_eq!(activation.name().parse(), Ok(activation));
    }
}

#[test]
fn shards_that_split_a_word() {
    for first in [1, 31, 33, u64::MAX, (1 << 40) + 16] {
        let error = KEY.shard(first).unwrap_err();
        assert_eq!(error, Error::First { first });
        says(&error, &["first must be a multiple of 32", &format!("got {first}")]);
    }
    for first in [0, 32, 1 << 40, u64::MAX - 31] {
        assert_eq!(KEY.shard(first).unwrap().first(), first);
    }
}

/// `call` must fail with `expected` and leave the output, of `output_len` elements, as it was; in place
/// too, where input and output are equally long.
fn refuses(backend: &dyn Backend, call: Call<f32>, input: &[f32], output_len: usize, expected: &Error, parts: &[&str]) {
    let untouched = Guarded::<f32>::garbage(output_len, 0);
    let mut output = untouched.slice().to_vec();
    let check = |result: drop_activation::Result<_>, now: &[f32], before: &[f32]| {
        let what = || format!("{} {call:?}, {output_len} elements out", backend.name());
        let error = result.map(|_: Option<PackedMask>| ()).expect_err(&what());
        assert_eq!(error, *expected, "{}", what());
        says(&error, parts);
        assert!(now.iter().zip(before).all(|(a, b)| same_bits(*a, *b)), "{} wrote before it failed", what());
    };
    let result = backend.run(&call, InOut::OutOfPlace(input, &mut output));
    check(result, &output, untouched.slice());
    if output_len == input.len() {
        let mut both = input.to_vec();
        let result = backend.run(&call, InOut::InPlace(&mut both));
        check(result, &both, input);
    }
}

fn forward_mask(op: DropActivation, len: usize) -> PackedMask {
    reference::forward(&op, KEY, &vec![-1.0f32; len]).unwrap().1
}

pub fn lengths_of_outputs(backend: &dyn Backend) {
    let x = [-1.0; LEN];
    let (relu, rrelu) = (DropActivation::default(), RRelu::default());
    let mask = forward_mask(relu, LEN);
    let (_, signs) = reference::rrelu_forward(&rrelu, KEY, &x).unwrap();
    let gelu = op(Activation::Gelu, 0.5);
    let gelu_mask = forward_mask(gelu, LEN);
    let forward = [
        Call::Forward(relu, KEY),
        Call::Forward(gelu, KEY),
        Call::ForwardInto(relu, KEY),
        Call::ForwardWithoutMask(relu, KEY),
        Call::Infer(relu),
        Call::Infer(gelu),
        Call::RreluForward(rrelu, KEY),
        Call::RreluForwardInto(rrelu, KEY),
        Call::RreluInfer(rrelu),
        Call::ReluForward,
    ];
    let backward = [
        Call::Backward(relu, &mask, None),
        Call::Backward(gelu, &gelu_mask, Some(&x)),
        Call::BackwardFromOutput(relu, &x),
        Call::InferBackward(relu, &x),
        Call::InferBackward(gelu, &x),
        Call::RreluBackward(rrelu, &signs),
        Call::RreluInferBackward(rrelu, &x),
        Call::ReluBackward(&x),
    ];
    let forward = forward.iter().map(|call| (call, "y", "x"));
    for (call, argument, other) in forward.chain(backward.iter().map(|call| (call, "dx", "dy"))) {
        for given in [0, 1, LEN - 1, LEN + 1, 10 * LEN] {
            let error = Error::Length { argument, given, other, expected: LEN };
            refuses(backend, *call, &x, given, &error, &[argument, &format!("got {given}"), other, "40 elements"]);
        }
    }
}

pub fn lengths_of_saved_tensors(backend: &dyn Backend) {
    let dy = [1.0; LEN];
    let (relu, gelu, rrelu) = (DropActivation::default(), op(Activation::Gelu, 0.5), RRelu::default());
    let (mask, gelu_mask) = (forward_mask(relu, LEN), forward_mask(gelu, LEN));
    for given in [0, LEN - 1, LEN + 1] {
        let saved = vec![-1.0; given];
        for (argument, call) in [
            ("x", Call::Backward(gelu, &gelu_mask, Some(&saved[..]))),
            ("x", Call::Backward(relu, &mask, Some(&saved))), // not needed, but then it must be right
            ("y", Call::BackwardFromOutput(relu, &saved)),
            ("x", Call::InferBackward(relu, &saved)),
            ("x", Call::InferBackward(gelu, &saved)),
            ("x", Call::RreluInferBackward(rrelu, &saved)),
            ("y", Call::ReluBackward(&saved)),
        ] {
            let error = Error::Length { argument, given, other: "dy", expected: LEN };
            refuses(backend, call, &dy, LEN, &error, &[argument, &given.to_string(), "dy", "40"]);
        }
    }
}

pub fn masks_of_other_lengths(backend: &dyn Backend) {
    let dy = [1.0; LEN];
    let (relu, gelu, rrelu) = (DropActivation::default(), op(Activation::Gelu, 0.5), RRelu::default());
    // 33 and 64 elements have as many words as 40.
    for given in [0, 1, 33, LEN - 1, LEN + 1, 64, 65, 4000] {
        let error = Error::MaskLength { given, other: "dy", expected: LEN };
        let parts = ["mask", &format!("got one for {given}"), "dy", "40 elements"];
        let (mask, gelu_mask) = (forward_mask(relu, given), forward_mask(gelu, given));
        let (_, signs) = reference::rrelu_forward(&rrelu, KEY, &vec![1.0f32; given]).unwrap();
        refuses(backend, Call::Backward(relu, &mask, None), &dy, LEN, &error, &parts);
        refuses(backend, Call::Backward(gelu, &gelu_mask, Some(&dy)), &dy, LEN, &error, &parts);
        refuses(backend, Call::RreluBackward(rrelu, &signs), &dy, LEN, &error, &parts);
    }
}

pub fn masks_of_other_operations(backend: &dyn Backend) {
    let dy = [1.0; LEN];
    let relu = DropActivation::default();
    let rrelu = RRelu::default();
    let signs = |op: RRelu| reference::rrelu_forward(&op, KEY, &[1.0f32; LEN]).unwrap().1;
    let refused = |call: Call<'_, f32>, made_by: &PackedMask, expected: String| {
        let parts = [&made_by.origin().to_string()[..], &expected.clone()];
        let error = Error::MaskOrigin { given: made_by.origin(), expected };
        refuses(backend, call, &dy, LEN, &error, &parts);
    };

    // Another activation, in every combination, and another p, by a hair.
    for wanted in Activation::ALL.map(|a| op(a, 0.95)) {
        let others = Activation::ALL
            .map(|a| op(a, 0.95))
            .into_iter()
            .chain([op(wanted.activation(), 0.5), op(wanted.activation(), 0.95f64.next_up())]);
        for other in others.filter(|other| *other != wanted) {
            let mask = forward_mask(other, LEN);
            refused(Call::Backward(wanted, &mask, Some(&dy)), &mask, wanted.to_string());
        }
        let mask = signs(rrelu);
        refused(Call::Backward(wanted, &mask, Some(&dy)), &mask, wanted.to_string());
    }

    let others =
        [forward_mask(relu, LEN), signs(RRelu::new(0.125, 0.5).unwrap()), signs(RRelu::new(0.2, 1.0 / 3.0).unwrap())];
    for mask in others {
        refused(Call::RreluBackward(rrelu, &mask), &mask, rrelu.to_string());
    }
}

pub fn missing_inputs(backend: &dyn Backend) {
    let dy = [1.0; LEN];
    for activation in Activation::ALL.into_iter().filter(|a| a.backward_needs_input()) {
        let op = op(activation, 0.95);
        let mask = forward_mask(op, LEN);
        let error = Error::MissingInput { activation };
        refuses(
            backend,
            Call::Backward(op, &mask, None),
            &dy,
            LEN,
            &error,
            &["x must be the input of the forward pass", activation.name(), "got none"],
        );
    }
}

pub fn activations_that_need_a_mask(backend: &dyn Backend) {
    let x = [1.0; LEN];
    for activation in Activation::ALL.into_iter().filter(|a| *a != Activation::Relu) {
        let error = Error::NeedsMask { activation };
        let parts = ["activation must be relu", &format!("got {activation}")];
        refuses(backend, Call::ForwardWithoutMask(op(activation, 0.5), KEY), &x, LEN, &error, &parts);
        refuses(backend, Call::BackwardFromOutput(op(activation, 0.5), &x), &x, LEN, &error, &parts);
    }
}

pub fn indices_beyond_64_bits(backend: &dyn Backend) {
    for (back, len) in [(32, 33), (64, 65), (1024, 1056)] {
        let first = 0u64.wrapping_sub(back);
        let key = KEY.shard(first).unwrap();
        let x = vec![-1.0; len];
        let error = Error::IndexRange { first, len };
        let parts = ["at most 2^64", &format!("got first = {first} with {len} elements")];
        for call in [
            Call::Forward(DropActivation::default(), key),
            Call::Forward(op(Activation::Silu, 0.0), key), // no random bits, the same rule
            Call::ForwardInto(DropActivation::default(), key),
            Call::ForwardWithoutMask(DropActivation::default(), key),
            Call::RreluForward(RRelu::default(), key),
            Call::RreluForwardInto(RRelu::default(), key),
        ] {
            refuses(backend, call, &x, len, &error, &parts);
            let mut y = vec![0.0; back as usize];
            backend.run(&call, (&x[..back as usize], &mut y).into()).expect("the last element is the last index");
        }
    }
}

#[test]
fn keep_masks_beyond_64_bits() {
    let key = KEY.shard(u64::MAX - 31).unwrap();
    let expected = Error::IndexRange { first: key.first(), len: 33 };
    assert_eq!(cpu::keep_mask(&DropActivation::default(), key, 33), Err(expected.clone()));
    assert_eq!(reference::keep_mask(&DropActivation::default(), key, 33), Err(expected));
}

/// A mask that was to be refilled is what it was when the call has failed.
#[test]
fn a_failed_call_leaves_the_mask_alone() {
    let op = DropActivation::default();
    let before = forward_mask(op, 100);
    let mut mask = before.clone();
    let x = [-1.0f32; LEN];
    let beyond = KEY.shard(u64::MAX - 31).unwrap();
    cpu::forward_into(&op, KEY, (&x, &mut [0.0; LEN + 1]), &mut mask).unwrap_err();
    cpu::forward_into(&op, beyond, (&x, &mut [0.0; LEN]), &mut mask).unwrap_err();
    cpu::rrelu_forward_into(&RRelu::default(), KEY, (&x, &mut [0.0; LEN + 1]), &mut mask).unwrap_err();
    cpu::rrelu_forward_into(&RRelu::default(), beyond, (&x, &mut [0.0; LEN]), &mut mask).unwrap_err();
    assert_eq!(mask, before);
}

/// Empty tensors are valid, whatever else is unusual about the call.
pub fn nothing_to_do(backend: &dyn Backend) {
    let op = DropActivation::default();
    let key = KEY.shard(u64::MAX - 31).unwrap();
    let mask = backend.run(&Call::Forward(op, key), InOut::<f32>::InPlace(&mut [])).unwrap().unwrap();
    assert_eq!((mask.len(), mask.words()), (0, &[][..]));
    assert_eq!(mask.origin(), MaskOrigin::DropActivation(op));
    backend.run(&Call::Backward(op, &mask, None), InOut::<f32>::InPlace(&mut [])).unwrap();
    backend.run(&Call::InferBackward(op, &[]), InOut::OutOfPlace(&[0.0f32; 0], &mut [])).unwrap();
}
