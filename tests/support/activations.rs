//! What tests have to know of each smooth activation. A new one is added here, and to `scripts/activation-vectors`,
//! which makes the table of exact values. Tests that need only its name take it from `Activation::ALL`.

use drop_activation::Activation;
use drop_activation::activation::*;

use super::data::{Bits, ulp};

/// A smooth activation.
pub struct Smooth {
    pub activation: Activation,
    /// Units in the last place that value and derivative may be off, in f64 and, in the CUDA kernels, in f32.
    pub bound: f64,
    pub value: Function,
    pub derivative: Function,
}

pub struct Function {
    /// Its name in `tests/data/activation.csv`.
    pub name: &'static str,
    pub f32: fn(f32) -> f32,
    pub f64: fn(f64) -> f64,
    /// At -∞, -0, +0 and +∞. Infinite is what becomes x itself.
    pub limits: [f64; 4],
    /// A zero beside the origin, near which the formula cancels.
    pub root: Option<f64>,
}

const INFINITY: f64 = f64::INFINITY;

/// All of them, in the order of `Activation::ALL`.
pub const SMOOTH: [Smooth; 4] = [
    Smooth {
        activation: Activation::Sigmoid,
        bound: 4.0,
        value: Function {
            name: "sigmoid",
            f32: sigmoid_f32,
            f64: sigmoid_f64,
            limits: [0.0, 0.5, 0.5, 1.0],
            root: None,
        },
        derivative: Function {
            name: "sigmoid_derivative",
            f32: sigmoid_derivative_f32,
            f64: sigmoid_derivative_f64,
            limits: [0.0, 0.25, 0.25, 0.0],
            root: None,
        },
    },
    Smooth {
        activation: Activation::Tanh,
        bound: 4.0,
        value: Function { name: "tanh", f32: tanh_f32, f64: tanh_f64, limits: [-1.0, -0.0, 0.0, 1.0], root: None },
        derivative: Function {
            name: "tanh_derivative",
            f32: tanh_derivative_f32,
            f64: tanh_derivative_f64,
            limits: [0.0, 1.0, 1.0, 0.0],
            root: None,
        },
    },
    Smooth {
        activation: Activation::Gelu,
        bound: 8.0,
        value: Function { name: "gelu", f32: gelu_f32, f64: gelu_f64, limits: [-0.0, -0.0, 0.0, INFINITY], root: None },
        derivative: Function {
            name: "gelu_derivative",
            f32: gelu_derivative_f32,
            f64: gelu_derivative_f64,
            limits: [-0.0, 0.5, 0.5, 1.0],
            root: Some(-0.7517915246935645),
        },
    },
    Smooth {
        activation: Activation::Silu,
        bound: 4.0,
        value: Function { name: "silu", f32: silu_f32, f64: silu_f64, limits: [-0.0, -0.0, 0.0, INFINITY], root: None },
        derivative: Function {
            name: "silu_derivative",
            f32: silu_derivative_f32,
            f64: silu_derivative_f64,
            limits: [-0.0, 0.5, 0.5, 1.0],
            root: Some(-1.278464542761074),
        },
    },
];

const _: () = assert!(
    SMOOTH.len() + 1 == Activation::ALL.len(),
    "every activation but ReLU has a row in tests/support/activations.rs"
);

/// The row of an activation.
pub fn smooth(activation: Activation) -> &'static Smooth {
    SMOOTH.iter().find(|row| row.activation == activation).expect("ReLU is not smooth")
}

/// The bound for f32 on the CPU, the same for all.
pub const BOUND_F32: f64 = 0.51;

/// An exact value: `nearest + rest ulp`, where an ulp is the exact value's.
#[derive(Clone, Copy, Debug)]
pub struct Exact<T> {
    pub x: T,
    pub nearest: T,
    pub rest: f64,
}

impl<T: Bits> Exact<T> {
    /// `rest` is rounded to four digits.
    pub const SLACK: f64 = 0.00005;

    /// How far `given` is from the exact value, in ulp of that.
    pub fn error(&self, given: T) -> f64 {
        let (nearest, computed) = (self.nearest.to_f64(), given.to_f64());
        // Where the exact value was rounded up to a power of two, its own ulp is that of the number below. The sign of
        // the rest tells, even of one too small for its digits.
        let below = self.rest.is_sign_negative() != nearest.is_sign_negative() && nearest != 0.0;
        let spacing = ulp::<T>(f64::from_bits(nearest.to_bits() - u64::from(below)));
        ((computed - nearest) / spacing - self.rest).abs()
    }
}

impl Function {
    /// Its exact values in f32 or f64: at arguments at random over all exponents, around the origin, in the tails, at
    /// subnormal results, next to zeros, and where earlier searches found the largest errors.
    pub fn exact_values<T: Bits>(&self) -> Vec<Exact<T>> {
        let number = |digits| T::from_bits(u64::from_str_radix(digits, 16).expect("hexadecimal"));
        let lines = include_str!("../data/activation.csv").lines().skip(1);
        let rows = lines.map(|line| <[&str; 5]>::try_from(line.split(',').collect::<Vec<_>>()).expect("five columns"));
        let of_this = rows.filter(|[name, dtype, ..]| *name == self.name && *dtype == T::DTYPE.name());
        let rows: Vec<_> = of_this
            .map(|[_, _, x, nearest, rest]| Exact {
                x: number(x),
                nearest: number(nearest),
                rest: rest.parse().expect("a number"),
            })
            .collect();
        assert!(rows.len() > 300, "{} rows of {} in {}", rows.len(), self.name, T::DTYPE.name());
        rows
    }
}
