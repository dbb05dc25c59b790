//! How every pass walks its tensor: in tasks that threads share, in pieces that fit the first-level
//! cache, in blocks of the 32 elements of a mask word.

use std::ops::Range;

use crate::cpu::keep::{self, Batch, KeepStream};
use crate::cpu::simd::{self, LINE, Simd, Task};
use crate::cpu::tuning::{AHEAD, PIECE, SEQUENTIAL, STREAM_BYTES, TASK};
use crate::element::Element;
use crate::io::InOut;

/// What a pass does to a block.
pub(crate) trait BlockPass<T: Element>: Sync {
    /// Whether its bits are drawn, from [`Words::Draw`] or [`Words::DrawStore`]. The others need no code for it.
    const DRAWS: bool = false;

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
    /// [`PIECE`]; tests try others, up to [`MOST`].
    piece: usize,
}

/// Elements of the largest piece. Tests make room for larger ones.
const MOST: usize = if cfg!(test) { 4 * PIECE } else { PIECE };

/// Runs the pass over the whole tensor. `second`, where there is one, and the output are as long as
/// the input; the words are as many as it has blocks.
pub(crate) fn run<T: Element, P: BlockPass<T>>(pass: &P, io: InOut<'_, T>, second: Option<&[T]>, words: Words<'_>) {
    let len = io.len();
    // In place, the lines are in the cache because they were read.
    let stream = matches!(io, InOut::OutOfPlace(..)) && len.saturating_mul(size_of::<T>()) >= STREAM_BYTES;
    let job = Job { start: 0, io, second, words, stream, piece: PIECE };
    if len <= SEQUENTIAL { job.run(pass) } else { job.share(pass, TASK) }
}

