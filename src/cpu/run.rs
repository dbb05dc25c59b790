//! The one way into the CPU backend: a pass, its tensors and its mask are checked, then the pass runs.

use std::marker::PhantomData;

use half::{bf16, f16};

use super::engine::{Pool, TASK, share};
use super::lane::Lane;
use super::mask_words::MaskWords;
use super::{fused, passes};
use crate::element::{Element, ForEachType};
use crate::error::{Error, Result};
use crate::io::{AnyTensors, InOut, Tensors};
use crate::mask::{PackedMask, words_for};
use crate::operands::Operands;
use crate::pass::{Arguments, MaskArgument, Pass};

/// The mask of a call, in one of the forms that callers have it in.
pub(crate) enum Mask<'a> {
    /// The pass has none.
    None,
    /// A forward pass makes it anew.
    Make(&'a mut PackedMask),
    /// A backward pass reads it.
    Made(&'a PackedMask),
    /// Words of the caller's.
    Words(MaskWords<'a>),
}

impl Mask<'_> {
    #[inline(always)]
    fn argument(&self) -> MaskArgument {
        match self {
            Self::None | Self::Words(MaskWords::None) => MaskArgument::None,
            Self::Make(_) => MaskArgument::MadeAnew,
            Self::Made(mask) => MaskArgument::MadeBy(mask.origin(), mask.len()),
            Self::Words(MaskWords::Read(words)) => MaskArgument::WordsToRead(words.len()),
            Self::Words(MaskWords::Write(words)) => MaskArgument::WordsToWrite(words.len()),
        }
    }
}

impl<'a> Mask<'a> {
    /// The words for a checked pass.
    #[inline(always)]
    fn words(self, pass: &Pass, len: usize) -> Result<MaskWords<'a>> {
        Ok(match self {
            Mask::None => MaskWords::None,
            Mask::Make(mask) => {
                let origin = pass.mask_origin().ok_or(Error::Missing { argument: "mask" })?;
                MaskWords::Write(mask.renew(origin, len)?)
            }
            Mask::Made(mask) => MaskWords::Read(mask.words()),
            Mask::Words(words) => words,
        })
    }
}

/// Checks a call and makes it. Inlined into the public functions: there the pass is known, and few checks are left.
#[inline(always)]
pub(super) fn call(pass: &Pass, tensors: AnyTensors<'_>, mask: Mask<'_>) -> Result<()> {
    let len = pass.check(&tensors.arguments(mask.argument()))?;
    let words = mask.words(pass, len)?;
    if pass.shape().is_some() {
        return run_without_operands(pass, tensors, words);
    }
    passes::run(pass, tensors, words);
    Ok(())
}

/// A pass over channels whose operands are all absent, but x.
#[cold]
fn run_without_operands(pass: &Pass, tensors: AnyTensors<'_>, words: MaskWords<'_>) -> Result<()> {
    fn run<T: Element>(pass: &Pass, Tensors { io, saved }: Tensors<'_, T>, words: MaskWords<'_>) -> Result<()> {
        let operands = Operands { x: saved, ..Operands::default() };
        T::choose::<RunOnChannels>(ChannelCall { pass, io, operands, mask: words })
    }
    match tensors {
        AnyTensors::F32(tensors) => run(pass, tensors, words),
        AnyTensors::F16(tensors) => run(pass, tensors, words),
        AnyTensors::Bf16(tensors) => run(pass, tensors, words),
        AnyTensors::F64(tensors) => run(pass, tensors, words),
    }
}

/// Checks a call of a pass over channels and makes it. An output without elements is none, where the pass may have none.
pub(crate) fn call_fused<T: Element>(
    pass: &Pass,
    io: InOut<'_, T>,
    operands: Operands<'_, T>,
    mask: Mask<'_>,
) -> Result<()> {
    let Some(shape) = pass.shape() else {
        return call(pass, tensors(io, operands.x.filter(|_| pass.saved().is_some())), mask);
    };
    let no_output = pass.results().is_some() && matches!(io, InOut::OutOfPlace(_, [])) && !shape.is_empty();
    let len = pass.check(&Arguments {
        output: (!no_output).then(|| io.output_len()),
        saved: operands.x.map(<[T]>::len),
        mask: mask.argument(),
        fused: operands.lengths(),
        ..Arguments::of_length(io.len())
    })?;
    T::choose::<RunOnChannels>(ChannelCall { pass, io, operands, mask: mask.words(pass, len)? })
}

