//! The passes: what each does to a block of 32 elements.

use crate::activation::Activation;
use crate::cpu::engine::{Bits, BlockPass, KeepStream, Philox, Words, run_over_tensor};
use crate::cpu::lane::{Lane, map};
use crate::cpu::mask_words::MaskWords;
use crate::cpu::simd::Simd;
use crate::cpu::smooth::{self, Smooth};
use crate::element::Element;
use crate::float_environment::DefaultEnvironment;
use crate::io::{AnyTensors, Tensors};
use crate::key::MaskKey;
use crate::operation::{DropActivation, Mixture, RRelu};
use crate::pass::Pass;
use crate::real::Real;

/// Runs a checked pass. Words that it has no use for are not looked at.
pub(crate) fn run(pass: &Pass, tensors: AnyTensors<'_>, mask: MaskWords<'_>) {
    match tensors {
        AnyTensors::F32(tensors) => run_on(pass, tensors, mask),
        AnyTensors::F16(tensors) => run_on(pass, tensors, mask),
        AnyTensors::Bf16(tensors) => run_on(pass, tensors, mask),
        AnyTensors::F64(tensors) => run_on(pass, tensors, mask),
    }
}

/// The passes that compare and select elements by their bits; they need no floating-point environment.
fn run_on<T: Lane>(pass: &Pass, tensors: Tensors<'_, T>, mask: MaskWords<'_>) {
    let Tensors { io, saved } = tensors;
    match *pass {
        Pass::Forward { op, key } if op.activation() == Activation::Relu => {
            run_over_tensor(&DropRelu, Tensors { io, saved: None }, drawn(&KeepStream::new(&op, key), mask));
        }
        Pass::ForwardWithoutMask { op, key } => {
            run_over_tensor(&DropRelu, Tensors { io, saved: None }, Words::Draw(&KeepStream::new(&op, key)));
        }
        Pass::Backward { op } if op.activation() == Activation::Relu => {
            run_over_tensor(&Select, Tensors { io, saved: None }, mask.into())
        }
        Pass::BackwardFromOutput { .. } => run_over_tensor(&SelectNonzero, Tensors { io, saved }, Words::None),
        Pass::ReluForward => run_over_tensor(&Relu, Tensors { io, saved: None }, Words::None),
        Pass::ReluBackward => run_over_tensor(&ReluBackward, Tensors { io, saved }, Words::None),
        _ => {
            let _environment = DefaultEnvironment::enter();
            compute(pass, Tensors { io, saved }, mask);
        }
    }
}

/// The passes that do arithmetic, in the default floating-point environment. Not inlined: a compiler that saw both this
/// and the caller might compute a parameter before the environment is entered.
#[inline(never)]
fn compute<T: Lane>(pass: &Pass, Tensors { io, saved }: Tensors<'_, T>, mask: MaskWords<'_>) {
    match *pass {
        Pass::Forward { op, key } => {
            run_over_tensor(
                &DropSmooth(op.activation()),
                Tensors { io, saved: None },
                drawn(&KeepStream::new(&op, key), mask),
            );
        }
        Pass::Backward { op } => {
            run_over_tensor(&DropSmoothBackward(op.activation()), Tensors { io, saved }, mask.into())
        }
        Pass::Infer { op } => match (op.mixture::<T::Real>(), op.activation()) {
            (Mixture::Sigma, Activation::Relu) => run_over_tensor(&Relu, Tensors { io, saved: None }, Words::None),
            (Mixture::Mixed { slope, .. }, Activation::Relu) => {
                run_over_tensor(&LeakyRelu(T::Real::from_f64(slope)), Tensors { io, saved: None }, Words::None);
            }
            _ => run_over_tensor(&Infer(op), Tensors { io, saved: None }, Words::None),
        },
        Pass::InferBackward { op } => run_over_tensor(&InferBackward(op), Tensors { io, saved }, Words::None),
        Pass::RreluForward { op, key } => {
            run_over_tensor(&DropRRelu(Slopes::new(&op, key)), Tensors { io, saved: None }, mask.into())
        }
        Pass::RreluBackward { op, key } => {
            run_over_tensor(&DropRReluBackward(Slopes::new(&op, key)), Tensors { io, saved: None }, mask.into())
        }
        Pass::RreluInfer { op } => {
            run_over_tensor(
                &LeakyRelu(T::Real::from_f64(op.inference_slope())),
                Tensors { io, saved: None },
                Words::None,
            );
        }
        Pass::RreluInferBackward { op } => run_over_tensor(&RReluInferBackward(op), Tensors { io, saved }, Words::None),
        Pass::ForwardWithoutMask { .. } | Pass::BackwardFromOutput { .. } | Pass::ReluForward | Pass::ReluBackward => {
            unreachable!("no arithmetic")
        }
        Pass::FusedForward { .. }
        | Pass::FusedInfer { .. }
        | Pass::Statistics { .. }
        | Pass::FusedSums { .. }
        | Pass::FusedBackward { .. } => unreachable!("on its own way: cpu::fused"),
    }
}

