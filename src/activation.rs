//! The nonlinearities σ: their names, and the smooth ones and their derivatives σ' in f32 and f64, which
//! [`Real`](crate::Real) has as methods.
//!
//! The result is within 0.51 ulp in f32, and in f64 within the bound that the activation states. That
//! holds for every argument, subnormal results and the neighbourhood of the derivatives' zeros included. An
//! ulp is the distance of neighbouring numbers of the type in the exact value's binade, or among the
//! subnormals where the exact value lies there. NaN gives NaN, and the infinities give the limits. The CUDA
//! kernels use the same formulas with other tables; in both types they have the bounds of f64.
//!
//! Everything here is straight-line arithmetic with selections: no calls, no tables in memory, no
//! branches. A loop over a slice becomes vector code for whatever instructions the loop may use, and
//! since Rust fuses nothing by itself, numbers are the same bits on every platform and vector width.
//! That is why e^x is computed here and not by a library, and without fused multiply-adds, which
//! are slow where hardware has none. f32 functions are done in f64 with shorter polynomials and rounded
//! once, which leaves little more than the half ulp of that rounding.

// How accuracy survives:
//
// - e^x is kept as (1 + rest) 2^k. Factors are applied to 1 + rest, as v + v rest, and 2^k comes last: so a
//   subnormal result is rounded once, and what multiplies e^x does not multiply its rounding error.
// - e^(-a²/2) takes a² as a sum of two doubles; else the rounding of a² would cost a²/4 ulp.
// - The normal distribution's tail Φ(-a) is e^(-a²/2) times a smooth function of a, so both its smallness and
//   its relative accuracy come from the exponential. Φ(a) = 1 - Φ(-a).
// - SiLU' and GELU' have a zero at negative x, where their formulas cancel. Near it they are x - root, with
//   root a sum of two doubles, times a polynomial.

use std::f64::consts::LOG2_E;
use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// Hands the smooth activations to the macro `$then`, after what else is `$given` to it. A row is documentation,
/// variant, name, formula, and the functions below that are σ and σ'. A new activation is a row at the end: the place
/// in this list is its code.
macro_rules! smooth_activations {
    ($then:ident $($given:tt)*) => {
        $then! {
            $($given)*
            /// Its limits are 0 and 1. Within 4 ulp in f64.
            Sigmoid "sigmoid" "1 / (1 + exp(-x))" sigmoid sigmoid_derivative;
            /// Its limits are -1 and 1; of -0 it is -0. Within 4 ulp in f64.
            Tanh "tanh" "tanh(x)" tanh tanh_derivative;
            /// With the normal distribution function Φ, by erf and not by tanh (Hendrycks and Gimpel, 2016). Its limits
            /// are -0 and +∞, its derivative's -0 and 1; of -0 it is -0. Within 8 ulp in f64.
            Gelu "gelu" "x (1 + erf(x / sqrt(2))) / 2" gelu gelu_derivative;
            /// Elfwing, Uchibe and Doya, 2017. Its limits are -0 and +∞, its derivative's -0 and 1; of -0 it is -0.
            /// Within 4 ulp in f64.
            Silu "silu" "x / (1 + exp(-x))" silu silu_derivative;
        }
    };
}
pub(crate) use smooth_activations;

macro_rules! define {
    ($($(#[$doc:meta])* $variant:ident $name:literal $formula:literal $value:ident $derivative:ident;)*) => {
        /// An elementwise nonlinearity σ.
        ///
        /// The paper names ReLU, sigmoid and tanh (section 3); the others are this crate's addition.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Activation {
            /// `x <= 0 ? +0 : x`; σ'(0) = 0.
            Relu,
            $(
                #[doc = concat!("`", $formula, "`.")]
                ///
                $(#[$doc])*
                $variant,
            )*
        }

        impl Activation {
            /// All of them, in the order of their codes.
            pub const ALL: [Self; 1 + [$($name),*].len()] = [Self::Relu, $(Self::$variant),*];

            /// The lower-case name, as in `relu`.
            pub const fn name(self) -> &'static str {
                match self {
                    Self::Relu => "relu",
                    $(Self::$variant => $name,)*
                }
            }

            /// What it is of x, in the notation of C.
            pub const fn formula(self) -> &'static str {
                match self {
                    Self::Relu => "x <= 0 ? +0 : x",
                    $(Self::$variant => $formula,)*
                }
            }
        }

        impl Activation {
            /// σ(x) in f64 arithmetic that is good enough for the precision.
            #[inline(always)]
            fn value<P: Precision>(self, x: f64) -> f64 {
                match self {
                    Self::Relu => if x <= 0.0 { 0.0 } else { x },
                    $(Self::$variant => $value::<P>(x),)*
                }
            }

            /// σ'(x), likewise.
            #[inline(always)]
            fn derivative<P: Precision>(self, x: f64) -> f64 {
                match self {
                    Self::Relu => if x <= 0.0 { 0.0 } else { 1.0 },
                    $(Self::$variant => $derivative::<P>(x),)*
                }
            }
        }
    };
}

