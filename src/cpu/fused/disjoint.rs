//! A tensor that tasks write side by side, each in places of its own that do not follow each other.
#![allow(unsafe_code)] // elements that several threads write; each block names the contract that makes it sound

use std::marker::PhantomData;
use std::ops::Range;
use std::slice;

use crate::cpu::simd::{CacheLines, Simd};
use crate::element::Element;

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

    /// Some elements of a block, of which the first would be at `start`.
    ///
    /// # Safety
    /// No other thread reads or writes these elements meanwhile.
    #[inline(always)]
    pub(super) unsafe fn write_lanes<S: Simd>(&self, simd: S, start: usize, lanes: Range<usize>, block: &[T; 32])
    where
        T: Element,
    {
        assert!(lanes.end <= 32 && start.saturating_add(lanes.end) <= self.len, "beyond the tensor");
        let to = self.elements.wrapping_add(start);
        // SAFETY: these lanes lie within the slice, by the check. No other thread is there, by this function's contract.
        unsafe { simd.store_lanes(lanes, block, to) };
    }

    /// The same, by non-temporal stores where they fill cache lines: others see it after a
    /// [`Fence`](crate::cpu::simd::Fence).
    ///
    /// # Safety
    /// As for [`write_lanes`](Self::write_lanes).
    #[inline(always)]
    pub(super) unsafe fn stream_lanes<S: Simd>(&self, simd: S, start: usize, lanes: Range<usize>, block: &[T; 32])
    where
        T: Element,
    {
        if lanes == (0..32) {
            self.check(start..start.saturating_add(32), 32);
            // SAFETY: a whole block within the slice, by the check. No other thread is there, by this function's contract.
            let to = unsafe { slice::from_raw_parts_mut(self.elements.add(start).cast::<[T; 32]>(), 1) };
            if let Ok(mut lines) = CacheLines::new(to) {
                return simd.store_non_temporal(block, &mut lines, 0);
            }
        }
        // SAFETY: this function's contract is the same.
        unsafe { self.write_lanes(simd, start, lanes, block) }
    }

    /// So many elements are there.
    #[inline(always)]
    fn check(&self, range: Range<usize>, len: usize) {
        assert!(range.len() == len && range.end <= self.len, "beyond the tensor");
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::cpu::lane::Lane;
    use crate::cpu::simd::tests::sets;
    use crate::cpu::simd::{Task, dispatch};
    use crate::real::Real;

    struct Write<'a, 'b, T>(&'b Disjoint<'a, T>, usize, Range<usize>, &'b [T; 32], bool);

    impl<T: Element> Task for Write<'_, '_, T> {
        #[inline(always)]
        fn run<S: Simd>(self, simd: S) {
            let Self(disjoint, start, lanes, block, streamed) = self;
            // SAFETY: this thread is alone.
            unsafe {
                if streamed {
                    disjoint.stream_lanes(simd, start, lanes, block);
                    simd.fence();
                } else {
                    disjoint.write_lanes(simd, start, lanes, block);
                }
            }
        }
    }

    #[repr(align(64))]
    struct OnALine<T>([T; 70]);

    fn elements_are_written<T: Lane>() {
        let block: [T; 32] = std::array::from_fn(|i| T::from_real(T::Real::from_f64(i as f64 + 1.0)));
        for set in sets() {
            for (start, lanes) in (0..40)
                .flat_map(|start| (0..=32).map(move |lane| (start, lane)))
                .flat_map(|(start, from)| (from..=32).map(move |to| (start, from..to)))
                .filter(|(start, lanes)| start + lanes.end <= 70 && (*start < 3 || *start > 36))
            {
                for streamed in [false, true] {
                    let mut tensor = OnALine([T::default(); 70]);
                    let disjoint = Disjoint::new(&mut tensor.0);
                    set.force(|| dispatch(Write(&disjoint, start, lanes.clone(), &block, streamed)));
                    for (i, element) in tensor.0.iter().enumerate() {
                        let lane = i.wrapping_sub(start);
                        let expected = if lanes.contains(&lane) { block[lane] } else { T::default() };
                        let what = format!("{set:?} {}, streamed {streamed}", T::DTYPE.name());
                        assert!(*element == expected, "{what}: element {i}, {lanes:?} at {start}");
                    }
                }
            }
        }
    }

    #[test]
    fn elements_are_written_where_they_belong() {
        elements_are_written::<bf16>();
        elements_are_written::<f32>();
        elements_are_written::<f64>();
    }

    #[test]
    fn elements_are_read() {
        let mut tensor: [u16; 70] = std::array::from_fn(|i| i as u16);
        let mut read = [9; 32];
        // SAFETY: this thread is alone.
        unsafe { Disjoint::new(&mut tensor).read(5..9, &mut read[..4]) };
        assert_eq!(read[..5], [5, 6, 7, 8, 9]);
    }

    #[test]
    fn what_lies_beyond_is_nobody_s() {
        let mut tensor = [0f32; 40];
        let disjoint = Disjoint::new(&mut tensor);
        let beyond = [(9, 0..32), (40, 0..1), (8, 0..33), (usize::MAX - 8, 0..9), (usize::MAX - 8, 0..32)];
        for ((start, lanes), streamed) in beyond.into_iter().flat_map(|at| [(at.clone(), false), (at, true)]) {
            let write = || dispatch(Write(&disjoint, start, lanes.clone(), &[1.0; 32], streamed));
            assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(write)).is_err(), "{start}, {lanes:?}");
        }
        for range in [39..41, 38..40, usize::MAX - 1..usize::MAX] {
            // SAFETY: this thread is alone.
            let read = || unsafe { disjoint.read(range.clone(), &mut [0.0; 1]) };
            assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(read)).is_err(), "{range:?}");
        }
    }
}
