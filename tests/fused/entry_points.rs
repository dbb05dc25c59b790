//! The CPU's entry points: each gives what the reference gives, and refuses what it refuses, before anything is
//! written.

use drop_activation::cpu::{self, MaskWords};
use drop_activation::fused::{
    Before, Centred, Dz, Gradient, Linear, Operands, Preactivation, Rest, Shape, cpu as passes, reference,
};
use drop_activation::{Activation, DropActivation, Error, MaskKey, Pass};

use crate::data::Random;

const LEN: usize = 42;

fn shape() -> Shape {
    Shape::new(7, 3, 2).unwrap()
}

fn tensor(seed: u64) -> Vec<f32> {
    let mut random = Random(seed);
    (0..LEN).map(|_| random.normal() as f32).collect()
}

#[test]
fn adapters_have_one_way_to_all_passes() {
    let (shape, key) = (shape(), MaskKey::new(3, 4));
    let (x, r, dy) = (tensor(1), tensor(2), tensor(3));
    let (scale, shift, mean) = ([1.5f32, 0.5, -1.0], [0.1f32, 0.2, 0.3], [0.5f32, -0.5, 0.0]);
    let before = Before { scale: Some(&scale[..]), shift: Some(&shift[..]), residual: Some(&r[..]) };
    let operands = || Operands {
        scale: Some(&scale[..]),
        shift: Some(&shift[..]),
        residual: Some(&r[..]),
        x: Some(&x[..]),
        ..Operands::default()
    };
    for activation in [Activation::Relu, Activation::Tanh] {
        let op = DropActivation::new(activation, 0.6).unwrap();
        let z = Preactivation { x: &x, before };
        let (expected, mask) = reference::forward(&op, key, shape, &z).unwrap();
        let (mut y, mut words) = (vec![0.0; LEN], vec![0; 2]);
        let pass = Pass::FusedForward { op, key, shape };
        cpu::run_fused(&pass, (&x, &mut y), operands(), MaskWords::Write(&mut words)).unwrap();
        assert_eq!((&y, &words[..]), (&expected, mask.words()));
        cpu::run_fused(&Pass::FusedInfer { op, shape }, (&x, &mut y), operands(), MaskWords::None).unwrap();
        assert_eq!(y, reference::infer(&op, shape, &z).unwrap());

        for (dz, by) in [
            (Dz::Given, Gradient::Given),
            (Dz::Training(op), Gradient::Training(&op, &mask, Some(z))),
            (Dz::Inference(op), Gradient::Inference(&op, z)),
        ] {
            let centred = Centred { x: &x, mean: &mean };
            let (sums, dr) = reference::reduce(shape, &dy, &by, Some(&centred), true).unwrap();
            let (mut s1, mut s2, mut both) = ([0.0; 3], [0.0; 3], dy.clone());
            let results = [Some(&mut s1[..]), Some(&mut s2[..])];
            let with_mean = Operands { mean: Some(&mean[..]), results, ..operands() };
            // dr over dy.
            cpu::run_fused(&Pass::FusedSums { dz, shape }, &mut both, with_mean, MaskWords::Read(&words)).unwrap();
            assert_eq!((&s1[..], Some(&s2[..])), (&sums.gradient[..], sums.product.as_deref()), "{dz:?}");
            assert_eq!(both, dr.unwrap(), "{dz:?}");

            let rest = Rest { beta: &shift, gamma: &scale, centred };
            let linear = Linear { alpha: Some(&scale), rest: Some(rest) };
            let expected = reference::backward(shape, &dy, &by, &linear).unwrap();
            let of_dx = Operands {
                alpha: Some(&scale[..]),
                beta: Some(&shift[..]),
                gamma: Some(&scale[..]),
                mean: Some(&mean[..]),
                ..operands()
            };
            let pass = Pass::FusedBackward { dz, shape };
            cpu::run_fused(&pass, (&dy, &mut y), of_dx, MaskWords::Read(&words)).unwrap();
            assert_eq!(y, expected, "{dz:?}");
        }
    }
    let (mut mean, mut variance) = ([0.0; 3], [0.0; 3]);
    let results = [Some(&mut mean[..]), Some(&mut variance[..])];
    let of_x = Operands { results, ..Operands::default() };
    cpu::run_fused(&Pass::Statistics { shape }, (&x, &mut []), of_x, MaskWords::None).unwrap();
    let expected = reference::statistics(shape, &x).unwrap();
    assert_eq!((&mean[..], &variance[..]), (&expected.mean[..], &expected.variance[..]));
}

