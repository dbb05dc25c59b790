//! The passes in plain code: one element after the other, as the paper's equations say it, with the
//! random bits as `src/stream.rs` specifies them. Slow; the other backends are held to it.

use crate::activation::Activation;
use crate::element::Element;
use crate::error::Result;
use crate::float_environment::DefaultEnvironment;
use crate::key::MaskKey;
use crate::mask::{MaskOrigin, PackedMask, clear_unused, words_for, zero_words};
use crate::operation::{DropActivation, Mixture, RRelu};
use crate::pass::{Arguments, MaskArgument, Pass};
use crate::real::Real;
use crate::stream::{high, low};

pub use crate::stream::{keep_word, philox4x32_10, rrelu_slope};

/// The offset that a key has where a generator draws it, which kernels do by [`cuda::Addresses::seed_at`]: the first two
/// words of Philox4x32-10 at key `seed` and counter `offset / 4`, the first the upper half, modulo 2^63 - 1. PyTorch's
/// `randint(2**63 - 1, (1,))` draws it on a GPU whose generator has this seed and offset.
///
#[cfg_attr(feature = "cuda", doc = "[`cuda::Addresses::seed_at`]: crate::cuda::Addresses::seed_at")]
#[cfg_attr(not(feature = "cuda"), doc = "[`cuda::Addresses::seed_at`]: crate")]
pub fn drawn_offset(seed: u64, offset: u64) -> u64 {
    let [high, low, ..] = philox4x32_10([low(offset / 4), high(offset / 4), 0, 0], [low(seed), high(seed)]);
    (u64::from(high) << 32 | u64::from(low)) % i64::MAX as u64
}

/// The keep bits of `len` elements, packed.
///
/// # Errors
/// [`Error::IndexRange`](crate::Error::IndexRange) if the key's `first` leaves no room for `len` elements;
/// [`Error::MaskMemory`](crate::Error::MaskMemory).
pub fn keep_mask(op: &DropActivation, key: MaskKey, len: usize) -> Result<Vec<u32>> {
    key.check_covers(len)?;
    let mut words = zero_words(len)?;
    for (w, word) in words.iter_mut().enumerate() {
        *word = keep_word(op.threshold(), key, key.first_word() + w as u64);
    }
    clear_unused(&mut words, len);
    Ok(words)
}

fn bit(words: &[u32], i: usize) -> bool {
    words[i / 32] >> (i % 32) & 1 == 1
}

/// Packs the bits of `len` elements.
fn pack(len: usize, bit: impl Fn(usize) -> bool) -> Vec<u32> {
    let mut words = vec![0; words_for(len)];
    for i in 0..len {
        words[i / 32] |= u32::from(bit(i)) << (i % 32);
    }
    words
}

/// The arguments of a backward pass that reads a mask, for the checks.
fn of_mask(mask: &PackedMask, len: usize) -> Arguments {
    Arguments { mask: MaskArgument::MadeBy(mask.origin(), mask.len()), ..Arguments::of_length(len) }
}

/// The arguments of a backward pass that reads a saved tensor, likewise.
fn of_saved(saved: usize, len: usize) -> Arguments {
    Arguments { saved: Some(saved), ..Arguments::of_length(len) }
}

fn zero<T: Element>() -> T {
    T::from_real(T::Real::ZERO)
}

/// Training forward (the paper's equation 3): `y = keep ? σ(x) : x`, and the mask.
///
/// # Errors
/// [`Error::IndexRange`](crate::Error::IndexRange).
pub fn forward<T: Element>(op: &DropActivation, key: MaskKey, x: &[T]) -> Result<(Vec<T>, PackedMask)> {
    let _environment = DefaultEnvironment::enter();
    let keep = keep_mask(op, key, x.len())?;
    let (y, words) = match op.activation() {
        Activation::Relu => {
            let pass = pack(x.len(), |i| !(bit(&keep, i) && x[i].at_most_zero()));
            let y = x.iter().enumerate().map(|(i, x)| if bit(&pass, i) { *x } else { zero() }).collect();
            (y, pass)
        }
        activation => {
            let sigma = |x: T| T::from_real(x.to_real().sigma(activation));
            let y = x.iter().enumerate().map(|(i, x)| if bit(&keep, i) { sigma(*x) } else { *x }).collect();
            (y, keep)
        }
    };
    Ok((y, PackedMask::assemble(MaskOrigin::DropActivation(*op), x.len(), words)))
}

