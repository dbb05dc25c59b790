//! Sums are as exact as section 4 says, against arithmetic of some 106 bits in another order.

use drop_activation::fused::{Centred, Gradient, Shape, reference};
use drop_activation::half::{bf16, f16};
use drop_activation::{Dtype, Element, Real};

use crate::data::{Kind, Random, Wide};

const V: f64 = 1.0 / (1u64 << 53) as f64;

/// Half an ulp of 1 in the type of the arithmetic.
fn unit<T: Element>() -> f64 {
    if T::DTYPE == Dtype::F64 { V } else { 1.0 / (1u64 << 24) as f64 }
}

fn shapes() -> Vec<Shape> {
    let of = |outer, channels, inner| Shape::new(outer, channels, inner).unwrap();
    let mut shapes: Vec<Shape> = [1, 3, 17, 64, 1000].map(|channels| of(130, channels, 1)).into();
    shapes.extend([1, 7, 49, 3136].map(|inner| of(11, 3, inner)));
    shapes.extend([of(1, 5, 1), of(1, 5, 33), of(2, 1, 1), of(40_000, 2, 1), of(1, 1, 70_000)]);
    shapes
}

struct Channel {
    x: Vec<f64>,
    dz: Vec<f64>,
}

fn channel<T: Element>(shape: Shape, c: usize, x: &[T], dz: &[T]) -> Channel {
    let of = |values: &[T]| (0..shape.count()).map(|t| values[shape.index(c, t)].to_real().to_f64()).collect();
    Channel { x: of(x), dz: of(dz) }
}

/// From the last to the first, so in another order than the sums that are tested.
fn total(terms: impl DoubleEndedIterator<Item = Wide>) -> Wide {
    terms.rev().fold(Wide::default(), Wide::plus)
}

fn sums_are_within_their_bounds<T: Element<Real: From<f32>>>() {
    let u = unit::<T>();
    for shape in shapes() {
        for kind in Kind::ALL {
            let x: Vec<T> = kind.values(shape, 1);
            let dz: Vec<T> = if matches!(kind, Kind::FarFromZero) { Kind::Normal } else { kind }.values(shape, 2);
            let mean = reference::statistics(shape, &x).unwrap().mean;
            let centred = Centred { x: &x, mean: &mean };
            let (sums, _) = reference::reduce(shape, &dz, &Gradient::Given, Some(&centred), false).unwrap();
            let product = sums.product.unwrap();
            let groups = (shape.count().div_ceil(32768) + 6) as f64;
            for c in 0..shape.channels() {
                let values = channel(shape, c, &x, &dz);
                let what = format!("{} {shape:?} {kind:?}, channel {c}", T::DTYPE.name());
                let check = |name: &str, given: f64, terms: Vec<Wide>, units: f64| {
                    let exact = total(terms.iter().copied());
                    let size: f64 = terms.iter().map(|term| term.value().abs()).sum();
                    let error = Wide::of(given).minus(exact).value().abs();
                    let bound = (units * u + groups * V) * size;
                    assert!(error <= bound, "{what}: {name} is off by {error:e}, allowed {bound:e}");
                };
                check("s1", sums.gradient[c].to_f64(), values.dz.iter().map(|dz| Wide::of(*dz)).collect(), 38.0);
                let mean = Wide::of(mean[c].to_f64());
                let term = |(x, dz): (&f64, &f64)| Wide::of(*x).minus(mean).times(Wide::of(*dz));
                check("s2", product[c].to_f64(), values.x.iter().zip(&values.dz).map(term).collect(), 40.0);
            }
        }
    }
}

