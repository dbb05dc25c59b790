//! The fused passes: what each does to a block of 32 elements.

use crate::activation::Activation;
use crate::cpu::job::{self, Bits, BlockPass, Words};
use crate::cpu::keep::KeepStream;
use crate::cpu::lane::Lane;
use crate::cpu::run::MaskWords;
use crate::cpu::simd::Simd;
use crate::cpu::smooth::Smooth;
use crate::error::Result;
use crate::float_environment::DefaultEnvironment;
use crate::fused::{Before, Gradient, Linear, Shape};
use crate::io::InOut;
use crate::key::MaskKey;
use crate::mask::{MaskOrigin, PackedMask};
use crate::operation::{DropActivation, Mixture};
use crate::real::Real;

/// [`fused::cpu::forward_into`](crate::fused::cpu::forward_into).
pub(crate) fn forward<T: Lane<Real: Lane>>(
    op: &DropActivation,
    key: MaskKey,
    shape: Shape,
    before: &Before<'_, T>,
    io: InOut<'_, T>,
    mask: &mut PackedMask,
) -> Result<()> {
    check_forward(shape, before, &io)?;
    key.check_covers(shape.len())?;
    let words = MaskWords::Write(mask.renew(MaskOrigin::DropActivation(*op), shape.len())?);
    let _environment = DefaultEnvironment::enter();
    let before = Prologue::new(shape, before);
    let stream = KeepStream::new(op, key);
    match op.activation() {
        Activation::Relu => job::run(&DropRelu(before), io, None, Words::drawn(&stream, words)),
        activation => job::run(&DropSigma(before, activation), io, None, Words::drawn(&stream, words)),
    }
    Ok(())
}

/// [`fused::cpu::infer`](crate::fused::cpu::infer).
pub(crate) fn infer<T: Lane<Real: Lane>>(
    op: &DropActivation,
    shape: Shape,
    before: &Before<'_, T>,
    io: InOut<'_, T>,
) -> Result<()> {
    check_forward(shape, before, &io)?;
    let _environment = DefaultEnvironment::enter();
    job::run(&Infer(Prologue::new(shape, before), *op), io, None, Words::None);
    Ok(())
}

/// [`fused::cpu::backward`](crate::fused::cpu::backward).
pub(crate) fn backward<T: Lane<Real: Lane>>(
    shape: Shape,
    by: &Gradient<'_, T>,
    linear: &Linear<'_, T>,
    io: InOut<'_, T>,
) -> Result<()> {
    shape.holds("dy", io.len())?;
    shape.holds("dx", io.output_len())?;
    by.check(shape)?;
    linear.check(shape)?;
    let _environment = DefaultEnvironment::enter();
    let epilogue = Epilogue::new(shape, linear);
    match *by {
        Gradient::Given => job::run(&Backward::<_, _, false> { gradient: Plain, epilogue }, io, None, Words::None),
        Gradient::Training(op, mask, z) => {
            let words = Words::Load(mask.words());
            match (op.activation(), z) {
                (Activation::Relu, _) | (_, None) => {
                    job::run(&Backward::<_, _, true> { gradient: Selected, epilogue }, io, None, words);
                }
                (activation, Some(z)) => {
                    let gradient = Kept { x: z.x, before: Prologue::new(shape, &z.before), activation };
                    job::run(&Backward::<_, _, true> { gradient, epilogue }, io, None, words);
                }
            }
        }
        Gradient::Inference(op, z) => {
            let gradient = Mixed { x: z.x, before: Prologue::new(shape, &z.before), op: *op };
            job::run(&Backward::<_, _, false> { gradient, epilogue }, io, None, Words::None);
        }
    }
    Ok(())
}

fn check_forward<T: Lane>(shape: Shape, before: &Before<'_, T>, io: &InOut<'_, T>) -> Result<()> {
    shape.holds("x", io.len())?;
    shape.holds("y", io.output_len())?;
    before.check(shape)
}

// ---- The values of channels, for blocks.

/// Which channels the elements of a block belong to.
struct Channels {
    channels: u64,
    inner: u64,
    /// A multiple of the elements of a row, and more than a block: blocks may begin that much before the tensor.
    ahead: u64,
}

/// A block's.
#[derive(Clone, Copy)]
enum Place {
    /// Those that begin at a place in a row.
    InRow(usize),
    /// The first of one channel, as many as are said, and the others of another one.
    Of(usize, usize, usize),
}

impl Channels {
    fn new(shape: Shape) -> Self {
        let (channels, inner) = (shape.channels() as u64, shape.inner() as u64);
        let row = (channels * inner).max(1);
        Self { channels, inner, ahead: row * 32u64.div_ceil(row) }
    }