/// Where everything is absent, a pass over channels is the one without.
#[test]
fn the_entry_point_of_the_others_runs_them_without_their_operands() {
    let (x, shape, op) = (tensor(1), shape(), DropActivation::relu(0.7).unwrap());
    let key = MaskKey::new(1, 2);
    let (mut y, mut expected, mut words, mut others) = (vec![0.0; LEN], vec![0.0; LEN], vec![0; 2], vec![0; 2]);
    let pass = Pass::FusedForward { op, key, shape };
    cpu::run(&pass, (&x, &mut y), None, MaskWords::Write(&mut words)).unwrap();
    cpu::run(&Pass::Forward { op, key }, (&x, &mut expected), None, MaskWords::Write(&mut others)).unwrap();
    assert_eq!((&y, &words), (&expected, &others));
    // And the other way round.
    cpu::run_fused(&Pass::Forward { op, key }, (&x, &mut y), Operands::default(), MaskWords::Write(&mut words))
        .unwrap();
    assert_eq!((y, words), (expected, others));
    // What it has no use for is not looked at.
    let short = Operands { x: Some(&x[1..]), scale: Some(&x), ..Operands::default() };
    assert_eq!(cpu::run_fused(&Pass::Infer { op }, (&x, &mut vec![0.0; LEN]), short, MaskWords::None), Ok(()));
}

/// Tensors without elements of which no vector has a value for each channel: there may be any number of these.
#[test]
fn nothing_has_any_number_of_channels() {
    let op = DropActivation::relu(0.7).unwrap();
    for (outer, channels, inner) in
        [(0, usize::MAX, 1), (0, usize::MAX, 64), (0, 1 << 63, 2), (0, 1 << 45, 1), (1, 1 << 45, 0)]
    {
        let shape = Shape::new(outer, channels, inner).unwrap();
        let forward = Pass::FusedForward { op, key: MaskKey::new(1, 2), shape };
        let dz = [Dz::Given, Dz::Training(op), Dz::Inference(op)];
        let passes = [forward, Pass::FusedInfer { op, shape }];
        for pass in passes.into_iter().chain(dz.map(|dz| Pass::FusedBackward { dz, shape })) {
            let mask = if pass.writes_mask() { MaskWords::Write(&mut []) } else { MaskWords::Read(&[]) };
            let operands = Operands { x: Some(&[][..]), ..Operands::<f32>::default() };
            assert_eq!(cpu::run_fused(&pass, &mut [], operands, mask), Ok(()), "{pass:?}");
        }
    }
}

