//! The keep stream of the CPU backend. The reference says what is compared.
//!
//! Nearly nine words in ten are settled by their first 8 planes, two calls of the generator. So all words of a
//! batch get these two, and then the few that are left are gathered and go on together, four planes at a time:
//!
//! ```text
//! for each word of the batch:    keep, undecided = planes 0..8;   note the word if undecided != 0
//! for planes 8..12, 12..16, ...: the noted words in groups;       note again those still undecided
//! ```

use crate::cpu::philox::{Branch, Philox};
use crate::cpu::share::share;
use crate::cpu::simd::{self, MAX_LANES, Simd, Task};
use crate::cpu::tuning::TASK;
use crate::key::MaskKey;
use crate::operation::DropActivation;
use crate::reference;

/// Words drawn together: many enough that those left over after 8 planes fill vectors, few enough to stay in
/// the first-level cache.
pub(crate) const BATCH: usize = 512;

/// Words drawn side by side, and steps of what is done [`Meanwhile`].
pub(crate) const GROUP: usize = 2 * MAX_LANES;

/// Calls of the generator that every word gets, of four planes each.
const COMMON_CALLS: usize = 2;

/// What else is to be done while words are drawn, a bit at a time: see [`KeepStream::group`].
pub(crate) trait Meanwhile {
    /// For each `k` in 0..[`GROUP`], in order. Must be `#[inline(always)]`.
    fn step<S: Simd>(&mut self, simd: S, k: usize);
}

/// Nothing.
impl Meanwhile for () {
    #[inline(always)]
    fn step<S: Simd>(&mut self, _: S, _: usize) {}
}

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
    words: [u32; BATCH],
    /// Where a word's bits are not settled yet.
    undecided: [u32; BATCH],
    /// The words that are not settled yet, by their lane: those of the even and those of the odd vectors.
    marks: [[u64; BATCH / 128]; 2],
    /// Index of the first word in the stream.
    first: u64,
    len: usize,
    /// What the index's upper half brings into each common call; none where all words are settled already.
    common: Option<[Branch; COMMON_CALLS]>,
}

// So nothing is drawn beyond a batch, and no mark's vector stands in two of the marks' words.
const _: () = assert!(BATCH.is_multiple_of(GROUP) && BATCH.is_multiple_of(128));

impl Batch {
    pub(crate) fn new() -> Self {
        Self { words: [0; BATCH], undecided: [0; BATCH], marks: Default::default(), first: 0, len: 0, common: None }
    }

    /// Words of a batch that is finished; beyond its end they are anything.
    pub(crate) fn words_from(&self, at: usize) -> &[u32; GROUP] {
        self.words[at..].first_chunk().expect("groups begin at multiples of their length")
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

    /// The common calls for [`GROUP`] words of the batch from `at`, a multiple of that. Each group must come once,
    /// in any order.
    ///
    /// A processor looks some hundred instructions ahead. Words drawn at one go would fill that, and the accesses
    /// to memory behind them would begin late; so those are strewn among the rounds of the generator.
    #[inline(always)]
    pub(crate) fn group<S: Simd, M: Meanwhile>(&self, simd: S, batch: &mut Batch, at: usize, meanwhile: &mut M) {
        let Some(common) = batch.common.filter(|_| at < batch.len) else {
            for k in 0..GROUP {
                meanwhile.step(simd, k);
            }
            return;
        };
        let pair = 2 * S::LANES;
        for first in (0..GROUP).step_by(pair) {
            let at = at + first;
            let low = (batch.first & 0xFFFF_FFFF) + at as u64;
            // No vectors in closures: these are not inlined for certain, and have no vector instructions of their own.
            let even = simd.add(simd.splat(low), simd.lanes(&[0, 2, 4, 6, 8, 10, 12, 14]));
            let odd = simd.add(even, simd.splat(1));
            let even = self.common(simd, &common, even, meanwhile, first);
            let odd = self.common(simd, &common, odd, meanwhile, first + S::LANES);
            Comparison::store(simd, [even, odd], &mut batch.words[at..at + pair], &mut batch.undecided[at..at + pair]);
            let lane = at / 2;
            for (marks, state) in batch.marks.iter_mut().zip([even, odd]) {
                marks[lane / 64] |= u64::from(simd.nonzero(state.undecided)) << (lane % 64);
            }
        }
    }

    /// The common calls for a vector of words, and as many steps from `k` on.
    #[inline(always)]
    fn common<S: Simd, M: Meanwhile>(
        &self,
        simd: S,
        common: &[Branch; COMMON_CALLS],
        words: S::Lanes,
        meanwhile: &mut M,
        mut k: usize,
    ) -> Comparison<S> {
        const { assert!(S::LANES == 4 || S::LANES == 8) };
        // Every part of a call takes a step with it, or every other part.
        let often = S::LANES == 4 * COMMON_CALLS;
        let start = self.philox.start(simd, words);
        let mut state = Comparison::new(simd);
        for (call, branch) in common.iter().enumerate() {
            let wanted = call < self.calls;
            let mut r = [words; 4];
            if wanted {
                r = self.philox.enter(simd, &start, branch);
                r = self.philox.rounds::<S, 3, 4>(simd, r);
            }
            meanwhile.step(simd, k);
            k += 1;
            if wanted {
                r = self.philox.rounds::<S, 4, 6>(simd, r);
            }
            if often {
                meanwhile.step(simd, k);
                k += 1;
            }
            if wanted {
                r = self.philox.rounds::<S, 6, 8>(simd, r);
            }
            meanwhile.step(simd, k);
            k += 1;
            if wanted {
                r = self.philox.rounds::<S, 8, 10>(simd, r);
                self.compare(simd, call, &r, &mut state);
            }
            if often {
                meanwhile.step(simd, k);
                k += 1;
            }
        }
        state
    }

    /// The other calls, after all groups.
    #[inline(always)]
    pub(crate) fn finish<S: Simd>(&self, simd: S, batch: &mut Batch) {
        if batch.common.is_none() || self.calls <= COMMON_CALLS {
            return;
        }
        // Indexes in the batch of the words that go on.
        let mut left = [0u16; BATCH];
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
                for (start, state) in starts.iter().zip(&mut state) {
                    self.compare(simd, call, &self.philox.finish(simd, start, &branch), state);
                }
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
            for at in (0..words.len()).step_by(GROUP) {
                self.group(simd, &mut batch, at, &mut ());
            }
            simd.finish(self, &mut batch);
            words.copy_from_slice(batch.words());
        }
    }

    /// Four planes, from the last to the first: an earlier plane overrules a later one.
    #[inline(always)]
    fn compare<S: Simd>(&self, simd: S, call: usize, r: &[S::Lanes; 4], state: &mut Comparison<S>) {
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
    let count = words.len().div_ceil(WORDS);
    share(words.chunks_mut(WORDS).enumerate(), count, |(i, words)| {
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