impl<'a> From<MaskWords<'a>> for Words<'a> {
    fn from(mask: MaskWords<'a>) -> Self {
        match mask {
            MaskWords::None => Self::None,
            MaskWords::Read(words) => Self::Load(words),
            MaskWords::Write(words) => Self::Store(words),
        }
    }
}

/// Drawn, and stored if there are words to write.
pub(super) fn drawn<'a>(stream: &'a KeepStream, mask: MaskWords<'a>) -> Words<'a> {
    match mask {
        MaskWords::Write(words) => Words::DrawStore(stream, words),
        MaskWords::None | MaskWords::Read(_) => Words::Draw(stream),
    }
}

/// Bit i: element i is at least zero (and so not NaN).
#[inline(always)]
fn at_least_zero<S: Simd, T: Element>(simd: S, x: &[T; 32]) -> u32 {
    let mut negated = *x;
    for x in &mut negated {
        *x = -*x;
    }
    simd.at_most_zero(u32::MAX, &negated)
}

/// σ of a block, in the type of the arithmetic.
#[inline(always)]
fn sigma<S: Simd, T: Lane>(simd: S, activation: Activation, x: &[T; 32]) -> [T::Real; 32] {
    let mut values = T::to_reals(simd, x);
    smooth::evaluate(simd, Smooth::Value(activation), &mut values);
    values
}

/// σ' of a block.
#[inline(always)]
fn derivative<S: Simd, T: Lane>(simd: S, activation: Activation, x: &[T; 32]) -> [T::Real; 32] {
    let mut values = T::to_reals(simd, x);
    smooth::evaluate(simd, Smooth::Derivative(activation), &mut values);
    values
}

/// `x` where the bit is set, +0 elsewhere.
#[inline(always)]
fn select<S: Simd, T: Element>(simd: S, x: &[T; 32], pass: u32) -> [T; 32] {
    simd.blend(pass, x, &[T::default(); 32])
}

/// `slope v`; a NaN stays the NaN it was.
#[inline(always)]
fn scaled<S: Simd, T: Lane>(simd: S, v: &[T; 32], slope: T::Real) -> [T; 32] {
    simd.blend(not_nan(simd, v), &simd.optimizer_barrier(T::scale(simd, v, slope)), v)
}

/// [`scaled`], each by a slope of its own.
#[inline(always)]
fn scaled_each<S: Simd, T: Lane>(simd: S, v: &[T; 32], slopes: &[T::Real; 32]) -> [T; 32] {
    simd.blend(not_nan(simd, v), &simd.optimizer_barrier(map(simd, v, |i, value| slopes[i] * value)), v)
}

/// Bit i: element i is not NaN.
#[inline(always)]
fn not_nan<S: Simd, T: Element>(simd: S, v: &[T; 32]) -> u32 {
    simd.at_most_zero(u32::MAX, v) | at_least_zero(simd, v)
}

/// Drop-Activation with ReLU, training forward: keep bits in, pass bits out.
struct DropRelu;

impl<T: Lane> BlockPass<T> for DropRelu {
    const BITS: Bits = Bits::Draw;
    const MEMORY_BOUND: bool = true;

    #[inline(always)]
    fn block<S: Simd>(&self, simd: S, _: u64, x: &[T; 32], _: &[T; 32], keep: u32) -> ([T; 32], u32) {
        simd.clear_among_at_most_zero(keep, x)
    }
}

/// Its backward: pass bits in.
struct Select;

impl<T: Lane> BlockPass<T> for Select {
    const BITS: Bits = Bits::Read;
    const MEMORY_BOUND: bool = true;

