//! σ and σ' of a block: one loop for each formula, so that it becomes vector code, and one copy of it for each
//! type and instruction set, which all passes share.

use crate::activation::Activation;
use crate::cpu::simd::{Simd, Task};
use crate::real::Real;

/// What is evaluated.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Smooth {
    Value(Activation),
    Derivative(Activation),
}

/// Replaces each value by the function's.
#[inline(always)]
pub(crate) fn evaluate<S: Simd, R: Real>(simd: S, function: Smooth, values: &mut [R; 32]) {
    simd.outlined(Evaluate { function, values });
}

struct Evaluate<'a, R> {
    function: Smooth,
    values: &'a mut [R; 32],
}

impl<R: Real> Task for Evaluate<'_, R> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        loops(self.function, self.values);
    }
}

#[inline(always)]
fn loops<R: Real>(function: Smooth, values: &mut [R; 32]) {
    // The activation is a constant in each loop: a choice inside it would keep it from vector code.
    macro_rules! each {
        ($activation:expr, $method:ident: $($name:ident)*) => {
            match $activation {
                $(Activation::$name => for value in values {
                    *value = value.$method(Activation::$name);
                })*
            }
        };
    }
    match function {
        Smooth::Value(activation) => each!(activation, sigma: Relu Sigmoid Tanh Gelu Silu),
        Smooth::Derivative(activation) => each!(activation, derivative: Relu Sigmoid Tanh Gelu Silu),
    }
}
