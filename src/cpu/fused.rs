//! The fused passes: what each does to a block of 32 elements.

use crate::activation::Activation;
use crate::cpu::engine::{Bits, BlockPass, KeepStream, READ_PREFETCH, Words, run_over_tensor};
use crate::cpu::lane::Lane;
use crate::cpu::mask_words::MaskWords;
use crate::cpu::passes::drawn;
use crate::cpu::simd::Simd;
use crate::cpu::smooth::{self, Smooth};
use crate::error::Result;
use crate::float_environment::DefaultEnvironment;
use crate::fused::{Before, Gradient, Linear, Shape};
use crate::io::{InOut, Tensors};
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
        Activation::Relu => run_over_tensor(&DropRelu(before), Tensors { io, saved: None }, drawn(&stream, words)),
        activation => {
            run_over_tensor(&DropSigma(before, activation), Tensors { io, saved: None }, drawn(&stream, words))
        }
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
    run_over_tensor(&Infer(Prologue::new(shape, before), *op), Tensors { io, saved: None }, Words::None);
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
        Gradient::Given => run_over_tensor(
            &Backward::<_, _, false> { gradient: Plain, epilogue },
            Tensors { io, saved: None },
            Words::None,
        ),
        Gradient::Training(op, mask, z) => {
            let words = Words::Load(mask.words());
            match (op.activation(), z) {
                (Activation::Relu, _) | (_, None) => {
                    run_over_tensor(
                        &Backward::<_, _, true> { gradient: Selected, epilogue },
                        Tensors { io, saved: None },
                        words,
                    );
                }
                (activation, Some(z)) => {
                    let gradient = Kept { x: z.x, before: Prologue::new(shape, &z.before), activation };
                    run_over_tensor(&Backward::<_, _, true> { gradient, epilogue }, Tensors { io, saved: None }, words);
                }
            }
        }
        Gradient::Inference(op, z) => {
            let gradient = Mixed { x: z.x, before: Prologue::new(shape, &z.before), op: *op };
            run_over_tensor(&Backward::<_, _, false> { gradient, epilogue }, Tensors { io, saved: None }, Words::None);
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
            simd.prefetch(block.as_ptr().cast::<u8>().wrapping_add(READ_PREFETCH));
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
    const MEMORY_BOUND: bool = true;

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
        smooth::evaluate(simd, Smooth::Value(self.1), &mut sigma);
        (T::from_reals(simd, &simd.blend(keep, &sigma, &z)), keep)
    }
}

/// Inference.
struct Infer<'a, T: Lane>(Prologue<'a, T>, DropActivation);

