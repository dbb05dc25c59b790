//! The elementwise passes: what each does to a block of 32 elements.

use super::channels::{Channels, Place, Vector, WithChannels, with_channels};
use super::gradient::{OF_Z, OfZ, Selected, Source, Z};
use crate::activation::Activation;
use crate::cpu::engine::{Bits, BlockPass, KeepStream, Words, run_over_tensor};
use crate::cpu::lane::Lane;
use crate::cpu::mask_words::MaskWords;
use crate::cpu::passes::drawn;
use crate::cpu::simd::{Simd, Task};
use crate::cpu::smooth::{self, Smooth};
use crate::dz::Dz;
use crate::error::Result;
use crate::io::{InOut, Tensors};
use crate::key::MaskKey;
use crate::operands::Operands;
use crate::operation::{DropActivation, Mixture};
use crate::real::Real;
use crate::shape::Shape;

/// [`Pass::FusedForward`](crate::Pass::FusedForward).
pub(super) fn forward<T: Lane<Real: Lane>>(
    op: &DropActivation,
    key: MaskKey,
    shape: Shape,
    operands: &Operands<'_, T>,
    io: InOut<'_, T>,
    mask: MaskWords<'_>,
) {
    let stream = KeepStream::new(op, key);
    match op.activation() {
        Activation::Relu => forward_to(DropRelu, shape, operands, io, drawn(&stream, mask)),
        activation => forward_to(Y::DropSmooth(activation), shape, operands, io, drawn(&stream, mask)),
    }
}

/// [`Pass::FusedInfer`](crate::Pass::FusedInfer).
pub(super) fn infer<T: Lane<Real: Lane>>(
    op: &DropActivation,
    shape: Shape,
    operands: &Operands<'_, T>,
    io: InOut<'_, T>,
) -> Result<()> {
    // A stream for which nothing is drawn: so there is no second copy of the pass, for no bits.
    let stream = KeepStream::new(&DropActivation::relu(1.0)?, MaskKey::new(0, 0));
    let y = Y::Infer(op.activation(), op.mixture::<T::Real>());
    forward_to(y, shape, operands, io, Words::Draw(&stream));
    Ok(())
}

/// [`Pass::FusedBackward`](crate::Pass::FusedBackward).
pub(super) fn backward<T: Lane<Real: Lane>>(
    dz: &Dz,
    shape: Shape,
    operands: &Operands<'_, T>,
    io: InOut<'_, T>,
    mask: MaskWords<'_>,
) {
    match OfZ::new(dz, operands) {
        Some(of_z) => backward_from(of_z, dz, shape, operands, io, mask),
        None => backward_from(Selected, dz, shape, operands, io, mask),
    }
}

fn backward_from<T: Lane<Real: Lane>>(
    source: impl Source<T>,
    dz: &Dz,
    shape: Shape,
    operands: &Operands<'_, T>,
    io: InOut<'_, T>,
    mask: MaskWords<'_>,
) {
    let x = operands.x.filter(|_| operands.beta.is_some());
    let mut wanted = [source.vectors(), &[Vector::Alpha]].concat();
    if x.is_some() {
        wanted.extend([Vector::Beta, Vector::Gamma, Vector::Mean]);
    }
    let mask = match mask {
        MaskWords::Read(words) if matches!(dz, Dz::Training(_)) => Some(words),
        _ => None,
    };
    let work = BackwardWork { source, x, tensors: Tensors { io, saved: None }, mask };
    with_channels(shape, size_of::<T>(), &operands.vectors(), &wanted, work);
}

/// What y is of z, and which bits are stored.
trait OfPreactivation<T: Lane>: Sync {
    /// As [`Source::LONG`].
    const LONG: bool;

    fn block<S: Simd>(&self, simd: S, z: &[T::Real; 32], keep: u32) -> ([T; 32], u32);
}

/// In training, with ReLU: keep bits in, pass bits out.
struct DropRelu;

