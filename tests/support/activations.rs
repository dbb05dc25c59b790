//! What tests have to know of each smooth activation. A new one is added here, and to `scripts/activation-vectors`,
//! which makes the table of exact values. Tests that need only its name take it from `Activation::ALL`.

use drop_activation::{Activation, Real};

use super::data::{Bits, ulp};

/// A smooth activation.
pub struct Smooth {
    pub activation: Activation,
    /// Units in the last place that value and derivative may be off, in f64 and, in the CUDA kernels, in f32.
    pub bound: f64,
    pub value: Function,
    pub derivative: Function,
}

/// σ or σ' of an activation.
pub struct Function {
    activation: Activation,
    order: Order,
    /// At -∞, -0, +0 and +∞. Infinite is what becomes x itself.
    pub limits: [f64; 4],
    /// A zero beside the origin, near which the formula cancels.
    pub root: Option<f64>,
}

#[derive(PartialEq)]
enum Order {
    Value,
    Derivative,
}

/// A row: the bound, and of σ and σ' the limits and the root.
const fn row(
    activation: Activation,
    bound: f64,
    value: ([f64; 4], Option<f64>),
    derivative: ([f64; 4], Option<f64>),
) -> Smooth {
    Smooth {
        activation,
        bound,
        value: Function { activation, order: Order::Value, limits: value.0, root: value.1 },
        derivative: Function { activation, order: Order::Derivative, limits: derivative.0, root: derivative.1 },
    }
}

const INFINITY: f64 = f64::INFINITY;

/// All of them, in the order of `Activation::ALL`.
pub const SMOOTH: &[Smooth] = &[
    row(Activation::Sigmoid, 4.0, ([0.0, 0.5, 0.5, 1.0], None), ([0.0, 0.25, 0.25, 0.0], None)),
    row(Activation::Tanh, 4.0, ([-1.0, -0.0, 0.0, 1.0], None), ([0.0, 1.0, 1.0, 0.0], None)),
    row(Activation::Gelu, 8.0, ([-0.0, -0.0, 0.0, INFINITY], None), ([-0.0, 0.5, 0.5, 1.0], Some(-0.7517915246935645))),
    row(Activation::Silu, 4.0, ([-0.0, -0.0, 0.0, INFINITY], None), ([-0.0, 0.5, 0.5, 1.0], Some(-1.278464542761074))),
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
    /// Its name in `tests/data/activation.csv`.
    pub fn name(&self) -> String {
        format!("{}{}", self.activation, if self.order == Order::Value { "" } else { "_derivative" })
    }

    /// What the library makes of x.
    pub fn at<R: Real>(&self, x: R) -> R {
        match self.order {
            Order::Value => x.sigma(self.activation),
            Order::Derivative => x.derivative(self.activation),
        }
    }

    /// Its exact values in f32 or f64: at arguments at random over all exponents, around the origin, in the tails, at
    /// subnormal results, next to zeros, and where earlier searches found the largest errors.
    pub fn exact_values<T: Bits>(&self) -> Vec<Exact<T>> {
        let own = self.name();
        let number = |digits| T::from_bits(u64::from_str_radix(digits, 16).expect("hexadecimal"));
        let lines = include_str!("../data/activation.csv").lines().skip(1);
        let rows = lines.map(|line| <[&str; 5]>::try_from(line.split(',').collect::<Vec<_>>()).expect("five columns"));
        let of_this = rows.filter(|[name, dtype, ..]| *name == own && *dtype == T::DTYPE.name());
        let rows: Vec<_> = of_this
            .map(|[_, _, x, nearest, rest]| Exact {
                x: number(x),
                nearest: number(nearest),
                rest: rest.parse().expect("a number"),
            })
            .collect();
        assert!(rows.len() > 300, "{} rows of {} in {}", rows.len(), own, T::DTYPE.name());
        rows
    }
}
