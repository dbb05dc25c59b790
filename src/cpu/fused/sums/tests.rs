//! Sums on every instruction set, against the reference.

use half::{bf16, f16};

use super::*;
use crate::activation::Activation;
use crate::cpu::part::as_part_of;
use crate::cpu::simd::LINE;
use crate::cpu::simd::tests::sets;
use crate::fused::cpu::{reduce, statistics};
use crate::fused::{Before, Centred, Gradient, Preactivation, Sums, reference};
use crate::key::MaskKey;
use crate::operation::DropActivation;

fn numbers<T: Lane>(len: usize, seed: u64) -> Vec<T> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        T::from_real(T::Real::from_f64((state as i64 >> 40) as f64 / f64::from(1 << 21) + 1.0))
    };
    (0..len).map(|_| next()).collect()
}

fn shapes() -> Vec<Shape> {
    let shapes = [
        (1, 1, 1),
        (1, 3, 1),
        (33, 3, 1),
        (1024, 5, 1),
        (1025, 17, 1),
        (2100, 8, 1),
        (1100, 32, 1),
        (33, 1000, 1),
        (1060, 69, 1),
        (3, 1, 700),
        (2, 5, 7),
        (200, 3, 7),
        (23, 4, 49),
        (2, 3, 1024),
        (3, 66, 360),
        (2, 2, 3136),
    ];
    shapes.map(|(outer, channels, inner)| Shape::new(outer, channels, inner).unwrap()).into()
}

fn bits<R: Real>(values: &[R]) -> Vec<u64> {
    values.iter().map(|value| value.to_f64().to_bits()).collect()
}

fn same<R: Real>(what: &str, given: &Sums<R>, expected: &Sums<R>) {
    assert_eq!(bits(&given.gradient), bits(&expected.gradient), "{what}: s1");
    let product = |sums: &Sums<R>| sums.product.as_deref().map(bits);
    assert_eq!(product(given), product(expected), "{what}: s2");
}

fn like_the_reference<T: Lane<Real: Lane>>() {
    for shape in shapes() {
        let (x, dy, r): (Vec<T>, Vec<T>, Vec<T>) =
            (numbers(shape.len(), 1), numbers(shape.len(), 2), numbers(shape.len(), 3));
        let expected = reference::statistics(shape, &x).unwrap();
        for set in sets() {
            set.force(|| {
                let given = statistics(shape, &x).unwrap();
                let what = format!("{set:?} {} {shape:?}", T::DTYPE.name());
                assert_eq!(bits(&given.mean), bits(&expected.mean), "{what}: mean");
                assert_eq!(bits(&given.variance), bits(&expected.variance), "{what}: variance");
            });
        }
        let (scale, shift): (Vec<f64>, Vec<f64>) =
            (0..shape.channels()).map(|c| (1.0 - c as f64 / 16.0, c as f64 / 8.0 - 2.0)).unzip();
        let of = |values: &[f64]| values.iter().map(|v| T::Real::from_f64(*v)).collect::<Vec<_>>();
        let (scale, shift) = (of(&scale), of(&shift));
        let centred = Centred { x: &x, mean: &expected.mean };
        let key = MaskKey::new(1, 2);
        let check = |by: &Gradient<T>| {
            for centred in [None, Some(&centred)] {
                let (expected, dz) = reference::reduce(shape, &dy, by, centred, true).unwrap();
                for set in sets() {
                    set.force(|| {
                        let what = format!("{set:?} {} {shape:?} {by:.40?}", T::DTYPE.name());
                        same(&what, &reduce(shape, &dy, by, centred, None).unwrap(), &expected);
                        // On a cache line; and as a part of one so large that it is written by non-temporal stores.
                        let mut room = vec![T::default(); shape.len() + LINE];
                        let on_a_line = room.as_ptr().align_offset(LINE);
                        for (at, whole) in [(on_a_line, 0), (on_a_line, 1 << 30), (on_a_line + 1, 1 << 30)] {
                            let dr = &mut room[at..][..shape.len()];
                            dr.fill(T::default());
                            let sums = as_part_of(whole, || reduce(shape, &dy, by, centred, Some(dr)).unwrap());
                            same(&what, &sums, &expected);
                            assert!(*dr == *dz.as_ref().unwrap(), "{what}: dr at {at}, as a part of {whole} bytes");
                        }
                    });
                }
            }
        };
        check(&Gradient::Given);
        for (i, activation) in [Activation::Relu, Activation::Silu].into_iter().enumerate() {
            let given = |j: usize| !(shape.channels() + i + j).is_multiple_of(3);
            let before = Before {
                scale: given(0).then_some(&scale[..]),
                shift: given(1).then_some(&shift[..]),
                residual: given(2).then_some(&r[..]),
            };
            let z = Preactivation { x: &x, before };
            let op = DropActivation::new(activation, 0.7).unwrap();
            let (_, mask) = reference::forward(&op, key, shape, &z).unwrap();
            check(&Gradient::Training(&op, &mask, Some(z)));
            for p in [0.0, 0.7, 1.0] {
                check(&Gradient::Inference(&DropActivation::new(activation, p).unwrap(), z));
            }
        }
    }
}

#[test]
fn sums_of_f32_are_the_reference_s() {
    like_the_reference::<f32>();
}

#[test]
fn sums_of_f64_are_the_reference_s() {
    like_the_reference::<f64>();
}

#[test]
fn sums_of_f16_are_the_reference_s() {
    like_the_reference::<f16>();
}

#[test]
fn sums_of_bf16_are_the_reference_s() {
    like_the_reference::<bf16>();
}

/// Enough for several tasks.
#[test]
fn sums_do_not_depend_on_the_number_of_threads() {
    for (outer, channels, inner) in [(5000, 70, 1), (9, 70, 400), (1, 1, 300_000)] {
        let shape = Shape::new(outer, channels, inner).unwrap();
        let (x, dy): (Vec<f32>, Vec<f32>) = (numbers(shape.len(), 4), numbers(shape.len(), 5));
        let expected = reference::statistics(shape, &x).unwrap();
        let centred = Centred { x: &x, mean: &expected.mean };
        let (sums, _) = reference::reduce(shape, &dy, &Gradient::Given, Some(&centred), false).unwrap();
        for threads in [1, 2, 5] {
            rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
                assert_eq!(statistics(shape, &x).unwrap(), expected, "{threads} threads, {shape:?}");
                let given = reduce(shape, &dy, &Gradient::Given, Some(&centred), None).unwrap();
                same(&format!("{threads} threads, {shape:?}"), &given, &sums);
            });
        }
    }
}