impl<T: Lane<Real: Lane>> OfPreactivation<T> for DropRelu {
    const LONG: bool = false;

    #[inline(always)]
    fn block<S: Simd>(&self, simd: S, z: &[T::Real; 32], keep: u32) -> ([T; 32], u32) {
        let pass = !simd.at_most_zero(keep, z);
        (simd.blend(pass, &T::from_reals(simd, z), &[T::default(); 32]), pass)
    }
}

/// The others, bound by arithmetic or seldom run.
#[derive(Clone, Copy)]
enum Y {
    /// In training, with another nonlinearity: keep bits in and out.
    DropSmooth(Activation),
    /// At inference.
    Infer(Activation, Mixture),
}

impl<T: Lane<Real: Lane>> OfPreactivation<T> for Y {
    const LONG: bool = true;

    #[inline(always)]
    fn block<S: Simd>(&self, simd: S, z: &[T::Real; 32], keep: u32) -> ([T; 32], u32) {
        let mut y = *z;
        simd.outlined(Evaluate { y: *self, keep, z: &mut y });
        (T::from_reals(simd, &y), keep)
    }
}

fn forward_to<T: Lane<Real: Lane>>(
    y: impl OfPreactivation<T>,
    shape: Shape,
    operands: &Operands<'_, T>,
    io: InOut<'_, T>,
    words: Words<'_>,
) {
    let work = ForwardWork { y, z: Z { residual: operands.residual }, tensors: Tensors { io, saved: None }, words };
    with_channels(shape, size_of::<T>(), &operands.vectors(), OF_Z, work);
}

struct ForwardWork<'a, T: Lane, Y> {
    y: Y,
    z: Z<'a, T>,
    tensors: Tensors<'a, T>,
    words: Words<'a>,
}

impl<T: Lane<Real: Lane>, Y: OfPreactivation<T>> WithChannels<T::Real> for ForwardWork<'_, T, Y> {
    const LONG: bool = Y::LONG;

    fn run(self, channels: impl Channels<T::Real>) {
        let Self { y, z, tensors, words } = self;
        run_over_tensor(&Forward { channels, z, y }, tensors, words);
    }
}

struct Forward<'a, T, C, Y> {
    channels: C,
    z: Z<'a, T>,
    y: Y,
}

impl<T: Lane<Real: Lane>, C: Channels<T::Real>, Y: OfPreactivation<T>> BlockPass<T> for Forward<'_, T, C, Y> {
    const BITS: Bits = Bits::Draw;
    const MEMORY_BOUND: bool = true;
    const LONG: bool = true;

    #[inline(always)]
    fn block<S: Simd>(&self, simd: S, e: u64, x: &[T; 32], _: &[T; 32], keep: u32) -> ([T; 32], u32) {
        self.y.block(simd, &self.z.block(simd, self.channels.at(e, true), x), keep)
    }

    #[inline(always)]
    fn partial<S: Simd>(&self, simd: S, e: u64, x: &[T; 32], _: &[T; 32], keep: u32) -> ([T; 32], u32) {
        self.y.block(simd, &self.z.block(simd, self.channels.at(e, false), x), keep)
    }
}

/// Puts y in place of z.
struct Evaluate<'a, R> {
    y: Y,
    keep: u32,
    z: &'a mut [R; 32],
}

impl<R: Lane + Real> Task for Evaluate<'_, R> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { y, keep, z } = self;
        match y {
            Y::Infer(_, Mixture::Identity) => {}
            Y::DropSmooth(activation) => {
                let mut sigma = *z;
                smooth::evaluate(simd, Smooth::Value(activation), &mut sigma);
                *z = simd.blend(keep, &sigma, z);
            }
            Y::Infer(Activation::Relu, mixture) => {
                let mut scaled = [R::ZERO; 32];
                if let Mixture::Mixed { slope, .. } = mixture {
                    let slope = R::from_f64(slope);
                    for i in 0..32 {
                        scaled[i] = slope * z[i];
                    }
                }
                *z = simd.blend(simd.at_most_zero(u32::MAX, z), &scaled, z);
            }
            Y::Infer(activation, mixture) => {
                let mut sigma = *z;
                smooth::evaluate(simd, Smooth::Value(activation), &mut sigma);
                if let Mixture::Mixed { p, slope } = mixture {
                    let (p, slope) = (R::from_f64(p), R::from_f64(slope));
                    for i in 0..32 {
                        sigma[i] = p.mul_add(sigma[i], slope * z[i]);
                    }
                }
                *z = sigma;
            }
        }
    }
}