    /// Whether a block may have elements of more than two channels. Then rows are written out.
    fn are_short(&self) -> bool {
        self.inner < 32
    }

    /// Those of the block that begins at element `e`.
    #[inline(always)]
    fn place(&self, e: u64) -> Place {
        let e = e.wrapping_add(self.ahead);
        if self.are_short() {
            return Place::InRow((e % (self.channels * self.inner)) as usize);
        }
        let (row, j) = (e / self.inner, e % self.inner);
        let c = row % self.channels;
        let next = if c + 1 == self.channels { 0 } else { c + 1 };
        Place::Of(c as usize, next as usize, (self.inner - j).min(32) as usize)
    }
}

/// A vector with a value for each channel.
struct Values<R> {
    /// The channels' values; where channels are short, those of a row's elements, and of the next block.
    values: Vec<R>,
}

impl<R: Real> Values<R> {
    fn new(vector: &[R], channels: &Channels) -> Self {
        if !channels.are_short() {
            return Self { values: vector.to_vec() };
        }
        let of_elements = vector.iter().flat_map(|value| std::iter::repeat_n(*value, channels.inner as usize));
        let row = vector.len() * channels.inner as usize;
        Self { values: of_elements.cycle().take(row + 32).collect() }
    }

    #[inline(always)]
    fn block(&self, place: Place) -> [R; 32] {
        match place {
            Place::InRow(at) => *self.values[at..].first_chunk().expect("a block follows each element of a row"),
            Place::Of(c, _, 32) => [self.values[c]; 32],
            Place::Of(c, next, count) => {
                let (value, other) = (self.values[c], self.values[next]);
                let mut block = [value; 32];
                for (i, value) in block.iter_mut().enumerate() {
                    *value = if i < count { *value } else { other };
                }
                block
            }
        }
    }
}

/// The block of another tensor that begins at element `e`, which may lie before it; what is not there is anything.
#[inline(always)]
fn block<S: Simd, T: Lane>(simd: S, tensor: &[T], e: u64) -> [T; 32] {
    let start = usize::try_from(e).unwrap_or(usize::MAX);
    match tensor.get(start..).and_then(|rest| rest.first_chunk()) {
        Some(block) => {
            simd.prefetch(block.as_ptr().cast::<u8>().wrapping_add(crate::cpu::tuning::AHEAD));
            *block
        }
        None => part(tensor, e),
    }
}

#[cold]
fn part<T: Lane>(tensor: &[T], e: u64) -> [T; 32] {
    let mut block = [T::default(); 32];
    for (i, element) in block.iter_mut().enumerate() {
        let at = usize::try_from(e.wrapping_add(i as u64)).unwrap_or(usize::MAX);
        *element = tensor.get(at).copied().unwrap_or_default();
    }
    block
}

// ---- From x to z.

struct Prologue<'a, T: Lane> {
    channels: Channels,
    scale: Option<Values<T::Real>>,
    shift: Option<Values<T::Real>>,
    residual: Option<&'a [T]>,
}

impl<'a, T: Lane> Prologue<'a, T> {
    fn new(shape: Shape, before: &Before<'a, T>) -> Self {
        let channels = Channels::new(shape);
        let values = |vector: Option<&[T::Real]>| vector.map(|vector| Values::new(vector, &channels));
        let (scale, shift) = (values(before.scale), values(before.shift));
        Self { channels, scale, shift, residual: before.residual }
    }

    #[inline(always)]
    fn block<S: Simd>(&self, simd: S, e: u64, x: &[T; 32]) -> [T::Real; 32] {
        let mut z = T::to_reals(simd, x);
        if self.scale.is_some() || self.shift.is_some() {
            let place = self.channels.place(e);
            match (&self.scale, &self.shift) {
                (Some(scale), Some(shift)) => {
                    let (scale, shift) = (scale.block(place), shift.block(place));
                    for i in 0..32 {
                        z[i] = scale[i].mul_add(z[i], shift[i]);
                    }
                }
                (Some(scale), None) => {
                    let scale = scale.block(place);
                    for i in 0..32 {
                        z[i] = scale[i] * z[i];
                    }
                }
                (None, Some(shift)) => {
                    let shift = shift.block(place);
                    for i in 0..32 {
                        z[i] = z[i] + shift[i];
                    }
                }
                (None, None) => {}
            }
        }
        if let Some(residual) = self.residual {
            let residual = T::to_reals(simd, &block(simd, residual, e));
            for i in 0..32 {
                z[i] = z[i] + residual[i];
            }
        }
        z
    }
}

