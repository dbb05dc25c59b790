//! The smooth activations.
//!
//! What a backend computes for σ and σ' must be within bounds of the exact values. Every pass must then give, bit for
//! bit, what the paper's equations make of these values with one rounding: for kept and for dropped elements, for the
//! mixture at inference, and in the 16-bit types.

use drop_activation::half::{bf16, f16};
use drop_activation::{Activation, DropActivation, Element, InOut, MaskKey, MaskOrigin, PackedMask, Real, reference};

use crate::backend::{Backend, Call, Tested};
use crate::data::{Bits, Rng, assert_each, same_bits, same_or_nan, specials, ulp};
use crate::passes::{ALIGNED, LENGTHS, PROBABILITIES, Placement, assert_same_mask, run};
use crate::support::activations::{Exact, Function, SMOOTH, Smooth, smooth};
use crate::support::calls::each_of_drop_activation;

/// `f64` as it is, everything else as the `f32` it is computed in.
pub trait Arithmetic: Tested {
    type Wide: Tested + Element<Real = Self::Real> + Real;

    fn widen(self) -> Self::Wide;
    fn narrow(wide: Self::Wide) -> Self;
}

macro_rules! arithmetic {
    ($($type:ty: $wide:ty),*) => {$(
        impl Arithmetic for $type {
            type Wide = $wide;

            fn widen(self) -> $wide {
                self.to_real()
            }

            fn narrow(wide: $wide) -> Self {
                Self::from_real(wide)
            }
        }
    )*};
}

arithmetic!(f32: f32, f16: f32, bf16: f32, f64: f64);

/// A backend's σ(x) and σ'(x) in the type of the arithmetic: its passes with p = 1, and dy = 1.
struct Sigma<W> {
    value: Vec<W>,
    derivative: Vec<W>,
}

impl<W: Tested> Sigma<W> {
    fn of(backend: &dyn Backend, activation: Activation, x: &[W]) -> Self {
        let op = DropActivation::new(activation, 1.0).unwrap();
        let (value, mask) = run(backend, &Call::Forward(op, MaskKey::new(0, 0)), x, Placement::default());
        let ones = vec![W::rounded(1.0); x.len()];
        let call = Call::Backward(op, mask.as_ref().unwrap(), Some(x));
        Self { value, derivative: run(backend, &call, &ones, Placement::default()).0 }
    }
}

/// The output at element i by the paper's equations, and whether it is the input unchanged.
fn expected_element<T: Arithmetic>(call: &Call<T>, i: usize, input: T, sigma: &Sigma<T::Wide>) -> (T, bool) {
    let (s, d) = (sigma.value[i], sigma.derivative[i]);
    let mixture = |p: f64, of_sigma: T::Wide, linear: T::Wide| T::Wide::rounded(p).mul_add(of_sigma, linear);
    let slope = |p: f64| T::Wide::rounded(1.0 - p);
    let computed = |v| (T::narrow(v), false);
    match *call {
        Call::Forward(op, key) | Call::ForwardInto(op, key) => {
            let word = reference::keep_word(op.threshold(), key, (key.first() + i as u64) / 32);
            if word >> (i % 32) & 1 == 1 { computed(s) } else { (input, true) }
        }
        Call::Backward(_, mask, _) if mask.bit(i).unwrap() => computed(input.widen() * d),
        Call::Backward(..) => (input, true),
        // A p that is zero in the type of the arithmetic.
        Call::Infer(op) | Call::InferBackward(op, _) if T::Wide::rounded(op.p()) == T::Wide::rounded(0.0) => {
            (input, true)
        }
        Call::Infer(op) if op.p() == 1.0 => computed(s),
        Call::Infer(op) => computed(mixture(op.p(), s, slope(op.p()) * input.widen())),
        Call::InferBackward(op, _) if op.p() == 1.0 => computed(input.widen() * d),
        Call::InferBackward(op, _) => computed(input.widen() * mixture(op.p(), d, slope(op.p()))),
        _ => unreachable!("only Drop-Activation has nonlinearities"),
    }
}