    #[inline(always)]
    fn block<S: Simd>(&self, simd: S, _: u64, dy: &[T; 32], _: &[T; 32], pass: u32) -> ([T; 32], u32) {
        (select(simd, dy, pass), pass)
    }
}

/// Its backward from y, where no mask was stored: `y == 0` is blocked.
struct SelectNonzero;

impl<T: Lane> BlockPass<T> for SelectNonzero {
    const BITS: Bits = Bits::None;
    const READS_SAVED: bool = true;
    const MEMORY_BOUND: bool = true;

    #[inline(always)]
    fn block<S: Simd>(&self, simd: S, _: u64, dy: &[T; 32], y: &[T; 32], word: u32) -> ([T; 32], u32) {
        (simd.clear_where_zero(y, dy), word)
    }
}

/// Plain ReLU, forward.
struct Relu;

impl<T: Lane> BlockPass<T> for Relu {
    const BITS: Bits = Bits::None;
    const MEMORY_BOUND: bool = true;

    #[inline(always)]
    fn block<S: Simd>(&self, simd: S, _: u64, x: &[T; 32], _: &[T; 32], word: u32) -> ([T; 32], u32) {
        (simd.clear_at_most_zero(x), word)
    }
}

/// Plain ReLU, backward from y.
struct ReluBackward;

impl<T: Lane> BlockPass<T> for ReluBackward {
    const BITS: Bits = Bits::None;
    const READS_SAVED: bool = true;
    const MEMORY_BOUND: bool = true;

    #[inline(always)]
    fn block<S: Simd>(&self, simd: S, _: u64, dy: &[T; 32], y: &[T; 32], word: u32) -> ([T; 32], u32) {
        (simd.clear_where_at_most_zero(y, dy), word)
    }
}

/// Drop-Activation with another nonlinearity, training forward: keep bits in and out.
struct DropSmooth(Activation);

impl<T: Lane> BlockPass<T> for DropSmooth {
    const BITS: Bits = Bits::Draw;

    #[inline(always)]
    fn block<S: Simd>(&self, simd: S, _: u64, x: &[T; 32], _: &[T; 32], keep: u32) -> ([T; 32], u32) {
        (simd.blend(keep, &T::from_reals(simd, &sigma(simd, self.0, x)), x), keep)
    }
}

/// Its backward: keep bits in, x saved.
struct DropSmoothBackward(Activation);

impl<T: Lane> BlockPass<T> for DropSmoothBackward {
    const BITS: Bits = Bits::Read;
    const READS_SAVED: bool = true;

    #[inline(always)]
    fn block<S: Simd>(&self, simd: S, _: u64, dy: &[T; 32], x: &[T; 32], keep: u32) -> ([T; 32], u32) {
        let d = derivative(simd, self.0, x);
        (simd.blend(keep, &map(simd, dy, |i, dy| dy * d[i]), dy), keep)
    }
}

/// Inference with ReLU, forward, and RReLU's: the slope of what is at most zero. It makes no difference that RReLU has
/// zero on the other side, for a zero times the slope is that zero.
struct LeakyRelu<R>(R);

impl<T: Lane> BlockPass<T> for LeakyRelu<T::Real> {
    const BITS: Bits = Bits::None;
    const MEMORY_BOUND: bool = true;

    #[inline(always)]
    fn block<S: Simd>(&self, simd: S, _: u64, x: &[T; 32], _: &[T; 32], word: u32) -> ([T; 32], u32) {
        (simd.blend(simd.at_most_zero(u32::MAX, x), &simd.optimizer_barrier(T::scale(simd, x, self.0)), x), word)
    }
}

/// Inference with another nonlinearity, forward, and with none that is ever kept.
struct Infer(DropActivation);

impl<T: Lane> BlockPass<T> for Infer {
    const BITS: Bits = Bits::None;
    const MEMORY_BOUND: bool = true;

    #[inline(always)]
    fn block<S: Simd>(&self, simd: S, _: u64, x: &[T; 32], _: &[T; 32], word: u32) -> ([T; 32], u32) {
        let y = match self.0.mixture::<T::Real>() {
            Mixture::Identity => *x,
            Mixture::Sigma => T::from_reals(simd, &sigma(simd, self.0.activation(), x)),
            Mixture::Mixed { p, slope } => {
                let (p, slope) = (T::Real::from_f64(p), T::Real::from_f64(slope));
                let s = sigma(simd, self.0.activation(), x);
                map(simd, x, |i, x| p.mul_add(s[i], slope * x))
            }
        };
        (y, word)
    }
}

