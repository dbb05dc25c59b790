//! Holds σ and σ' of `drop_activation::Real` to the bounds that the documentation of `Activation` states. What each
//! backend makes of them is tested by `sigma.rs`.

use drop_activation::{Activation, Real};

use crate::data::{Bits, ulp};
use crate::support::activations::{BOUND_F32, Exact, Function, SMOOTH, TABLE};

fn each_function(mut check: impl FnMut(&Function, f64)) {
    for row in &*SMOOTH {
        check(&row.value, row.bound);
        check(&row.derivative, row.bound);
    }
}

/// Every row of the table of exact values.
#[test]
fn agrees_with_exact_values() {
    fn check<T: Bits + Real>(function: &Function, bound: f64) {
        let (name, dtype) = (function.name(), T::DTYPE.name());
        let mut worst = (0.0, T::rounded(0.0));
        for exact in function.exact_values::<T>() {
            let y = function.at(exact.x);
            let negative = |v: T| Bits::to_f64(v).is_sign_negative();
            assert_eq!(negative(y), negative(exact.nearest), "sign of {name}({:?}) in {dtype}", exact.x);
            let error = exact.error(y);
            assert!(!error.is_nan(), "{name}({:?}) in {dtype}", exact.x);
            if error > worst.0 {
                worst = (error, exact.x);
            }
        }
        let (error, x) = worst;
        println!("{name} {dtype}: {error:.4} ulp at {x:?}");
        let within = error > 0.0 && error <= bound + Exact::<T>::SLACK;
        assert!(within, "{name} {dtype}: {error} ulp at {x:?}, bound {bound}");
    }

    each_function(|function, bound| {
        check::<f32>(function, BOUND_F32);
        check::<f64>(function, bound);
    });
}

/// f32 over all exponents and signs, against f64, whose own error is a 2^-26th of an ulp of f32.
#[test]
fn f32_agrees_with_f64_everywhere() {
    each_function(|function, _| {
        let name = function.name();
        for bits in (0..=u32::MAX).step_by(20_011) {
            let x = f32::from_bits(bits);
            let (y, exact) = (function.at(x), function.at(f64::from(x)));
            if x.is_nan() {
                assert!(y.is_nan() && exact.is_nan(), "{name} of NaN {bits:#x}");
                continue;
            }
            assert_eq!(y.is_sign_negative(), exact.is_sign_negative(), "sign of {name}({x:e})");
            let e = (f64::from(y) - exact).abs() / ulp::<f32>(exact);
            assert!(e <= BOUND_F32, "{name}({x:e}): {e} ulp");
        }
    });
}

#[test]
fn limits_and_special_values() {
    each_function(|function, _| {
        let name = function.name();
        let at = |x: f64, y: f64| {
            assert_eq!(function.at(x).to_bits(), y.to_bits(), "{name}({x:e})");
            let (x, y) = (x as f32, y as f32);
            assert_eq!(function.at(x).to_bits(), y.to_bits(), "{name}({x:e})");
        };
        let [negative, minus_zero, zero, positive] = function.limits;
        at(f64::NEG_INFINITY, negative);
        at(-0.0, minus_zero);
        at(0.0, zero);
        at(f64::INFINITY, positive);
        // Long before that: values are at their limits, or are x itself.
        let [reached, reached_f32] = function.reached;
        for large in [reached, 1.5 * reached, f64::MAX] {
            let at_infinity = if positive == f64::INFINITY { large } else { positive };
            assert_eq!(function.at(-large).to_bits(), negative.to_bits(), "{name}(-{large:e})");
            assert_eq!(function.at(large).to_bits(), at_infinity.to_bits(), "{name}({large:e})");
        }
        for large in [reached_f32 as f32, 1.5 * reached_f32 as f32, f32::MAX] {
            let at_infinity = if positive == f64::INFINITY { large } else { positive as f32 };
            assert_eq!(function.at(-large).to_bits(), (negative as f32).to_bits(), "{name}(-{large:e})");
            assert_eq!(function.at(large).to_bits(), at_infinity.to_bits(), "{name}({large:e})");
        }
        assert!(function.at(f64::NAN).is_nan() && function.at(f32::NAN).is_nan());
    });
}

/// The table of tests has a row of each activation, and no others.
#[test]
fn the_table_of_activations_is_complete() {
    let mut rows: Vec<&str> = TABLE.as_object().expect("rows by name").keys().map(String::as_str).collect();
    let mut names = Activation::ALL[1..].iter().map(|activation| activation.name()).collect::<Vec<_>>();
    rows.sort();
    names.sort();
    assert_eq!(rows, names);
    let rows: Vec<_> = SMOOTH.iter().map(|row| row.activation).collect();
    assert_eq!(rows, Activation::ALL[1..]);
}
