//! A tensor that tasks write side by side, each in places of its own that do not follow each other.
#![allow(unsafe_code)] // elements that several threads write; each block names the contract that makes it sound

use std::marker::PhantomData;
use std::ops::Range;

/// Elements that are nobody else's for 'a.
#[derive(Clone, Copy)]
pub(super) struct Disjoint<'a, T> {
    elements: *mut T,
    len: usize,
    borrowed: PhantomData<&'a mut [T]>,
}

// SAFETY: it stands for the exclusive slice that it was made from; who reads or writes elements answers for it that
// nobody else touches these meanwhile.
unsafe impl<T: Send> Send for Disjoint<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T: Copy> Disjoint<'a, T> {
    pub(super) fn new(elements: &'a mut [T]) -> Self {
        Self { elements: elements.as_mut_ptr(), len: elements.len(), borrowed: PhantomData }
    }

    /// Copies elements out.
    ///
    /// # Safety
    /// No other thread writes these elements meanwhile.
    #[inline(always)]
    pub(super) unsafe fn read(&self, range: Range<usize>, to: &mut [T]) {
        self.check(range.clone(), to.len());
        // SAFETY: within the slice, by the check; `to` is other memory. No other thread writes there, by this function's
        // contract.
        unsafe { self.elements.add(range.start).copy_to_nonoverlapping(to.as_mut_ptr(), to.len()) };
    }

    /// Writes elements.
    ///
    /// # Safety
    /// No other thread reads or writes these elements meanwhile.
    #[inline(always)]
    pub(super) unsafe fn write(&self, range: Range<usize>, from: &[T]) {
        self.check(range.clone(), from.len());
        // SAFETY: within the slice, by the check; `from` is other memory. No other thread is there, by this function's
        // contract.
        unsafe { self.elements.add(range.start).copy_from_nonoverlapping(from.as_ptr(), from.len()) };
    }

    /// [`Disjoint::write`] for as many as fill a block, which compilers then know.
    ///
    /// # Safety
    /// That of [`Disjoint::write`].
    #[inline(always)]
    pub(super) unsafe fn write_block(&self, start: usize, from: &[T; 32]) {
        // SAFETY: by this function's contract.
        unsafe { self.write(start..start.saturating_add(32), from) };
    }

    /// So many elements are there.
    #[inline(always)]
    fn check(&self, range: Range<usize>, len: usize) {
        assert!(range.len() == len && range.end <= self.len, "beyond the tensor");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_written_where_they_belong() {
        let mut tensor = [0u16; 70];
        let disjoint = Disjoint::new(&mut tensor);
        let block: [u16; 32] = std::array::from_fn(|i| i as u16 + 1);
        let mut read = [9; 32];
        // SAFETY: this thread is alone.
        unsafe {
            disjoint.write_block(3, &block);
            disjoint.write(65..70, &block[..5]);
            disjoint.read(1..5, &mut read[..4]);
        }
        assert_eq!(read[..6], [0, 0, 1, 2, 9, 9]);
        assert_eq!(tensor[..4], [0, 0, 0, 1]);
        assert_eq!(tensor[34..66], *[[32].as_slice(), &[0; 30], &[1]].concat());
        assert_eq!(tensor[66..], [2, 3, 4, 5]);
    }

    #[test]
    fn what_lies_beyond_is_nobody_s() {
        let mut tensor = [0u16; 40];
        let disjoint = Disjoint::new(&mut tensor);
        for range in [9..41, 8..41, 8..39, usize::MAX - 32..usize::MAX] {
            // SAFETY: this thread is alone.
            let write = || unsafe { disjoint.write(range.clone(), &[1; 32]) };
            assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(write)).is_err(), "{range:?}");
        }
    }
}