fn assert_equations<T: Arithmetic>(
    backend: &dyn Backend,
    call: &Call<T>,
    input: &[T],
    sigma: &Sigma<T::Wide>,
    at: Placement,
) {
    let what = || format!("{} {call:?} {at:?}", backend.name());
    let (output, mask) = run(backend, call, input, at);
    let (expected, through): (Vec<T>, Vec<bool>) =
        input.iter().enumerate().map(|(i, v)| expected_element(call, i, *v, sigma)).unzip();
    assert_each(&what, &output, &expected, same_or_nan);
    let only = |of: &[T]| -> Vec<T> { of.iter().zip(&through).filter(|(_, t)| **t).map(|(v, _)| *v).collect() };
    assert_each(&|| format!("{}, elements that pass unchanged", what()), &only(&output), &only(&expected), same_bits);

    let expected_mask = match *call {
        Call::Forward(op, key) | Call::ForwardInto(op, key) => {
            let words = reference::keep_mask(&op, key, input.len()).unwrap();
            Some(PackedMask::from_words(MaskOrigin::DropActivation(op), input.len(), words).unwrap())
        }
        _ => None,
    };
    assert_same_mask(&what, mask, expected_mask);
}

fn widened<T: Arithmetic>(x: &[T]) -> Vec<T::Wide> {
    x.iter().map(|x| x.widen()).collect()
}

/// Every pass of one nonlinearity against the equations, with the tensors placed like that.
pub fn check_calls<T: Arithmetic>(
    backend: &dyn Backend,
    op: DropActivation,
    key: MaskKey,
    x: &[T],
    dy: &[T],
    at: Placement,
) {
    let sigma = Sigma::of(backend, op.activation(), &widened(x));
    each_of_drop_activation(op, key, (x, dy), |call, input| assert_equations(backend, call, input, &sigma, at));
}

pub fn equations<T: Arithmetic>(backend: &dyn Backend) {
    let mut rng = Rng::new(21);
    let long: &[usize] = if backend.is_slow() { &[] } else { &[32_769, 131_075] };
    for (n, &len) in LENGTHS.iter().chain(long).enumerate() {
        let (x, dy) = (rng.values::<T>(len), rng.values(len));
        let key = MaskKey::new(rng.bits(), rng.bits());
        // How a long tensor is divided does not depend on the activation.
        let rows = if n < LENGTHS.len() { &SMOOTH[..] } else { std::slice::from_ref(&SMOOTH[n % SMOOTH.len()]) };
        for Smooth { activation, .. } in rows {
            let op = |p| DropActivation::new(*activation, p).unwrap();
            let odd = Placement { input: n % 5, output: n % 3, saved: n % 7, in_place: n % 2 == 0 };
            check_calls(backend, op(0.6), key, &x, &dy, odd);
            check_calls(backend, op(PROBABILITIES[n % PROBABILITIES.len()]), key, &x, &dy, ALIGNED[n / 2 % 2]);
        }
    }
}

/// Special values, with every p that is treated on its own; in whole tiles and element by element.
pub fn equations_at_special_values<T: Arithmetic>(backend: &dyn Backend) {
    let specials = specials::<T>();
    let pairs = || specials.iter().flat_map(|x| specials.iter().map(move |dy| (*x, *dy)));
    let (x, dy): (Vec<T>, Vec<T>) = pairs().unzip();
    for &Smooth { activation, .. } in &*SMOOTH {
        let sigma = Sigma::of(backend, activation, &widened(&x));
        for p in [0.0, 0.6, 1.0] {
            let op = DropActivation::new(activation, p).unwrap();
            for at in [Placement::default(), Placement { input: 1, output: 1, saved: 1, in_place: false }] {
                let key = MaskKey::new(22, 23);
                each_of_drop_activation(op, key, (&x, &dy), |call, input| {
                    assert_equations(backend, call, input, &sigma, at)
                });
            }
        }
    }
}