impl<T: Lane<Real: Lane>> BlockPass<T> for Infer<'_, T> {
    const BITS: Bits = Bits::None;
    const MEMORY_BOUND: bool = true;

    #[inline(always)]
    fn block<S: Simd>(&self, simd: S, e: u64, x: &[T; 32], _: &[T; 32], word: u32) -> ([T; 32], u32) {
        let mut z = self.0.block(simd, e, x);
        let activation = self.1.activation();
        match (self.1.mixture::<T::Real>(), activation) {
            (Mixture::Identity, _) => {}
            (Mixture::Sigma, Activation::Relu) => {
                z = simd.blend(simd.at_most_zero(u32::MAX, &z), &[T::Real::ZERO; 32], &z);
            }
            (Mixture::Sigma, _) => smooth::evaluate(simd, Smooth::Value(activation), &mut z),
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
                smooth::evaluate(simd, Smooth::Value(activation), &mut sigma);
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
        smooth::evaluate(simd, Smooth::Derivative(self.activation), &mut derivative);
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
        smooth::evaluate(simd, Smooth::Derivative(self.op.activation()), &mut z);
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
    const MEMORY_BOUND: bool = G::CHEAP;

    #[inline(always)]
    fn block<S: Simd>(&self, simd: S, e: u64, dy: &[T; 32], _: &[T; 32], bits: u32) -> ([T; 32], u32) {
        let mut dz = self.gradient.block(simd, e, dy, bits);
        self.epilogue.block(simd, e, &mut dz);
        (T::from_reals(simd, &dz), bits)
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;
    use crate::cpu::part::as_part_of;
    use crate::cpu::simd::tests::sets;
    use crate::fused::{Centred, Preactivation, Rest, cpu, reference};

    fn numbers<T: Lane>(len: usize, seed: u64) -> Vec<T> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            T::from_real(T::Real::from_f64((state as i64 >> 40) as f64 / f64::from(1 << 21)))
        };
        (0..len).map(|_| next()).collect()
    }

    fn vector<T: Lane>(channels: usize, factor: f64) -> Vec<T::Real> {
        (0..channels).map(|c| T::Real::from_f64(factor * (c % 7) as f64 - 0.6)).collect()
    }

    fn same<T: Lane>(what: &str, given: &[T], expected: &[T]) {
        for (i, (given, expected)) in given.iter().zip(expected).enumerate() {
            let (given, expected) = (given.to_real().to_f64(), expected.to_real().to_f64());
            assert!(given.to_bits() == expected.to_bits(), "{what}: element {i} is {given}, not {expected}");
        }
    }

    /// Out of place and in place, as a part of a tensor that is written past the cache too, where lines begin elsewhere.
    fn everywhere<T: Lane>(what: &str, input: &[T], expected: &[T], run: impl Fn(InOut<'_, T>)) {
        let mut both = input.to_vec();
        run(InOut::InPlace(&mut both));
        same(&format!("{what}, in place"), &both, expected);
        for ahead in [0, 1] {
            let mut output = vec![T::default(); input.len() + ahead];
            run(InOut::OutOfPlace(input, &mut output[ahead..]));
            same(&format!("{what}, out of place"), &output[ahead..], expected);
            output.fill(T::default());
            as_part_of(1 << 30, || run(InOut::OutOfPlace(input, &mut output[ahead..])));
            same(&format!("{what}, past the cache"), &output[ahead..], expected);
        }
    }

    fn like_the_reference<T: Lane<Real: Lane>>() {
        let shapes = [
            (1, 1, 1),
            (700, 1, 1),
            (230, 3, 1),
            (41, 17, 1),
            (20, 32, 1),
            (9, 70, 1),
            (2, 1000, 1),
            (30, 3, 7),
            (5, 4, 31),
            (5, 4, 32),
            (3, 5, 49),
            (2, 3, 1100),
        ];
        for (i, (outer, channels, inner)) in shapes.into_iter().enumerate() {
            let shape = Shape::new(outer, channels, inner).unwrap();
            let (x, r, dy): (Vec<T>, Vec<T>, Vec<T>) =
                (numbers(shape.len(), 1), numbers(shape.len(), 2), numbers(shape.len(), 3));
            let (scale, shift) = (vector::<T>(channels, 0.3), vector::<T>(channels, -0.2));
            let (alpha, beta, gamma) =
                (vector::<T>(channels, 0.4), vector::<T>(channels, 0.1), vector::<T>(channels, 2.0));
            let mean = vector::<T>(channels, 0.15);
            let key = MaskKey::new(7, i as u64);
            for (j, activation) in [Activation::Relu, Activation::Tanh].into_iter().enumerate() {
                let given = |k: usize| !(i + j + k).is_multiple_of(3);
                let before = Before {
                    scale: given(0).then_some(&scale[..]),
                    shift: given(1).then_some(&shift[..]),
                    residual: given(2).then_some(&r[..]),
                };
                let z = Preactivation { x: &x, before };
                let rest = Rest { beta: &beta, gamma: &gamma, centred: Centred { x: &x, mean: &mean } };
                let linears = [(true, true), (true, false), (false, true), (false, false)]
                    .map(|(a, r)| Linear { alpha: a.then_some(&alpha[..]), rest: r.then_some(rest) });
                for p in [0.7, 1.0, 0.0] {
                    let op = DropActivation::new(activation, p).unwrap();
                    let (y, mask) = reference::forward(&op, key, shape, &z).unwrap();
                    let inferred = reference::infer(&op, shape, &z).unwrap();
                    let training = Gradient::Training(&op, &mask, Some(z));
                    let gradients = [training, Gradient::Inference(&op, z), Gradient::Given];
                    // One linear part for each gradient is enough, but all of them for one.
                    let pairs: Vec<_> = if p == 0.7 {
                        gradients.iter().flat_map(|by| linears.iter().map(move |linear| (by, linear))).collect()
                    } else {
                        gradients.iter().zip(&linears).collect()
                    };
                    let backward: Vec<_> =
                        pairs.iter().map(|(by, linear)| reference::backward(shape, &dy, by, linear).unwrap()).collect();
                    for set in sets() {
                        let what = format!("{set:?} {} {op} {shape:?}", T::DTYPE.name());
                        set.force(|| {
                            everywhere(&what, &x, &y, |io| {
                                let given = cpu::forward(&op, key, shape, &before, io).unwrap();
                                assert_eq!(given, mask, "{what}");
                            });
                            everywhere(&format!("{what}, inference"), &x, &inferred, |io| {
                                cpu::infer(&op, shape, &before, io).unwrap();
                            });
                            for ((by, linear), dx) in pairs.iter().zip(&backward) {
                                everywhere(&format!("{what}, dx, {by:.30?}"), &dy, dx, |io| {
                                    cpu::backward(shape, by, linear, io).unwrap();
                                });
                            }
                        });
                    }
                }
            }
        }
    }

    #[test]
    fn passes_over_f32_are_the_reference_s() {
        like_the_reference::<f32>();
    }

    #[test]
    fn passes_over_f64_are_the_reference_s() {
        like_the_reference::<f64>();
    }

    #[test]
    fn passes_over_f16_are_the_reference_s() {
        like_the_reference::<f16>();
    }

    #[test]
    fn passes_over_bf16_are_the_reference_s() {
        like_the_reference::<bf16>();
    }

    /// In several tasks.
    #[test]
    fn passes_do_not_depend_on_the_number_of_threads() {
        let shape = Shape::new(70, 5, 1300).unwrap();
        let (x, dy): (Vec<f32>, Vec<f32>) = (numbers(shape.len(), 4), numbers(shape.len(), 5));
        let (scale, shift) = (vector::<f32>(5, 0.3), vector::<f32>(5, -0.2));
        let before = Before { scale: Some(&scale), shift: Some(&shift), residual: Some(&dy) };
        let (op, key) = (DropActivation::default(), MaskKey::new(1, 1));
        let (expected, mask) = reference::forward(&op, key, shape, &Preactivation { x: &x, before }).unwrap();
        let rest = Rest { beta: &scale, gamma: &shift, centred: Centred { x: &x, mean: &shift } };
        let linear = Linear { alpha: Some(&scale), rest: Some(rest) };
        let by = Gradient::Training(&op, &mask, None);
        let gradient = reference::backward(shape, &dy, &by, &linear).unwrap();
        for threads in [1, 3] {
            rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
                let mut y = vec![0.0; shape.len()];
                assert_eq!(cpu::forward(&op, key, shape, &before, (&x, &mut y)).unwrap(), mask);
                same("y", &y, &expected);
                cpu::backward(shape, &by, &linear, (&dy, &mut y)).unwrap();
                same("dx", &y, &gradient);
            });
        }
    }

    /// What is refused is what the reference refuses, and nothing is written.
    #[test]
    fn bad_input_is_refused() {
        let shape = Shape::new(2, 3, 2).unwrap();
        let (x, three, two) = ([1f32; 12], [1f32; 3], [1f32; 2]);
        let op = DropActivation::default();
        let mut y = [7f32; 12];
        let before = Before { scale: Some(&two[..]), ..Before::default() };
        let error = cpu::forward(&op, MaskKey::new(0, 0), shape, &before, (&x, &mut y)).unwrap_err();
        assert_eq!(error, crate::Error::ChannelVector { argument: "scale", given: 2, channels: 3 });
        assert_eq!(cpu::infer(&op, shape, &before, (&x, &mut y)).unwrap_err(), error);
        let short = crate::Error::ShapeLength { argument: "y", given: 11, outer: 2, channels: 3, inner: 2 };
        assert_eq!(cpu::infer(&op, shape, &Before::default(), (&x, &mut y[..11])).unwrap_err(), short);
        let linear = Linear { alpha: Some(&two[..]), rest: None };
        let error = cpu::backward(shape, &Gradient::Given, &linear, (&x, &mut y)).unwrap_err();
        assert_eq!(error, crate::Error::ChannelVector { argument: "alpha", given: 2, channels: 3 });
        let linear = Linear { alpha: Some(&three[..]), rest: None };
        assert!(cpu::backward(shape, &Gradient::Given, &linear, (&x[..11], &mut y)).is_err());
        assert_eq!(y, [7.0; 12]);
    }
}
