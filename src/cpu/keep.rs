//! The keep stream of the CPU backend. The reference says what is compared.
//!
//! Nearly nine words in ten are settled by their first 8 planes, two calls of the generator. So all words of a
//! batch get these two, and then the few that are left are gathered and go on together, four planes at a time:
//!
//! ```text
//! for each word of the batch:    keep, undecided = planes 0..8;   leave the word for later if undecided != 0
//! for planes 8..12, 12..16, ...: the words that were left;        leave again those still undecided
//! ```

use std::ops::Range;

use crate::cpu::philox::{Branch, Philox, Start};
use crate::cpu::pool::Pool;
use crate::cpu::room::Room;
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

/// Calls of the generator, of four planes each, that every word gets if p takes so many.
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

/// How far mask words have come: begun, drawn in groups, finished.
pub struct Batch {
    /// Index of the first word in the stream.
    first: u64,
    len: usize,
    /// What the index's upper half brings into each common call; none where all words are settled already.
    common: Option<[Branch; COMMON_CALLS]>,
    /// The words that are not settled yet: their places in the batch, and where their bits are not. There is room for
    /// a vector behind the last one.
    places: [u32; BATCH + 2 * MAX_LANES],
    undecided: [u32; BATCH + 2 * MAX_LANES],
    left: usize,
}

// So nothing is drawn beyond a batch.
const _: () = assert!(BATCH.is_multiple_of(GROUP));

impl Batch {
    #[inline(always)]
    pub(crate) fn new() -> Self {
        let none = [0; BATCH + 2 * MAX_LANES];
        Self { first: 0, len: 0, common: None, places: none, undecided: none, left: 0 }
    }

