//! How every pass walks its tensor: in tasks that threads share, and in blocks of 32 elements.
//!
//! As a rule blocks are those of the mask's words. The output of a large tensor is written past the cache, if it is
//! not the input too, and that takes whole cache lines; so blocks begin where the output's lines do, and each
//! has its bits in two words. (So do those of other large enough tensors if there are no bits: then no words have to be
//! shifted.)
//!
//! ```text
//! lines            |   |   |   |   |   |   |      of the output
//! blocks          0|   1   |   2   |   3   |      such as two lines, of f32; there is a part of block 0 only
//! words         |   0   |   1   |   2   |         of 32 elements, as all blocks but that
//! ```
//!
//! Block i ends in word i. Drawn words are made into the bits of blocks, and bits of blocks into words to store, many
//! at a time, so that a block costs no instruction more for it; those of a mask that is read are shifted one by one.

use std::ops::Range;

use crate::cpu::keep::{BATCH, Batch, GROUP, KeepStream, Meanwhile};
use crate::cpu::part::whole_bytes;
use crate::cpu::pool::Pool;
use crate::cpu::room::Room;
use crate::cpu::run::MaskWords;
use crate::cpu::share::share;
use crate::cpu::simd::{self, Fence, LINE, Lines, Simd, Task};
use crate::cpu::tuning::{AHEAD, ALIGNED, LARGEST_TASK, MASK_AHEAD, STREAM_BYTES, TASK, TASKS_A_THREAD, WRITE_AHEAD};
use crate::element::Element;
use crate::io::InOut;

/// What a pass does to a block.
pub(crate) trait BlockPass<T: Element>: Sync {
    /// What it has to do with bits. Passes get no code for what they don't do.
    const BITS: Bits;

    /// Whether it has a saved tensor.
    const SECOND: bool = false;

    /// Whether it is worth streaming: whether memory bounds it. Not for a pass that looks at `e`.
    const STREAMS: bool = false;

    /// `e` is the index of the block's first element, if the pass is not [`BlockPass::STREAMS`], else anything.
    /// `second` is the saved tensor, for a pass that has one. `bits` holds the block's bits, as they were drawn or
    /// loaded; the result holds those to store. Elements beyond the tensor's ends may be anything.
    fn block<S: Simd>(&self, simd: S, e: u64, input: &[T; 32], second: &[T; 32], bits: u32) -> ([T; 32], u32);
}

/// The ways of a pass with [`Words`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bits {
    /// [`Words::None`].
    None,
    /// [`Words::Load`].
    Read,
    /// [`Words::Store`].
    Write,
    /// [`Words::Draw`] or [`Words::DrawStore`].
    Draw,
}

impl Bits {
    const fn come_in(self) -> bool {
        matches!(self, Self::Read | Self::Draw)
    }

