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

    /// Copies elements out: as many of the range as `to` has room for.
    ///
    /// # Safety
    /// No other thread writes these elements meanwhile.
    #[inline(always)]
    pub(super) unsafe fn read(&self, range: Range<usize>, to: &mut [T; 32]) {
        let len = range.len().min(32);
        assert!(range.start <= self.len && len <= self.len - range.start, "beyond the tensor");
        // SAFETY: within the slice, by the assertion; `to` is another array. No other thread writes there, by this
        // function's contract.
        unsafe { self.elements.add(range.start).copy_to_nonoverlapping(to.as_mut_ptr(), len) };
    }

    /// Writes elements: those of the range, up to 32, from `from`.
    ///
    /// # Safety
    /// No other thread reads or writes these elements meanwhile.
    #[inline(always)]
    pub(super) unsafe fn write(&self, range: Range<usize>, from: &[T; 32]) {
        let len = range.len().min(32);
        assert!(range.start <= self.len && len <= self.len - range.start, "beyond the tensor");
        // SAFETY: within the slice, by the assertion; `from` is another array. No other thread is there, by this
        // function's contract.
        unsafe { self.elements.add(range.start).copy_from_nonoverlapping(from.as_ptr(), len) };
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
            disjoint.write(3..35, &block);
            disjoint.write(65..70, &block);
            disjoint.read(1..5, &mut read);
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
        for range in [9..41, 41..42, usize::MAX - 2..usize::MAX] {
            // SAFETY: this thread is alone.
            let write = || unsafe { disjoint.write(range.clone(), &[1; 32]) };
            assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(write)).is_err(), "{range:?}");
        }
    }
}
