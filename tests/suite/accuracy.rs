//! Holds the public functions of `drop_activation::activation` to the bounds that its documentation states. What each
//! backend makes of them is tested by `sigma.rs`.

use drop_activation::{Activation, Real};

use crate::data::{Bits, ulp};
use crate::support::activations::{BOUND_F32, Exact, Function, SMOOTH};

fn each_function(mut check: impl FnMut(&Function, f64)) {
    for row in &SMOOTH {
        check(&row.value, row.bound);
        check(&row.derivative, row.bound);
    }
}

/// Every row of the table of exact values.
#[test]
fn agrees_with_exact_values() {
    fn check<T: Bits>(function: &Function, of: fn(T) -> T, bound: f64) {
        let (name, dtype) = (function.name, T::DTYPE.name());
        let mut worst = (0.0, T::rounded(0.0));
        for exact in function.exact_values::<T>() {
            let y = of(exact.x);
            let negative = |v: T| v.to_f64().is_sign_negative();
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
        check(function, function.f32, BOUND_F32);
        check(function, function.f64, bound);
    });
}

/// f32 over all exponents and signs, against f64, whose own error is a 2^-26th of an ulp of f32.
#[test]
fn f32_agrees_with_f64_everywhere() {
    each_function(|function, _| {
        let name = function.name;
        for bits in (0..=u32::MAX).step_by(20_011) {
            let x = f32::from_bits(bits);
            let (y, exact) = ((function.f32)(x), (function.f64)(x.into()));
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
        let name = function.name;
        let at = |x: f64, y: f64| {
            assert_eq!((function.f64)(x).to_bits(), y.to_bits(), "{name}({x:e})");
            let (x, y) = (x as f32, y as f32);
            assert_eq!((function.f32)(x).to_bits(), y.to_bits(), "{name}({x:e})");
        };
        let [negative, minus_zero, zero, positive] = function.limits;
        at(f64::NEG_INFINITY, negative);
        at(-0.0, minus_zero);
        at(0.0, zero);
        at(f64::INFINITY, positive);
        // Long before that: values are at their limits, or are x itself.
        for large in [1e3, 1e20, 1e38] {
            at(-large, negative);
            at(large, if positive == f64::INFINITY { large } else { positive });
        }
        assert_eq!((function.f64)(-f64::MAX).to_bits(), negative.to_bits(), "{name}(-MAX)");
        assert_eq!((function.f32)(-f32::MAX).to_bits(), (negative as f32).to_bits(), "{name}(-MAX)");
        assert!((function.f64)(f64::NAN).is_nan() && (function.f32)(f32::NAN).is_nan());
    });
}

/// The table of tests has every activation in its place, and the functions of an activation are those of its row.
#[test]
fn the_table_of_activations_is_complete() {
    let rows = SMOOTH.each_ref().map(|row| row.activation);
    assert_eq!([&[Activation::Relu], &rows[..]].concat(), Activation::ALL);
    for row in &SMOOTH {
        assert_eq!(row.value.name, row.activation.name());
        assert_eq!(row.derivative.name, format!("{}_derivative", row.activation));
        for x in [-2.5f32, -0.3, 0.7, 3.1] {
            let value = [(row.value.f32)(x), (row.derivative.f32)(x)];
            assert_eq!([x.sigma(row.activation), x.derivative(row.activation)], value, "{} at {x}", row.activation);
            let x = f64::from(x);
            let value = [(row.value.f64)(x), (row.derivative.f64)(x)];
            assert_eq!([x.sigma(row.activation), x.derivative(row.activation)], value, "{} at {x}", row.activation);
        }
    }
}