    const fn go_out(self) -> bool {
        matches!(self, Self::Write | Self::Draw)
    }
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
    Draw(&'a KeepStream),
    /// From the keep stream to the mask.
    DrawStore(&'a KeepStream, &'a mut [u32]),
}

impl<'a> Words<'a> {
    /// Drawn, and stored if there are words to write.
    pub(crate) fn drawn(stream: &'a KeepStream, mask: MaskWords<'a>) -> Self {
        match mask {
            MaskWords::Write(words) => Self::DrawStore(stream, words),
            MaskWords::None | MaskWords::Read(_) => Self::Draw(stream),
        }
    }

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

impl<'a> From<MaskWords<'a>> for Words<'a> {
    fn from(mask: MaskWords<'a>) -> Self {
        match mask {
            MaskWords::None => Self::None,
            MaskWords::Read(words) => Self::Load(words),
            MaskWords::Write(words) => Self::Store(words),
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
/// the input; there is a word for every 32 elements.
pub(crate) fn run<T: Element, P: BlockPass<T>>(pass: &P, io: InOut<'_, T>, second: Option<&[T]>, words: Words<'_>) {
    let len = io.len();
    // In place, the lines are in the cache because they were read.
    let bytes = whole_bytes(len.saturating_mul(size_of::<T>()));
    let stream = matches!(io, InOut::OutOfPlace(..)) && bytes >= STREAM_BYTES;
    let job = Job { start: 0, io, second, words, stream };
    if len <= TASK {
        return job.run(pass);
    }
    let pool = Pool::of_caller();
    let task = (len / (TASKS_A_THREAD * pool.threads())).next_multiple_of(TASK).clamp(TASK, LARGEST_TASK);
    share(&pool, job.tasks(task), len.div_ceil(task), |job| job.run(pass));
}

impl<'a, T: Element> Job<'a, T> {
    /// Its parts, each of so many elements, a multiple of 32; the last may have fewer.
    fn tasks(self, task: usize) -> impl Iterator<Item = Self> {
        let mut rest = Some(self);
        std::iter::from_fn(move || {
            let job = rest.take()?;
            if job.io.len() <= task {
                return Some(job);
            }
            let (first, others) = job.split(task);
            rest = Some(others);
            Some(first)
        })
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
        if P::STREAMS && self.stream {
            simd::dispatch(Compiled::<T, P, true> { job: self, pass });
        } else {
            simd::dispatch(Compiled::<T, P, false> { job: self, pass });
        }
    }
}

struct Compiled<'a, T, P, const STREAM: bool> {
    job: Job<'a, T>,
    pass: &'a P,
}

impl<T: Element, P: BlockPass<T>, const STREAM: bool> Task for Compiled<'_, T, P, STREAM> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { job: Job { start, io, second, words, .. }, pass } = self;
        let (keep, read, mut write) = match words {
            Words::None => (None, &[][..], None),
            Words::Load(mask) => (None, mask, None),
            Words::Store(mask) => (None, &[][..], Some(mask)),
            Words::Draw(keep) => (Some(keep), &[][..], None),
            Words::DrawStore(keep, mask) => (Some(keep), &[][..], Some(mask)),
        };
        let _fence = STREAM.then(|| Fence(simd));
        let mut walk = Walk::<T, P, STREAM>::new(pass, start, io, second);
        let blocks = walk.blocks();
        let mut room = if P::BITS == Bits::Draw { Some(Room::take()) } else { None };
        let mut drawn = match (keep, &mut room) {
            (Some(keep), Some(room)) => Some(Drawn::new(simd, keep, room, start / 32, blocks, walk.lead)),
            _ => None,
        };
        for first in (0..blocks).step_by(GROUP) {
            let group = first..blocks.min(first + GROUP);
            let (words, ahead) = match &mut drawn {
                Some(drawn) if P::BITS == Bits::Draw => {
                    let (words, ahead) = drawn.next(simd);
                    (&words[..], Some(ahead))
                }
                _ => (&read[first.min(read.len())..group.end.min(read.len())], None),
            };
            if STREAM
                && P::BITS.go_out()
                && let Some(mask) = &write
            {
                // Stores keep their order: one to a line that is not there yet would hold up what is streamed after it.
                simd.prefetch(mask.as_ptr().wrapping_add(first + GROUP * MASK_AHEAD));
            }
            match walk.whole(first, words, write.as_deref_mut()) {
                Some(mut whole) => {
                    match ahead {
                        Some(mut ahead) if P::BITS == Bits::Draw => ahead.draw(simd, &mut whole),
                        _ => {
                            for k in 0..GROUP {
                                whole.step(simd, k);
                            }
                        }
                    }
                    walk.shifted = whole.shifted;
                }
                None => {
                    if P::BITS == Bits::Draw
                        && let Some(ahead) = ahead
                    {
                        simd.groups(ahead.keep, ahead.batch, ahead.words, ahead.at..ahead.at + GROUP);
                    }
                    walk.parts(simd, group, words, write.as_deref_mut());
                }
            }
        }
        if STREAM
            && P::BITS.go_out()
            && walk.lead > 0
            && let Some(mask) = write
        {
            // Word i holds the bits of block i + 1, if there is one.
            mask[blocks - 1..].fill(0);
            let (lead, mut before) = (walk.lead, walk.head);
            for word in mask {
                (*word, before) = (*word << lead | before >> (32 - lead), *word);
            }
        }
        if let Some(room) = room {
            room.give_back();
        }
    }
}

/// A task's way through its blocks.
struct Walk<'a, T, P, const STREAM: bool> {
    pass: &'a P,
    start: usize,
    io: InOut<'a, T>,
    second: Option<&'a [T]>,
    /// Elements before the first line: the part of block 0 that is there. If none are, block 0 is like the others.
    lead: usize,
    /// The bits of block 0, if it is a part, for which there is no room among the words.
    head: u32,
    shifted: Shifted<STREAM>,
}

