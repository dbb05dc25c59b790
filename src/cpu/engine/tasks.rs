//! A pass over a tensor, divided into tasks that threads share, and compiled for each instruction set.

use super::access::{Access, Cached, Prefetched, Streamed};
use super::block_pass::{Bits, BlockPass, Words};
use super::blocks::BlockLoop;
use super::draw::PrefetchedWords;
use super::pool::Pool;
use super::scratch::Scratch;
use super::share::{alone_if_better, share};
use super::shift::WordShift;
use super::tuning::{
    CACHED_BYTES, FEWEST_TASKS_PER_THREAD, LARGEST_TASK, MASK_PREFETCH, NON_TEMPORAL_BYTES, SMALLEST_TASK, TASK,
    TASKS_PER_THREAD,
};
use crate::cpu::part::whole_bytes;
use crate::cpu::simd::{self, Fence, Simd, Task};
use crate::element::Element;
use crate::io::{InOut, Tensors};

/// Runs the pass over the whole tensor. The saved tensor, where there is one, and the output are as long as
/// the input; there is a word for every 32 elements.
#[inline(always)]
pub(crate) fn run_over_tensor<T: Element, P: BlockPass<T>>(pass: &P, tensors: Tensors<'_, T>, words: Words<'_>) {
    let job = Job { start: 0, tensors, words };
    if job.len() <= TASK { job.run_alone(pass) } else { job.run_shared(pass) }
}

/// A pass over a part of a tensor.
struct Job<'a, T> {
    /// Index of the part's first element, a multiple of 32.
    start: usize,
    tensors: Tensors<'a, T>,
    words: Words<'a>,
}

impl<'a, T: Element> Job<'a, T> {
    fn len(&self) -> usize {
        self.tensors.io.len()
    }

    /// By the calling thread, for a tensor of one task.
    #[inline(always)]
    fn run_alone<P: BlockPass<T>>(self, pass: &P) {
        if P::MEMORY_BOUND && !P::LONG { self.run(pass, Cached) } else { self.run(pass, Prefetched) }
    }

    /// By as many threads as help.
    #[inline(never)]
    fn run_shared<P: BlockPass<T>>(self, pass: &P) {
        if !P::MEMORY_BOUND {
            return self.share(pass, Prefetched);
        }
        // In place, the lines are in the cache because they were read.
        let out_of_place = matches!(self.tensors.io, InOut::OutOfPlace(..));
        let bytes = whole_bytes(self.len().saturating_mul(size_of::<T>()));
        let tensors = 1 + usize::from(out_of_place) + usize::from(P::READS_SAVED);
        if out_of_place && bytes >= NON_TEMPORAL_BYTES {
            self.share(pass, Streamed);
        } else if P::LONG || bytes.saturating_mul(tensors) > CACHED_BYTES {
            self.share(pass, Prefetched);
        } else {
            self.share(pass, Cached);
        }
    }

    fn share<P: BlockPass<T>>(self, pass: &P, access: impl Access) {
        let pool = Pool::of_caller();
        // In one piece.
        let Some(job) = alone_if_better(&pool, self, |job| job.run(pass, access)) else { return };
        let len = job.len();
        let task = task_len(len, pool.threads());
        share(&pool, job.tasks(task), len.div_ceil(task), |job| job.run(pass, access));
    }

    /// Its parts, each of so many elements, a multiple of 32; the last may have fewer.
    fn tasks(self, task: usize) -> Tasks<'a, T> {
        Tasks { rest: Some(self), task }
    }

    /// `at` is a multiple of 32 within the job.
    fn split(self, at: usize) -> (Self, Self) {
        let Self { start, tensors, words } = self;
        let (tensors_a, tensors_b) = tensors.split_at(at);
        let (words_a, words_b) = words.split(at / 32);
        (
            Self { start, tensors: tensors_a, words: words_a },
            Self { start: start + at, tensors: tensors_b, words: words_b },
        )
    }

    #[inline(always)]
    fn run<P: BlockPass<T>, A: Access>(self, pass: &P, access: A) {
        simd::dispatch(JobTask { job: self, pass, access });
    }
}

/// Elements of a task of a tensor of so many that so many threads share.
fn task_len(len: usize, threads: usize) -> usize {
    let (fewest, most) = (len / (FEWEST_TASKS_PER_THREAD * threads), len / (TASKS_PER_THREAD * threads));
    fewest.min(TASK).max(most).next_multiple_of(SMALLEST_TASK).clamp(SMALLEST_TASK, LARGEST_TASK)
}

/// The tasks of a job that nobody has taken yet.
struct Tasks<'a, T> {
    rest: Option<Job<'a, T>>,
    /// Elements of each but the last.
    task: usize,
}