/// Sums of none have a value for each channel all the same.
#[test]
fn sums_of_more_channels_than_memory_holds_are_refused() {
    for channels in [usize::MAX, 1 << 62] {
        let shape = Shape::new(0, channels, 1).unwrap();
        let none = Error::SumMemory { values: channels, len: 0 };
        assert_eq!(passes::reduce(shape, &[0f32; 0], &Gradient::Given, None, None).unwrap_err(), none);
        assert_eq!(reference::reduce(shape, &[0f32; 0], &Gradient::Given, None, false).unwrap_err(), none);
    }
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_written() {
    let (x, shape, op) = (tensor(1), shape(), DropActivation::relu(0.7).unwrap());
    let gelu = DropActivation::new(Activation::Gelu, 0.7).unwrap();
    let (three, two) = ([1f32; 3], [1f32; 2]);
    let mut y = vec![7f32; LEN];
    let words = [0u32; 2];
    let mut refused = |pass: Pass, operands: Operands<'_, f32>, mask: MaskWords<'_>| {
        let error = cpu::run_fused(&pass, (&x, &mut y), operands, mask).unwrap_err();
        assert!(y.iter().all(|y| *y == 7.0), "{pass:?} wrote something");
        error
    };
    let none = Operands::default;
    let missing = |argument| Error::Missing { argument };
    let sums = |op| Pass::FusedSums { dz: Dz::Training(op), shape };
    let backward = |op| Pass::FusedBackward { dz: Dz::Training(op), shape };
    let forward = Pass::FusedForward { op, key: MaskKey::new(0, 0), shape };
    assert_eq!(refused(forward, none(), MaskWords::None), missing("mask"));
    let mut one = [5u32; 1];
    let few = Error::WordCount { given: 1, len: LEN, expected: 2 };
    assert_eq!(refused(forward, none(), MaskWords::Write(&mut one)), few);
    assert_eq!(one, [5]);
    assert_eq!(refused(backward(gelu), none(), MaskWords::Read(&words)), missing("x"));
    let operands = Operands { beta: Some(&three[..]), ..none() };
    assert_eq!(refused(backward(op), operands, MaskWords::Read(&words)), missing("gamma"));
    assert_eq!(refused(sums(op), none(), MaskWords::Read(&words)), missing("s1"));
    assert_eq!(refused(Pass::Statistics { shape }, none(), MaskWords::None), missing("mean"));
    let vector = Error::ChannelVector { argument: "scale", given: 2, channels: 3 };
    let operands = Operands { scale: Some(&two[..]), ..none() };
    assert_eq!(refused(Pass::FusedInfer { op, shape }, operands, MaskWords::None), vector);
    let mut short = [9f32; 2];
    let operands = Operands { results: [Some(&mut short[..]), None], ..none() };
    let vector = Error::ChannelVector { argument: "s1", given: 2, channels: 3 };
    assert_eq!(refused(sums(op), operands, MaskWords::Read(&words)), vector);
    assert_eq!(short, [9.0; 2]);
    let longer = Pass::FusedInfer { op, shape: Shape::new(8, 3, 2).unwrap() };
    let length = Error::ShapeLength { argument: "x", given: LEN, outer: 8, channels: 3, inner: 2 };
    assert_eq!(refused(longer, none(), MaskWords::None), length);

    let mut saved = x.clone();
    let error = cpu::run_over_saved(&Pass::FusedInfer { op, shape }, Some(&x), &mut saved, MaskWords::None);
    assert_eq!(error, Err(Error::HasChannels { function: "run_over_saved" }));
    assert_eq!(saved, x);

    // x twice, as two slices.
    let other = x.clone();
    let z = Preactivation::of(&x);
    let by = Gradient::Inference(&op, z);
    let centred = Centred { x: &other, mean: &three };
    assert_eq!(passes::reduce(shape, &x, &by, Some(&centred), None), Err(Error::AnotherX));
    let linear = Linear { alpha: None, rest: Some(Rest { beta: &three, gamma: &three, centred }) };
    assert_eq!(passes::backward(shape, &by, &linear, (&x, &mut y)), Err(Error::AnotherX));
    let mut dr = vec![7f32; LEN - 1];
    let same = Centred { x: &x, mean: &three };
    let length = Error::ShapeLength { argument: "dr", given: LEN - 1, outer: 7, channels: 3, inner: 2 };
    assert_eq!(passes::reduce(shape, &x, &by, Some(&same), Some(&mut dr)), Err(length));
    assert!(y.iter().chain(&dr).all(|y| *y == 7.0), "something was written");
}
