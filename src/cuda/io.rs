//! The device tensor that a pass reads and the one it writes, which may be the same.

use cudarc::driver::{CudaEvent, CudaSlice, CudaStream, CudaView, CudaViewMut};

use super::error::Result as CudaResult;
use super::order::Turn;
use super::stream_checks::same_context;

/// A pass's input and output in device memory: two slices of the same length, or one that is
/// overwritten.
///
/// Made from `(&x, &mut y)`, where x is a [`CudaSlice`] or a [`CudaView`] and y a [`CudaSlice`] or a
/// [`CudaViewMut`], or from `&mut x` with one of the latter two. A view may start at any element.
#[derive(Debug)]
pub enum InOut<'a, T> {
    /// Reads one slice and writes another.
    OutOfPlace(CudaView<'a, T>, CudaViewMut<'a, T>),
    /// Overwrites its input.
    InPlace(CudaViewMut<'a, T>),
}

impl<'a, T> InOut<'a, T> {
    /// Elements of the input.
    pub fn len(&self) -> usize {
        match self {
            Self::OutOfPlace(input, _) => input.len(),
            Self::InPlace(both) => both.len(),
        }
    }

    /// Whether the input has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Elements of the output, which may be another number before a call has been checked.
    pub(super) fn output_len(&self) -> usize {
        match self {
            Self::OutOfPlace(_, output) | Self::InPlace(output) => output.len(),
        }
    }

    /// Both must belong to the stream's context.
    pub(super) fn same_context(
        &self,
        stream: &CudaStream,
        output: &'static str,
        input: &'static str,
    ) -> CudaResult<()> {
        match self {
            Self::OutOfPlace(from, to) => {
                same_context(stream, input, from)?;
                same_context(stream, output, to)
            }
            Self::InPlace(both) => same_context(stream, input, both),
        }
    }

    /// The addresses of input and output, in that order, and their events.
    pub(super) fn take_turn(self, turn: &'a Turn<'_>) -> (u64, u64, [Option<&'a CudaEvent>; 2]) {
        match self {
            Self::OutOfPlace(from, to) => {
                let (input, read) = turn.read(from);
                let (output, written) = turn.write(to);
                (input, output, [read, written])
            }
            Self::InPlace(both) => {
                let (address, written) = turn.write(both);
                (address, address, [None, written])
            }
        }
    }
}

/// A device tensor that a backward pass reads besides dy: a [`CudaSlice`], a [`CudaView`] or a [`CudaViewMut`]
/// of cudarc. No other type can implement it.
pub trait Saved<T>: sealed::Saved<T> {}

mod sealed {
    use super::{CudaSlice, CudaView, CudaViewMut};

    pub trait Saved<T> {
        /// All of it.
        fn view(&self) -> CudaView<'_, T>;
    }

    impl<T> Saved<T> for CudaSlice<T> {
        fn view(&self) -> CudaView<'_, T> {
            self.as_view()
        }
    }

    impl<T> Saved<T> for CudaView<'_, T> {
        fn view(&self) -> CudaView<'_, T> {
            self.slice(..)
        }
    }

    impl<T> Saved<T> for CudaViewMut<'_, T> {
        fn view(&self) -> CudaView<'_, T> {
            self.as_view()
        }
    }
}

impl<T> Saved<T> for CudaSlice<T> {}
impl<T> Saved<T> for CudaView<'_, T> {}
impl<T> Saved<T> for CudaViewMut<'_, T> {}

macro_rules! out_of_place {
    ($($input:ty, $output:ty;)+) => {$(
        impl<'a, T> From<(&'a $input, &'a mut $output)> for InOut<'a, T> {
            fn from((input, output): (&'a $input, &'a mut $output)) -> Self {
                Self::OutOfPlace(input.slice(..), output.slice_mut(..))
            }
        }
    )+};
}

out_of_place! {
    CudaSlice<T>, CudaSlice<T>;
    CudaSlice<T>, CudaViewMut<'_, T>;
    CudaView<'_, T>, CudaSlice<T>;
    CudaView<'_, T>, CudaViewMut<'_, T>;
}

impl<'a, T> From<&'a mut CudaSlice<T>> for InOut<'a, T> {
    fn from(both: &'a mut CudaSlice<T>) -> Self {
        Self::InPlace(both.as_view_mut())
    }
}

impl<'a, T> From<&'a mut CudaViewMut<'_, T>> for InOut<'a, T> {
    fn from(both: &'a mut CudaViewMut<'_, T>) -> Self {
        Self::InPlace(both.slice_mut(..))
    }
}