smooth_activations!(define);

impl Activation {
    /// Whether the training backward pass reads x again. ReLU's needs its mask only.
    pub const fn backward_needs_input(self) -> bool {
        !matches!(self, Self::Relu)
    }

    /// σ(x) in f32. ReLU's bits do not go through f64, which would make a signalling NaN a quiet one.
    #[inline(always)]
    pub(crate) fn value_f32(self, x: f32) -> f32 {
        match self {
            Self::Relu if x <= 0.0 => 0.0,
            Self::Relu => x,
            _ => self.value::<Single>(x.into()) as f32,
        }
    }

    /// σ'(x) in f32.
    #[inline(always)]
    pub(crate) fn derivative_f32(self, x: f32) -> f32 {
        match self {
            Self::Relu if x <= 0.0 => 0.0,
            Self::Relu => 1.0,
            _ => self.derivative::<Single>(x.into()) as f32,
        }
    }

    /// σ(x) in f64.
    #[inline(always)]
    pub(crate) fn value_f64(self, x: f64) -> f64 {
        self.value::<Double>(x)
    }

    /// σ'(x) in f64.
    #[inline(always)]
    pub(crate) fn derivative_f64(self, x: f64) -> f64 {
        self.derivative::<Double>(x)
    }
}

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Activation {
    type Err = Error;

    /// # Errors
    /// [`Error::UnknownActivation`] for anything but the [name](Activation::name) of one of [`Activation::ALL`].
    fn from_str(name: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|a| a.name() == name)
            .ok_or_else(|| Error::UnknownActivation { name: name.to_owned() })
    }
}

/// The approximations, by the precision asked of them. `scripts/activation-constants` computes the coefficients,
/// lowest power first.
trait Precision {
    /// (e^r - 1 - r) / r² for |r| <= ln(2)/2.
    const EXP: &'static [f64];
    /// Φ(-a) e^(a²/2) (a + c), c = `TAIL_CENTRE`, in t = (a - c) / (a + c), for a in \[0, [`GELU_LIMIT`]\]
    /// or as far as matters.
    const TAIL: &'static [f64];
    const TAIL_CENTRE: f64;
    /// SiLU'(x) / z and GELU'(x) / z in z = x - root, for |z| up to the half width below.
    const SILU: &'static [f64];
    const GELU: &'static [f64];
}

const SILU_ROOT: [f64; 2] = [-1.2784645427610737, -1.0946994183093437e-16];
const SILU_HALF_WIDTH: f64 = 0.5;
const GELU_ROOT: [f64; 2] = [-0.7517915246935645, 1.4956759177009883e-17];
const GELU_HALF_WIDTH: f64 = 0.45;

// Beyond these |x| every result has reached its limit in f64; arguments are cut off there, so that the
// exponent of e^x stays in range and infinity times zero does not arise.
const EXP_LIMIT: f64 = 760.0;
const GELU_LIMIT: f64 = 39.0;

const INV_SQRT_2PI: f64 = 0.3989422804014327;

/// Horner's rule.
#[inline(always)]
fn polynomial(x: f64, coefficients: &[f64]) -> f64 {
    let [lower @ .., highest] = coefficients else { return 0.0 };
    lower.iter().rev().fold(*highest, |sum, c| sum * x + c)
}

/// |x|, at most `limit`; NaN stays NaN.
#[inline(always)]
fn magnitude(x: f64, limit: f64) -> f64 {
    let a = x.abs();
    if a > limit { limit } else { a }
}

/// The low word of an exact argument: adding -0 changes no number, not even 0, so no code is made for it.
const NOTHING: f64 = -0.0;

/// e^x = (1 + rest) 2^k.
#[derive(Clone, Copy)]
struct Exponential {
    rest: f64,
    /// 2^(k + 128)
    scale: f64,
}

impl Exponential {
    /// e^(high + low), for -1.5 `EXP_LIMIT` < high <= 0 and |low| below an ulp of high.
    #[inline(always)]
    fn of<P: Precision>(high: f64, low: f64) -> Self {
        // Adding 1.5 2^52 rounds to an integer and leaves it in the low bits, with what makes an exponent
        // field of it added in passing.
        const ROUND: f64 = 1.5 * (1u64 << 52) as f64 + (1023 + 128) as f64;
        // k LN2_HIGH is exact.
        const LN2_HIGH: f64 = 0.6931471803691238;
        const LN2_LOW: f64 = 1.9082149292705877e-10;
        let shifted = high * LOG2_E + ROUND;
        let k = shifted - ROUND;
        let r = (high - k * LN2_HIGH) + (low - k * LN2_LOW);
        Self { rest: r + r * r * polynomial(r, P::EXP), scale: f64::from_bits(shifted.to_bits() << 52) }
    }

