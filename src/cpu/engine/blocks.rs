//! A task's loop over its blocks: those that are whole in one go, or 16 at a time if words are drawn meanwhile, and the
//! parts of blocks at either end by themselves.

use std::marker::PhantomData;
use std::ops::Range;

use super::access::Access;
use super::block_pass::{Bits, BlockPass, run_block};
use super::keep_stream::{GROUP, Interleaved};
use super::shift::WordShift;
use super::tuning::{ALIGNED_ELEMENTS, MASK_PREFETCH, NEAR_PREFETCH, READ_PREFETCH, WRITE_PREFETCH};
use crate::cpu::simd::{CacheLines, LINE, Simd, Task};
use crate::element::Element;
use crate::io::{InOut, Tensors};

/// A task's loop over its blocks.
pub(super) struct BlockLoop<'a, T, P, A> {
    pass: &'a P,
    access: PhantomData<A>,
    /// Index of the task's first element.
    start: usize,
    tensors: Tensors<'a, T>,
    /// Elements before the first cache line: the part of block 0 that is there. If none are, block 0 is like the others.
    pub(super) lead: usize,
    /// The bits of block 0, if it is a part, for which there is no room among the words.
    pub(super) head: u32,
    /// Makes bits of blocks from words of a mask that is read.
    shift: WordShift,
}

impl<'a, T: Element, P: BlockPass<T>, A: Access> BlockLoop<'a, T, P, A> {
    #[inline(always)]
    pub(super) fn new(pass: &'a P, _: A, start: usize, mut tensors: Tensors<'a, T>) -> Self {
        let output = tensors.io.output();
        let aligned = A::NON_TEMPORAL || P::MEMORY_BOUND && P::BITS == Bits::None && output.len() >= ALIGNED_ELEMENTS;
        let lead = if aligned { lead(output).min(output.len()) } else { 0 };
        Self { pass, access: PhantomData, start, tensors, lead, head: 0, shift: WordShift::to_blocks(lead) }
    }

    /// How many there are.
    pub(super) fn blocks(&self) -> usize {
        usize::from(self.lead > 0) + (self.tensors.io.len() - self.lead).div_ceil(32)
    }

    /// Where the first whole block is, as an index of blocks. A block that is whole has its bits' place, in what is
    /// written, so many words before its index.
    fn first_whole(&self) -> usize {
        usize::from(self.lead > 0)
    }

    /// The blocks of a range, with the words in which they end where words are read, or their bits if these were drawn,
    /// and all words that the task writes.
    #[inline(always)]
    pub(super) fn run<S: Simd>(&mut self, simd: S, range: Range<usize>, read: &[u32], mut write: Option<&mut [u32]>) {
        let all_whole = self.first_whole() + (self.tensors.io.len() - self.lead) / 32;
        let whole = range.start.max(self.first_whole())..range.end.min(all_whole);
        if range.start < whole.start {
            self.partial_block(simd, range.start, read.first(), write.as_deref_mut());
        }
        if whole.start < whole.end {
            let read = read.get(whole.start - range.start..).unwrap_or(&[]);
            self.whole_blocks(simd, whole.clone(), read, write.as_deref_mut());
        }
        if whole.end < range.end {
            let read = read.get(whole.end - range.start);
            self.partial_block(simd, whole.end, read, write);
        }
    }

    /// Blocks that are whole.
    ///
    /// How many there are is known at run time only. A number that compilers know, 16 say, they unroll, and then each
    /// load instruction comes back after 2 KiB: the processor does not see that the loads are in sequence, and a plain
    /// ReLU in the second-level cache took twice as long.
    #[inline(always)]
    fn whole_blocks<S: Simd>(&mut self, simd: S, range: Range<usize>, read: &[u32], write: Option<&mut [u32]>) {
        let place = range.start - self.first_whole();
        let (begin, count) = (self.lead + 32 * place, range.len());
        let mut blocks = WholeBlocks::<T, P, A> {
            pass: self.pass,
            access: PhantomData,
            e: (self.start + begin) as u64,
            saved: match self.tensors.saved {
                Some(saved) if P::READS_SAVED => &saved[begin..].as_chunks().0[..count],
                _ => &[],
            },
            read: if P::BITS.reads_bits() { &read[..count] } else { &[] },
            write: match write {
                Some(write) if P::BITS.writes_bits() => &mut write[place..place + count],
                _ => &mut [],
            },
            shift: self.shift,
        };
        // The choice comes before the loop: compilers leave it in.
        match &mut self.tensors.io {
            InOut::InPlace(both) => {
                let both = &mut both[begin..].as_chunks_mut().0[..count];
                for (k, both) in both.iter_mut().enumerate() {
                    *both = blocks.block(simd, k, both);
                }
            }
            InOut::OutOfPlace(x, y) => {
                let x = &x[begin..].as_chunks().0[..count];
                let y = &mut y[begin..].as_chunks_mut().0[..count];
                match if A::NON_TEMPORAL { CacheLines::new(y) } else { Err(y) } {
                    Ok(mut lines) => {
                        for (k, x) in x.iter().enumerate() {
                            simd.store_non_temporal(&blocks.block(simd, k, x), &mut lines, k);
                        }
                    }
                    Err(y) => {
                        for k in 0..count {
                            if A::PREFETCH || P::BITS.writes_bits() {
                                prefetch_to_write(simd, &y[k]);
                            }
                            y[k] = blocks.block(simd, k, &x[k]);
                        }
                    }
                }
            }
        }
        self.shift = blocks.shift;
    }