/// Training backward: `dx = keep ? dy σ'(x) : dy`; for ReLU `dx = pass ? dy : +0`, without x.
///
/// # Errors
/// [`Error::MaskOrigin`](crate::Error::MaskOrigin), [`Error::MaskLength`](crate::Error::MaskLength),
/// [`Error::MissingInput`](crate::Error::MissingInput), [`Error::Length`](crate::Error::Length).
pub fn backward<T: Element>(op: &DropActivation, mask: &PackedMask, x: Option<&[T]>, dy: &[T]) -> Result<Vec<T>> {
    let _environment = DefaultEnvironment::enter();
    let pass = Pass::Backward { op: *op };
    pass.check(&Arguments { saved: x.map(<[T]>::len), ..of_mask(mask, dy.len()) })?;
    let x = x.filter(|_| pass.saved().is_some());
    let dx = |(i, dy): (usize, &T)| match (x, bit(mask.words(), i)) {
        (None, pass) => {
            if pass {
                *dy
            } else {
                zero()
            }
        }
        (Some(_), false) => *dy,
        (Some(x), true) => T::from_real(dy.to_real() * x[i].to_real().derivative(op.activation())),
    };
    Ok(dy.iter().enumerate().map(dx).collect())
}

/// ReLU's training backward for a caller that stored y and no mask: `dx = (y == 0) ? +0 : dy`.
///
/// It differs from [`backward`] only where x was exactly zero and σ dropped.
///
/// # Errors
/// [`Error::NeedsMask`](crate::Error::NeedsMask), [`Error::Length`](crate::Error::Length).
pub fn backward_from_output<T: Element>(op: &DropActivation, y: &[T], dy: &[T]) -> Result<Vec<T>> {
    let _environment = DefaultEnvironment::enter();
    Pass::BackwardFromOutput { op: *op }.check(&of_saved(y.len(), dy.len()))?;
    Ok(dy.iter().zip(y).map(|(dy, y)| if y.to_real() == T::Real::ZERO { zero() } else { *dy }).collect())
}

/// Inference forward (the paper's equation 5): `y = (1-p) x + p σ(x)`; for ReLU the Leaky ReLU
/// `x <= 0 ? (1-p) x : x`.
pub fn infer<T: Element>(op: &DropActivation, x: &[T]) -> Vec<T> {
    let _environment = DefaultEnvironment::enter();
    let activation = op.activation();
    let y = |x: &T| {
        let real = x.to_real();
        match (op.mixture::<T::Real>(), activation) {
            (Mixture::Identity, _) => *x,
            (Mixture::Sigma, Activation::Relu) => {
                if x.at_most_zero() {
                    zero()
                } else {
                    *x
                }
            }
            (Mixture::Sigma, _) => T::from_real(real.sigma(activation)),
            (Mixture::Mixed { slope, .. }, Activation::Relu) => {
                if x.at_most_zero() {
                    T::from_real(T::Real::from_f64(slope) * real)
                } else {
                    *x
                }
            }
            (Mixture::Mixed { p, slope }, _) => {
                let linear = T::Real::from_f64(slope) * real;
                T::from_real(T::Real::from_f64(p).mul_add(real.sigma(activation), linear))
            }
        }
    };
    x.iter().map(y).collect()
}

/// Inference backward: `dx = dy ((1-p) + p σ'(x))`; for ReLU `x <= 0 ? (1-p) dy : dy`.
///
/// # Errors
/// [`Error::Length`](crate::Error::Length).
pub fn infer_backward<T: Element>(op: &DropActivation, x: &[T], dy: &[T]) -> Result<Vec<T>> {
    let _environment = DefaultEnvironment::enter();
    Pass::InferBackward { op: *op }.check(&of_saved(x.len(), dy.len()))?;
    let activation = op.activation();
    let dx = |(x, dy): (&T, &T)| {
        let (x_real, dy_real) = (x.to_real(), dy.to_real());
        match (op.mixture::<T::Real>(), activation) {
            (Mixture::Identity, _) => *dy,
            (Mixture::Sigma, Activation::Relu) => {
                if x.at_most_zero() {
                    zero()
                } else {
                    *dy
                }
            }
            (Mixture::Sigma, _) => T::from_real(dy_real * x_real.derivative(activation)),
            (Mixture::Mixed { slope, .. }, Activation::Relu) => {
                if x.at_most_zero() {
                    scaled(*dy, T::Real::from_f64(slope))
                } else {
                    *dy
                }
            }
            (Mixture::Mixed { p, slope }, _) => {
                let derivative = T::Real::from_f64(p).mul_add(x_real.derivative(activation), T::Real::from_f64(slope));
                T::from_real(dy_real * derivative)
            }
        }
    };
    Ok(x.iter().zip(dy).map(dx).collect())
}

