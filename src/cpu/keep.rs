//! The keep stream of the CPU backend. The reference says what is compared.
//!
//! Nearly nine words in ten are settled by their first 8 planes, two calls of the generator. So all words of a
//! batch get these two, and then the few that are left are gathered and go on together, four planes at a time:
//!
//!     for each word of the batch:    keep, undecided = planes 0..8;   note the word if undecided != 0
//!     for planes 8..12, 12..16, ...: the noted words in groups;       note again those still undecided

use rayon::prelude::*;

use crate::cpu::philox::{Branch, Philox, Start};
use crate::cpu::simd::{self, LINE, MAX_LANES, Simd, Task};
use crate::cpu::tuning::{SEQUENTIAL, TASK};
use crate::key::MaskKey;
use crate::operation::DropActivation;

/// Words drawn together: many enough that those left over after 8 planes fill vectors, few enough to stay in
/// the first-level cache.
pub(crate) const BATCH: usize = 512;

/// Calls of the generator that every word gets, of four planes each.
const COMMON_CALLS: usize = 2;

/// The keep stream of one call.
#[derive(Clone, Copy, Debug)]
pub struct KeepStream {
    philox: Philox,
    first_word: u64,
    /// T's bits from the top, each spread over a lane; after the last that is set, all are zero.
    planes: [u64; 32],
    /// Calls of the generator after which every word is settled. With 0, all words are `settled`.
    calls: usize,
    settled: u32,
}

impl KeepStream {
    pub(crate) fn new(op: &DropActivation, key: MaskKey) -> Self {
        let (threshold, settled) = match op.threshold() {
            0x1_0000_0000 => (0, u32::MAX),
            threshold => (threshold as u32, 0),
        };
        Self {
            philox: Philox::new(key.seed(), key.offset()),
            first_word: key.first_word(),
            planes: std::array::from_fn(|k| if threshold << k >> 31 == 1 { u64::MAX } else { 0 }),
            calls: (32 - threshold.trailing_zeros()).div_ceil(4) as usize,
            settled,
        }
    }

    /// The keep words `first..first + words.len()` of the tensor. Meanwhile `ahead`, which the caller reads
    /// next, is fetched into the cache: drawing leaves the memory idle.
    #[inline(always)]
    pub(crate) fn draw<S: Simd>(&self, simd: S, first: u64, words: &mut [u32], ahead: &[u8]) {
        if self.calls == 0 {
            words.fill(self.settled);
            return;
        }
        let bytes_a_word = ahead.len().div_ceil(words.len().max(1));
        let (mut w, mut rest) = (self.first_word + first, words);
        let mut ahead = ahead.chunks(BATCH * bytes_a_word.max(1));
        while !rest.is_empty() {
            // The index's upper half is the same for all words of a batch.
            let to_carry = (1 << 32) - (w & 0xFFFF_FFFF);
            let len = rest.len().min(BATCH).min(usize::try_from(to_carry).unwrap_or(BATCH));
            let (batch, others) = rest.split_at_mut(len);
            self.batch(simd, w, batch, ahead.next().unwrap_or_default());
            (w, rest) = (w + len as u64, others);
        }
    }

    #[inline(always)]
    fn batch<S: Simd>(&self, simd: S, w: u64, words: &mut [u32], ahead: &[u8]) {
        let branch = |call: usize| self.philox.branch((w >> 32) as u32 | (call as u32) << 29);
        let low = w & 0xFFFF_FFFF;
        let pair = 2 * S::LANES;
        let mut undecided = [0; BATCH + 2 * MAX_LANES];
        let mut keep = [0; BATCH + 2 * MAX_LANES];
        // Indexes in the batch of the words that go on, and a group's worth of room.
        let mut left = [0u16; BATCH + 2 * MAX_LANES];
        let mut count = 0;

        let lanes = |parity: u64| simd.lanes(&std::array::from_fn(|i| low + 2 * i as u64 + parity));
        let (mut even, mut odd) = (lanes(0), lanes(1));
        let common: [Branch; COMMON_CALLS] = std::array::from_fn(branch);
        let goes_on = self.calls > COMMON_CALLS;
        let mut ahead = ahead.chunks(ahead.len().div_ceil(words.len().div_ceil(pair)).max(1));
        for at in (0..words.len()).step_by(pair) {
            for line in ahead.next().unwrap_or_default().chunks(LINE) {
                simd.prefetch(&line[0]);
            }
            let starts = [even, odd].map(|c0| self.philox.start(simd, c0));
            let mut state = [Comparison::new(simd); 2];
            for (call, branch) in common.iter().enumerate().take(self.calls) {
                self.compare(simd, call, branch, &starts, &mut state);
            }
            Comparison::store(simd, state, &mut keep[at..at + pair], &mut undecided[at..at + pair]);
            if goes_on {
                let inside = pair.min(words.len() - at);
                for i in at..at + inside {
                    // Without a branch: nobody could predict it.
                    left[count] = i as u16;
                    count += usize::from(undecided[i] != 0);
                }
            }
            (even, odd) = (simd.add(even, simd.splat(pair as u64)), simd.add(odd, simd.splat(pair as u64)));
        }

        for call in COMMON_CALLS..self.calls {
            if count == 0 {
                break;
            }
            let branch = branch(call);
            let mut still = 0;
            for at in (0..count).step_by(pair) {
                let inside = pair.min(count - at);
                // Lanes without a word of their own draw for any, to nowhere.
                let index = |parity| simd.lanes(&std::array::from_fn(|i| low + u64::from(left[at + 2 * i + parity])));
                let starts = [index(0), index(1)].map(|c0| self.philox.start(simd, c0));
                let mut state = [Comparison::new(simd); 2];
                self.compare(simd, call, &branch, &starts, &mut state);
                let (mut less, mut equal) = ([0; 2 * MAX_LANES], [0; 2 * MAX_LANES]);
                Comparison::store(simd, state, &mut less[..pair], &mut equal[..pair]);
                for i in 0..inside {
                    let word = left[at + i];
                    let at = usize::from(word);
                    keep[at] |= undecided[at] & less[i];
                    undecided[at] &= equal[i];
                    left[still] = word;
                    still += usize::from(undecided[at] != 0);
                }
            }
            count = still;
        }
        words.copy_from_slice(&keep[..words.len()]);
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
        for (start, state) in starts.iter().zip(state) {
            let r = self.philox.finish(simd, start, branch);
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
        simd.draw(&self.stream, self.first, self.words, &[]);
    }
}
