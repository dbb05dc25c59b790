//! The fused passes and their sums, one element after the other, as `docs/fused.md` says it. Slow and plain.

use super::cpu::zeros;
use super::{Centred, Gradient, Linear, Preactivation, Shape, Statistics, Sums};
use crate::activation::Activation;
use crate::element::Element;
use crate::error::Result;
use crate::float_environment::DefaultEnvironment;
use crate::key::MaskKey;
use crate::mask::{MaskOrigin, PackedMask};
use crate::operation::{DropActivation, Mixture};
use crate::real::Real;
use crate::reference::keep_mask;
use crate::sum_order::{ACCUMULATORS, CHUNK, Moments, chunks, halve};

fn bit(words: &[u32], i: usize) -> bool {
    words[i / 32] >> (i % 32) & 1 == 1
}

/// z of element `i`.
fn preactivation<T: Element>(shape: Shape, z: &Preactivation<'_, T>, i: usize) -> T::Real {
    let (c, x) = (shape.channel(i), z.x[i].to_real());
    let affine = match (z.before.scale, z.before.shift) {
        (None, None) => x,
        (Some(scale), None) => scale[c] * x,
        (None, Some(shift)) => x + shift[c],
        (Some(scale), Some(shift)) => scale[c].mul_add(x, shift[c]),
    };
    z.before.residual.map_or(affine, |residual| affine + residual[i].to_real())
}

/// What [`reduce`] returns: the sums, and the residual's gradient where it was asked for.
pub type Reduced<T> = (Sums<<T as Element>::Real>, Option<Vec<T>>);

/// Training forward: `y = keep ? σ(z) : z`, and the mask, which is the unfused pass' on the same z.
///
/// # Errors
/// Lengths that do not fit the shape; [`Error::IndexRange`](crate::Error::IndexRange);
/// [`Error::MaskMemory`](crate::Error::MaskMemory).
pub fn forward<T: Element>(
    op: &DropActivation,
    key: MaskKey,
    shape: Shape,
    z: &Preactivation<'_, T>,
) -> Result<(Vec<T>, PackedMask)> {
    let _environment = DefaultEnvironment::enter();
    z.check(shape)?;
    let mut words = keep_mask(op, key, shape.len())?;
    let mut y = Vec::with_capacity(shape.len());
    for i in 0..shape.len() {
        let (z, keep) = (preactivation(shape, z, i), bit(&words, i));
        let value = match op.activation() {
            Activation::Relu if keep && z <= T::Real::ZERO => {
                words[i / 32] &= !(1 << (i % 32));
                T::Real::ZERO
            }
            Activation::Relu => {
                words[i / 32] |= 1 << (i % 32);
                z
            }
            activation => {
                if keep {
                    z.sigma(activation)
                } else {
                    z
                }
            }
        };
        y.push(T::from_real(value));
    }
    Ok((y, PackedMask::assemble(MaskOrigin::DropActivation(*op), shape.len(), words)))
}

/// Inference forward: `y = (1-p) z + p σ(z)`, and for ReLU `z <= 0 ? (1-p) z : z`.
///
/// # Errors
/// Lengths that do not fit the shape.
pub fn infer<T: Element>(op: &DropActivation, shape: Shape, z: &Preactivation<'_, T>) -> Result<Vec<T>> {
    let _environment = DefaultEnvironment::enter();
    z.check(shape)?;
    let y = |i| {
        let z = preactivation(shape, z, i);
        T::from_real(match (op.mixture::<T::Real>(), op.activation()) {
            (Mixture::Identity, _) => z,
            (Mixture::Sigma, activation) => z.sigma(activation),
            (Mixture::Mixed { slope, .. }, Activation::Relu) => {
                if z <= T::Real::ZERO {
                    T::Real::from_f64(slope) * z
                } else {
                    z
                }
            }
            (Mixture::Mixed { p, slope }, activation) => {
                T::Real::from_f64(p).mul_add(z.sigma(activation), T::Real::from_f64(slope) * z)
            }
        })
    };
    Ok((0..shape.len()).map(y).collect())
}