/// `slope v`, rounded once; a NaN stays the NaN it was, payload and all, because hardware differs in
/// what multiplication makes of it.
fn scaled<T: Element>(v: T, slope: T::Real) -> T {
    let real = v.to_real();
    if real.is_nan() { v } else { T::from_real(slope * real) }
}

/// RReLU's training forward (the paper's equation 6): `y = x >= 0 ? x : U x`, and the sign bits.
///
/// # Errors
/// [`Error::IndexRange`](crate::Error::IndexRange).
pub fn rrelu_forward<T: Element>(op: &RRelu, key: MaskKey, x: &[T]) -> Result<(Vec<T>, PackedMask)> {
    let _environment = DefaultEnvironment::enter();
    key.check_covers(x.len())?;
    let positive = |x: T| x.to_real() >= T::Real::ZERO;
    let words = pack(x.len(), |i| positive(x[i]));
    let y = |(i, x): (usize, &T)| if positive(*x) { *x } else { scaled(*x, slope_of::<T>(op, key, i)) };
    let y = x.iter().enumerate().map(y).collect();
    Ok((y, PackedMask::assemble(MaskOrigin::RRelu(*op, key), x.len(), words)))
}

/// RReLU's training backward: `dx = x >= 0 ? dy : U dy`, with U drawn again.
///
/// # Errors
/// [`Error::MaskOrigin`](crate::Error::MaskOrigin), [`Error::MaskLength`](crate::Error::MaskLength).
pub fn rrelu_backward<T: Element>(op: &RRelu, mask: &PackedMask, dy: &[T]) -> Result<Vec<T>> {
    let _environment = DefaultEnvironment::enter();
    let key = mask.origin().slopes_key(op)?;
    Pass::RreluBackward { op: *op, key }.check(&of_mask(mask, dy.len()))?;
    let dx = |(i, dy): (usize, &T)| {
        if bit(mask.words(), i) { *dy } else { scaled(*dy, slope_of::<T>(op, key, i)) }
    };
    Ok(dy.iter().enumerate().map(dx).collect())
}

fn slope_of<T: Element>(op: &RRelu, key: MaskKey, i: usize) -> T::Real {
    T::Real::from_f32(rrelu_slope(op, key, key.first() + i as u64))
}

/// RReLU at inference: `y = x >= 0 ? x : (lower + upper)/2 x`.
pub fn rrelu_infer<T: Element>(op: &RRelu, x: &[T]) -> Vec<T> {
    let _environment = DefaultEnvironment::enter();
    let slope = T::Real::from_f64(op.inference_slope());
    x.iter().map(|x| if x.to_real() >= T::Real::ZERO { *x } else { scaled(*x, slope) }).collect()
}

/// RReLU's inference backward: `dx = x >= 0 ? dy : (lower + upper)/2 dy`.
///
/// # Errors
/// [`Error::Length`](crate::Error::Length).
pub fn rrelu_infer_backward<T: Element>(op: &RRelu, x: &[T], dy: &[T]) -> Result<Vec<T>> {
    let _environment = DefaultEnvironment::enter();
    Pass::RreluInferBackward { op: *op }.check(&of_saved(x.len(), dy.len()))?;
    let slope = T::Real::from_f64(op.inference_slope());
    let dx = |(x, dy): (&T, &T)| if x.to_real() >= T::Real::ZERO { *dy } else { scaled(*dy, slope) };
    Ok(x.iter().zip(dy).map(dx).collect())
}

/// Plain ReLU: `x <= 0 ? +0 : x`.
pub fn relu_forward<T: Element>(x: &[T]) -> Vec<T> {
    let _environment = DefaultEnvironment::enter();
    x.iter().map(|x| if x.at_most_zero() { zero() } else { *x }).collect()
}

/// Plain ReLU's backward from its output: `dx = y <= 0 ? +0 : dy`.
///
/// # Errors
/// [`Error::Length`](crate::Error::Length).
pub fn relu_backward<T: Element>(y: &[T], dy: &[T]) -> Result<Vec<T>> {
    let _environment = DefaultEnvironment::enter();
    Pass::ReluBackward.check(&of_saved(y.len(), dy.len()))?;
    Ok(dy.iter().zip(y).map(|(dy, y)| if y.at_most_zero() { zero() } else { *dy }).collect())
}