/// Inference, backward, x saved.
struct InferBackward(DropActivation);

impl<T: Lane> BlockPass<T> for InferBackward {
    const BITS: Bits = Bits::None;
    const READS_SAVED: bool = true;

    #[inline(always)]
    fn block<S: Simd>(&self, simd: S, _: u64, dy: &[T; 32], x: &[T; 32], word: u32) -> ([T; 32], u32) {
        let activation = self.0.activation();
        let dx = match (self.0.mixture::<T::Real>(), activation) {
            (Mixture::Identity, _) => *dy,
            (Mixture::Sigma, Activation::Relu) => simd.clear_where_at_most_zero(x, dy),
            (Mixture::Sigma, _) => {
                let d = derivative(simd, activation, x);
                map(simd, dy, |i, dy| dy * d[i])
            }
            (Mixture::Mixed { slope, .. }, Activation::Relu) => {
                let slope = T::Real::from_f64(slope);
                simd.blend(simd.at_most_zero(u32::MAX, x), &scaled(simd, dy, slope), dy)
            }
            (Mixture::Mixed { p, slope }, _) => {
                let (p, slope) = (T::Real::from_f64(p), T::Real::from_f64(slope));
                let d = derivative(simd, activation, x);
                map(simd, dy, |i, dy| dy * p.mul_add(d[i], slope))
            }
        };
        (dx, word)
    }
}

/// The slopes of RReLU's stream.
struct Slopes {
    lower: f32,
    span: f32,
    first: u64,
    philox: Philox,
}

impl Slopes {
    fn new(op: &RRelu, key: MaskKey) -> Self {
        let philox = Philox::new(key.seed(), key.offset());
        Self { lower: op.lower(), span: op.upper() - op.lower(), first: key.first(), philox }
    }

    /// Those of the block that begins at element `e`.
    #[inline(always)]
    fn block<S: Simd, R: Real>(&self, simd: S, e: u64) -> [R; 32] {
        let mut slopes = [R::ZERO; 32];
        for (slope, word) in slopes.iter_mut().zip(self.philox.uniforms(simd, self.first + e)) {
            // 24 bits, so a signed conversion is as good, and vectors have it everywhere.
            *slope = R::from_f32(self.lower + self.span * (word >> 8) as i32 as f32 / 16_777_216.0);
        }
        slopes
    }
}

/// RReLU, training forward: sign bits out.
struct DropRRelu(Slopes);

impl<T: Lane> BlockPass<T> for DropRRelu {
    const BITS: Bits = Bits::Write;

    #[inline(always)]
    fn block<S: Simd>(&self, simd: S, e: u64, x: &[T; 32], _: &[T; 32], _: u32) -> ([T; 32], u32) {
        let slope: [T::Real; 32] = self.0.block(simd, e);
        let positive = at_least_zero(simd, x);
        (simd.blend(positive, x, &scaled_each(simd, x, &slope)), positive)
    }
}

/// Its backward: sign bits in.
struct DropRReluBackward(Slopes);

impl<T: Lane> BlockPass<T> for DropRReluBackward {
    const BITS: Bits = Bits::Read;

    #[inline(always)]
    fn block<S: Simd>(&self, simd: S, e: u64, dy: &[T; 32], _: &[T; 32], positive: u32) -> ([T; 32], u32) {
        let slope: [T::Real; 32] = self.0.block(simd, e);
        (simd.blend(positive, dy, &scaled_each(simd, dy, &slope)), positive)
    }
}

/// RReLU at inference, backward, x saved.
struct RReluInferBackward(RRelu);

impl<T: Lane> BlockPass<T> for RReluInferBackward {
    const BITS: Bits = Bits::None;
    const READS_SAVED: bool = true;

    #[inline(always)]
    fn block<S: Simd>(&self, simd: S, _: u64, dy: &[T; 32], x: &[T; 32], word: u32) -> ([T; 32], u32) {
        let slope = T::Real::from_f64(self.0.inference_slope());
        (simd.blend(at_least_zero(simd, x), dy, &scaled(simd, dy, slope)), word)
    }
}