impl<'a, T: Element, P: BlockPass<T>, const STREAM: bool> Walk<'a, T, P, STREAM> {
    #[inline(always)]
    fn new(pass: &'a P, start: usize, mut io: InOut<'a, T>, second: Option<&'a [T]>) -> Self {
        let output = io.output();
        let aligned = STREAM || P::STREAMS && P::BITS == Bits::None && output.len() >= ALIGNED;
        let lead = if aligned { lead(output).min(output.len()) } else { 0 };
        Self { pass, start, io, second, lead, head: 0, shifted: Shifted { end: end(lead), before: 0 } }
    }

    /// How many there are.
    fn blocks(&self) -> usize {
        (self.io.len() + 32 - end(self.lead)).div_ceil(32)
    }

    /// The blocks of a group that begins with block `first`, if all are whole and end a word of `read` and `write`
    /// where these are needed.
    #[inline(always)]
    fn whole<'b>(
        &'b mut self,
        first: usize,
        read: &'b [u32],
        write: Option<&'b mut [u32]>,
    ) -> Option<Whole<'b, T, P, STREAM>> {
        let begin = (32 * first + end(self.lead)).checked_sub(32)?;
        let range = begin..begin + 32 * GROUP;
        let y = |y: &'b mut [T]| y.get_mut(range.clone())?.as_chunks_mut().0.try_into().ok();
        let tensors = match &mut self.io {
            // Which `run` does not ask for.
            InOut::InPlace(_) if STREAM => return None,
            InOut::InPlace(both) => Tensors::InPlace(y(both)?),
            InOut::OutOfPlace(x, output) => {
                let x = chunk(x.get(range.clone())?)?;
                if STREAM { Tensors::Streamed(x, Lines::new(y(output)?)?) } else { Tensors::Apart(x, y(output)?) }
            }
        };
        Some(Whole {
            pass: self.pass,
            e: (self.start + begin) as u64,
            tensors,
            second: if P::SECOND { Some(chunk(self.second?.get(range)?)?) } else { None },
            read: if P::BITS.come_in() { read.first_chunk()? } else { &[0; GROUP] },
            write: match write {
                Some(write) if P::BITS.go_out() => {
                    Some(write.get_mut(first - usize::from(self.lead > 0)..)?.first_chunk_mut()?)
                }
                _ => None,
            },
            shifted: self.shifted,
        })
    }

    /// The blocks of any group, one after the other, as far as they are there.
    #[inline(always)]
    fn parts<S: Simd>(&mut self, simd: S, group: Range<usize>, read: &[u32], mut write: Option<&mut [u32]>) {
        for (k, block) in group.enumerate() {
            let behind = 32 * block + end(self.lead);
            let range = behind.saturating_sub(32)..behind.min(self.io.len());
            // Elements of the first block that are not there.
            let before = 32 - behind.min(32);
            let here = before..before + range.len();
            let padded = |part: &[T]| {
                let mut block = [T::default(); 32];
                block[here.clone()].copy_from_slice(part);
                block
            };
            let x = padded(&self.io.input()[range.clone()]);
            let second = self.second.map_or(x, |second| padded(&second[range.clone()]));
            let e = (self.start + behind).wrapping_sub(32) as u64;
            let word = read.get(k).copied().unwrap_or(0);
            let bits = if P::BITS == Bits::Read { self.shifted.bits(word) } else { word };
            let (y, bits) = self.pass.block(simd, e, &x, &second, bits);
            self.io.output()[range].copy_from_slice(&y[here.clone()]);
            let there = (u64::from(u32::MAX) >> (32 - here.len())) << here.start;
            let bits = bits & there as u32;
            if let Some(write) = &mut write {
                match block.checked_sub(usize::from(self.lead > 0)) {
                    Some(place) => write[place] = bits,
                    None => self.head = bits,
                }
            }
        }
    }
}

