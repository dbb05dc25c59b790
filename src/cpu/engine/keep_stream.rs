//! The keep stream, drawn for many words at a time. [`keep_word`] says what is compared.
//!
//! Nearly nine words in ten are decided by their first 8 planes, two calls of the generator. So all words of a
//! batch get these two. Then the few that are still undecided are gathered and resolved together, four planes at a time:
//!
//! ```text
//! for each word of the batch:    keep, undecided = planes 0..8;   defer the word if undecided != 0
//! for planes 8..12, 12..16, ...: the words that were deferred;    defer again those still undecided
//! ```

use std::ops::Range;

use super::philox::{Branch, Philox, Start};
use crate::cpu::simd::{MAX_LANES, Simd, Task};
use crate::key::MaskKey;
use crate::operation::DropActivation;
use crate::stream::keep_word;

/// Words drawn together: many enough that those undecided after 8 planes fill vectors, few enough to stay in
/// the first-level cache.
pub(crate) const BATCH: usize = 512;

/// Words drawn side by side, and steps of what is [`Interleaved`].
pub(crate) const GROUP: usize = 2 * MAX_LANES;

/// Calls of the generator, of four planes each, that every word gets if p takes so many.
const COMMON_CALLS: usize = 2;

/// What the index's upper half brings into each of them.
pub(crate) type CommonBranches = [Branch; COMMON_CALLS];

/// Other work, cut into steps that are interleaved with the drawing of words: see [`KeepStream::draw_group`].
pub(crate) trait Interleaved {
    /// For each `k` in 0..[`GROUP`], in order. Must be `#[inline(always)]`.
    fn step<S: Simd>(&mut self, simd: S, k: usize);
}

/// No other work.
impl Interleaved for () {
    #[inline(always)]
    fn step<S: Simd>(&mut self, _: S, _: usize) {}
}

/// The keep stream of one call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeepStream {
    threshold: u64,
    key: MaskKey,
    philox: Philox,
    /// T's bits from the top, each spread over a lane; after the last that is set, all are zero.
    planes: [u64; 32],
    /// Calls of the generator after which every word is decided.
    calls: usize,
}

/// How far mask words have come: begun, drawn in groups, resolved.
pub(crate) struct Batch {
    /// Index of the first word in the stream.
    first: u64,
    len: usize,
    /// None where all words are decided already.
    common: Option<CommonBranches>,
    /// The words that are deferred because some of their bits are undecided: their places in the batch, and which bits.
    /// A vector more fits behind the last one.
    places: [u32; BATCH + 2 * MAX_LANES],
    undecided: [u32; BATCH + 2 * MAX_LANES],
    deferred: usize,
}

// So nothing is drawn beyond a batch.
const _: () = assert!(BATCH.is_multiple_of(GROUP));

impl Batch {
    #[inline(always)]
    pub(crate) fn new() -> Self {
        let none = [0; BATCH + 2 * MAX_LANES];
        Self { first: 0, len: 0, common: None, places: none, undecided: none, deferred: 0 }
    }

    /// For [`KeepStream::draw_group`], if the words from `at` on have to be drawn.
    #[inline(always)]
    pub(crate) fn to_draw(&self, at: usize) -> Option<CommonBranches> {
        self.common.filter(|_| at < self.len)
    }

    /// How many words it has.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Defers those of two vectors of words that have undecided bits.
    #[inline(always)]
    fn defer<S: Simd>(&mut self, simd: S, places: &[u32; 2 * MAX_LANES], undecided: &[u32; 2 * MAX_LANES]) {
        let to = (&mut self.undecided[self.deferred..], &mut self.places[self.deferred..]);
        self.deferred += simd.compress(undecided, places, to.0, to.1);
    }
}

impl KeepStream {
    pub(crate) fn new(op: &DropActivation, key: MaskKey) -> Self {
        let (threshold, low) = (op.threshold(), op.threshold() as u32);
        Self {
            threshold,
            key,
            philox: Philox::new(key.seed(), key.offset()),
            planes: std::array::from_fn(|k| if low << k >> 31 == 1 { u64::MAX } else { 0 }),
            calls: (32 - low.trailing_zeros()).div_ceil(4) as usize,
        }
    }