struct BackwardWork<'a, T, P> {
    source: P,
    /// With beta, gamma and mean.
    x: Option<&'a [T]>,
    tensors: Tensors<'a, T>,
    mask: Option<&'a [u32]>,
}

impl<T: Lane<Real: Lane>, P: Source<T>> WithChannels<T::Real> for BackwardWork<'_, T, P> {
    const LONG: bool = P::LONG;

    fn run(self, channels: impl Channels<T::Real>) {
        let Self { source, x, tensors, mask } = self;
        match mask {
            Some(words) => {
                run_over_tensor(&Backward::<_, _, _, true> { channels, source, x }, tensors, Words::Load(words))
            }
            None => run_over_tensor(&Backward::<_, _, _, false> { channels, source, x }, tensors, Words::None),
        }
    }
}

struct Backward<'a, T, C, P, const READS: bool> {
    channels: C,
    source: P,
    /// With beta, gamma and mean.
    x: Option<&'a [T]>,
}

impl<T: Lane<Real: Lane>, C: Channels<T::Real>, P: Source<T>, const READS: bool> BlockPass<T>
    for Backward<'_, T, C, P, READS>
{
    const BITS: Bits = if READS { Bits::Read } else { Bits::None };
    const MEMORY_BOUND: bool = true;
    const LONG: bool = true;

    #[inline(always)]
    fn block<S: Simd>(&self, simd: S, e: u64, dy: &[T; 32], _: &[T; 32], bits: u32) -> ([T; 32], u32) {
        (self.dx(simd, self.channels.at(e, true), dy, bits), bits)
    }

    #[inline(always)]
    fn partial<S: Simd>(&self, simd: S, e: u64, dy: &[T; 32], _: &[T; 32], bits: u32) -> ([T; 32], u32) {
        (self.dx(simd, self.channels.at(e, false), dy, bits), bits)
    }
}

impl<T: Lane<Real: Lane>, C, P: Source<T>, const READS: bool> Backward<'_, T, C, P, READS> {
    #[inline(always)]
    fn dx<S: Simd>(&self, simd: S, place: impl Place<T::Real>, dy: &[T; 32], bits: u32) -> [T; 32] {
        let dz = self.source.block(simd, place, dy, if READS { bits } else { u32::MAX });
        // An absent alpha is 1, absent others amount to -0: what is left has the same bits.
        let others = match self.x {
            Some(x) => {
                let x = T::to_numbers(simd, &place.tensor(simd, x));
                let distances = simd.minus(&x, &place.vector(simd, Vector::Mean));
                simd.times_plus(&place.vector(simd, Vector::Beta), &distances, &place.vector(simd, Vector::Gamma))
            }
            None => simd.repeat(T::Real::from_f64(-0.0)),
        };
        T::from_reals(simd, &simd.times_plus(&place.vector(simd, Vector::Alpha), &dz, &others))
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;
    use crate::cpu::part::as_part_of;
    use crate::cpu::simd::tests::sets;
    use crate::fused::{Before, Centred, Gradient, Linear, Preactivation, Rest, cpu, reference};

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

    /// Out of place and in place; and as a part of a tensor so large that it is written by non-temporal stores, with cache
    /// lines that begin elsewhere.
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
            same(&format!("{what}, by non-temporal stores"), &output[ahead..], expected);
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