    /// v 2^k. The first product is exact, so that a subnormal result is rounded once.
    #[inline(always)]
    fn scaled(self, v: f64) -> f64 {
        const UNDO: f64 = 1.0 / (1u128 << 127) as f64 / 2.0;
        v * self.scale * UNDO
    }

    /// e^x
    #[inline(always)]
    fn value(self) -> f64 {
        self.scaled(1.0 + self.rest)
    }

    /// v e^x
    #[inline(always)]
    fn times(self, v: f64) -> f64 {
        self.scaled(v + v * self.rest)
    }
}

#[inline(always)]
fn sigmoid<P: Precision>(x: f64) -> f64 {
    let e = Exponential::of::<P>(-magnitude(x, EXP_LIMIT), NOTHING).value();
    (if x < 0.0 { e } else { 1.0 }) / (1.0 + e)
}

/// v e^-a / (1 + e^-a)².
#[inline(always)]
fn bell<P: Precision>(a: f64, v: f64) -> f64 {
    let exp = Exponential::of::<P>(-a, NOTHING);
    let e = exp.value();
    // Rounded less often than the square of 1 + e.
    exp.scaled(v * (1.0 + exp.rest) / (1.0 + e * (2.0 + e)))
}

#[inline(always)]
fn sigmoid_derivative<P: Precision>(x: f64) -> f64 {
    bell::<P>(magnitude(x, EXP_LIMIT), 1.0)
}

#[inline(always)]
fn tanh<P: Precision>(x: f64) -> f64 {
    let exp = Exponential::of::<P>(-2.0 * magnitude(x, EXP_LIMIT / 2.0), NOTHING);
    // e^-2a - 1, exact in its relative error where a is small: k is 0 there.
    let power = exp.scaled(1.0);
    let difference = power * exp.rest + (power - 1.0);
    (-difference / (2.0 + difference)).copysign(x)
}

#[inline(always)]
fn tanh_derivative<P: Precision>(x: f64) -> f64 {
    bell::<P>(2.0 * magnitude(x, EXP_LIMIT / 2.0), 4.0)
}

#[inline(always)]
fn silu<P: Precision>(x: f64) -> f64 {
    let a = magnitude(x, EXP_LIMIT);
    let exp = Exponential::of::<P>(-a, NOTHING);
    let divisor = 1.0 + exp.value();
    let negative = -exp.scaled((a + a * exp.rest) / divisor);
    let positive = x / divisor;
    if x < 0.0 { negative } else { positive }
}

#[inline(always)]
fn silu_derivative<P: Precision>(x: f64) -> f64 {
    let a = magnitude(x, EXP_LIMIT);
    let exp = Exponential::of::<P>(-a, NOTHING);
    let e = exp.value();
    // SiLU'(-a) = e (1 - a + e) / (1 + e)²; the sum is exact in two doubles where it matters.
    let one_less = 1.0 - a;
    let sum = one_less + e;
    let sum_low = e - (sum - one_less);
    let negative = exp.scaled((sum + (sum * exp.rest + sum_low)) / (1.0 + e * (2.0 + e)));
    let far = if x < 0.0 { negative } else { 1.0 - negative };

    let z = (x - SILU_ROOT[0]) - SILU_ROOT[1];
    let near = z * polynomial(z, P::SILU);
    if z.abs() < SILU_HALF_WIDTH { near } else { far }
}

/// a² as a sum of two doubles.
#[inline(always)]
fn square(a: f64) -> (f64, f64) {
    let high = f64::from_bits(a.to_bits() & !((1 << 27) - 1));
    let low = a - high;
    let square = a * a;
    (square, ((high * high - square) + 2.0 * high * low) + low * low)
}

/// e^(-a²/2), and what Φ(-a) is of it.
#[inline(always)]
fn normal_tail<P: Precision>(a: f64) -> (Exponential, f64) {
    let (high, low) = square(a);
    let exp = Exponential::of::<P>(-0.5 * high, -0.5 * low);
    let inverse = 1.0 / (a + P::TAIL_CENTRE);
    // (a - c) / (a + c), in the form whose error is smallest near a = 0, where the polynomial is steepest.
    let t = 2.0 * a * inverse - 1.0;
    (exp, polynomial(t, P::TAIL) * inverse)
}