/// dz of element `i`.
fn gradient<T: Element>(shape: Shape, dy: &[T], by: &Gradient<'_, T>, i: usize) -> T::Real {
    let dy = dy[i].to_real();
    match by {
        Gradient::Given => dy,
        Gradient::Training(op, mask, z) => match (op.activation(), bit(mask.words(), i), z) {
            (Activation::Relu, true, _) => dy,
            (Activation::Relu, false, _) => T::Real::ZERO,
            (activation, true, Some(z)) => dy * preactivation(shape, z, i).derivative(activation),
            _ => dy,
        },
        Gradient::Inference(op, z) => {
            let z = preactivation(shape, z, i);
            match (op.mixture::<T::Real>(), op.activation()) {
                (Mixture::Identity, _) => dy,
                (Mixture::Sigma, Activation::Relu) if z <= T::Real::ZERO => T::Real::ZERO,
                (Mixture::Mixed { slope, .. }, Activation::Relu) if z <= T::Real::ZERO => T::Real::from_f64(slope) * dy,
                (_, Activation::Relu) => dy,
                (Mixture::Sigma, activation) => dy * z.derivative(activation),
                (Mixture::Mixed { p, slope }, activation) => {
                    let derivative = T::Real::from_f64(p).mul_add(z.derivative(activation), T::Real::from_f64(slope));
                    dy * derivative
                }
            }
        }
    }
}

/// Backward, the sums: `Σ dz`, `Σ dz (x - μ)` where `centred` is given, and dr = dz if asked for, rounded to the
/// element type.
///
/// # Errors
/// Lengths that do not fit the shape; a mask of another operation or length;
/// [`Error::MissingInput`](crate::Error::MissingInput); [`Error::SumMemory`](crate::Error::SumMemory).
pub fn reduce<T: Element>(
    shape: Shape,
    dy: &[T],
    by: &Gradient<'_, T>,
    centred: Option<&Centred<'_, T>>,
    residual: bool,
) -> Result<Reduced<T>> {
    let _environment = DefaultEnvironment::enter();
    shape.holds("dy", dy.len())?;
    by.check(shape)?;
    centred.map_or(Ok(()), |centred| centred.check(shape))?;
    let dz: Vec<T::Real> = (0..shape.len()).map(|i| gradient(shape, dy, by, i)).collect();
    let zero = T::Real::ZERO;
    let mut gradient = zeros(shape)?;
    for (c, s1) in gradient.iter_mut().enumerate() {
        *s1 = sum(shape.count(), |t, sum| sum + dz[shape.index(c, t)], zero);
    }
    let product = |centred: &Centred<'_, T>| {
        let term = |c: usize, t, sum| {
            let i = shape.index(c, t);
            dz[i].mul_add(centred.x[i].to_real() - centred.mean[c], sum)
        };
        (0..shape.channels()).map(|c| sum(shape.count(), |t, sum| term(c, t, sum), zero)).collect()
    };
    let sums = Sums { gradient, product: centred.map(product) };
    Ok((sums, residual.then(|| dz.iter().map(|dz| T::from_real(*dz)).collect())))
}

/// The sum over a channel's elements in the order of section 4: `add` takes element `t` up into an accumulator.
fn sum<R: Real>(count: usize, add: impl Fn(usize, R) -> R, zero: R) -> R {
    let mut groups = [0.0; ACCUMULATORS];
    for k in 0..chunks(count) {
        let mut accumulators = [zero; ACCUMULATORS];
        let chunk = k * CHUNK..count.min((k + 1) * CHUNK);
        for t in chunk.clone() {
            accumulators[t % ACCUMULATORS] = add(t, accumulators[t % ACCUMULATORS]);
        }
        groups[k % ACCUMULATORS] += halve(accumulators, chunk.len().min(ACCUMULATORS), |a, b| a + b).to_f64();
    }
    R::from_f64(halve(groups, chunks(count).min(ACCUMULATORS), |a, b| a + b))
}

