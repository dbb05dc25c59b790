//! σ and σ' of a block: one loop for each formula, so that it becomes vector code, and one copy of it for each
//! type and instruction set, which all passes share.

use crate::activation::{Activation, smooth_activations};
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
        ($activation:ident $method:ident $($(#[$doc:meta])* $variant:ident $name:literal $formula:literal $f:ident $d:ident;)*) => {
            match $activation {
                Activation::Relu => for value in values {
                    *value = value.$method(Activation::Relu);
                }
                $(Activation::$variant => for value in values {
                    *value = value.$method(Activation::$variant);
                })*
            }
        };
    }
    match function {
        Smooth::Value(activation) => smooth_activations!(each activation sigma),
        Smooth::Derivative(activation) => smooth_activations!(each activation derivative),
    }
}
