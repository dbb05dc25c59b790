//! Holds the activations to the bounds that the documentation of `drop_activation::activation` states.

use drop_activation::activation::*;

/// A function in both types, with the bound for f64.
struct Function {
    name: &'static str,
    single: fn(f32) -> f32,
    double: fn(f64) -> f64,
    bound: f64,
}

/// The bound for f32, the same for all.
const BOUND_F32: f64 = 0.51;

macro_rules! functions {
    ($($name:ident $single:ident $double:ident $bound:literal,)*) => {
        [$(Function { name: stringify!($name), single: $single, double: $double, bound: $bound }),*]
    };
}

const FUNCTIONS: [Function; 8] = functions![
    sigmoid sigmoid_f32 sigmoid_f64 4.0,
    sigmoid_derivative sigmoid_derivative_f32 sigmoid_derivative_f64 4.0,
    tanh tanh_f32 tanh_f64 4.0,
    tanh_derivative tanh_derivative_f32 tanh_derivative_f64 4.0,
    gelu gelu_f32 gelu_f64 8.0,
    gelu_derivative gelu_derivative_f32 gelu_derivative_f64 8.0,
    silu silu_f32 silu_f64 4.0,
    silu_derivative silu_derivative_f32 silu_derivative_f64 4.0,
];

/// The spacing of the type's numbers in the binade of `v`: 2^(exponent - fraction_bits), and that of the
/// least normal exponent below it.
fn ulp(v: f64, fraction_bits: i32, least_normal: i32) -> f64 {
    let exponent = ((v.to_bits() >> 52 & 0x7FF) as i32 - 1023).max(least_normal);
    power_of_two(exponent - fraction_bits)
}

fn power_of_two(k: i32) -> f64 {
    if k >= -1022 { f64::from_bits(((k + 1023) as u64) << 52) } else { f64::from_bits(1 << (k + 1074)) }
}

fn ulp_f32(v: f64) -> f64 {
    ulp(v, 23, -126)
}

fn ulp_f64(v: f64) -> f64 {
    ulp(v, 52, -1022)
}

/// (computed - exact) / ulp of exact, where exact = nearest + rest ulp.
fn error(computed: f64, nearest: f64, rest: f64, ulp: fn(f64) -> f64) -> f64 {
    // Where the exact value was rounded up to a power of two, its own ulp is that of the number below. The sign
    // of the rest tells, even of one too small for its digits.
    let below = rest.is_sign_negative() != nearest.is_sign_negative() && nearest != 0.0;
    let spacing = ulp(f64::from_bits(nearest.to_bits() - u64::from(below)));
    ((computed - nearest) / spacing - rest).abs()
}

/// Every row of the table: arguments at random over all exponents, around the origin, in the tails, at
/// subnormal results, next to the derivatives' zeros, and where earlier searches found the largest errors.
#[test]
fn agrees_with_exact_values() {
    // The table's last column is rounded to four digits.
    const SLACK: f64 = 0.00005;
    let table = include_str!("data/activation.csv");
    let mut worst = [[(0.0, 0.0); 2]; FUNCTIONS.len()];
    let mut rows = 0;
    for row in table.lines().skip(1) {
        let [name, kind, x, nearest, rest] = row.split(',').collect::<Vec<_>>()[..] else { panic!("bad row {row}") };
        let index = FUNCTIONS.iter().position(|f| f.name == name).expect("known function");
        let function = &FUNCTIONS[index];
        let bits = |s| u64::from_str_radix(s, 16).expect("hexadecimal");
        let rest: f64 = rest.parse().expect("a number");
        let (kind, x, e) = match kind {
            "f32" => {
                let [x, nearest] = [x, nearest].map(|s| f32::from_bits(bits(s) as u32));
                let y = (function.single)(x);
                assert_eq!(y.is_sign_negative(), nearest.is_sign_negative(), "sign of {name}({x:e}) in f32");
                (0, x.into(), error(y.into(), nearest.into(), rest, ulp_f32))
            }
            "f64" => {
                let [x, nearest] = [x, nearest].map(|s| f64::from_bits(bits(s)));
                let y = (function.double)(x);
                assert_eq!(y.is_sign_negative(), nearest.is_sign_negative(), "sign of {name}({x:e}) in f64");
                (1, x, error(y, nearest, rest, ulp_f64))
            }
            _ => panic!("bad row {row}"),
        };
        assert!(!e.is_nan(), "{name}({x:e})");
        if e > worst[index][kind].0 {
            worst[index][kind] = (e, x);
        }
        rows += 1;
    }
    assert!(rows > 5000, "{rows} rows");
    for (function, worst) in FUNCTIONS.iter().zip(worst) {
        for ((e, x), (kind, bound)) in worst.into_iter().zip([("f32", BOUND_F32), ("f64", function.bound)]) {
            println!("{} {kind}: {e:.4} ulp at {x:e}", function.name);
            assert!(e > 0.0 && e <= bound + SLACK, "{} {kind}: {e} ulp at {x:e}, bound {bound}", function.name);
        }
    }
}