/// Mean and biased variance of each channel.
///
/// # Errors
/// [`Error::ShapeLength`](crate::Error::ShapeLength); [`Error::NoElements`](crate::Error::NoElements).
pub fn statistics<T: Element>(shape: Shape, x: &[T]) -> Result<Statistics<T::Real>> {
    let _environment = DefaultEnvironment::enter();
    shape.holds("x", x.len())?;
    shape.has_elements()?;
    let of_channel = |c| moments::<T::Real>(shape.count(), |t| x[shape.index(c, t)].to_real());
    let (mean, variance) = (0..shape.channels()).map(of_channel).unzip();
    Ok(Statistics { mean, variance })
}

/// Mean and biased variance of a channel's elements in the order of section 4.
fn moments<R: Real>(count: usize, x: impl Fn(usize) -> R) -> (R, R) {
    let mut groups: [Option<Moments<f64>>; ACCUMULATORS] = [None; ACCUMULATORS];
    for k in 0..chunks(count) {
        let chunk = k * CHUNK..count.min((k + 1) * CHUNK);
        let accumulator = |a: usize| {
            let mut of_accumulator = (chunk.start + a..chunk.end).step_by(ACCUMULATORS);
            let number = of_accumulator.len();
            let first = x(of_accumulator.next()?);
            let (mut distances, mut squared) = (R::ZERO, R::ZERO);
            for t in of_accumulator {
                let distance = x(t) - first;
                distances = distances + distance;
                squared = distance.mul_add(distance, squared);
            }
            Some(Moments::of_sums(R::from_f64(number as f64), first, distances, squared))
        };
        let accumulators: [_; ACCUMULATORS] = std::array::from_fn(accumulator);
        let of_chunk = halve(accumulators, chunk.len().min(ACCUMULATORS), both).map(Moments::to_f64);
        groups[k % ACCUMULATORS] = if k < ACCUMULATORS { of_chunk } else { both(groups[k % ACCUMULATORS], of_chunk) };
    }
    let all = halve(groups, chunks(count).min(ACCUMULATORS), both);
    let all = all.unwrap_or(Moments { count: 1.0, first: 0.0, difference: 0.0, squares: 0.0 });
    (R::from_f64(all.first + all.difference), R::from_f64(all.squares / all.count))
}

fn both<R: Real>(a: Option<Moments<R>>, b: Option<Moments<R>>) -> Option<Moments<R>> {
    Some(a?.with(b?))
}

/// Backward, elementwise: `dx = α[c] dz + (β[c] (x - μ[c]) + γ[c])`, with a fused multiply-add for each product.
///
/// # Errors
/// Those of [`reduce`].
pub fn backward<T: Element>(shape: Shape, dy: &[T], by: &Gradient<'_, T>, linear: &Linear<'_, T>) -> Result<Vec<T>> {
    let _environment = DefaultEnvironment::enter();
    shape.holds("dy", dy.len())?;
    by.check(shape)?;
    linear.check(shape)?;
    let dx = |i| {
        let (c, dz) = (shape.channel(i), gradient(shape, dy, by, i));
        let rest = linear.rest.map(|rest| {
            let distance = rest.centred.x[i].to_real() - rest.centred.mean[c];
            rest.beta[c].mul_add(distance, rest.gamma[c])
        });
        T::from_real(match (linear.alpha, rest) {
            (None, None) => dz,
            (Some(alpha), None) => alpha[c] * dz,
            (None, Some(rest)) => dz + rest,
            (Some(alpha), Some(rest)) => alpha[c].mul_add(dz, rest),
        })
    };
    Ok((0..shape.len()).map(dx).collect())
}