/// A p that is all but zero, or rounds to zero in the type of the arithmetic, leaves x and dy as they are, the
/// infinities too: p σ(x) must not become 0 times infinity.
pub fn vanishing_p<T: Arithmetic>(backend: &dyn Backend) {
    let infinity = T::Real::from_f64(f64::INFINITY);
    let x = [infinity, T::Real::from_f64(1.0), T::Real::from_f64(-2.0)].map(T::from_real);
    let x = [x[0], -x[0], x[1], x[2]];
    for &Smooth { activation, .. } in &*SMOOTH {
        for p in [1e-46, 1e-300] {
            let op = DropActivation::new(activation, p).unwrap();
            for call in [Call::Infer(op), Call::InferBackward(op, &x)] {
                let mut y = x;
                backend.run(&call, InOut::InPlace(&mut y)).unwrap();
                assert_each(&|| format!("{} {call:?}", backend.name()), &y, &x, same_bits);
            }
        }
    }
}

/// σ and σ' are the reference's, bit for bit.
pub fn sigma_equals_the_reference<T: Arithmetic>(backend: &dyn Backend) {
    let mut rng = Rng::new(24);
    let mut x = specials::<T>();
    x.extend(rng.values::<T>(20_000));
    let x = widened(&x);
    for &Smooth { activation, .. } in &*SMOOTH {
        let what = || format!("{} {activation}", backend.name());
        let sigma = Sigma::of(backend, activation, &x);
        let expected: Vec<T::Wide> = x.iter().map(|x| x.sigma(activation)).collect();
        assert_each(&what, &sigma.value, &expected, same_or_nan);
        let expected: Vec<T::Wide> = x.iter().map(|x| x.derivative(activation)).collect();
        assert_each(&what, &sigma.derivative, &expected, same_or_nan);
    }
}

/// kernels/activation.cuh promises the same bits whatever compiles it: its sources on this machine against what nvcc
/// made of them.
#[cfg(feature = "cuda")]
fn compiled_sigma_is_the_sources<T: Arithmetic>() {
    use crate::backend::{Compiled, Emulated};
    let Some(sources) = Emulated::load() else { return };
    let mut x = specials::<T>();
    x.extend(Rng::new(26).values::<T>(20_000));
    let x = widened(&x);
    for compiled in [Compiled::shipped(), Compiled::fresh_90()].into_iter().flatten() {
        for &Smooth { activation, .. } in &*SMOOTH {
            let what = || format!("{} {activation}", compiled.name());
            let (meant, made) = (Sigma::of(&sources, activation, &x), Sigma::of(&compiled, activation, &x));
            assert_each(&what, &made.value, &meant.value, same_or_nan);
            assert_each(&what, &made.derivative, &meant.derivative, same_or_nan);
        }
    }
}

#[cfg(feature = "cuda")]
#[test]
fn compiled_f32_is_the_sources() {
    compiled_sigma_is_the_sources::<f32>();
}

#[cfg(feature = "cuda")]
#[test]
fn compiled_f64_is_the_sources() {
    compiled_sigma_is_the_sources::<f64>();
}

/// The backend's σ and σ' are within the bounds of the exact values in the table.
fn check_exact_values<T: Tested>(backend: &dyn Backend) {
    for row in &*SMOOTH {
        let of = |function: &Function| -> (Vec<Exact<T>>, Sigma<T>) {
            let exact = function.exact_values::<T>();
            let x: Vec<T> = exact.iter().map(|exact| exact.x).collect();
            let sigma = Sigma::of(backend, row.activation, &x);
            (exact, sigma)
        };
        let ((values, sigma), (derivatives, sigma_of_derivatives)) = (of(&row.value), of(&row.derivative));
        let given = values.iter().zip(sigma.value).map(|pair| (pair, "σ"));
        let given = given.chain(derivatives.iter().zip(sigma_of_derivatives.derivative).map(|pair| (pair, "σ'")));
        for ((exact, given), name) in given {
            let off = exact.error(given);
            let what = || format!("{} {} {}: {name}", backend.name(), row.activation, T::DTYPE.name());
            assert!(off <= row.bound + Exact::<T>::SLACK, "{} is {given:?}, {off} ulp from {exact:?}", what());
        }
    }
}

