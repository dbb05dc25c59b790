//! What tests have to know of each smooth activation: `tests/data/activations.json`, the one table to which a new one
//! is added. `scripts/activation-vectors` makes the table of exact values of it, and the tests of the C interface and
//! of the Python package take their definitions from it.
//!
//! A row has the `bound` below, σ as `value`, σ' as `derivative`, and an optional `exponential`: |x|, as an expression of
//! `step`, where the exponential in the formulas is e^-step. σ and σ' have a `formula`, which must be right in C,
//! Python and mpmath alike (`exp`, `erfc`, `tanh`, `sqrt`, `fabs` and `pi`), and what [`Function`] says.

use std::sync::LazyLock;

use drop_activation::{Activation, Real};
use serde_json::Value;

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
    /// At -∞, -0, +0 and +∞. Infinite, `null` in the table, is what becomes x itself.
    pub limits: [f64; 4],
    /// |x| from which on it is at its limits, in f64 and in f32.
    pub reached: [f64; 2],
    /// A zero beside the origin, near which the formula cancels.
    pub root: Option<f64>,
}

#[derive(Clone, Copy, PartialEq)]
enum Order {
    Value,
    Derivative,
}

/// The table, by name.
pub static TABLE: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("../data/activations.json")).expect("JSON"));

/// All of them, in the order of `Activation::ALL`.
pub static SMOOTH: LazyLock<Vec<Smooth>> = LazyLock::new(|| {
    let row = |activation: &Activation| {
        let row = TABLE.get(activation.name());
        let row = row.unwrap_or_else(|| panic!("tests/data/activations.json has no row of {activation}"));
        let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{value} in the row of {activation}"));
        let function = |name: &str, order| {
            let of = &row[name];
            Function {
                activation: *activation,
                order,
                limits: std::array::from_fn(|i| of["limits"][i].as_f64().unwrap_or(f64::INFINITY)),
                reached: std::array::from_fn(|i| number(&of["reached"][i])),
                root: of.get("root").map(number),
            }
        };
        Smooth {
            activation: *activation,
            bound: number(&row["bound"]),
            value: function("value", Order::Value),
            derivative: function("derivative", Order::Derivative),
        }
    };
    Activation::ALL[1..].iter().map(row).collect()
});

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