/// A checked call of a pass over channels.
struct ChannelCall<'a, T: Element> {
    pass: &'a Pass,
    io: InOut<'a, T>,
    operands: Operands<'a, T>,
    mask: MaskWords<'a>,
}

impl<T: Lane<Real: Lane>> ChannelCall<'_, T> {
    fn run(self) -> Result<()> {
        fused::run(self.pass, self.io, self.operands, self.mask)
    }
}

/// Runs a [`ChannelCall`].
struct RunOnChannels<'a>(PhantomData<&'a ()>);

impl<'a> ForEachType for RunOnChannels<'a> {
    type Argument<T: Element> = ChannelCall<'a, T>;
    type Output = Result<()>;

    fn f32(call: ChannelCall<'a, f32>) -> Result<()> {
        call.run()
    }

    fn f16(call: ChannelCall<'a, f16>) -> Result<()> {
        call.run()
    }

    fn bf16(call: ChannelCall<'a, bf16>) -> Result<()> {
        call.run()
    }

    fn f64(call: ChannelCall<'a, f64>) -> Result<()> {
        call.run()
    }
}

/// The tensors of a call.
#[inline(always)]
pub(super) fn tensors<'a, T: Element>(io: InOut<'a, T>, saved: Option<&'a [T]>) -> AnyTensors<'a> {
    T::choose::<AnyTensors>(Tensors { io, saved })
}

/// Runs `pass`: for adapters that have no [`PackedMask`](crate::PackedMask) to give. Saved tensors and
/// words that the pass has no use for are not looked at.
///
/// ```
/// use drop_activation::{DropActivation, MaskKey, Pass, cpu};
/// let (op, key) = (DropActivation::default(), MaskKey::new(42, 0));
/// let x = [-1.5f32, 0.5, -2.0, 3.0];
/// let (mut y, mut mask) = ([0.0; 4], [0; 1]);
/// cpu::run(&Pass::Forward { op, key }, (&x, &mut y), None, cpu::MaskWords::Write(&mut mask))?;
/// let mut grad = [1.0f32; 4];
/// cpu::run(&Pass::Backward { op }, &mut grad, None, cpu::MaskWords::Read(&mask))?;
/// # Ok::<(), drop_activation::Error>(())
/// ```
///
/// # Errors
/// [`Error::Length`] if the output or the saved tensor is not as long as the input; [`Error::WordCount`] if there
/// are more or fewer words than that length has; [`Error::Missing`] if the pass needs a saved tensor or words and
/// has none; [`Error::IndexRange`] and [`Error::NeedsMask`] for the pass itself. Nothing was written then.
pub fn run<'a, T: Element>(
    pass: &Pass,
    io: impl Into<InOut<'a, T>>,
    saved: Option<&[T]>,
    mask: MaskWords<'_>,
) -> Result<()> {
    let saved = saved.filter(|_| pass.saved().is_some());
    call(pass, tensors(io.into(), saved), Mask::Words(mask))
}

