//! The keep stream of the CPU backend. The reference says what is compared.
//!
//! Nearly nine words in ten are settled by their first 8 planes, two calls of the generator. So all words of a
//! batch get these two, and then the few that are left are gathered and go on together, four planes at a time:
//!
//! ```text
//! for each word of the batch:    keep, undecided = planes 0..8;   note the word if undecided != 0
//! for planes 8..12, 12..16, ...: the noted words in groups;       note again those still undecided
//! ```

use std::ops::Range;

use rayon::prelude::*;

use crate::cpu::philox::{Branch, Philox, Start};
use crate::cpu::simd::{self, MAX_LANES, Simd, Task};
use crate::cpu::tuning::{SEQUENTIAL, TASK};
use crate::key::MaskKey;
use crate::operation::DropActivation;
use crate::reference;

/// Words drawn together: many enough that those left over after 8 planes fill vectors, few enough to stay in
/// the first-level cache.
pub(crate) const BATCH: usize = 512;

/// Calls of the generator that every word gets, of four planes each: [`KeepStream::group`] writes them out.
const COMMON_CALLS: usize = 2;

/// The keep stream of one call.
#[derive(Clone, Copy, Debug)]
pub struct KeepStream {
    op: DropActivation,
    key: MaskKey,
    philox: Philox,
    /// T's bits from the top, each spread over a lane; after the last that is set, all are zero.
    planes: [u64; 32],
    /// Calls of the generator after which every word is settled.
    calls: usize,
}

/// Mask words on their way: begun, drawn in groups, finished.
pub struct Batch {
    words: [u32; ROOM],
    /// Where a word's bits are not settled yet.
    undecided: [u32; ROOM],
    /// The words that are not settled yet, by their lane: those of the even and those of the odd vectors.
    marks: [[u64; BATCH / 128]; 2],
    /// Index of the first word in the stream.
    first: u64,
    len: usize,
    /// What the index's upper half brings into each common call; none where all words are settled already.
    common: Option<[Branch; COMMON_CALLS]>,
}

/// A batch and what the last vectors draw beyond it.
const ROOM: usize = BATCH + 2 * MAX_LANES;

impl Batch {
    pub(crate) fn new() -> Self {
        Self { words: [0; ROOM], undecided: [0; ROOM], marks: Default::default(), first: 0, len: 0, common: None }
    }

    /// The words of a batch that is finished.
    pub(crate) fn words(&mut self) -> &mut [u32] {
        &mut self.words[..self.len]
    }
}

impl KeepStream {
    pub(crate) fn new(op: &DropActivation, key: MaskKey) -> Self {
        let threshold = op.threshold() as u32;
        Self {
            op: *op,
            key,
            philox: Philox::new(key.seed(), key.offset()),
            planes: std::array::from_fn(|k| if threshold << k >> 31 == 1 { u64::MAX } else { 0 }),
            calls: (32 - threshold.trailing_zeros()).div_ceil(4) as usize,
        }
    }

    fn branch(&self, batch: &Batch, call: usize) -> Branch {
        self.philox.branch((batch.first >> 32) as u32 | (call as u32) << 29)
    }

    /// Makes the batch one of the tensor's keep words `first..first + len`, of which there are at most [`BATCH`].
    pub(crate) fn begin(&self, batch: &mut Batch, first: u64, len: usize) {
        batch.first = self.key.first_word() + first;
        batch.len = len;
        batch.marks = Default::default();
        batch.common = None;
        let upper = |i: usize| (batch.first + i as u64) >> 32;
        if self.calls == 0 {
            batch.words.fill(if self.op.threshold() == 0 { 0 } else { u32::MAX });
        } else if upper(0) != upper(len.saturating_sub(1)) {
            // Once in 2^32 words: those drawn together have the upper half of their index in common.
            for (i, word) in batch.words[..len].iter_mut().enumerate() {
                *word = reference::keep_word(self.op.threshold(), self.key, batch.first + i as u64);
            }
        } else {
            batch.common = Some([self.branch(batch, 0), self.branch(batch, 1)]);
        }
    }

    /// The common calls for a part of the batch, which begins at a multiple of 16 words. Each word must come
    /// once, in any order.
    #[inline(always)]
    pub(crate) fn group<S: Simd>(&self, simd: S, batch: &mut Batch, part: Range<usize>) {
        let Some(common) = &batch.common else { return };
        let pair = 2 * S::LANES;
        for at in (part.start..part.end.min(batch.len)).step_by(pair) {
            let low = (batch.first & 0xFFFF_FFFF) + at as u64;
            // No vectors in closures: these are not inlined for certain, and have no vector instructions of their own.
            let even = simd.add(simd.splat(low), simd.lanes(&[0, 2, 4, 6, 8, 10, 12, 14]));
            let odd = simd.add(even, simd.splat(1));
            let starts = [self.philox.start(simd, even), self.philox.start(simd, odd)];
            let mut state = [Comparison::new(simd); 2];
            self.compare(simd, 0, &common[0], &starts, &mut state);
            if self.calls > 1 {
                self.compare(simd, 1, &common[1], &starts, &mut state);
            }
            Comparison::store(simd, state, &mut batch.words[at..at + pair], &mut batch.undecided[at..at + pair]);
            let lane = at / 2;
            for (marks, state) in batch.marks.iter_mut().zip(&state) {
                marks[lane / 64] |= u64::from(simd.nonzero(state.undecided)) << (lane % 64);
            }
        }
    }

