//! Bad input is an error that names it.

use drop_activation::fused::{Before, Centred, Gradient, Linear, Preactivation, Rest, Shape, reference};
use drop_activation::{Activation, DropActivation, Error, MaskKey};

#[test]
fn shapes() {
    let refused = |outer, channels, inner| {
        assert_eq!(Shape::new(outer, channels, inner), Err(Error::Shape { outer, channels, inner }));
    };
    refused(4, 0, 1);
    refused(usize::MAX, 2, 1);
    refused(1 << 40, 1 << 20, 1 << 10);
    refused(usize::MAX, 1, 2);
    for (len, channels, inner) in [(10, 3, 1), (10, 0, 1), (10, 5, 0), (10, 5, 4), (10, usize::MAX, 2)] {
        assert_eq!(Shape::of_len(len, channels, inner), Err(Error::ChannelsOf { len, channels, inner }));
    }
    assert_eq!(Shape::of_len(24, 3, 4), Shape::new(2, 3, 4));
    assert_eq!(Shape::of_len(0, 3, 4), Shape::new(0, 3, 4));
    let message = Shape::of_len(10, 3, 1).unwrap_err().to_string();
    assert_eq!(message, "channels times inner must divide the tensor's 10 elements, got channels = 3, inner = 1");
}

/// Whatever is asked of them. (In an unoptimised build an overflow would be one.)
#[test]
fn shapes_do_not_panic() {
    let extents = [0, 1, 3, 1 << 33, usize::MAX];
    let of = |outer| move |(channels, inner)| Shape::new(outer, channels, inner).ok();
    let others = || extents.into_iter().flat_map(|channels| extents.map(|inner| (channels, inner)));
    let shapes: Vec<_> = extents.into_iter().flat_map(|outer| others().filter_map(of(outer))).collect();
    assert!(shapes.iter().filter(|shape| shape.inner() == 0).count() > 10);
    for shape in shapes {
        for (c, t) in others() {
            let (i, channel) = (shape.index(c, t), shape.channel(t));
            if c < shape.channels() && t < shape.count() {
                assert!(i < shape.len() && shape.channel(i) == c, "{shape:?}: {c}, {t}");
            }
            assert!(channel < shape.channels());
        }
    }
}

#[test]
fn tensors_and_vectors_of_other_lengths() {
    let shape = Shape::new(2, 3, 2).unwrap();
    let (x, short) = ([0f32; 12], [0f32; 11]);
    let (three, two) = ([1f32; 3], [1f32; 2]);
    let op = DropActivation::default();
    let key = MaskKey::new(0, 0);
    let length = |argument| Error::ShapeLength { argument, given: 11, outer: 2, channels: 3, inner: 2 };
    let vector = |argument| Error::ChannelVector { argument, given: 2, channels: 3 };
    let refused = |z: Preactivation<'_, f32>, error: Error| {
        assert_eq!(reference::forward(&op, key, shape, &z).unwrap_err(), error);
        assert_eq!(reference::infer(&op, shape, &z).unwrap_err(), error);
        let by = Gradient::Inference(&op, z);
        assert_eq!(reference::reduce(shape, &x, &by, None, true).unwrap_err(), error);
    };
    let before = Before { scale: Some(&three[..]), shift: Some(&three[..]), residual: Some(&x[..]) };
    refused(Preactivation { x: &short, before }, length("x"));
    refused(Preactivation { x: &x, before: Before { scale: Some(&two), ..before } }, vector("scale"));
    refused(Preactivation { x: &x, before: Before { shift: Some(&two), ..before } }, vector("shift"));
    refused(Preactivation { x: &x, before: Before { residual: Some(&short), ..before } }, length("residual"));

    assert_eq!(reference::statistics(shape, &short).unwrap_err(), length("x"));
    let given = Gradient::Given;
    assert_eq!(reference::reduce::<f32>(shape, &short, &given, None, false).unwrap_err(), length("dy"));
    let centred = Centred { x: &x, mean: &three };
    for (centred, error) in
        [(Centred { mean: &two, ..centred }, vector("mean")), (Centred { x: &short, ..centred }, length("x"))]
    {
        assert_eq!(reference::reduce(shape, &x, &given, Some(&centred), false).unwrap_err(), error);
        let linear = Linear { alpha: None, rest: Some(Rest { beta: &three, gamma: &three, centred }) };
        assert_eq!(reference::backward(shape, &x, &given, &linear).unwrap_err(), error);
    }
    let rest = Rest { beta: &three, gamma: &three, centred };
    for (linear, argument) in [
        (Linear { alpha: Some(&two[..]), rest: Some(rest) }, "alpha"),
        (Linear { alpha: None, rest: Some(Rest { beta: &two, ..rest }) }, "beta"),
        (Linear { alpha: None, rest: Some(Rest { gamma: &two, ..rest }) }, "gamma"),
    ] {
        assert_eq!(reference::backward(shape, &x, &given, &linear).unwrap_err(), vector(argument));
    }
}

#[test]
fn statistics_of_nothing() {
    for (outer, inner) in [(0, 5), (5, 0), (0, 0)] {
        let shape = Shape::new(outer, 3, inner).unwrap();
        let error = reference::statistics::<f32>(shape, &[]).unwrap_err();
        assert_eq!(error, Error::NoElements { outer, channels: 3, inner });
    }
}

#[test]
fn masks_and_missing_tensors() {
    let shape = Shape::new(2, 3, 2).unwrap();
    let dy = [1f32; 12];
    let relu = DropActivation::default();
    let (_, mask) = reference::forward(&relu, MaskKey::new(0, 0), shape, &Preactivation::of(&dy)).unwrap();
    let other = DropActivation::relu(0.5).unwrap();
    let refused = |shape, op, dy: &[f32]| {
        let linear = Linear { alpha: None, rest: None };
        let by = Gradient::Training(op, &mask, None);
        let error = reference::backward(shape, dy, &by, &linear).unwrap_err();
        assert_eq!(reference::reduce(shape, dy, &by, None, false).unwrap_err(), error);
        error
    };
    assert!(matches!(refused(shape, &other, &dy), Error::MaskOrigin { .. }));
    let longer = Shape::new(3, 3, 2).unwrap();
    assert!(matches!(refused(longer, &relu, &[0.0; 18]), Error::MaskLength { given: 12, expected: 18, .. }));
    let gelu = DropActivation::new(Activation::Gelu, 0.95).unwrap();
    let (_, mask) = reference::forward(&gelu, MaskKey::new(0, 0), shape, &Preactivation::of(&dy)).unwrap();
    let by = Gradient::Training(&gelu, &mask, None);
    let error = reference::reduce(shape, &dy, &by, None, false).unwrap_err();
    assert_eq!(error, Error::MissingInput { activation: Activation::Gelu });
}