    /// The blocks of a group that begins with block `first`, whose bits were drawn, if all are whole and end a word of
    /// `write` where that is needed.
    #[inline(always)]
    pub(super) fn full_group<'b>(
        &'b mut self,
        first: usize,
        drawn: &'b [u32],
        write: Option<&'b mut [u32]>,
    ) -> Option<FullGroup<'b, T, P, A>> {
        let place = first.checked_sub(self.first_whole())?;
        let begin = self.lead + 32 * place;
        let range = begin..begin + 32 * GROUP;
        let y = |y: &'b mut [T]| y.get_mut(range.clone())?.as_chunks_mut().0.try_into().ok();
        let tensors = match &mut self.tensors.io {
            // Which nobody asks for.
            InOut::InPlace(_) if A::NON_TEMPORAL => return None,
            InOut::InPlace(both) => GroupTensors::InPlace(y(both)?),
            InOut::OutOfPlace(x, output) => {
                let (x, output) = (chunk(x.get(range.clone())?)?, y(output)?);
                if A::NON_TEMPORAL {
                    GroupTensors::NonTemporal(x, CacheLines::new(output).ok()?)
                } else {
                    GroupTensors::Apart(x, output)
                }
            }
        };
        Some(FullGroup {
            pass: self.pass,
            access: PhantomData,
            e: (self.start + begin) as u64,
            tensors,
            saved: if P::READS_SAVED { Some(chunk(self.tensors.saved?.get(range)?)?) } else { None },
            drawn: drawn.first_chunk()?,
            write: match write {
                Some(write) => Some(write.get_mut(place..)?.first_chunk_mut()?),
                None => None,
            },
        })
    }

    /// A block of which only a part is there: the first, the last or the only one. `word` is its word of `read`.
    #[inline(always)]
    fn partial_block<S: Simd>(&mut self, simd: S, block: usize, word: Option<&u32>, write: Option<&mut [u32]>) {
        simd.outlined(PartialBlock { block_loop: self, block, word: word.copied().unwrap_or(0), write });
    }
}

/// Elements before the first that begins a line.
fn lead<T>(output: &[T]) -> usize {
    output.as_ptr().addr().wrapping_neg() % LINE / size_of::<T>()
}

fn chunk<T>(elements: &[T]) -> Option<&[[T; 32]; GROUP]> {
    elements.as_chunks().0.try_into().ok()
}

/// [`BlockLoop::partial_block`] as a task, so that it can be outlined: copied to the stack and back, as far as it is there.
struct PartialBlock<'b, 'a, T, P, A> {
    block_loop: &'b mut BlockLoop<'a, T, P, A>,
    block: usize,
    word: u32,
    write: Option<&'b mut [u32]>,
}

impl<T: Element, P: BlockPass<T>, A: Access> Task for PartialBlock<'_, '_, T, P, A> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { block_loop, block, word, write } = self;
        let BlockLoop { pass, start, tensors, lead, head, shift, .. } = block_loop;
        let behind = 32 * block + if *lead == 0 { 32 } else { *lead };
        let range = behind.saturating_sub(32)..behind.min(tensors.io.len());
        // Elements of the first block that are not there.
        let before = 32 - behind.min(32);
        let here = before..before + range.len();
        let padded = |part: &[T]| {
            let mut block = [T::default(); 32];
            block[here.clone()].copy_from_slice(part);
            block
        };
        let x = padded(&tensors.io.input()[range.clone()]);
        let saved = tensors.saved.map_or(x, |saved| padded(&saved[range.clone()]));
        let e = (*start + behind).wrapping_sub(32) as u64;
        let bits = if A::NON_TEMPORAL && P::BITS == Bits::Read { shift.next(word) } else { word };
        let (y, bits) = pass.partial(simd, e, &x, &saved, bits);
        tensors.io.output()[range].copy_from_slice(&y[here.clone()]);
        if let Some(write) = write {
            let there = (u64::from(u32::MAX) >> (32 - here.len())) << here.start;
            let bits = bits & there as u32;
            match block.checked_sub(usize::from(*lead > 0)) {
                Some(place) => write[place] = bits,
                None => *head = bits,
            }
        }
    }
}

