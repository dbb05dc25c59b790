//! How every pass walks its tensor: in tasks that threads share, in pieces that fit the first-level
//! cache, in blocks of the 32 elements of a mask word.

use crate::cpu::keep::{self, KeepStream};
use crate::cpu::simd::{self, Simd, Task, bytes};
use crate::cpu::tuning::{PIECE, SEQUENTIAL, STREAM_BYTES, TASK};
use crate::element::Element;
use crate::io::InOut;

/// What a pass does to a block.
pub(crate) trait BlockPass<T: Element>: Sync {
    /// `e` is the index of the block's first element. `second` is the saved tensor, for a pass
    /// that has one. `word` holds the block's bits, as they were drawn or loaded; the result holds
    /// those to store. Elements beyond the tensor's end may be anything.
    fn block<S: Simd>(&self, simd: S, e: u64, input: &[T; 32], second: &[T; 32], word: u32) -> ([T; 32], u32);
}

/// Where a block's bits come from and go to.
pub enum Words<'a> {
    /// There are none.
    None,
    /// From the mask.
    Load(&'a [u32]),
    /// To the mask.
    Store(&'a mut [u32]),
    /// From the keep stream, to nowhere.
    Draw(KeepStream),
    /// From the keep stream to the mask.
    DrawStore(KeepStream, &'a mut [u32]),
}

impl Words<'_> {
    fn split(self, words: usize) -> (Self, Self) {
        match self {
            Self::None => (Self::None, Self::None),
            Self::Draw(stream) => (Self::Draw(stream), Self::Draw(stream)),
            Self::Load(mask) => {
                let (a, b) = mask.split_at(words);
                (Self::Load(a), Self::Load(b))
            }
            Self::Store(mask) => {
                let (a, b) = mask.split_at_mut(words);
                (Self::Store(a), Self::Store(b))
            }
            Self::DrawStore(stream, mask) => {
                let (a, b) = mask.split_at_mut(words);
                (Self::DrawStore(stream, a), Self::DrawStore(stream, b))
            }
        }
    }
}

/// A pass over a part of a tensor.
struct Job<'a, T> {
    /// Index of the part's first element, a multiple of 32.
    start: usize,
    io: InOut<'a, T>,
    second: Option<&'a [T]>,
    words: Words<'a>,
    stream: bool,
}

/// Runs the pass over the whole tensor. `second`, where there is one, and the output are as long as
/// the input; the words are as many as it has blocks.
pub(crate) fn run<T: Element, P: BlockPass<T>>(pass: &P, io: InOut<'_, T>, second: Option<&[T]>, words: Words<'_>) {
    let len = io.len();
    // In place, the lines are in the cache because they were read.
    let stream = matches!(io, InOut::OutOfPlace(..)) && len.saturating_mul(size_of::<T>()) >= STREAM_BYTES;
    let job = Job { start: 0, io, second, words, stream };
    if len <= SEQUENTIAL { job.run(pass) } else { job.share(pass) }
}

impl<T: Element> Job<'_, T> {
    /// Halves the job until its parts are tasks.
    fn share<P: BlockPass<T>>(self, pass: &P) {
        let len = self.io.len();
        if len <= TASK {
            return self.run(pass);
        }
        let (a, b) = self.split(len.div_ceil(TASK).div_ceil(2) * TASK);
        rayon::join(|| a.share(pass), || b.share(pass));
    }

    /// `at` is a multiple of 32 within the job.
    fn split(self, at: usize) -> (Self, Self) {
        let (io_a, io_b) = match self.io {
            InOut::OutOfPlace(x, y) => {
                let ((xa, xb), (ya, yb)) = (x.split_at(at), y.split_at_mut(at));
                (InOut::OutOfPlace(xa, ya), InOut::OutOfPlace(xb, yb))
            }
            InOut::InPlace(x) => {
                let (a, b) = x.split_at_mut(at);
                (InOut::InPlace(a), InOut::InPlace(b))
            }
        };
        let (second_a, second_b) = self.second.map(|s| s.split_at(at)).unzip();
        let (words_a, words_b) = self.words.split(at / 32);
        let Self { start, stream, .. } = self;
        (
            Self { start, io: io_a, second: second_a, words: words_a, stream },
            Self { start: start + at, io: io_b, second: second_b, words: words_b, stream },
        )
    }

    fn run<P: BlockPass<T>>(self, pass: &P) {
        simd::dispatch(Compiled { job: self, pass });
    }
}