/// Where block 0 ends.
fn end(lead: usize) -> usize {
    if lead == 0 { 32 } else { lead }
}

/// Elements before the first that begins a line.
fn lead<T>(output: &[T]) -> usize {
    output.as_ptr().addr().wrapping_neg() % LINE / size_of::<T>()
}

fn chunk<T>(elements: &[T]) -> Option<&[[T; 32]; GROUP]> {
    elements.as_chunks().0.try_into().ok()
}

/// The blocks of a group.
struct Whole<'a, T, P, const STREAM: bool> {
    pass: &'a P,
    /// Index of the first element.
    e: u64,
    tensors: Tensors<'a, T>,
    second: Option<&'a [[T; 32]; GROUP]>,
    /// The words in which the blocks end, or the bits of the blocks if these were drawn.
    read: &'a [u32; GROUP],
    /// Gets the bits of the blocks.
    write: Option<&'a mut [u32; GROUP]>,
    /// The walk's, which shall have it back: a copy can stay in registers.
    shifted: Shifted<STREAM>,
}

/// What is read and what is written.
enum Tensors<'a, T> {
    InPlace(&'a mut [[T; 32]; GROUP]),
    Apart(&'a [[T; 32]; GROUP], &'a mut [[T; 32]; GROUP]),
    Streamed(&'a [[T; 32]; GROUP], Lines<'a, T, GROUP>),
}

impl<T: Element, P: BlockPass<T>, const STREAM: bool> Meanwhile for Whole<'_, T, P, STREAM> {
    #[inline(always)]
    fn step<S: Simd>(&mut self, simd: S, k: usize) {
        let x = match &self.tensors {
            Tensors::InPlace(both) => &both[k],
            Tensors::Apart(x, _) | Tensors::Streamed(x, _) => &x[k],
        };
        let second = self.second.map_or(x, |second| &second[k]);
        for line in 0..size_of_val(x) / LINE {
            simd.prefetch(x.as_ptr().cast::<u8>().wrapping_add(AHEAD + LINE * line));
            if P::SECOND {
                simd.prefetch(second.as_ptr().cast::<u8>().wrapping_add(AHEAD + LINE * line));
            }
        }
        if let Tensors::Apart(_, y) = &self.tensors {
            for line in 0..size_of_val(x) / LINE {
                simd.prefetch_to_write(y[k].as_ptr().cast::<u8>().wrapping_add(WRITE_AHEAD + LINE * line));
            }
        }
        let bits = match P::BITS {
            Bits::Read => self.shifted.bits(self.read[k]),
            Bits::Draw => self.read[k],
            Bits::None | Bits::Write => 0,
        };
        let (y, bits) = self.pass.block(simd, self.e + 32 * k as u64, x, second, bits);
        match &mut self.tensors {
            Tensors::InPlace(blocks) | Tensors::Apart(_, blocks) => blocks[k] = y,
            Tensors::Streamed(_, lines) => simd.stream(&y, lines, k),
        }
        if P::BITS.go_out()
            && let Some(write) = &mut self.write
        {
            write[k] = bits;
        }
    }
}

/// Makes the bits of blocks from words.
#[derive(Clone, Copy)]
struct Shifted<const STREAM: bool> {
    /// Where block 0 ends in word 0: 1 to 32.
    end: usize,
    /// The word before.
    before: u64,
}

impl<const STREAM: bool> Shifted<STREAM> {
    /// The bits of a block, from the word in which it ends.
    #[inline(always)]
    fn bits(&mut self, word: u32) -> u32 {
        if !STREAM {
            return word;
        }
        let both = u64::from(word) << 32 | self.before;
        self.before = word.into();
        (both >> self.end) as u32
    }
}