/// f32 over all exponents and signs, against f64, whose own error is a 2^-26th of an ulp of f32.
#[test]
fn f32_agrees_with_f64_everywhere() {
    for function in &FUNCTIONS {
        for bits in (0..=u32::MAX).step_by(20_011) {
            let x = f32::from_bits(bits);
            let (y, exact) = ((function.single)(x), (function.double)(x.into()));
            if x.is_nan() {
                assert!(y.is_nan() && exact.is_nan(), "{} of NaN {bits:#x}", function.name);
                continue;
            }
            assert_eq!(y.is_sign_negative(), exact.is_sign_negative(), "sign of {}({x:e})", function.name);
            let e = (f64::from(y) - exact).abs() / ulp_f32(exact);
            assert!(e <= BOUND_F32, "{}({x:e}): {e} ulp", function.name);
        }
    }
}

#[test]
fn limits_and_special_values() {
    // At -infinity, -0, 0, +infinity.
    let expected: [[f64; 4]; 8] = [
        [0.0, 0.5, 0.5, 1.0],
        [0.0, 0.25, 0.25, 0.0],
        [-1.0, -0.0, 0.0, 1.0],
        [0.0, 1.0, 1.0, 0.0],
        [-0.0, -0.0, 0.0, f64::INFINITY],
        [-0.0, 0.5, 0.5, 1.0],
        [-0.0, -0.0, 0.0, f64::INFINITY],
        [-0.0, 0.5, 0.5, 1.0],
    ];
    for (function, expected) in FUNCTIONS.iter().zip(expected) {
        let at = |x: f64, y: f64| {
            assert_eq!((function.double)(x).to_bits(), y.to_bits(), "{}({x:e})", function.name);
            let (x, y) = (x as f32, y as f32);
            assert_eq!((function.single)(x).to_bits(), y.to_bits(), "{}({x:e})", function.name);
        };
        let [negative, minus_zero, zero, positive] = expected;
        at(f64::NEG_INFINITY, negative);
        at(-0.0, minus_zero);
        at(0.0, zero);
        at(f64::INFINITY, positive);
        // Long before that: values are at their limits, or are x itself.
        for large in [1e3, 1e20, 1e38] {
            at(-large, negative);
            at(large, if positive == f64::INFINITY { large } else { positive });
        }
        assert_eq!((function.double)(-f64::MAX).to_bits(), negative.to_bits(), "{}(-MAX)", function.name);
        assert_eq!((function.single)(-f32::MAX).to_bits(), (negative as f32).to_bits(), "{}(-MAX)", function.name);
        assert!((function.double)(f64::NAN).is_nan() && (function.single)(f32::NAN).is_nan());
    }
}