/// Runs a pass over channels, with what it takes besides: for adapters, as [`run`] is. Where it has no output, `io` is
/// `(&x, &mut [])`. Any other pass runs as by [`run`].
///
/// ```
/// use drop_activation::fused::{Operands, Shape};
/// use drop_activation::{DropActivation, MaskKey, Pass, cpu};
/// let shape = Shape::new(2, 3, 1)?; // two rows of three features
/// let (op, key) = (DropActivation::default(), MaskKey::new(42, 0));
/// let (x, bias) = ([-1.5f32, 0.5, -2.0, 3.0, 1.0, -0.5], [0.5f32, -1.0, 0.0]);
/// let (mut y, mut mask) = ([0.0; 6], [0; 1]);
/// let operands = Operands { shift: Some(&bias[..]), ..Operands::default() };
/// let pass = Pass::FusedForward { op, key, shape };
/// cpu::run_fused(&pass, (&x, &mut y), operands, cpu::MaskWords::Write(&mut mask))?;
/// assert_eq!(y[3], 3.5);
/// # Ok::<(), drop_activation::Error>(())
/// ```
///
/// # Errors
/// [`Error::ShapeLength`] and [`Error::ChannelVector`] for lengths that do not fit the pass's shape; [`Error::Missing`]
/// for what the pass needs and does not have; [`Error::WordCount`]; [`Error::IndexRange`]; [`Error::NoElements`] for
/// statistics; [`Error::SumMemory`]. Nothing was written then.
pub fn run_fused<'a, T: Element>(
    pass: &Pass,
    io: impl Into<InOut<'a, T>>,
    operands: Operands<'_, T>,
    mask: MaskWords<'_>,
) -> Result<()> {
    call_fused(pass, io.into(), operands, Mask::Words(mask))
}

/// Elements of a saved tensor that are set aside at a time; a multiple of 32.
const PART: usize = 2048;

