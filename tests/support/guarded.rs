//! Slices at a chosen alignment, with sentinels around them.

use super::data::Bits;

/// Sentinels on each side: more than the largest vector access, in elements of the smallest type.
const GUARD: usize = 128;

/// Elements beyond a multiple of this many bytes are what a placement counts.
pub const BOUNDARY: usize = 64;

/// A slice that starts `offset` elements past a 64-byte boundary, in the midst of sentinels.
#[derive(Debug)]
pub struct Guarded<T> {
    memory: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Bits> Guarded<T> {
    /// Holds a copy of `values`.
    pub fn new(values: &[T], offset: usize) -> Self {
        let mut guarded = Self::garbage(values.len(), offset);
        guarded.slice_mut().copy_from_slice(values);
        guarded
    }

    /// For an output: what is not written shows, since no pass makes this NaN from test data.
    pub fn garbage(len: usize, offset: usize) -> Self {
        let memory = vec![Self::sentinel(); GUARD + BOUNDARY / size_of::<T>() + offset + len + GUARD];
        let aligned = (memory.as_ptr() as usize + GUARD * size_of::<T>()).next_multiple_of(BOUNDARY);
        let start = (aligned - memory.as_ptr() as usize) / size_of::<T>() + offset;
        Self { memory, start, len }
    }

    pub fn slice(&self) -> &[T] {
        &self.memory[self.start..self.start + self.len]
    }

    pub fn slice_mut(&mut self) -> &mut [T] {
        &mut self.memory[self.start..self.start + self.len]
    }

    /// Whether nothing outside the slice was written.
    pub fn intact(&self) -> bool {
        let outside = self.memory[..self.start].iter().chain(&self.memory[self.start + self.len..]);
        outside.into_iter().all(|v| v.bits() == Self::sentinel().bits())
    }

    /// A quiet NaN with a payload of its own.
    pub fn sentinel() -> T {
        let ones = u64::MAX >> (64 - T::width());
        T::from_bits(ones ^ 0b1010)
    }
}