impl<T: Element> Job<'_, T> {
    /// Halves the job until its parts are tasks, of at most so many elements, which are a multiple of 32.
    fn share<P: BlockPass<T>>(self, pass: &P, task: usize) {
        let len = self.io.len();
        if len <= task {
            return self.run(pass);
        }
        let (a, b) = self.split(len.div_ceil(task).div_ceil(2) * task);
        rayon::join(|| a.share(pass, task), || b.share(pass, task));
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
        let Self { start, stream, piece, .. } = self;
        (
            Self { start, io: io_a, second: second_a, words: words_a, stream, piece },
            Self { start: start + at, io: io_b, second: second_b, words: words_b, stream, piece },
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
        let Job { start, mut io, second, mut words, stream, piece } = job;
        let len = io.len();
        // Results that are to be streamed, or the input that they take the place of: of this piece, behind those
        // that did not fill a line before it.
        let mut scratch = [T::default(); MOST + LINE];
        let mut waiting = 0;
        let mut drawn = match &words {
            Words::Draw(keep) | Words::DrawStore(keep, _) if P::DRAWS => {
                Some(Drawn::new(simd, *keep, start / 32, len.div_ceil(32)))
            }
            _ => None,
        };
        let mut loaded = [0; keep::BATCH];
        let direct = !stream && matches!(io, InOut::OutOfPlace(..));
        let step = if direct { 32 * keep::BATCH } else { piece };
        for done in (0..len).step_by(step) {
            let piece = step.min(len - done);
            let stored = done / 32..(done + piece).div_ceil(32);
            let bits = match &mut drawn {
                Some(drawn) => drawn.next(simd, stored.len()),
                None => &mut loaded[..stored.len()],
            };
            if let Words::Load(mask) = &words {
                bits.copy_from_slice(&mask[stored.clone()]);
            }

            let second = second.map(|s| &s[done..done + piece]);
            let e = (start + done) as u64;
            // One call for all three ways, because the passes are inlined here, and there are many.
            let (from, to): (&[T], &mut [T]) = match &mut io {
                InOut::OutOfPlace(x, y) if direct => (&x[done..done + piece], &mut y[done..done + piece]),
                InOut::OutOfPlace(x, _) => (&x[done..done + piece], &mut scratch[waiting..waiting + piece]),
                InOut::InPlace(x) => {
                    let x = &mut x[done..done + piece];
                    scratch[..piece].copy_from_slice(x);
                    (&scratch[..piece], x)
                }
            };
            run_piece(simd, pass, e, from, second, bits, to);
            if let (true, InOut::OutOfPlace(_, y)) = (stream, &mut io) {
                let (first, end) = (done - waiting, done + piece);
                let over = if end == len { 0 } else { y[end..].as_ptr().addr() % LINE / size_of::<T>() };
                simd.stream(&scratch[..end - over - first], &mut y[first..end - over]);
                scratch.copy_within(end - over - first..end - first, 0);
                waiting = over;
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

/// The words of a pass, drawn a batch ahead of their use and in step with it, so that a processor could compute
/// random numbers while it waits for memory. `docs/performance.md` says how little of that was seen.
struct Drawn {
    keep: KeepStream,
    batches: [Batch; 2],
    /// Which of the two is in use.
    now: usize,
    /// How many of its words were used.
    used: usize,
    /// The words after the other.
    rest: Range<usize>,
}

impl Drawn {
    #[inline(always)]
    fn new<S: Simd>(simd: S, keep: KeepStream, first: usize, len: usize) -> Self {
        let batches = [Batch::new(), Batch::new()];
        let mut drawn = Self { keep, batches, now: 1, used: 0, rest: first..first + len };
        drawn.begin();
        keep.group(simd, &mut drawn.batches[0], 0..keep::BATCH);
        drawn.turn(simd);
        drawn
    }

    /// The batch after that in use.
    fn begin(&mut self) {
        let len = self.rest.len().min(keep::BATCH);
        self.keep.begin(&mut self.batches[1 - self.now], self.rest.start as u64, len);
        self.rest.start += len;
    }

    #[inline(always)]
    fn turn<S: Simd>(&mut self, simd: S) {
        self.now = 1 - self.now;
        simd.finish(&self.keep, &mut self.batches[self.now]);
        self.used = 0;
        self.begin();
    }

    /// The next words.
    #[inline(always)]
    fn next<S: Simd>(&mut self, simd: S, count: usize) -> &mut [u32] {
        if self.used == keep::BATCH {
            self.turn(simd);
        }
        let part = self.used..self.used + count;
        self.keep.group(simd, &mut self.batches[1 - self.now], part.clone());
        self.used = part.end;
        &mut self.batches[self.now].words()[part]
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
    let second_slice = second.unwrap_or(x);
    let (x_blocks, x_rest) = x.as_chunks::<32>();
    let (second_blocks, second_rest) = second_slice.as_chunks::<32>();
    let (y_blocks, y_rest) = y.as_chunks_mut::<32>();
    let blocks = x_blocks.iter().zip(second_blocks).zip(y_blocks.iter_mut().zip(&mut *bits));
    for (i, ((x, saved), (y, word))) in blocks.enumerate() {
        for line in 0..size_of_val(x) / LINE {
            simd.prefetch(x.as_ptr().cast::<u8>().wrapping_add(AHEAD + LINE * line));
            if second.is_some() {
                simd.prefetch(saved.as_ptr().cast::<u8>().wrapping_add(AHEAD + LINE * line));
            }
        }
        (*y, *word) = pass.block(simd, e + 32 * i as u64, x, saved, *word);
    }
    if x_rest.is_empty() {
        return;
    }
    let padded = |rest: &[T]| {
        let mut block = [T::default(); 32];
        block[..rest.len()].copy_from_slice(rest);
        block
    };
    if let Some(word) = bits.last_mut() {
        let e = e + 32 * x_blocks.len() as u64;
        let (y, bits) = pass.block(simd, e, &padded(x_rest), &padded(second_rest), *word);
        y_rest.copy_from_slice(&y[..y_rest.len()]);
        *word = bits & ((1 << x_rest.len()) - 1);
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::key::MaskKey;
    use crate::operation::DropActivation;
    use crate::real::Real;
    use crate::reference;

    /// The elements two above, and every other bit of the word turned.
    struct Shifted;

    impl<T: Element> BlockPass<T> for Shifted {
        fn block<S: Simd>(&self, _: S, _: u64, x: &[T; 32], _: &[T; 32], word: u32) -> ([T; 32], u32) {
            (x.map(|x| T::from_real(x.to_real() + T::Real::from_f32(2.0))), word ^ 0x5555_5555)
        }
    }

    fn streamed<T: Element>() {
        let values =
            |n: usize| -> Vec<T> { (0..n).map(|i| T::from_real(T::Real::from_f32((i % 100) as f32))).collect() };
        for len in [0, 1, 31, 32, 33, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 77] {
            let x = values(len);
            let expected: Vec<T> = x.iter().map(|x| T::from_real(x.to_real() + T::Real::from_f32(2.0))).collect();
            for at in 0..=LINE / size_of::<T>() {
                let blank = values(len + 200);
                let mut y = blank.clone();
                let mut mask = vec![0; len.div_ceil(32)];
                let io = InOut::OutOfPlace(&x, &mut y[100 + at..][..len]);
                let words = Words::Store(&mut mask);
                Job { start: 0, io, second: None, words, stream: true, piece: PIECE }.run(&Shifted);
                let what = format!("{} {len} elements at {at}", T::DTYPE.name());
                assert!(y[100 + at..][..len] == expected, "{what}");
                assert!(y[..100 + at] == blank[..100 + at], "{what}: before");
                assert!(y[100 + at + len..] == blank[100 + at + len..], "{what}: behind");
            }
        }
    }

    #[test]
    fn results_that_pass_by_the_cache_arrive_in_place() {
        streamed::<f32>();
        streamed::<f64>();
        streamed::<bf16>();
    }

    /// Words are turned by where they are; element i is the input's where its bit is then set, the saved tensor's
    /// elsewhere.
    struct Told<const DRAWS: bool>;

    fn told(word: u32, e: u64) -> u32 {
        word ^ (e as u32).wrapping_mul(0x9E37_79B9)
    }

    impl<T: Element, const DRAWS: bool> BlockPass<T> for Told<DRAWS> {
        const DRAWS: bool = DRAWS;

        fn block<S: Simd>(&self, _: S, e: u64, x: &[T; 32], saved: &[T; 32], word: u32) -> ([T; 32], u32) {
            let word = told(word, e);
            (std::array::from_fn(|i| if word >> i & 1 == 1 { x[i] } else { saved[i] }), word)
        }
    }

    const TASKS: [usize; 6] = [32, 480, PIECE, 2080, 32 * keep::BATCH + 32, TASK];
    const PIECES: [usize; 5] = [32, 96, PIECE, 2 * PIECE, MOST];

    /// Many sizes of tasks and of pieces, with each way for words and results.
    fn divided<T: Element>() {
        let values = |n: usize, seed: usize| -> Vec<T> {
            (0..n).map(|i| T::from_real(T::Real::from_f32(((seed + i) % 251) as f32))).collect()
        };
        let (op, key) = (DropActivation::relu(0.6).unwrap(), MaskKey::new(41, 42).shard(7 * 32).unwrap());
        let stream = KeepStream::new(&op, key);
        let len = 3 * 32 * keep::BATCH + 1033;
        let words = len.div_ceil(32);
        let drawn: Vec<u32> =
            (0..words).map(|w| reference::keep_word(op.threshold(), key, key.first_word() + w as u64)).collect();
        let (x, saved) = (values(len, 0), values(len, 100));
        let mut expected_words: Vec<u32> =
            drawn.iter().enumerate().map(|(w, word)| told(*word, 32 * w as u64)).collect();
        let bit = |i: usize| expected_words[i / 32] >> (i % 32) & 1 == 1;
        let expected: Vec<T> = (0..len).map(|i| if bit(i) { x[i] } else { saved[i] }).collect();
        *expected_words.last_mut().unwrap() &= (1 << (len % 32)) - 1;

        let ways = [(false, false), (true, false), (false, true)];
        for (task, piece) in TASKS.into_iter().flat_map(|task| PIECES.map(|piece| (task, piece))) {
            for ((in_place, streamed), draws) in ways.into_iter().flat_map(|way| [(way, false), (way, true)]) {
                // Drawing goes by vectors.
                if draws && piece % PIECE != 0 {
                    continue;
                }
                let mut y = if in_place { x.clone() } else { values(len, 50) };
                let mut mask = vec![0xA5A5_A5A5; words];
                let io = if in_place { InOut::InPlace(&mut y) } else { InOut::OutOfPlace(&x, &mut y) };
                let words = if draws { Words::DrawStore(stream, &mut mask) } else { Words::Load(&drawn) };
                let job = Job { start: 0, io, second: Some(&saved), words, stream: streamed, piece };
                if draws {
                    job.share(&Told::<true>, task)
                } else {
                    job.share(&Told::<false>, task)
                }
                let way = format!("in place {in_place}, streamed {streamed}, drawn {draws}");
                let what = format!("{} in tasks of {task}, pieces of {piece}, {way}", T::DTYPE.name());
                assert!(y == expected, "{what}");
                assert!(!draws || mask == expected_words, "{what}: words");
            }
        }
    }

    #[test]
    fn results_do_not_depend_on_how_the_work_is_divided() {
        divided::<f32>();
        divided::<f64>();
        divided::<bf16>();
    }
}