/// Drop-Activation with ReLU, training forward: keep bits in, pass bits out.
struct DropRelu<'a, T: Lane>(Prologue<'a, T>);

impl<T: Lane<Real: Lane>> BlockPass<T> for DropRelu<'_, T> {
    const BITS: Bits = Bits::Draw;
    const STREAMS: bool = true;

    #[inline(always)]
    fn block<S: Simd>(&self, simd: S, e: u64, x: &[T; 32], _: &[T; 32], keep: u32) -> ([T; 32], u32) {
        let z = self.0.block(simd, e, x);
        let pass = !simd.at_most_zero(keep, &z);
        (simd.blend(pass, &T::from_reals(simd, &z), &[T::default(); 32]), pass)
    }
}

/// With another nonlinearity: keep bits in and out.
struct DropSigma<'a, T: Lane>(Prologue<'a, T>, Activation);

impl<T: Lane<Real: Lane>> BlockPass<T> for DropSigma<'_, T> {
    const BITS: Bits = Bits::Draw;

    #[inline(always)]
    fn block<S: Simd>(&self, simd: S, e: u64, x: &[T; 32], _: &[T; 32], keep: u32) -> ([T; 32], u32) {
        let z = self.0.block(simd, e, x);
        let mut sigma = z;
        simd.evaluate(Smooth::Value(self.1), &mut sigma);
        (T::from_reals(simd, &simd.blend(keep, &sigma, &z)), keep)
    }
}

/// Inference.
struct Infer<'a, T: Lane>(Prologue<'a, T>, DropActivation);

impl<T: Lane<Real: Lane>> BlockPass<T> for Infer<'_, T> {
    const BITS: Bits = Bits::None;
    const STREAMS: bool = true;

    #[inline(always)]
    fn block<S: Simd>(&self, simd: S, e: u64, x: &[T; 32], _: &[T; 32], word: u32) -> ([T; 32], u32) {
        let mut z = self.0.block(simd, e, x);
        let activation = self.1.activation();
        match (self.1.mixture::<T::Real>(), activation) {
            (Mixture::Identity, _) => {}
            (Mixture::Sigma, Activation::Relu) => {
                z = simd.blend(simd.at_most_zero(u32::MAX, &z), &[T::Real::ZERO; 32], &z);
            }
            (Mixture::Sigma, _) => simd.evaluate(Smooth::Value(activation), &mut z),
            (Mixture::Mixed { slope, .. }, Activation::Relu) => {
                let slope = T::Real::from_f64(slope);
                let mut scaled = z;
                for scaled in &mut scaled {
                    *scaled = slope * *scaled;
                }
                z = simd.blend(simd.at_most_zero(u32::MAX, &z), &scaled, &z);
            }
            (Mixture::Mixed { p, slope }, _) => {
                let (p, slope) = (T::Real::from_f64(p), T::Real::from_f64(slope));
                let mut sigma = z;
                simd.evaluate(Smooth::Value(activation), &mut sigma);
                for i in 0..32 {
                    z[i] = p.mul_add(sigma[i], slope * z[i]);
                }
            }
        }
        (T::from_reals(simd, &z), word)
    }
}

// ---- From dy to dz.

/// Where dz comes from.
trait GradientOfZ<T: Lane>: Sync {
    /// Whether it takes no more time than memory does.
    const CHEAP: bool;

    fn block<S: Simd>(&self, simd: S, e: u64, dy: &[T; 32], bits: u32) -> [T::Real; 32];
}

struct Plain;

impl<T: Lane> GradientOfZ<T> for Plain {
    const CHEAP: bool = true;

    #[inline(always)]
    fn block<S: Simd>(&self, simd: S, _: u64, dy: &[T; 32], _: u32) -> [T::Real; 32] {
        T::to_reals(simd, dy)
    }
}

struct Selected;

impl<T: Lane> GradientOfZ<T> for Selected {
    const CHEAP: bool = true;

    #[inline(always)]
    fn block<S: Simd>(&self, simd: S, _: u64, dy: &[T; 32], pass: u32) -> [T::Real; 32] {
        T::to_reals(simd, &simd.blend(pass, dy, &[T::default(); 32]))
    }
}

struct Kept<'a, T: Lane> {
    x: &'a [T],
    before: Prologue<'a, T>,
    activation: Activation,
}

impl<T: Lane<Real: Lane>> GradientOfZ<T> for Kept<'_, T> {
    const CHEAP: bool = false;

    #[inline(always)]
    fn block<S: Simd>(&self, simd: S, e: u64, dy: &[T; 32], keep: u32) -> [T::Real; 32] {
        let mut derivative = self.before.block(simd, e, &block(simd, self.x, e));
        simd.evaluate(Smooth::Derivative(self.activation), &mut derivative);
        let dy = T::to_reals(simd, dy);
        for i in 0..32 {
            derivative[i] = dy[i] * derivative[i];
        }
        simd.blend(keep, &derivative, &dy)
    }
}

