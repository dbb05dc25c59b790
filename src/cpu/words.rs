//! The door for adapters: the pass is a value, and the mask's words are memory of the caller's.

use super::job::Words;
use super::keep::{self, KeepStream};
use super::passes::Pass as Routine;
use super::pool::Pool;
use super::share::share;
use super::tuning::TASK;
use crate::check;
use crate::element::Element;
use crate::error::{Error, Result};
use crate::io::InOut;
use crate::key::MaskKey;
use crate::mask::words_for;
use crate::operation::{Activation, DropActivation};
use crate::pass::Pass;

/// The mask's words of a pass: `ceil(len / 32)` of them, element i at bit i % 32 of word i / 32.
///
/// Unlike a [`PackedMask`](crate::PackedMask) they do not know what they were made for: words of another
/// operation or key give a wrong gradient, and that the caller has to see to.
#[derive(Debug)]
pub enum MaskWords<'a> {
    /// The pass has no mask.
    None,
    /// A backward pass reads them. Unused bits of the last word are not looked at.
    Read(&'a [u32]),
    /// A forward pass writes them; unused bits of the last word become zero.
    Write(&'a mut [u32]),
}

/// Runs `pass`: the way in for adapters that have no [`PackedMask`](crate::PackedMask) to give. Saved tensors and
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
    let io = io.into();
    let len = io.checked_len(pass.output(), pass.input())?;
    pass.check(len)?;
    let saved = match pass.saved() {
        Some(argument) => {
            let saved = saved.ok_or(Error::Missing { argument })?;
            check::same_length(argument, saved.len(), pass.input(), len)?;
            Some(saved)
        }
        None => None,
    };
    let stream;
    let words = match (pass, mask) {
        (Pass::Forward { op, key }, MaskWords::Write(words)) => {
            enough(words, len)?;
            stream = KeepStream::new(op, *key);
            Words::DrawStore(&stream, words)
        }
        (Pass::ForwardWithoutMask { op, key }, _) => {
            stream = KeepStream::new(op, *key);
            Words::Draw(&stream)
        }
        (pass, MaskWords::Write(words)) if pass.writes_mask() => {
            enough(words, len)?;
            Words::Store(words)
        }
        (pass, MaskWords::Read(words)) if pass.reads_mask() => {
            enough(words, len)?;
            Words::Load(words)
        }
        (pass, _) if pass.writes_mask() || pass.reads_mask() => return Err(Error::Missing { argument: "mask" }),
        _ => Words::None,
    };
    T::run(routine(*pass), io, saved, words);
    Ok(())
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
/// Those of [`run`].
pub fn run_over_saved<T: Element>(pass: &Pass, dy: Option<&[T]>, saved: &mut [T], mask: MaskWords<'_>) -> Result<()> {
    if pass.saved().is_none() {
        let io = match dy {
            Some(dy) => InOut::OutOfPlace(dy, saved),
            None => InOut::InPlace(saved),
        };
        return run(pass, io, None, mask);
    }
    let len = saved.len();
    if let Some(dy) = dy {
        check::same_length(pass.output(), len, pass.input(), dy.len())?;
    }
    pass.check(len)?;
    let words = match mask {
        MaskWords::Read(words) if pass.reads_mask() => {
            enough(words, len)?;
            Some(words)
        }
        _ if pass.reads_mask() => return Err(Error::Missing { argument: "mask" }),
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
            let words = words.map_or(Words::None, |words| Words::Load(&words[at / 32..][..words_for(len)]));
            T::run(routine(*pass), io, Some(aside), words);
        }
    });
    Ok(())
}

/// The keep bits of `len` elements, as [`keep_mask`](super::keep_mask) gives them, into words of the caller's.
///
/// # Errors
/// [`Error::WordCount`] unless there are `ceil(len / 32)` words; [`Error::IndexRange`] if the key's `first` leaves no
/// room for `len` elements.
pub fn keep_words(op: &DropActivation, key: MaskKey, len: usize, words: &mut [u32]) -> Result<()> {
    check::key_covers(key, len)?;
    enough(words, len)?;
    keep::fill(KeepStream::new(op, key), words);
    clear_unused(words, len);
    Ok(())
}

/// Clears the unused bits of the last word.
pub(super) fn clear_unused(words: &mut [u32], len: usize) {
    if let (Some(last), used @ 1..) = (words.last_mut(), len % 32) {
        *last &= (1 << used) - 1;
    }
}

pub(super) fn enough(words: &[u32], len: usize) -> Result<()> {
    let (given, expected) = (words.len(), words_for(len));
    if given == expected { Ok(()) } else { Err(Error::WordCount { given, len, expected }) }
}

