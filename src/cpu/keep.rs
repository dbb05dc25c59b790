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

/// Calls of the generator that every word gets, of four planes each: [`KeepStream::batch`] writes them out.
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
        // Lanes whose words go on, of the even and of the odd vectors.
        let mut marks = [[0u64; BATCH / 128]; 2];

        // No vectors in closures: these are not inlined for certain, and have no vector instructions of their own.
        let mut even = simd.add(simd.splat(low), simd.lanes(&[0, 2, 4, 6, 8, 10, 12, 14]));
        let mut odd = simd.add(even, simd.splat(1));
        let common = [branch(0), branch(1)];
        let mut ahead = ahead.chunks(ahead.len().div_ceil(words.len().div_ceil(pair)).max(1));
        for at in (0..words.len()).step_by(pair) {
            for line in ahead.next().unwrap_or_default().chunks(LINE) {
                simd.prefetch(&line[0]);
            }
            let starts = [self.philox.start(simd, even), self.philox.start(simd, odd)];
            let mut state = [Comparison::new(simd); 2];
            self.compare(simd, 0, &common[0], &starts, &mut state);
            if self.calls > 1 {
                self.compare(simd, 1, &common[1], &starts, &mut state);
            }
            Comparison::store(simd, state, &mut keep[at..at + pair], &mut undecided[at..at + pair]);
            let lane = at / 2;
            for (marks, state) in marks.iter_mut().zip(&state) {
                marks[lane / 64] |= u64::from(simd.nonzero(state.undecided)) << (lane % 64);
            }
            (even, odd) = (simd.add(even, simd.splat(pair as u64)), simd.add(odd, simd.splat(pair as u64)));
        }

        // Indexes in the batch of the words that go on, and a group's worth of room.
        let mut left = [0u16; BATCH + 2 * MAX_LANES];
        let mut count = 0;
        if self.calls > COMMON_CALLS {
            for (parity, marks) in marks.iter().enumerate() {
                for (i, marks) in marks.iter().enumerate() {
                    let mut marks = *marks;
                    while marks != 0 {
                        let word = 2 * (64 * i + marks.trailing_zeros() as usize) + parity;
                        left[count] = word as u16;
                        // Lanes beyond the end are drawn too.
                        count += usize::from(word < words.len());
                        marks &= marks - 1;
                    }
                }
            }
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
                let (mut even, mut odd) = ([0; MAX_LANES], [0; MAX_LANES]);
                for (i, pair) in left[at..at + pair].as_chunks::<2>().0.iter().enumerate() {
                    even[i] = low + u64::from(pair[0]);
                    odd[i] = low + u64::from(pair[1]);
                }
                let starts = [self.philox.start(simd, simd.lanes(&even)), self.philox.start(simd, simd.lanes(&odd))];
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
        simd.draw(&self.stream, self.first, self.words, &[]);
    }
}