struct Mixed<'a, T: Lane> {
    x: &'a [T],
    before: Prologue<'a, T>,
    op: DropActivation,
}

impl<T: Lane<Real: Lane>> GradientOfZ<T> for Mixed<'_, T> {
    const CHEAP: bool = false;

    #[inline(always)]
    fn block<S: Simd>(&self, simd: S, e: u64, dy: &[T; 32], _: u32) -> [T::Real; 32] {
        let dy = T::to_reals(simd, dy);
        let (p, slope) = match self.op.mixture::<T::Real>() {
            Mixture::Identity => return dy,
            Mixture::Sigma => (None, T::Real::ZERO),
            Mixture::Mixed { p, slope } => (Some(T::Real::from_f64(p)), T::Real::from_f64(slope)),
        };
        let mut z = self.before.block(simd, e, &block(simd, self.x, e));
        if self.op.activation() == Activation::Relu {
            let mut scaled = [T::Real::ZERO; 32];
            if p.is_some() {
                for i in 0..32 {
                    scaled[i] = slope * dy[i];
                }
            }
            return simd.blend(simd.at_most_zero(u32::MAX, &z), &scaled, &dy);
        }
        simd.evaluate(Smooth::Derivative(self.op.activation()), &mut z);
        for i in 0..32 {
            z[i] = dy[i] * p.map_or(z[i], |p| p.mul_add(z[i], slope));
        }
        z
    }
}

// ---- From dz to dx.

struct Epilogue<'a, T: Lane> {
    channels: Channels,
    alpha: Option<Values<T::Real>>,
    rest: Option<RestOf<'a, T>>,
}

/// β, γ, μ and x.
struct RestOf<'a, T: Lane> {
    beta: Values<T::Real>,
    gamma: Values<T::Real>,
    mean: Values<T::Real>,
    x: &'a [T],
}

impl<'a, T: Lane> Epilogue<'a, T> {
    fn new(shape: Shape, linear: &Linear<'a, T>) -> Self {
        let channels = Channels::new(shape);
        let values = |vector: &[T::Real]| Values::new(vector, &channels);
        let alpha = linear.alpha.map(values);
        let rest = linear.rest.map(|rest| RestOf {
            beta: values(rest.beta),
            gamma: values(rest.gamma),
            mean: values(rest.centred.mean),
            x: rest.centred.x,
        });
        Self { channels, alpha, rest }
    }

    /// dx in place of dz.
    #[inline(always)]
    fn block<S: Simd>(&self, simd: S, e: u64, dz: &mut [T::Real; 32]) {
        if self.alpha.is_none() && self.rest.is_none() {
            return;
        }
        let place = self.channels.place(e);
        let alpha = self.alpha.as_ref().map(|alpha| alpha.block(place));
        let Some(rest) = &self.rest else {
            if let Some(alpha) = alpha {
                for i in 0..32 {
                    dz[i] = alpha[i] * dz[i];
                }
            }
            return;
        };
        let (beta, gamma, mean) = (rest.beta.block(place), rest.gamma.block(place), rest.mean.block(place));
        let mut sum = T::to_reals(simd, &block(simd, rest.x, e));
        for i in 0..32 {
            sum[i] = beta[i].mul_add(sum[i] - mean[i], gamma[i]);
        }
        match alpha {
            Some(alpha) => {
                for i in 0..32 {
                    dz[i] = alpha[i].mul_add(dz[i], sum[i]);
                }
            }
            None => {
                for i in 0..32 {
                    dz[i] = dz[i] + sum[i];
                }
            }
        }
    }
}

struct Backward<'a, T: Lane, G, const READS: bool> {
    gradient: G,
    epilogue: Epilogue<'a, T>,
}

impl<T: Lane<Real: Lane>, G: GradientOfZ<T>, const READS: bool> BlockPass<T> for Backward<'_, T, G, READS> {
    const BITS: Bits = if READS { Bits::Read } else { Bits::None };
    const STREAMS: bool = G::CHEAP;

    #[inline(always)]
    fn block<S: Simd>(&self, simd: S, e: u64, dy: &[T; 32], _: &[T; 32], bits: u32) -> ([T; 32], u32) {
        let mut dz = self.gradient.block(simd, e, dy, bits);
        self.epilogue.block(simd, e, &mut dz);
        (T::from_reals(simd, &dz), bits)
    }
}