#[inline(always)]
fn gelu<P: Precision>(x: f64) -> f64 {
    let a = magnitude(x, GELU_LIMIT);
    let (exp, ratio) = normal_tail::<P>(a);
    let negative = -exp.times(a * ratio);
    let positive = x * (1.0 - exp.times(ratio));
    if x < 0.0 { negative } else { positive }
}

#[inline(always)]
fn gelu_derivative<P: Precision>(x: f64) -> f64 {
    let a = magnitude(x, GELU_LIMIT);
    let (exp, ratio) = normal_tail::<P>(a);
    let negative = exp.times(ratio - a * INV_SQRT_2PI);
    let far = if x < 0.0 { negative } else { 1.0 - negative };

    let z = (x - GELU_ROOT[0]) - GELU_ROOT[1];
    let near = z * polynomial(z, P::GELU);
    if z.abs() < GELU_HALF_WIDTH { near } else { far }
}

/// For f64 results: approximation errors below 2^-57 of the function.
struct Double;

impl Precision for Double {
    const EXP: &'static [f64] = &[
        0.5000000000000001,
        0.16666666666666644,
        0.04166666666662431,
        0.008333333333356343,
        0.0013888888917137825,
        0.00019841269784250554,
        2.4801521397004407e-05,
        2.755735596961403e-06,
        2.762004638034399e-07,
        2.5067997508667864e-08,
    ];
    const TAIL: &'static [f64] = &[
        0.7737696342764068,
        -0.6851834205743381,
        0.5355964890624947,
        -0.36704906529362047,
        0.21787243285795935,
        -0.10970308995869771,
        0.04509758081490327,
        -0.013923510565968428,
        0.0024429826743150983,
        0.0002696040030696941,
        -0.00032452264984845016,
        7.141484134473497e-05,
        1.631997251331257e-05,
        -1.211887418916899e-05,
        4.4637707576908287e-07,
        1.4838289073245833e-06,
        -2.6782252163523555e-07,
        -1.775712435069941e-07,
        5.029851472565815e-08,
        2.2941187157979754e-08,
        -5.672362553094558e-09,
        -2.5870012202449703e-09,
    ];
    const TAIL_CENTRE: f64 = 5.5;
    const SILU: &'static [f64] = &[
        0.2178117057198001,
        0.14664879699694688,
        0.01887481422378236,
        -0.015222655223186053,
        -0.006606589138360602,
        0.00012662740996943625,
        0.0007985218819618565,
        0.0001857072464411269,
        -4.090534422628172e-05,
        -2.9733580224209833e-05,
        -2.942616957009368e-06,
        2.346319673138944e-06,
        8.599060617137708e-07,
        -3.177606437500532e-08,
        -9.254745423025358e-08,
        -1.5932739406072357e-08,
        4.621667522318291e-09,
    ];
    const GELU: &'static [f64] = &[
        0.43149399231404695,
        0.388284982990552,
        -0.018199676398672884,
        -0.11400823329721477,
        -0.01477152214805658,
        0.019421679837823495,
        0.0045392283716576545,
        -0.0022395380596121573,
        -0.0007448266928965526,
        0.00018633964639711267,
        8.615793315634058e-05,
        -1.1213758797615122e-05,
        -7.739374579426963e-06,
        4.309554312164834e-07,
        5.42348817840034e-07,
        2.6328721609762874e-10,
    ];
}

/// For results that are rounded to f32: below 2^-32.
struct Single;

impl Precision for Single {
    const EXP: &'static [f64] = &[
        0.5000000013373209,
        0.16666666529781557,
        0.04166646546985268,
        0.0083333613728294,
        0.0013933606809500747,
        0.0001985741686967803,
    ];
    const TAIL: &'static [f64] = &[
        0.7444160754083439,
        -0.5655618150746281,
        0.3154249731729872,
        -0.11605097334867201,
        0.01740775365451369,
        0.006476773875195013,
        -0.003188258788252614,
        -0.00044774948960407386,
        0.00047216986623922975,
        7.23538921978515e-05,
        -6.412297011166004e-05,
        -1.9999359875547195e-05,
    ];
    const TAIL_CENTRE: f64 = 3.5;
    const SILU: &'static [f64] = &[
        0.21781170571599306,
        0.14664879706389064,
        0.018874815042739378,
        -0.015222659499683098,
        -0.00660661687390508,
        0.0001267051522400699,
        0.0007988493938605347,
        0.00018512372334333443,
        -4.2505068488563874e-05,
        -2.7801621774277414e-05,
    ];
    const GELU: &'static [f64] = &[
        0.43149399236550373,
        0.3882849824737552,
        -0.018199689414409522,
        -0.1140081980164193,
        -0.014770999309534918,
        0.0194210142347899,
        0.004531893097264465,
        -0.0022346410486715563,
        -0.0007027162260631989,
        0.00017216513925676864,
    ];
}