impl<'a, T: Element> Iterator for Tasks<'a, T> {
    type Item = Job<'a, T>;

    fn next(&mut self) -> Option<Self::Item> {
        let job = self.rest.take()?;
        if job.len() <= self.task {
            return Some(job);
        }
        let (first, others) = job.split(self.task);
        self.rest = Some(others);
        Some(first)
    }
}

impl<T: Element> DoubleEndedIterator for Tasks<'_, T> {
    fn next_back(&mut self) -> Option<Self::Item> {
        let job = self.rest.take()?;
        if job.len() <= self.task {
            return Some(job);
        }
        let at = (job.len() - 1) / self.task * self.task;
        let (others, last) = job.split(at);
        self.rest = Some(others);
        Some(last)
    }
}

/// A job as it is compiled for an instruction set.
struct JobTask<'a, T, P, A> {
    job: Job<'a, T>,
    pass: &'a P,
    access: A,
}

impl<T: Element, P: BlockPass<T>, A: Access> Task for JobTask<'_, T, P, A> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        if !S::CONTROLS_CACHES && (A::PREFETCH || A::NON_TEMPORAL) {
            let Self { job, pass, .. } = self;
            return simd.outlined(JobTask { job, pass, access: Cached });
        }
        let Self { job: Job { start, tensors, words }, pass, access } = self;
        let (keep, read, mut write) = match words {
            Words::None => (None, &[][..], None),
            Words::Load(mask) => (None, mask, None),
            Words::Store(mask) => (None, &[][..], Some(mask)),
            Words::Draw(keep) => (Some(keep), &[][..], None),
            Words::DrawStore(keep, mask) => (Some(keep), &[][..], Some(mask)),
        };
        let _fence = A::NON_TEMPORAL.then(|| Fence(simd));
        let mut block_loop = BlockLoop::new(pass, access, start, tensors);
        let blocks = block_loop.blocks();
        match keep {
            Some(keep) if P::BITS == Bits::Draw => {
                let mut scratch = Scratch::take();
                let words = start / 32..start / 32 + blocks;
                let mut prefetched = PrefetchedWords::new(simd, keep, &mut scratch, words, block_loop.lead);
                let mut first = 0;
                while first < blocks {
                    let (words, next_batch) = prefetched.next_words(simd);
                    let range = first..blocks.min(first + words.len());
                    if let Some(mask) = &write {
                        // Stores keep their order: one to a line that is not in the cache yet holds up those after it.
                        simd.prefetch_to_write(mask.as_ptr().wrapping_add(first + MASK_PREFETCH));
                    }
                    first = range.end;
                    if let Some(next_batch) = next_batch {
                        if !P::LONG
                            && !S::SMALL_CODE
                            && let Some(mut full) = block_loop.full_group(range.start, words, write.as_deref_mut())
                        {
                            next_batch.draw_interleaved(simd, &mut full);
                            continue;
                        }
                        next_batch.draw(simd);
                    }
                    block_loop.run(simd, range, words, write.as_deref_mut());
                }
                scratch.give_back();
            }
            _ => block_loop.run(simd, 0..blocks, read, write.as_deref_mut()),
        }
        if A::NON_TEMPORAL
            && P::BITS.writes_bits()
            && block_loop.lead > 0
            && let Some(mask) = write
        {
            // Word i holds the bits of block i + 1, if there is one.
            mask[blocks - 1..].fill(0);
            WordShift::to_words(block_loop.lead, block_loop.head).all(mask);
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::super::block_pass::Bits;
    use super::super::keep_stream::{BATCH, GROUP, KeepStream};
    use super::super::tuning::ALIGNED_ELEMENTS;
    use super::*;
    use crate::cpu::simd::LINE;
    use crate::cpu::simd::tests::sets;
    use crate::io::InOut;
    use crate::key::MaskKey;
    use crate::operation::DropActivation;
    use crate::real::Real;
    use crate::stream::keep_word;

    /// With bits that come in: the input where they are set, the saved tensor elsewhere, and the other bits out.
    /// Without: the greater of both, and which that was.
    struct EchoPass<const BITS: usize>;

    const WAYS: [Bits; 4] = [Bits::None, Bits::Read, Bits::Write, Bits::Draw];

    impl<T: Element, const BITS: usize> BlockPass<T> for EchoPass<BITS> {
        const BITS: Bits = WAYS[BITS];
        const READS_SAVED: bool = true;
        const MEMORY_BOUND: bool = true;

        fn block<S: Simd>(&self, _: S, _: u64, x: &[T; 32], saved: &[T; 32], bits: u32) -> ([T; 32], u32) {
            let greater = (0..32).fold(0, |bits, i| bits | u32::from(x[i].to_real() > saved[i].to_real()) << i);
            let chosen = if WAYS[BITS].reads_bits() { bits } else { greater };
            let y = std::array::from_fn(|i| if chosen >> i & 1 == 1 { x[i] } else { saved[i] });
            (y, if WAYS[BITS].reads_bits() { !bits } else { greater })
        }
    }

    fn values<T: Element>(n: usize, seed: usize) -> Vec<T> {
        (0..n).map(|i| T::from_real(T::Real::from_f32((i * seed % 251) as f32))).collect()
    }

    /// Runs the pass over `len` elements whose output begins `at` elements after a line, and compares.
    fn echo<T: Element, const BITS: usize>(len: usize, at: usize, task: usize, non_temporal: bool, in_place: bool) {
        let what = format!(
            "{} way {BITS}, {len} elements at {at}, tasks of {task}, {non_temporal} {in_place}",
            T::DTYPE.name()
        );
        let (op, key) = (DropActivation::relu(0.6).unwrap(), MaskKey::new(41, 42).shard(7 * 32).unwrap());
        let (x, saved) = (values::<T>(len, 7), values::<T>(len, 11));
        let read: Vec<u32> = (0..len.div_ceil(32)).map(|w| keep_word(op.threshold(), key, 7 + w as u64)).collect();
        let bit = |words: &[u32], i: usize| words[i / 32] >> (i % 32) & 1 == 1;
        let greater = |i: usize| x[i].to_real() > saved[i].to_real();
        let chosen = |i: usize| if WAYS[BITS].reads_bits() { bit(&read, i) } else { greater(i) };
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
        let job = Job { start: 0, tensors: Tensors { io, saved: Some(&saved) }, words };
        let run = |job: Job<'_, T>| match non_temporal {
            true => job.run(&EchoPass::<BITS>, Streamed),
            // It makes no difference whether memory is prefetched.
            false if task == TASK => job.run(&EchoPass::<BITS>, Cached),
            false => job.run(&EchoPass::<BITS>, Prefetched),
        };
        // In either order.
        if at.is_multiple_of(2) {
            job.tasks(task).for_each(run)
        } else {
            job.tasks(task).rev().for_each(run)
        }

        assert!(memory[start..start + len] == expected, "{what}");
        assert!(memory[..start] == blank[..start], "{what}: before");
        assert!(memory[start + len..] == blank[start + len..], "{what}: behind");
        if WAYS[BITS].writes_bits() {
            for i in 0..32 * write.len() {
                let expected = i < len && if WAYS[BITS] == Bits::Draw { !bit(&read, i) } else { greater(i) };
                assert_eq!(bit(&write, i), expected, "{what}: bit {i}");
            }
        }
    }

    fn every_way<T: Element>(len: usize, at: usize, task: usize) {
        for (non_temporal, in_place) in [(false, false), (false, true), (true, false)] {
            echo::<T, 0>(len, at, task, non_temporal, in_place);
            echo::<T, 1>(len, at, task, non_temporal, in_place);
            echo::<T, 2>(len, at, task, non_temporal, in_place);
            echo::<T, 3>(len, at, task, non_temporal, in_place);
        }
    }

    /// Wherever the output begins, and wherever it ends.
    fn everywhere<T: Element>() {
        for at in 0..LINE / size_of::<T>() {
            for len in [0, 1, 5, 31, 32, 33, 64, 511, 512, 513, 600, 1613, ALIGNED_ELEMENTS + 77] {
                every_way::<T>(len, at, TASK);
            }
        }
    }

    /// Where each begins, and how long it is.
    #[test]
    fn tasks_are_the_same_from_either_end() {
        for len in [0, 1, 64, 65, 5 * 64, 5 * 64 + 7] {
            let mut x = vec![0.0f32; len];
            let mut tasks = |from_behind: bool| -> Vec<(usize, usize)> {
                let tensors = Tensors { io: InOut::InPlace(&mut x), saved: None };
                let mut tasks = Job { start: 320, tensors, words: Words::None }.tasks(64);
                let next = || if from_behind { tasks.next_back() } else { tasks.next() };
                std::iter::from_fn(next).map(|job| (job.start, job.len())).collect()
            };
            let (forwards, mut backwards) = (tasks(false), tasks(true));
            backwards.reverse();
            let expected: Vec<_> = (0..len.max(1)).step_by(64).map(|at| (320 + at, 64.min(len - at))).collect();
            assert_eq!((forwards, backwards), (expected.clone(), expected), "{len} elements");
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