/// The words of a pass, drawn a batch ahead of their use and in step with it: a processor computes them while it
/// waits for memory.
struct Drawn<'a> {
    keep: &'a KeepStream,
    room: &'a mut Room,
    /// Which words are in use; the others are the batch's.
    now: usize,
    /// How many of the words in use were used.
    used: usize,
    /// The words that are in neither.
    rest: Range<usize>,
    /// The words are made the bits of blocks that end so many elements after the words begin, or with them if 0.
    lead: usize,
    /// The last word before, for that.
    before: u32,
}

impl<'a> Drawn<'a> {
    #[inline(always)]
    fn new<S: Simd>(simd: S, keep: &'a KeepStream, room: &'a mut Room, first: usize, len: usize, lead: usize) -> Self {
        let mut drawn = Self { keep, room, now: 1, used: 0, rest: first..first + len, lead, before: 0 };
        drawn.begin();
        simd.groups(keep, &mut drawn.room.batch, &mut drawn.room.words[0], 0..BATCH);
        drawn.turn(simd);
        drawn
    }

    /// Begins the next batch in place of the words that are used up.
    fn begin(&mut self) {
        let len = self.rest.len().min(BATCH);
        let Room { batch, words } = &mut *self.room;
        self.keep.begin(batch, &mut words[1 - self.now], self.rest.start as u64, len);
        self.rest.start += len;
    }

    #[inline(always)]
    fn turn<S: Simd>(&mut self, simd: S) {
        self.now = 1 - self.now;
        let Room { batch, words } = &mut *self.room;
        let words = &mut words[self.now];
        simd.finish(self.keep, batch, words);
        if self.lead > 0 {
            // Copies can stay in registers, without which this is not done many words at a time.
            let (lead, mut before) = (self.lead, self.before);
            for word in &mut words[..batch.len()] {
                (*word, before) = (*word << (32 - lead) | before >> lead, *word);
            }
            self.before = before;
        }
        self.used = 0;
        self.begin();
    }

    /// The next words, and as many to be drawn ahead.
    #[inline(always)]
    fn next<S: Simd>(&mut self, simd: S) -> (&[u32; GROUP], Ahead<'_>) {
        if self.used == BATCH {
            self.turn(simd);
        }
        let at = self.used;
        self.used += GROUP;
        let Room { batch, words: [a, b] } = &mut *self.room;
        let (now, words) = if self.now == 0 { (a, b) } else { (b, a) };
        let now = now[at..].first_chunk().expect("groups begin at multiples of their length");
        (now, Ahead { keep: self.keep, batch, words, at })
    }
}

/// Words to be drawn.
struct Ahead<'a> {
    keep: &'a KeepStream,
    batch: &'a mut Batch,
    words: &'a mut [u32; BATCH],
    at: usize,
}