fn routine(pass: Pass) -> Routine {
    match pass {
        Pass::Forward { op, .. } | Pass::ForwardWithoutMask { op, .. } => match op.activation() {
            Activation::Relu => Routine::DropRelu,
            activation => Routine::DropSigma(activation),
        },
        Pass::Backward { op } => match op.activation() {
            Activation::Relu => Routine::Select,
            activation => Routine::DropSigmaBackward(activation),
        },
        Pass::BackwardFromOutput { .. } => Routine::SelectNonzero,
        Pass::Infer { op } => Routine::Infer(op),
        Pass::InferBackward { op } => Routine::InferBackward(op),
        Pass::RreluForward { op, key } => Routine::DropRRelu(op, key),
        Pass::RreluBackward { op, key } => Routine::DropRReluBackward(op, key),
        Pass::RreluInfer { op } => Routine::RReluInfer(op),
        Pass::RreluInferBackward { op } => Routine::RReluInferBackward(op),
        Pass::ReluForward => Routine::Relu,
        Pass::ReluBackward => Routine::ReluBackward,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu;
    use crate::operation::RRelu;

    const LEN: usize = 1000;

    fn tensor(scale: f32) -> Vec<f32> {
        (0..LEN).map(|i| (i as f32 * scale).sin()).collect()
    }

    /// What `run` makes of a pass whose input is `input`.
    fn run_on(pass: &Pass, input: &[f32], saved: Option<&[f32]>, mask: MaskWords<'_>) -> Vec<f32> {
        let mut output = vec![f32::NAN; LEN];
        run(pass, (input, &mut output), saved, mask).unwrap();
        output
    }

    #[test]
    fn passes_are_the_functions_of_their_names() {
        let (x, dy, key) = (tensor(0.7), tensor(1.3), MaskKey::new(3, 4).shard(96).unwrap());
        let mut expected = vec![0.0; LEN];
        for activation in Activation::ALL {
            let op = DropActivation::new(activation, 0.75).unwrap();
            let mut words = vec![u32::MAX; words_for(LEN)];
            let y = run_on(&Pass::Forward { op, key }, &x, None, MaskWords::Write(&mut words));
            let mask = cpu::forward(&op, key, (&x, &mut expected)).unwrap();
            assert_eq!((&y, &words[..]), (&expected, mask.words()));
            let dx = run_on(&Pass::Backward { op }, &dy, Some(&x), MaskWords::Read(&words));
            cpu::backward(&op, &mask, Some(&x), (&dy, &mut expected)).unwrap();
            assert_eq!(dx, expected);
            let y = run_on(&Pass::Infer { op }, &x, None, MaskWords::None);
            cpu::infer(&op, (&x, &mut expected)).unwrap();
            assert_eq!(y, expected);
            let dx = run_on(&Pass::InferBackward { op }, &dy, Some(&x), MaskWords::None);
            cpu::infer_backward(&op, &x, (&dy, &mut expected)).unwrap();
            assert_eq!(dx, expected);
        }

        let op = DropActivation::relu(0.75).unwrap();
        let y = run_on(&Pass::ForwardWithoutMask { op, key }, &x, None, MaskWords::None);
        cpu::forward_without_mask(&op, key, (&x, &mut expected)).unwrap();
        assert_eq!(y, expected);
        let dx = run_on(&Pass::BackwardFromOutput { op }, &dy, Some(&y), MaskWords::None);
        cpu::backward_from_output(&op, &y, (&dy, &mut expected)).unwrap();
        assert_eq!(dx, expected);

        let op = RRelu::default();
        let mut words = vec![u32::MAX; words_for(LEN)];
        let y = run_on(&Pass::RreluForward { op, key }, &x, None, MaskWords::Write(&mut words));
        let mask = cpu::rrelu_forward(&op, key, (&x, &mut expected)).unwrap();
        assert_eq!((&y, &words[..]), (&expected, mask.words()));
        let dx = run_on(&Pass::RreluBackward { op, key }, &dy, None, MaskWords::Read(&words));
        cpu::rrelu_backward(&op, &mask, (&dy, &mut expected)).unwrap();
        assert_eq!(dx, expected);
        let y = run_on(&Pass::RreluInfer { op }, &x, None, MaskWords::None);
        cpu::rrelu_infer(&op, (&x, &mut expected)).unwrap();
        assert_eq!(y, expected);
        let dx = run_on(&Pass::RreluInferBackward { op }, &dy, Some(&x), MaskWords::None);
        cpu::rrelu_infer_backward(&op, &x, (&dy, &mut expected)).unwrap();
        assert_eq!(dx, expected);

        let y = run_on(&Pass::ReluForward, &x, None, MaskWords::None);
        cpu::relu_forward((&x, &mut expected)).unwrap();
        assert_eq!(y, expected);
        let dx = run_on(&Pass::ReluBackward, &dy, Some(&y), MaskWords::None);
        cpu::relu_backward(&y, (&dy, &mut expected)).unwrap();
        assert_eq!(dx, expected);
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