    /// The other calls, after all groups.
    #[inline(always)]
    pub(crate) fn finish<S: Simd>(&self, simd: S, batch: &mut Batch) {
        if batch.common.is_none() || self.calls <= COMMON_CALLS {
            return;
        }
        // Indexes in the batch of the words that go on, and room to read a whole group.
        let mut left = [0u16; ROOM];
        let mut count = 0;
        for (parity, marks) in batch.marks.iter().enumerate() {
            for (i, marks) in marks.iter().enumerate() {
                let mut marks = *marks;
                while marks != 0 {
                    let word = 2 * (64 * i + marks.trailing_zeros() as usize) + parity;
                    left[count] = word as u16;
                    // Lanes beyond the end were drawn too.
                    count += usize::from(word < batch.len);
                    marks &= marks - 1;
                }
            }
        }
        let pair = 2 * S::LANES;
        for call in COMMON_CALLS..self.calls {
            if count == 0 {
                break;
            }
            let branch = self.branch(batch, call);
            let mut still = 0;
            for at in (0..count).step_by(pair) {
                // Lanes without a word of their own draw for any, to nowhere.
                let (mut even, mut odd) = ([0; MAX_LANES], [0; MAX_LANES]);
                for (i, two) in left[at..at + pair].as_chunks::<2>().0.iter().enumerate() {
                    even[i] = batch.first + u64::from(two[0]);
                    odd[i] = batch.first + u64::from(two[1]);
                }
                let starts = [self.philox.start(simd, simd.lanes(&even)), self.philox.start(simd, simd.lanes(&odd))];
                let mut state = [Comparison::new(simd); 2];
                self.compare(simd, call, &branch, &starts, &mut state);
                let (mut less, mut equal) = ([0; 2 * MAX_LANES], [0; 2 * MAX_LANES]);
                Comparison::store(simd, state, &mut less[..pair], &mut equal[..pair]);
                for i in 0..pair.min(count - at) {
                    let word = left[at + i];
                    let at = usize::from(word);
                    batch.words[at] |= batch.undecided[at] & less[i];
                    batch.undecided[at] &= equal[i];
                    left[still] = word;
                    still += usize::from(batch.undecided[at] != 0);
                }
            }
            count = still;
        }
    }

    /// The tensor's keep words from `first` on.
    #[inline(always)]
    pub(crate) fn draw<S: Simd>(&self, simd: S, first: u64, words: &mut [u32]) {
        let mut batch = Batch::new();
        for (i, words) in words.chunks_mut(BATCH).enumerate() {
            self.begin(&mut batch, first + (BATCH * i) as u64, words.len());
            self.group(simd, &mut batch, 0..BATCH);
            simd.finish(self, &mut batch);
            words.copy_from_slice(batch.words());
        }
    }

    /// Four planes, from the last to the first: an earlier plane overrules a later one.
    #[inline(always)]
    fn compare<S: Simd>(
        &self,
        simd: S,
        call: usize,
        branch: &Branch,
        starts: &[Start<S>; 2],
        state: &mut [Comparison<S>; 2],
    ) {
        for half in 0..2 {
            let state = &mut state[half];
            let r = self.philox.finish(simd, &starts[half], branch);
            let (mut less, mut equal) = (simd.splat(0), state.undecided);
            for j in (0..4).rev() {
                let plane = simd.splat(self.planes[4 * call + j]);
                less = simd.less(plane, r[j], less);
                equal = simd.equal(plane, r[j], equal);
            }
            state.keep = simd.or_and(state.keep, state.undecided, less);
            state.undecided = equal;
        }
    }
}

/// How far the comparisons of the words in a vector have come.
#[derive(Clone, Copy)]
struct Comparison<S: Simd> {
    keep: S::Lanes,
    undecided: S::Lanes,
}

impl<S: Simd> Comparison<S> {
    #[inline(always)]
    fn new(simd: S) -> Self {
        Self { keep: simd.splat(0), undecided: simd.splat(u64::MAX) }
    }

    /// The words of the even and the odd places, in order.
    #[inline(always)]
    fn store(simd: S, [even, odd]: [Self; 2], keep: &mut [u32], undecided: &mut [u32]) {
        simd.interleave(even.keep, odd.keep, keep);
        simd.interleave(even.undecided, odd.undecided, undecided);
    }
}

/// All of a tensor's keep words, shared by threads.
pub(crate) fn fill(stream: KeepStream, words: &mut [u32]) {
    const WORDS: usize = TASK / 32;
    if words.len() <= SEQUENTIAL / 32 {
        return simd::dispatch(Fill { stream, first: 0, words });
    }
    words.par_chunks_mut(WORDS).enumerate().for_each(|(i, words)| {
        simd::dispatch(Fill { stream, first: (i * WORDS) as u64, words });
    });
}

struct Fill<'a> {
    stream: KeepStream,
    first: u64,
    words: &'a mut [u32],
}

impl Task for Fill<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        self.stream.draw(simd, self.first, self.words);
    }
}