/// Asks for lines of blocks that are read a little later.
#[inline(always)]
fn prefetch_to_read<S: Simd, T: Element, P: BlockPass<T>, A: Access>(simd: S, x: &[T; 32], saved: &[T; 32]) {
    let lines = |block: &[T; 32], ahead| {
        let at = block.as_ptr().cast::<u8>().wrapping_add(ahead);
        (0..size_of_val(block) / LINE).map(move |line| at.wrapping_add(LINE * line))
    };
    if A::PREFETCH {
        for line in lines(x, READ_PREFETCH) {
            simd.prefetch(line);
        }
        if P::READS_SAVED {
            for line in lines(saved, READ_PREFETCH) {
                simd.prefetch(line);
            }
        }
    } else if P::READS_SAVED || P::BITS != Bits::None {
        for line in lines(x, NEAR_PREFETCH) {
            simd.prefetch_near(line);
        }
    }
}

/// The same for one that is written.
#[inline(always)]
fn prefetch_to_write<S: Simd, T>(simd: S, block: &[T; 32]) {
    for line in 0..size_of_val(block) / LINE {
        simd.prefetch_to_write(block.as_ptr().cast::<u8>().wrapping_add(WRITE_PREFETCH + LINE * line));
    }
}

/// Blocks that are whole, apart from input and output.
struct WholeBlocks<'a, T, P, A> {
    pass: &'a P,
    access: PhantomData<A>,
    /// Index of the first element.
    e: u64,
    /// For a pass that reads it.
    saved: &'a [[T; 32]],
    /// The words in which the blocks end, or their bits if these were drawn, for a pass that reads bits.
    read: &'a [u32],
    /// Gets the bits of the blocks; none for a pass that writes none.
    write: &'a mut [u32],
    /// The loop's, which shall have it back: a copy can stay in registers.
    shift: WordShift,
}

impl<T: Element, P: BlockPass<T>, A: Access> WholeBlocks<'_, T, P, A> {
    /// Each block, in order.
    #[inline(always)]
    fn block<S: Simd>(&mut self, simd: S, k: usize, x: &[T; 32]) -> [T; 32] {
        let saved = if P::READS_SAVED { &self.saved[k] } else { x };
        prefetch_to_read::<S, T, P, A>(simd, x, saved);
        if P::BITS.writes_bits() {
            simd.prefetch_to_write(self.write.as_ptr().wrapping_add(k + MASK_PREFETCH));
        }
        let bits = match P::BITS {
            Bits::Read if A::NON_TEMPORAL => self.shift.next(self.read[k]),
            Bits::Read | Bits::Draw => self.read[k],
            Bits::None | Bits::Write => 0,
        };
        let (y, bits) = run_block(self.pass, simd, self.e + 32 * k as u64, x, saved, bits);
        // Drawn bits may go nowhere.
        if P::BITS.writes_bits()
            && let Some(write) = self.write.get_mut(k)
        {
            *write = bits;
        }
        y
    }
}

/// The blocks of a group, all of them whole.
pub(super) struct FullGroup<'a, T, P, A> {
    pass: &'a P,
    access: PhantomData<A>,
    /// Index of the first element.
    e: u64,
    tensors: GroupTensors<'a, T>,
    saved: Option<&'a [[T; 32]; GROUP]>,
    /// The bits of the blocks.
    drawn: &'a [u32; GROUP],
    /// Gets the bits of the blocks.
    write: Option<&'a mut [u32; GROUP]>,
}

/// What is read and what is written.
enum GroupTensors<'a, T> {
    InPlace(&'a mut [[T; 32]; GROUP]),
    Apart(&'a [[T; 32]; GROUP], &'a mut [[T; 32]; GROUP]),
    NonTemporal(&'a [[T; 32]; GROUP], CacheLines<'a, T>),
}

impl<T: Element, P: BlockPass<T>, A: Access> Interleaved for FullGroup<'_, T, P, A> {
    #[inline(always)]
    fn step<S: Simd>(&mut self, simd: S, k: usize) {
        let x = match &self.tensors {
            GroupTensors::InPlace(both) => &both[k],
            GroupTensors::Apart(x, _) | GroupTensors::NonTemporal(x, _) => &x[k],
        };
        let saved = self.saved.map_or(x, |saved| &saved[k]);
        prefetch_to_read::<S, T, P, A>(simd, x, saved);
        if let GroupTensors::Apart(_, y) = &self.tensors {
            prefetch_to_write(simd, &y[k]);
        }
        let (y, bits) = run_block(self.pass, simd, self.e + 32 * k as u64, x, saved, self.drawn[k]);
        match &mut self.tensors {
            GroupTensors::InPlace(blocks) | GroupTensors::Apart(_, blocks) => blocks[k] = y,
            GroupTensors::NonTemporal(_, lines) => simd.store_non_temporal(&y, lines, k),
        }
        if let Some(write) = &mut self.write {
            write[k] = bits;
        }
    }
}