impl Ahead<'_> {
    #[inline(always)]
    fn draw<S: Simd, M: Meanwhile>(&mut self, simd: S, meanwhile: &mut M) {
        self.keep.group(simd, self.batch, self.words, self.at, meanwhile);
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::cpu::simd::tests::sets;
    use crate::key::MaskKey;
    use crate::operation::DropActivation;
    use crate::real::Real;
    use crate::reference;

    /// With bits that come in: the input where they are set, the saved tensor elsewhere, and the other bits out.
    /// Without: the greater of both, and which that was.
    struct Told<const BITS: usize>;

    const WAYS: [Bits; 4] = [Bits::None, Bits::Read, Bits::Write, Bits::Draw];

    impl<T: Element, const BITS: usize> BlockPass<T> for Told<BITS> {
        const BITS: Bits = WAYS[BITS];
        const SECOND: bool = true;
        const STREAMS: bool = true;

        fn block<S: Simd>(&self, _: S, _: u64, x: &[T; 32], saved: &[T; 32], bits: u32) -> ([T; 32], u32) {
            let greater = (0..32).fold(0, |bits, i| bits | u32::from(x[i].to_real() > saved[i].to_real()) << i);
            let chosen = if WAYS[BITS].come_in() { bits } else { greater };
            let y = std::array::from_fn(|i| if chosen >> i & 1 == 1 { x[i] } else { saved[i] });
            (y, if WAYS[BITS].come_in() { !bits } else { greater })
        }
    }

    fn values<T: Element>(n: usize, seed: usize) -> Vec<T> {
        (0..n).map(|i| T::from_real(T::Real::from_f32((i * seed % 251) as f32))).collect()
    }

    /// Runs the pass over `len` elements whose output begins `at` elements after a line, and compares.
    fn told<T: Element, const BITS: usize>(len: usize, at: usize, task: usize, stream: bool, in_place: bool) {
        let what =
            format!("{} way {BITS}, {len} elements at {at}, tasks of {task}, {stream} {in_place}", T::DTYPE.name());
        let (op, key) = (DropActivation::relu(0.6).unwrap(), MaskKey::new(41, 42).shard(7 * 32).unwrap());
        let (x, saved) = (values::<T>(len, 7), values::<T>(len, 11));
        let read: Vec<u32> =
            (0..len.div_ceil(32)).map(|w| reference::keep_word(op.threshold(), key, 7 + w as u64)).collect();
        let bit = |words: &[u32], i: usize| words[i / 32] >> (i % 32) & 1 == 1;
        let greater = |i: usize| x[i].to_real() > saved[i].to_real();
        let chosen = |i: usize| if WAYS[BITS].come_in() { bit(&read, i) } else { greater(i) };
        let expected: Vec<T> = (0..len).map(|i| if chosen(i) { x[i] } else { saved[i] }).collect();

        let blank = values::<T>(len + 200, 13);
        let mut memory = blank.clone();
        let line = memory[100..].as_ptr().align_offset(LINE);
        let start = 100 + line + at;
        let y = &mut memory[start..start + len];
        let mut write = vec![0x5A5A_5A5A; len.div_ceil(32)];
        let io = if in_place {
            y.copy_from_slice(&x);
            InOut::InPlace(y)
        } else {
            InOut::OutOfPlace(&x, y)
        };
        let keep = KeepStream::new(&op, key);
        let words = match WAYS[BITS] {
            Bits::None => Words::None,
            Bits::Read => Words::Load(&read),
            Bits::Write => Words::Store(&mut write),
            Bits::Draw => Words::DrawStore(&keep, &mut write),
        };
        let job = Job { start: 0, io, second: Some(&saved), words, stream };
        job.tasks(task).for_each(|job| job.run(&Told::<BITS>));

        assert!(memory[start..start + len] == expected, "{what}");
        assert!(memory[..start] == blank[..start], "{what}: before");
        assert!(memory[start + len..] == blank[start + len..], "{what}: behind");
        if WAYS[BITS].go_out() {
            for i in 0..32 * write.len() {
                let expected = i < len && if WAYS[BITS] == Bits::Draw { !bit(&read, i) } else { greater(i) };
                assert_eq!(bit(&write, i), expected, "{what}: bit {i}");
            }
        }
    }

    fn every_way<T: Element>(len: usize, at: usize, task: usize) {
        for (stream, in_place) in [(false, false), (false, true), (true, false)] {
            told::<T, 0>(len, at, task, stream, in_place);
            told::<T, 1>(len, at, task, stream, in_place);
            told::<T, 2>(len, at, task, stream, in_place);
            told::<T, 3>(len, at, task, stream, in_place);
        }
    }

    /// Wherever the output begins, and wherever it ends.
    fn everywhere<T: Element>() {
        for at in 0..LINE / size_of::<T>() {
            for len in [0, 1, 5, 31, 32, 33, 64, 511, 512, 513, 600, 1613, ALIGNED + 77] {
                every_way::<T>(len, at, TASK);
            }
        }
    }

    #[test]
    fn lines_and_words_meet() {
        for set in sets() {
            set.force(everywhere::<f64>);
            set.force(everywhere::<bf16>);
        }
    }

    #[test]
    fn results_do_not_depend_on_the_tasks() {
        let len = 32 * (2 * BATCH + GROUP) + 77;
        for task in [32, 480, 512, 2080, 32 * BATCH, 32 * BATCH + 32, TASK, LARGEST_TASK] {
            every_way::<f64>(len, 3, task);
            every_way::<bf16>(len, 0, task);
        }
    }
}