    /// How many words it has.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Leaves for later those of two vectors of words that are not settled.
    #[inline(always)]
    fn leave<S: Simd>(&mut self, simd: S, places: &[u32; 2 * MAX_LANES], undecided: &[u32; 2 * MAX_LANES]) {
        let to = (&mut self.undecided[self.left..], &mut self.places[self.left..]);
        self.left += simd.compress(undecided, places, to.0, to.1);
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

    /// Makes the batch one of the tensor's keep words `first..first + len`, of which there are at most [`BATCH`]. Where
    /// nothing has to be drawn for them the words are written at once, else by [`KeepStream::group`] and
    /// [`KeepStream::finish`].
    pub(crate) fn begin(&self, batch: &mut Batch, words: &mut [u32; BATCH], first: u64, len: usize) {
        batch.first = self.key.first_word() + first;
        batch.len = len;
        batch.left = 0;
        batch.common = None;
        let upper = |i: usize| (batch.first + i as u64) >> 32;
        if self.calls == 0 {
            words.fill(if self.op.threshold() == 0 { 0 } else { u32::MAX });
        } else if upper(0) != upper(len.saturating_sub(1)) {
            // Once in 2^32 words: those drawn together have the upper half of their index in common.
            for (i, word) in words[..len].iter_mut().enumerate() {
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
    pub(crate) fn group<S: Simd, M: Meanwhile>(
        &self,
        simd: S,
        batch: &mut Batch,
        words: &mut [u32; BATCH],
        at: usize,
        meanwhile: &mut M,
    ) {
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
            let even = simd.add(simd.splat(low), simd.lanes(&[0, 2, 4, 6, 8, 10, 12, 14]));
            let odd = simd.add(even, simd.splat(1));
            let starts = [self.philox.start(simd, even), self.philox.start(simd, odd)];
            let mut states = [Comparison::new(simd); 2];
            // As many steps as words.
            let (half, all) = (first + S::LANES, first + pair);
            if self.calls == 1 {
                self.common_calls(simd, 0, &[common[0]], &starts, &mut states, meanwhile, first..all);
            } else if S::CALLS_ABREAST == 2 {
                self.common_calls(simd, 0, &common, &starts, &mut states, meanwhile, first..all);
            } else {
                self.common_calls(simd, 0, &[common[0]], &starts, &mut states, meanwhile, first..half);
                self.common_calls(simd, 1, &[common[1]], &starts, &mut states, meanwhile, half..all);
            }
            let mut undecided = [0; 2 * MAX_LANES];
            Comparison::store(simd, states, &mut words[at..at + pair], &mut undecided);
            batch.leave(simd, &std::array::from_fn(|i| (at + i) as u32), &undecided);
        }
    }

    /// [`KeepStream::group`] for each group that begins there, and nothing meanwhile.
    #[inline(always)]
    pub(crate) fn groups<S: Simd>(&self, simd: S, batch: &mut Batch, words: &mut [u32; BATCH], range: Range<usize>) {
        for at in range.step_by(GROUP) {
            self.group(simd, batch, words, at, &mut ());
        }
    }

    /// The calls from `call` on, one for each branch, for two vectors of words, and these steps meanwhile.
    #[inline(always)]
    #[expect(clippy::too_many_arguments)]
    fn common_calls<S: Simd, M: Meanwhile, const CALLS: usize>(
        &self,
        simd: S,
        call: usize,
        branches: &[Branch; CALLS],
        starts: &[Start<S>; 2],
        states: &mut [Comparison<S>; 2],
        meanwhile: &mut M,
        steps: Range<usize>,
    ) {
        // No closures: they are not inlined for certain, and then have no vector instructions.
        let mut r = [[[states[0].keep; 4]; 2]; CALLS];
        for (r, branch) in r.iter_mut().zip(branches) {
            *r = [self.philox.enter(simd, &starts[0], branch), self.philox.enter(simd, &starts[1], branch)];
        }
        let next = self.rounds(simd, &mut r, meanwhile, steps.clone());
        for (i, r) in r.iter().enumerate() {
            self.compare(simd, call + i, r, states);
        }
        for k in next..steps.end {
            meanwhile.step(simd, k);
        }
    }

    /// Rounds 3 to 9, and all of the steps but the last one or two; gives the first that is left.
    ///
    /// The calls go on side by side, round by round: each waits for its multiplications most of the time, and what a
    /// processor's scheduler holds is less than a whole call.
    #[inline(always)]
    fn rounds<S: Simd, M: Meanwhile, const CALLS: usize>(
        &self,
        simd: S,
        r: &mut [[[S::Lanes; 4]; 2]; CALLS],
        meanwhile: &mut M,
        steps: Range<usize>,
    ) -> usize {
        let mut next = steps.start;
        for round in 3..10 {
            for r in &mut *r {
                *r = [self.philox.round(simd, round, r[0]), self.philox.round(simd, round, r[1])];
                simd.pin(r);
            }
            // 16, 8 or 4 of them: two or one with each round, or one with every other.
            if steps.len() >= 8 || round % 2 == 0 {
                for _ in 0..steps.len().div_ceil(8) {
                    meanwhile.step(simd, next);
                    next += 1;
                }
            }
        }
        next
    }

    /// The other calls, after all groups.
    #[inline(always)]
    pub(crate) fn finish<S: Simd>(&self, simd: S, batch: &mut Batch, words: &mut [u32; BATCH]) {
        let pair = 2 * S::LANES;
        for call in COMMON_CALLS..self.calls {
            if batch.left == 0 {
                break;
            }
            let branch = self.branch(batch, call);
            // The last vectors are whole: what is behind the last word is settled.
            batch.undecided[batch.left..][..pair].fill(0);
            let left = std::mem::take(&mut batch.left);
            let mut at = 0;
            while at < left {
                if S::CALLS_ABREAST == 2 && at + pair < left {
                    self.go_on::<S, 2>(simd, call, &branch, batch, words, at);
                    at += 2 * pair;
                } else {
                    self.go_on::<S, 1>(simd, call, &branch, batch, words, at);
                    at += pair;
                }
            }
        }
    }

    /// The call for as many pairs of vectors of the words that were left, from `at`. Those still undecided are left
    /// again, before that place or there.
    #[inline(always)]
    fn go_on<S: Simd, const PAIRS: usize>(
        &self,
        simd: S,
        call: usize,
        branch: &Branch,
        batch: &mut Batch,
        words: &mut [u32; BATCH],
        at: usize,
    ) {
        let first = simd.splat(batch.first & 0xFFFF_FFFF);
        let mut places = [[0; 2 * MAX_LANES]; PAIRS];
        let mut states = [[Comparison::new(simd); 2]; PAIRS];
        let mut r = [[[first; 4]; 2]; PAIRS];
        for i in 0..PAIRS {
            let range = at + 2 * S::LANES * i..at + 2 * S::LANES * (i + 1);
            let (pairs, undecided) = (&batch.places[range.clone()], simd.pairs(&batch.undecided[range]));
            places[i][..2 * S::LANES].copy_from_slice(pairs);
            [states[i][0].undecided, states[i][1].undecided] = [undecided, simd.high(undecided)];
            let even = simd.pairs(pairs);
            let odd = simd.high(even);
            for (r, places) in r[i].iter_mut().zip([even, odd]) {
                *r = self.philox.enter(simd, &self.philox.start(simd, simd.add(first, places)), branch);
            }
        }
        self.rounds(simd, &mut r, &mut (), 0..0);
        for i in 0..PAIRS {
            self.compare(simd, call, &r[i], &mut states[i]);
            let (mut keep, mut undecided) = ([0; 2 * MAX_LANES], [0; 2 * MAX_LANES]);
            Comparison::store(simd, states[i], &mut keep, &mut undecided);
            for (place, keep) in places[i][..2 * S::LANES].iter().zip(keep) {
                // All places are below BATCH: the remainder only spares a check of that.
                words[*place as usize % BATCH] |= keep;
            }
            batch.leave(simd, &places[i], &undecided);
        }
    }

    /// The tensor's keep words from `first` on.
    #[inline(always)]
    pub(crate) fn draw<S: Simd>(&self, simd: S, first: u64, words: &mut [u32]) {
        let mut room = Room::take();
        let Room { batch, words: [drawn, _] } = &mut *room;
        for (i, words) in words.chunks_mut(BATCH).enumerate() {
            self.begin(batch, drawn, first + (BATCH * i) as u64, words.len());
            simd.groups(self, batch, drawn, 0..words.len());
            simd.finish(self, batch, drawn);
            words.copy_from_slice(&drawn[..words.len()]);
        }
        room.give_back();
    }

    /// The call's four planes, from the last to the first: an earlier plane overrules a later one.
    #[inline(always)]
    fn compare<S: Simd>(&self, simd: S, call: usize, r: &[[S::Lanes; 4]; 2], states: &mut [Comparison<S>; 2]) {
        let (mut not_less, mut equal) = ([simd.splat(u64::MAX); 2], [states[0].undecided, states[1].undecided]);
        for j in (0..4).rev() {
            simd.compare(self.planes[4 * call + j], [r[0][j], r[1][j]], &mut not_less, &mut equal);
        }
        for i in 0..2 {
            states[i].keep = simd.or_and_not(states[i].keep, states[i].undecided, not_less[i]);
            states[i].undecided = equal[i];
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
    let count = words.len().div_ceil(WORDS);
    share(&Pool::for_tasks(count), words.chunks_mut(WORDS).enumerate(), count, |(i, words)| {
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