fn statistics_are_within_their_bounds<T: Element<Real: From<f32>>>() {
    let u = unit::<T>();
    for shape in shapes() {
        for kind in Kind::ALL {
            let x: Vec<T> = kind.values(shape, 3);
            let given = reference::statistics(shape, &x).unwrap();
            let groups = 4.0 * shape.count().div_ceil(32768) as f64 * V;
            for c in 0..shape.channels() {
                let values = channel(shape, c, &x, &x).x;
                let what = format!("{} {shape:?} {kind:?}, channel {c}", T::DTYPE.name());
                let mean = total(values.iter().map(|x| Wide::of(*x))).over(values.len());
                let far = values.iter().map(|x| Wide::of(*x).minus(mean).value().abs()).fold(0.0, f64::max);
                let error = Wide::of(given.mean[c].to_f64()).minus(mean).value().abs();
                let bound = u * mean.value().abs() + (128.0 * u + groups) * far;
                assert!(error <= bound, "{what}: the mean is off by {error:e}, allowed {bound:e}");

                let square = |x: &f64| {
                    let distance = Wide::of(*x).minus(mean);
                    distance.times(distance)
                };
                let variance = total(values.iter().map(square)).over(values.len()).value();
                let error = (given.variance[c].to_f64() - variance).abs();
                // Of numbers that are not made to be hard, a few units are left.
                let units = if matches!(kind, Kind::Normal | Kind::FarFromZero) { 32.0 } else { 4096.0 };
                let bound = (units * u + groups) * variance;
                assert!(error <= bound, "{what}: variance {variance:e} is off by {error:e}, allowed {bound:e}");
                if matches!(kind, Kind::Equal) {
                    assert_eq!(given.variance[c].to_f64(), 0.0, "{what}");
                }
            }
        }
    }
}

macro_rules! types {
    ($($test:ident: $($type:ident)*;)*) => {$(
        mod $test {
            use super::*;
            $(#[test]
            fn $type() {
                super::$test::<$type>();
            })*
        }
    )*};
}

types! {
    sums_are_within_their_bounds: f32 f64 f16 bf16;
    statistics_are_within_their_bounds: f32 f64 f16 bf16;
}

/// A mean of a million with a variance of 1: a sum of squares would have no digit of it in f32.
#[test]
fn a_far_mean_keeps_the_digits_of_the_variance() {
    let shape = Shape::new(4096, 1, 1).unwrap();
    let x: Vec<f32> = (0..4096).map(|i| 1e6 + [-1.0, 1.0][i % 2]).collect();
    let given = reference::statistics(shape, &x).unwrap();
    assert_eq!((given.mean[0], given.variance[0]), (1e6, 1.0));
}

#[test]
fn what_is_no_number_does_not_become_one() {
    let shape = Shape::new(3000, 1, 1).unwrap();
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for at in [0, 31, 32, 1500, 2999] {
            let mut x = vec![1.0f32; 3000];
            x[at] = bad;
            let given = reference::statistics(shape, &x).unwrap();
            assert!(!given.mean[0].is_finite() && !given.variance[0].is_finite(), "{bad} at {at}: {given:?}");
        }
    }
    for huge in [1e20, 3e38] {
        let mut x = vec![0.0f32; 3000];
        x[7] = huge;
        assert!(!reference::statistics(shape, &x).unwrap().variance[0].is_finite(), "{huge}");
    }
}

/// The order of sums knows nothing of the layout.
#[test]
fn both_memory_layouts_have_the_same_bits() {
    let (outer, channels, inner) = (7, 5, 331);
    let last = Shape::new(outer * inner, channels, 1).unwrap();
    let first = Shape::new(outer, channels, inner).unwrap();
    let mut random = Random(4);
    let x: Vec<f32> = (0..last.len()).map(|_| 100.0 + random.normal() as f32).collect();
    let dz: Vec<f32> = (0..last.len()).map(|_| random.normal() as f32).collect();
    let moved = |values: &[f32]| {
        let mut moved = vec![0.0; values.len()];
        for c in 0..channels {
            for t in 0..last.count() {
                moved[first.index(c, t)] = values[last.index(c, t)];
            }
        }
        moved
    };
    let all = |shape, x: &[f32], dz: &[f32]| {
        let statistics = reference::statistics(shape, x).unwrap();
        let centred = Centred { x, mean: &statistics.mean };
        let (sums, _) = reference::reduce(shape, dz, &Gradient::Given, Some(&centred), false).unwrap();
        (statistics, sums)
    };
    assert_eq!(all(last, &x, &dz), all(first, &moved(&x), &moved(&dz)));
}