pub fn f64_bounds(backend: &dyn Backend) {
    check_exact_values::<f64>(backend);
}

/// f32 against the table, and against the crate's own f64, which `f64_bounds` has measured.
pub fn f32_bounds(backend: &dyn Backend) {
    check_exact_values::<f32>(backend);
    let mut rng = Rng::new(25);
    let count = if backend.is_slow() { 2_000 } else { 200_000 };
    let mut x: Vec<f32> = (0..count)
        .map(|i| match i % 4 {
            0 => rng.normal() as f32,
            1 => (12.0 * rng.normal()) as f32,
            2 => (60.0 * rng.normal()) as f32,
            _ => f32::from_bits(rng.bits() as u32),
        })
        .filter(|x| x.is_finite())
        .collect();
    // Around the zeros, where the formulas cancel.
    for root in SMOOTH.iter().flat_map(|row| [row.value.root, row.derivative.root]).flatten() {
        x.extend((0..200).map(|i| f32::from_bits((root as f32).to_bits() - 100 + i)));
    }
    for Smooth { activation, bound, value, derivative } in &*SMOOTH {
        let sigma = Sigma::of(backend, *activation, &x);
        for (i, x) in x.iter().enumerate() {
            for (function, given) in [(value, sigma.value[i]), (derivative, sigma.derivative[i])] {
                let exact = function.at(f64::from(*x));
                let off = (f64::from(given) - exact).abs() / ulp::<f32>(exact);
                let what = || format!("{} {}({x:?})", backend.name(), function.name());
                assert!(
                    f64::from(given) == exact || off <= *bound,
                    "{} is {given:?}, {off} ulp from {exact:e}",
                    what()
                );
            }
        }
    }
}

/// Infinity has a limit, and NaN stays one, in every type.
pub fn limits<T: Tested>(backend: &dyn Backend) {
    let x = [f64::NEG_INFINITY, f64::INFINITY, f64::NAN].map(T::rounded);
    for Smooth { activation, value, derivative, .. } in &*SMOOTH {
        let sigma = Sigma::of(backend, *activation, &x);
        for (given, function) in [(sigma.value, value), (sigma.derivative, derivative)] {
            let given: Vec<f64> = given.into_iter().map(T::to_f64).collect();
            let [at_minus_infinity, .., at_infinity] = function.limits;
            assert_eq!(given[..2], [at_minus_infinity, at_infinity], "{} {}", backend.name(), function.name());
            assert!(given[2].is_nan(), "{} {}", backend.name(), function.name());
        }
    }
}

/// The mixture's terms can cancel, so its error is measured against |(1-p) x| + |p σ(x)|, in units in
/// the last place of that.
pub fn mixture_bounds<T: Tested>(backend: &dyn Backend) {
    assert!(T::width() >= 32);
    let mut rng = Rng::new(26);
    let x: Vec<T> = rng.finite(if backend.is_slow() { 2_000 } else { 50_000 });
    let ones = vec![T::rounded(1.0); x.len()];
    for &Smooth { activation, .. } in &*SMOOTH {
        for p in [0.95, 0.5, 1e-3, 1.0 - 1e-9] {
            let op = DropActivation::new(activation, p).unwrap();
            let (y, _) = run(backend, &Call::Infer(op), &x, Placement::default());
            let (dx, _) = run(backend, &Call::InferBackward(op, &x), &ones, Placement::default());
            for (i, x) in x.iter().enumerate() {
                let value = x.to_f64();
                let terms = [
                    ((1.0 - p) * value, p * value.sigma(activation), y[i]),
                    (1.0 - p, p * value.derivative(activation), dx[i]),
                ];
                for (linear, of_sigma, given) in terms {
                    let measure = ulp::<T>(linear.abs() + of_sigma.abs());
                    let off = (given.to_f64() - (linear + of_sigma)).abs() / measure;
                    assert!(
                        off <= smooth(activation).bound,
                        "{} {op} {}: x = {x:?} gives {given:?}, off by {off}",
                        backend.name(),
                        T::DTYPE.name()
                    );
                }
            }
        }
    }
}