/// [`run`] for a backward pass whose output takes the place of its saved tensor: `saved` holds x or y, and dx
/// afterwards. Without a `dy`, it takes the place of dy too, and `saved` holds both. Sets aside a part of the saved
/// tensor at a time, some kilobytes for each thread.
///
/// A pass that has no saved tensor runs on `dy` as it would by [`run`].
///
/// # Errors
/// Those of [`run`]; [`Error::HasChannels`] for a pass over channels.
pub fn run_over_saved<T: Element>(pass: &Pass, dy: Option<&[T]>, saved: &mut [T], mask: MaskWords<'_>) -> Result<()> {
    if pass.shape().is_some() {
        return Err(Error::HasChannels { function: "run_over_saved" });
    }
    if pass.saved().is_none() {
        let io = match dy {
            Some(dy) => InOut::OutOfPlace(dy, saved),
            None => InOut::InPlace(saved),
        };
        return run(pass, io, None, mask);
    }
    let mask = Mask::Words(mask);
    let input = dy.map_or(saved.len(), <[T]>::len);
    let both = Some(saved.len());
    let arguments = Arguments { output: both, saved: both, mask: mask.argument(), ..Arguments::of_length(input) };
    let len = pass.check(&arguments)?;
    let words = match mask {
        Mask::Words(MaskWords::Read(words)) if pass.reads_mask() => Some(words),
        _ => None,
    };
    let count = len.div_ceil(TASK);
    share(&Pool::for_tasks(count), saved.chunks_mut(TASK).enumerate(), count, |(task, saved)| {
        let mut aside = vec![T::default(); saved.len().min(PART)];
        for (part, dx) in saved.chunks_mut(PART).enumerate() {
            let (at, len) = (task * TASK + part * PART, dx.len());
            let aside = &mut aside[..len];
            aside.copy_from_slice(dx);
            let io = match dy {
                Some(dy) => InOut::OutOfPlace(&dy[at..][..len], dx),
                None => InOut::InPlace(dx),
            };
            let words = words.map_or(MaskWords::None, |words| MaskWords::Read(&words[at / 32..][..words_for(len)]));
            passes::run(pass, tensors(io, Some(aside)), words);
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activation::Activation;
    use crate::cpu::keep_words;
    use crate::key::MaskKey;
    use crate::operation::{DropActivation, RRelu};

    const LEN: usize = 1000;

    fn tensor(scale: f32) -> Vec<f32> {
        (0..LEN).map(|i| (i as f32 * scale).sin()).collect()
    }

    /// In one task and in several.
    #[test]
    fn an_output_may_take_the_place_of_the_saved_tensor() {
        let rrelu = RRelu::default();
        for len in [0, LEN, PART + 33, 2 * TASK + 37] {
            let tensor = |scale: f32| -> Vec<f32> { (0..len).map(|i| (i as f32 * scale).sin()).collect() };
            let (saved, dy) = (tensor(0.7), tensor(1.3));
            let words: Vec<u32> = (0..words_for(len) as u32).map(|w| w.wrapping_mul(0x9E37_79B9)).collect();
            let mut passes = vec![Pass::RreluInferBackward { op: rrelu }, Pass::ReluBackward];
            for activation in Activation::ALL {
                let op = DropActivation::new(activation, 0.75).unwrap();
                passes.extend([Pass::Backward { op }, Pass::InferBackward { op }]);
            }
            passes.push(Pass::BackwardFromOutput { op: DropActivation::default() });
            for pass in passes {
                let mut expected = vec![f32::NAN; len];
                run(&pass, (&dy, &mut expected), Some(&saved), MaskWords::Read(&words)).unwrap();
                let mut dx = saved.clone();
                run_over_saved(&pass, Some(&dy), &mut dx, MaskWords::Read(&words)).unwrap();
                assert!(dx == expected, "{pass:?}, {len} elements");

                // dy is the saved tensor itself.
                run(&pass, (&saved, &mut expected), Some(&saved), MaskWords::Read(&words)).unwrap();
                let mut dx = saved.clone();
                run_over_saved(&pass, None, &mut dx, MaskWords::Read(&words)).unwrap();
                assert!(dx == expected, "{pass:?}, {len} elements, over both");
            }
        }
        let op = DropActivation::new(Activation::Gelu, 0.5).unwrap();
        let (backward, mut dx, dy) = (Pass::Backward { op }, vec![7.0f32; 64], vec![1.0; 63]);
        let mut refused = |dy: Option<&[f32]>, mask| {
            let error = run_over_saved(&backward, dy, &mut dx, mask).unwrap_err();
            assert!(dx.iter().all(|dx| *dx == 7.0), "something was written");
            error
        };
        let length = Error::Length { argument: "dx", given: 64, other: "dy", expected: 63 };
        assert_eq!(refused(Some(&dy), MaskWords::Read(&[0; 2])), length);
        assert_eq!(refused(None, MaskWords::None), Error::Missing { argument: "mask" });
        let count = Error::WordCount { given: 3, len: 64, expected: 2 };
        assert_eq!(refused(None, MaskWords::Read(&[0; 3])), count);
    }

    #[test]
    fn what_is_missing_or_of_the_wrong_length_is_refused() {
        let (x, key) = (tensor(0.7), MaskKey::new(0, 0));
        let gelu = DropActivation::new(Activation::Gelu, 0.5).unwrap();
        let mut y = vec![7.0; LEN];
        let mut refused = |pass: Pass, saved: Option<&[f32]>, mask: MaskWords<'_>| {
            let error = run(&pass, (&x, &mut y), saved, mask).unwrap_err();
            assert!(y.iter().all(|y| *y == 7.0), "{pass:?} wrote something");
            error
        };
        let (forward, backward) = (Pass::Forward { op: gelu, key }, Pass::Backward { op: gelu });
        let mut words = vec![0; words_for(LEN)];
        let missing = |argument| Error::Missing { argument };
        assert_eq!(refused(forward, None, MaskWords::None), missing("mask"));
        assert_eq!(refused(forward, None, MaskWords::Read(&words)), missing("mask"));
        assert_eq!(refused(backward, Some(&x), MaskWords::None), missing("mask"));
        assert_eq!(refused(backward, None, MaskWords::Read(&words)), missing("x"));
        assert_eq!(refused(Pass::ReluBackward, None, MaskWords::None), missing("y"));
        let short = Error::Length { argument: "x", given: 1, other: "dy", expected: LEN };
        assert_eq!(refused(backward, Some(&x[..1]), MaskWords::Read(&words)), short);
        let few = Error::WordCount { given: 31, len: LEN, expected: 32 };
        assert_eq!(refused(forward, None, MaskWords::Write(&mut words[1..])), few);
        assert_eq!(refused(backward, Some(&x), MaskWords::Read(&words[1..])), few);
        assert_eq!(keep_words(&gelu, key, LEN, &mut words[1..]), Err(few));
    }
}