struct Compiled<'a, T, P> {
    job: Job<'a, T>,
    pass: &'a P,
}

impl<T: Element, P: BlockPass<T>> Task for Compiled<'_, T, P> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { job, pass } = self;
        let Job { start, mut io, second, mut words, stream } = job;
        let mut scratch = [T::default(); PIECE];
        let mut bits = [0; keep::BATCH];
        let len = io.len();
        for done in (0..len).step_by(PIECE) {
            let piece = PIECE.min(len - done);
            // Words are drawn for several pieces at a time.
            let word = done / 32 % keep::BATCH;
            if word == 0
                && let Words::Draw(stream) | Words::DrawStore(stream, _) = &words
            {
                let batch = (32 * keep::BATCH).min(len - done);
                let x = match &io {
                    InOut::OutOfPlace(x, _) => &x[done..done + batch],
                    InOut::InPlace(x) => &x[done..done + batch],
                };
                let bits = &mut bits[..batch.div_ceil(32)];
                simd.draw(stream, ((start + done) / 32) as u64, bits, bytes(x));
            }
            let bits = &mut bits[word..word + piece.div_ceil(32)];
            let stored = done / 32..done / 32 + bits.len();
            if let Words::Load(mask) = &words {
                bits.copy_from_slice(&mask[stored.clone()]);
            }

            let scratch = &mut scratch[..piece];
            let second = second.map(|s| &s[done..done + piece]);
            let e = (start + done) as u64;
            // One call for all three ways, because the passes are inlined here, and there are many.
            let (from, to): (&[T], &mut [T]) = match &mut io {
                InOut::OutOfPlace(x, _) if stream => (&x[done..done + piece], &mut *scratch),
                InOut::OutOfPlace(x, y) => (&x[done..done + piece], &mut y[done..done + piece]),
                InOut::InPlace(x) => {
                    let x = &mut x[done..done + piece];
                    scratch.copy_from_slice(x);
                    (&*scratch, x)
                }
            };
            run_piece(simd, pass, e, from, second, bits, to);
            if let (true, InOut::OutOfPlace(_, y)) = (stream, &mut io) {
                simd.stream(scratch, &mut y[done..done + piece]);
            }

            if let Words::Store(mask) | Words::DrawStore(_, mask) = &mut words {
                mask[stored].copy_from_slice(bits);
            }
        }
        if stream {
            simd.fence();
        }
    }
}

/// One piece: whole blocks, then the last elements in a block padded with zeros.
#[inline(always)]
fn run_piece<S: Simd, T: Element, P: BlockPass<T>>(
    simd: S,
    pass: &P,
    e: u64,
    x: &[T],
    second: Option<&[T]>,
    bits: &mut [u32],
    y: &mut [T],
) {
    let second = second.unwrap_or(x);
    let (x_blocks, x_rest) = x.as_chunks::<32>();
    let (second_blocks, second_rest) = second.as_chunks::<32>();
    let (y_blocks, y_rest) = y.as_chunks_mut::<32>();
    let padded = |rest: &[T]| {
        let mut block = [T::default(); 32];
        block[..rest.len()].copy_from_slice(rest);
        block
    };
    let (x_last, second_last) = (padded(x_rest), padded(second_rest));
    for (i, word) in bits.iter_mut().enumerate() {
        let x = x_blocks.get(i).unwrap_or(&x_last);
        let second = second_blocks.get(i).unwrap_or(&second_last);
        let (out, out_word) = pass.block(simd, e + 32 * i as u64, x, second, *word);
        *word = out_word;
        match y_blocks.get_mut(i) {
            Some(y) => *y = out,
            None => y_rest.copy_from_slice(&out[..y_rest.len()]),
        }
    }
    if let (Some(last), used @ 1..) = (bits.last_mut(), x_rest.len()) {
        *last &= (1 << used) - 1;
    }
}
