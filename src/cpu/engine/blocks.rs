//! A task's loop over its blocks: group by group where 16 blocks are whole, block by block elsewhere.

use std::ops::Range;

use super::block_pass::{Bits, BlockPass};
use super::keep_stream::{GROUP, Interleaved};
use super::shift::WordShift;
use super::tuning::{ALIGNED_ELEMENTS, READ_PREFETCH, WRITE_PREFETCH};
use crate::cpu::simd::{CacheLines, LINE, Simd};
use crate::element::Element;
use crate::io::{InOut, Tensors};

/// A task's loop over its blocks.
pub(super) struct BlockLoop<'a, T, P, const NON_TEMPORAL: bool> {
    pass: &'a P,
    /// Index of the task's first element.
    start: usize,
    tensors: Tensors<'a, T>,
    /// Elements before the first cache line: the part of block 0 that is there. If none are, block 0 is like the others.
    pub(super) lead: usize,
    /// The bits of block 0, if it is a part, for which there is no room among the words.
    pub(super) head: u32,
    /// Makes bits of blocks from words of a mask that is read.
    pub(super) shift: WordShift,
}

impl<'a, T: Element, P: BlockPass<T>, const NON_TEMPORAL: bool> BlockLoop<'a, T, P, NON_TEMPORAL> {
    #[inline(always)]
    pub(super) fn new(pass: &'a P, start: usize, mut tensors: Tensors<'a, T>) -> Self {
        let output = tensors.io.output();
        let aligned = NON_TEMPORAL || P::MEMORY_BOUND && P::BITS == Bits::None && output.len() >= ALIGNED_ELEMENTS;
        let lead = if aligned { lead(output).min(output.len()) } else { 0 };
        Self { pass, start, tensors, lead, head: 0, shift: WordShift::to_blocks(lead) }
    }

    /// How many there are.
    pub(super) fn blocks(&self) -> usize {
        (self.tensors.io.len() + 32 - end(self.lead)).div_ceil(32)
    }

