//! Keep words for the engine: those of a pass, drawn a batch ahead of their use, and those of a whole tensor by
//! themselves.

use std::ops::Range;

use super::keep_stream::{BATCH, Batch, CommonBranches, GROUP, Interleaved, KeepStream};
use super::pool::Pool;
use super::scratch::Scratch;
use super::share::share;
use super::shift::WordShift;
use super::tuning::TASK;
use crate::cpu::simd::{self, Simd, Task};

/// The keep words of a task, drawn a batch ahead of their use and in step with it: a processor computes them while it
/// waits for memory.
pub(super) struct PrefetchedWords<'a> {
    keep: &'a KeepStream,
    scratch: &'a mut Scratch,
    /// Which of the scratch's words are in use; the others are the next batch's.
    current: usize,
    /// How many of the words in use were used.
    used: usize,
    /// The words that are in neither.
    rest: Range<usize>,
    /// Makes the words bits of blocks, if blocks begin elsewhere than words.
    shift: Option<WordShift>,
}

impl<'a> PrefetchedWords<'a> {
    #[inline(always)]
    pub(super) fn new<S: Simd>(
        simd: S,
        keep: &'a KeepStream,
        scratch: &'a mut Scratch,
        words: Range<usize>,
        lead: usize,
    ) -> Self {
        let shift = (lead > 0).then(|| WordShift::to_blocks(lead));
        let mut prefetched = Self { keep, scratch, current: 1, used: 0, rest: words, shift };
        prefetched.begin_batch();
        let Scratch { batch, words: [words, _] } = &mut *prefetched.scratch;
        keep.draw_groups(simd, batch, words, 0..BATCH);
        prefetched.use_next_batch(simd);
        prefetched
    }

    /// Begins the next batch in place of the words that are used up.
    fn begin_batch(&mut self) {
        let len = self.rest.len().min(BATCH);
        let Scratch { batch, words } = &mut *self.scratch;
        self.keep.begin(batch, &mut words[1 - self.current], self.rest.start as u64, len);
        self.rest.start += len;
    }

    /// Finishes the next batch, and begins the one after it.
    #[inline(always)]
    fn use_next_batch<S: Simd>(&mut self, simd: S) {
        self.current = 1 - self.current;
        let Scratch { batch, words } = &mut *self.scratch;
        let words = &mut words[self.current];
        self.keep.resolve_batch(simd, batch, words);
        if let Some(shift) = &mut self.shift {
            shift.all(&mut words[..batch.len()]);
        }
        self.used = 0;
        self.begin_batch();
    }

    /// The words of the next group, and those of the next batch that are to be drawn meanwhile. If there are none to draw,
    /// all words that are left of a batch.
    #[inline(always)]
    pub(super) fn next_words<S: Simd>(&mut self, simd: S) -> (&[u32], Option<NextBatch<'_>>) {
        if self.used == BATCH {
            self.use_next_batch(simd);
        }
        let at = self.used;
        let Scratch { batch, words: [a, b] } = &mut *self.scratch;
        let (current, words) = if self.current == 0 { (a, b) } else { (b, a) };
        let Some(common) = batch.to_draw(at) else {
            self.used = BATCH;
            return (&current[at..], None);
        };
        self.used = at + GROUP;
        (&current[at..at + GROUP], Some(NextBatch { keep: self.keep, batch, common, words, at }))
    }
}

/// A group of the next batch, to be drawn.
pub(super) struct NextBatch<'a> {
    keep: &'a KeepStream,
    batch: &'a mut Batch,
    common: CommonBranches,
    words: &'a mut [u32; BATCH],
    at: usize,
}

impl NextBatch<'_> {
    /// Draws the group, with other work interleaved.
    #[inline(always)]
    pub(super) fn draw_interleaved<S: Simd, I: Interleaved>(self, simd: S, interleaved: &mut I) {
        self.keep.draw_group(simd, self.batch, &self.common, self.words, self.at, interleaved);
    }

    /// Draws the group.
    #[inline(always)]
    pub(super) fn draw<S: Simd>(self, simd: S) {
        self.keep.draw_groups(simd, self.batch, self.words, self.at..self.at + GROUP);
    }
}

/// All of a tensor's keep words, shared by threads.
pub(crate) fn draw_all(stream: KeepStream, words: &mut [u32]) {
    const WORDS: usize = TASK / 32;
    let count = words.len().div_ceil(WORDS);
    share(&Pool::for_tasks(count), words.chunks_mut(WORDS).enumerate(), count, |(i, words)| {
        simd::dispatch(DrawTask { stream: &stream, first: (i * WORDS) as u64, words });
    });
}

/// The keep words from `first` on.
pub(crate) struct DrawTask<'a> {
    pub(crate) stream: &'a KeepStream,
    pub(crate) first: u64,
    pub(crate) words: &'a mut [u32],
}

impl Task for DrawTask<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { stream, first, words } = self;
        let mut scratch = Scratch::take();
        let Scratch { batch, words: [drawn, _] } = &mut *scratch;
        for (i, words) in words.chunks_mut(BATCH).enumerate() {
            stream.begin(batch, drawn, first + (BATCH * i) as u64, words.len());
            stream.draw_groups(simd, batch, drawn, 0..words.len());
            stream.resolve_batch(simd, batch, drawn);
            words.copy_from_slice(&drawn[..words.len()]);
        }
        scratch.give_back();
    }
}
