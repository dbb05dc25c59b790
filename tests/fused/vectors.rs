//! The order of sums, to the last bit, as another program computed it in exact arithmetic from the text
//! (`scripts/fused-vectors`).

use drop_activation::fused::{Centred, Gradient, Shape, reference};
use drop_activation::{Element, Real};

const VECTORS: &str = include_str!("../data/fused-vectors.txt");

/// A number as Python's `float.hex` writes it.
fn of_hex(text: &str) -> f64 {
    let (sign, text) = text.strip_prefix('-').map_or((1.0, text), |rest| (-1.0, rest));
    let (digits, exponent) = text.strip_prefix("0x").unwrap().split_once('p').unwrap();
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let significand = u64::from_str_radix(&format!("{whole}{fraction}"), 16).unwrap() as f64;
    let exponent = exponent.parse::<i32>().unwrap() - 4 * fraction.len() as i32;
    sign * significand * 2f64.powi(exponent)
}

/// x and dz, made as the other program makes them.
fn inputs<T: Element>(count: usize, seed: u64) -> (Vec<T>, Vec<T>) {
    let mut state = seed;
    let element = |value: f64| T::from_real(T::Real::from_f64(value));
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let x = ((state >> 49) as f64 - f64::from(1 << 14)) / f64::from(1 << 11) + 1000.0;
        let dz = ((state >> 20 & 0xFF_FFFF) as f64 - f64::from(1 << 23)) / f64::from(1 << 20);
        (element(x), element(dz))
    };
    (0..count).map(|_| next()).unzip()
}

fn check<T: Element>(count: usize, seed: u64, expected: &[f64]) {
    let (x, dz) = inputs::<T>(count, seed);
    let shape = Shape::new(count, 1, 1).unwrap();
    let statistics = reference::statistics(shape, &x).unwrap();
    let centred = Centred { x: &x, mean: &statistics.mean };
    let (sums, _) = reference::reduce(shape, &dz, &Gradient::Given, Some(&centred), false).unwrap();
    let given = [statistics.mean[0], statistics.variance[0], sums.gradient[0], sums.product.unwrap()[0]];
    assert_eq!(given.map(|value| value.to_f64().to_bits()), [0, 1, 2, 3].map(|i| expected[i].to_bits()), "{count}");
}

#[test]
fn sums_have_the_bits_of_the_text() {
    let mut tested = 0;
    for line in VECTORS.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split(' ').collect();
        let (count, seed) = (words[1].parse().unwrap(), words[2].parse().unwrap());
        let expected: Vec<f64> = words[3..].iter().map(|word| of_hex(word)).collect();
        match words[0] {
            "f32" => check::<f32>(count, seed, &expected),
            "f64" => check::<f64>(count, seed, &expected),
            other => panic!("{other}"),
        }
        tested += 1;
    }
    assert_eq!(tested, 16);
}