    /// The blocks of a group that begins with block `first`, if all are whole and end a word of `read` and `write`
    /// where these are needed.
    #[inline(always)]
    pub(super) fn full_group<'b>(
        &'b mut self,
        first: usize,
        read: &'b [u32],
        write: Option<&'b mut [u32]>,
    ) -> Option<FullGroup<'b, T, P, NON_TEMPORAL>> {
        let begin = (32 * first + end(self.lead)).checked_sub(32)?;
        let range = begin..begin + 32 * GROUP;
        let y = |y: &'b mut [T]| y.get_mut(range.clone())?.as_chunks_mut().0.try_into().ok();
        let tensors = match &mut self.tensors.io {
            // Which nobody asks for.
            InOut::InPlace(_) if NON_TEMPORAL => return None,
            InOut::InPlace(both) => GroupTensors::InPlace(y(both)?),
            InOut::OutOfPlace(x, output) => {
                let x = chunk(x.get(range.clone())?)?;
                if NON_TEMPORAL {
                    GroupTensors::NonTemporal(x, CacheLines::new(y(output)?)?)
                } else {
                    GroupTensors::Apart(x, y(output)?)
                }
            }
        };
        Some(FullGroup {
            pass: self.pass,
            e: (self.start + begin) as u64,
            tensors,
            saved: if P::READS_SAVED { Some(chunk(self.tensors.saved?.get(range)?)?) } else { None },
            read: if P::BITS.reads_bits() { read.first_chunk()? } else { &[0; GROUP] },
            write: match write {
                Some(write) if P::BITS.writes_bits() => {
                    Some(write.get_mut(first - usize::from(self.lead > 0)..)?.first_chunk_mut()?)
                }
                _ => None,
            },
            shift: self.shift,
        })
    }

    /// The blocks of any group, one after the other, as far as they are there.
    #[inline(always)]
    pub(super) fn partial_blocks<S: Simd>(
        &mut self,
        simd: S,
        group: Range<usize>,
        read: &[u32],
        mut write: Option<&mut [u32]>,
    ) {
        for (k, block) in group.enumerate() {
            let behind = 32 * block + end(self.lead);
            let range = behind.saturating_sub(32)..behind.min(self.tensors.io.len());
            // Elements of the first block that are not there.
            let before = 32 - behind.min(32);
            let here = before..before + range.len();
            let padded = |part: &[T]| {
                let mut block = [T::default(); 32];
                block[here.clone()].copy_from_slice(part);
                block
            };
            let x = padded(&self.tensors.io.input()[range.clone()]);
            let saved = self.tensors.saved.map_or(x, |saved| padded(&saved[range.clone()]));
            let e = (self.start + behind).wrapping_sub(32) as u64;
            let word = read.get(k).copied().unwrap_or(0);
            let bits = if NON_TEMPORAL && P::BITS == Bits::Read { self.shift.next(word) } else { word };
            let (y, bits) = self.pass.block(simd, e, &x, &saved, bits);
            self.tensors.io.output()[range].copy_from_slice(&y[here.clone()]);
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

/// The blocks of a group, all of them whole.
pub(super) struct FullGroup<'a, T, P, const NON_TEMPORAL: bool> {
    pass: &'a P,
    /// Index of the first element.
    e: u64,
    tensors: GroupTensors<'a, T>,
    saved: Option<&'a [[T; 32]; GROUP]>,
    /// The words in which the blocks end, or the bits of the blocks if these were drawn.
    read: &'a [u32; GROUP],
    /// Gets the bits of the blocks.
    write: Option<&'a mut [u32; GROUP]>,
    /// The loop's, which shall have it back: a copy can stay in registers.
    pub(super) shift: WordShift,
}

/// What is read and what is written.
enum GroupTensors<'a, T> {
    InPlace(&'a mut [[T; 32]; GROUP]),
    Apart(&'a [[T; 32]; GROUP], &'a mut [[T; 32]; GROUP]),
    NonTemporal(&'a [[T; 32]; GROUP], CacheLines<'a, T, GROUP>),
}

impl<T: Element, P: BlockPass<T>, const NON_TEMPORAL: bool> Interleaved for FullGroup<'_, T, P, NON_TEMPORAL> {
    #[inline(always)]
    fn step<S: Simd>(&mut self, simd: S, k: usize) {
        let x = match &self.tensors {
            GroupTensors::InPlace(both) => &both[k],
            GroupTensors::Apart(x, _) | GroupTensors::NonTemporal(x, _) => &x[k],
        };
        let saved = self.saved.map_or(x, |saved| &saved[k]);
        for line in 0..size_of_val(x) / LINE {
            simd.prefetch(x.as_ptr().cast::<u8>().wrapping_add(READ_PREFETCH + LINE * line));
            if P::READS_SAVED {
                simd.prefetch(saved.as_ptr().cast::<u8>().wrapping_add(READ_PREFETCH + LINE * line));
            }
        }
        if let GroupTensors::Apart(_, y) = &self.tensors {
            for line in 0..size_of_val(x) / LINE {
                simd.prefetch_to_write(y[k].as_ptr().cast::<u8>().wrapping_add(WRITE_PREFETCH + LINE * line));
            }
        }
        let bits = match P::BITS {
            Bits::Read if NON_TEMPORAL => self.shift.next(self.read[k]),
            Bits::Read | Bits::Draw => self.read[k],
            Bits::None | Bits::Write => 0,
        };
        let (y, bits) = self.pass.block(simd, self.e + 32 * k as u64, x, saved, bits);
        match &mut self.tensors {
            GroupTensors::InPlace(blocks) | GroupTensors::Apart(_, blocks) => blocks[k] = y,
            GroupTensors::NonTemporal(_, lines) => simd.store_non_temporal(&y, lines, k),
        }
        if P::BITS.writes_bits()
            && let Some(write) = &mut self.write
        {
            write[k] = bits;
        }
    }
}