    fn branch(&self, batch: &Batch, call: usize) -> Branch {
        self.philox.branch((batch.first >> 32) as u32 | (call as u32) << 29)
    }

    /// Makes the batch one of the tensor's keep words `first..first + len`, of which there are at most [`BATCH`]. Where
    /// nothing has to be drawn for them the words are written at once, else by [`KeepStream::draw_group`] and
    /// [`KeepStream::resolve_batch`].
    pub(crate) fn begin(&self, batch: &mut Batch, words: &mut [u32; BATCH], first: u64, len: usize) {
        batch.first = self.key.first_word() + first;
        batch.len = len;
        batch.deferred = 0;
        batch.common = None;
        let upper = |i: usize| (batch.first + i as u64) >> 32;
        if self.calls == 0 {
            words.fill(if self.threshold == 0 { 0 } else { u32::MAX });
        } else if upper(0) != upper(len.saturating_sub(1)) {
            // Once in 2^32 words: those drawn together have the upper half of their index in common.
            for (i, word) in words[..len].iter_mut().enumerate() {
                *word = keep_word(self.threshold, self.key, batch.first + i as u64);
            }
        } else {
            batch.common = Some([self.branch(batch, 0), self.branch(batch, 1)]);
        }
    }

    /// The common calls for [`GROUP`] words of the batch from `at`, a multiple of that. Each group for which
    /// [`Batch::to_draw`] has some must come once, in any order.
    ///
    /// A processor looks some hundred instructions ahead. Words drawn at one go would fill that, and the accesses
    /// to memory behind them would begin late. So loads and stores are interleaved with the generator's rounds.
    #[inline(always)]
    pub(crate) fn draw_group<S: Simd, I: Interleaved>(
        &self,
        simd: S,
        batch: &mut Batch,
        common: &CommonBranches,
        words: &mut [u32; BATCH],
        at: usize,
        interleaved: &mut I,
    ) {
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
                self.common_calls(simd, 0, &[common[0]], &starts, &mut states, interleaved, first..all);
            } else if S::CALLS_IN_FLIGHT == 2 {
                self.common_calls(simd, 0, common, &starts, &mut states, interleaved, first..all);
            } else {
                self.common_calls(simd, 0, &[common[0]], &starts, &mut states, interleaved, first..half);
                self.common_calls(simd, 1, &[common[1]], &starts, &mut states, interleaved, half..all);
            }
            let mut undecided = [0; 2 * MAX_LANES];
            Comparison::store(simd, states, &mut words[at..at + pair], &mut undecided);
            batch.defer(simd, &std::array::from_fn(|i| (at + i) as u32), &undecided);
        }
    }

    /// [`KeepStream::draw_group`] for each group that begins there, with nothing interleaved. One copy of it serves all
    /// passes.
    #[inline(always)]
    pub(crate) fn draw_groups<S: Simd>(
        &self,
        simd: S,
        batch: &mut Batch,
        words: &mut [u32; BATCH],
        range: Range<usize>,
    ) {
        simd.outlined(DrawGroups { keep: self, batch, words, range });
    }

    /// The calls from `call` on, one for each branch, for two vectors of words, with these steps interleaved.
    #[inline(always)]
    #[expect(clippy::too_many_arguments)]
    fn common_calls<S: Simd, I: Interleaved, const CALLS: usize>(
        &self,
        simd: S,
        call: usize,
        branches: &[Branch; CALLS],
        starts: &[Start<S>; 2],
        states: &mut [Comparison<S>; 2],
        interleaved: &mut I,
        steps: Range<usize>,
    ) {
        // No closures: they are not inlined for certain, and then have no vector instructions.
        let mut r = [[[states[0].keep; 4]; 2]; CALLS];
        for (r, branch) in r.iter_mut().zip(branches) {
            *r = [self.philox.enter(simd, &starts[0], branch), self.philox.enter(simd, &starts[1], branch)];
        }
        let next = self.rounds(simd, &mut r, interleaved, steps.clone());
        for (i, r) in r.iter().enumerate() {
            self.compare(simd, call + i, r, states);
        }
        for k in next..steps.end {
            interleaved.step(simd, k);
        }
    }

    /// Rounds 3 to 9, and all of the steps but the last one or two. Returns the first that is left.
    ///
    /// The calls go on side by side, round by round: each waits for its multiplications most of the time, and what a
    /// processor's scheduler holds is less than a whole call.
    #[inline(always)]
    fn rounds<S: Simd, I: Interleaved, const CALLS: usize>(
        &self,
        simd: S,
        r: &mut [[[S::Vector; 4]; 2]; CALLS],
        interleaved: &mut I,
        steps: Range<usize>,
    ) -> usize {
        let mut next = steps.start;
        for round in 3..10 {
            for r in &mut *r {
                *r = [self.philox.round(simd, round, r[0]), self.philox.round(simd, round, r[1])];
                simd.order_barrier(r);
            }
            // 16, 8 or 4 of them: two or one with each round, or one with every other.
            if steps.len() >= 8 || round % 2 == 0 {
                for _ in 0..steps.len().div_ceil(8) {
                    interleaved.step(simd, next);
                    next += 1;
                }
            }
        }
        next
    }

    /// The other calls, after all groups. One copy of it serves all passes.
    #[inline(always)]
    pub(crate) fn resolve_batch<S: Simd>(&self, simd: S, batch: &mut Batch, words: &mut [u32; BATCH]) {
        simd.outlined(ResolveBatch { keep: self, batch, words });
    }

    #[inline(always)]
    fn resolve_all_deferred<S: Simd>(&self, simd: S, batch: &mut Batch, words: &mut [u32; BATCH]) {
        let pair = 2 * S::LANES;
        for call in COMMON_CALLS..self.calls {
            if batch.deferred == 0 {
                break;
            }
            let branch = self.branch(batch, call);
            // The last vectors are whole: behind the last word nothing is undecided.
            batch.undecided[batch.deferred..][..pair].fill(0);
            let deferred = std::mem::take(&mut batch.deferred);
            let mut at = 0;
            while at < deferred {
                if S::CALLS_IN_FLIGHT == 2 && at + pair < deferred {
                    self.resolve_deferred::<S, 2>(simd, call, &branch, batch, words, at);
                    at += 2 * pair;
                } else {
                    self.resolve_deferred::<S, 1>(simd, call, &branch, batch, words, at);
                    at += pair;
                }
            }
        }
    }

    /// The call for as many pairs of vectors of the deferred words, from `at`. Those still undecided are deferred
    /// again, before that place or there.
    #[inline(always)]
    fn resolve_deferred<S: Simd, const PAIRS: usize>(
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
            batch.defer(simd, &places[i], &undecided);
        }
    }

    /// The call's four planes, from the last to the first: an earlier plane overrules a later one.
    #[inline(always)]
    fn compare<S: Simd>(&self, simd: S, call: usize, r: &[[S::Vector; 4]; 2], states: &mut [Comparison<S>; 2]) {
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
    keep: S::Vector,
    undecided: S::Vector,
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

/// [`KeepStream::draw_groups`] as a task, so that it can be outlined.
struct DrawGroups<'a> {
    keep: &'a KeepStream,
    batch: &'a mut Batch,
    words: &'a mut [u32; BATCH],
    range: Range<usize>,
}

impl Task for DrawGroups<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for at in self.range.step_by(GROUP) {
            if let Some(common) = self.batch.to_draw(at) {
                self.keep.draw_group(simd, self.batch, &common, self.words, at, &mut ());
            }
        }
    }
}

/// [`KeepStream::resolve_batch`] as a task, likewise.
struct ResolveBatch<'a> {
    keep: &'a KeepStream,
    batch: &'a mut Batch,
    words: &'a mut [u32; BATCH],
}

impl Task for ResolveBatch<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        self.keep.resolve_all_deferred(simd, self.batch, self.words);
    }
}
