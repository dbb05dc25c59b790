//! The tensor a pass reads and the one it writes, which may be the same.

use crate::check::same_length;
use crate::error::Result;

/// A pass's input and output in host memory: two slices of the same length, or one that is
/// overwritten.
///
/// Made from `(&x[..], &mut y[..])` or from `&mut x[..]`:
///
/// ```
/// use drop_activation::{cpu, DropActivation};
/// let op = DropActivation::default();
/// let mut x = vec![-1.0f32, 2.0];
/// let mut y = vec![0.0; 2];
/// cpu::infer(&op, (&x, &mut y))?;
/// cpu::infer(&op, &mut x)?;
/// assert_eq!(x, y);
/// # Ok::<(), drop_activation::Error>(())
/// ```
#[derive(Debug)]
pub enum InOut<'a, T> {
    /// Reads one slice and writes another.
    OutOfPlace(&'a [T], &'a mut [T]),
    /// Overwrites its input.
    InPlace(&'a mut [T]),
}

impl<'a, T> InOut<'a, T> {
    /// Elements of the input.
    pub fn len(&self) -> usize {
        match self {
            Self::OutOfPlace(input, _) => input.len(),
            Self::InPlace(both) => both.len(),
        }
    }

    /// What is read.
    pub(crate) fn input(&self) -> &[T] {
        match self {
            Self::OutOfPlace(input, _) => input,
            Self::InPlace(both) => both,
        }
    }

    /// What is written.
    pub(crate) fn output(&mut self) -> &mut [T] {
        match self {
            Self::OutOfPlace(_, output) | Self::InPlace(output) => output,
        }
    }

    /// Whether the input has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The output must be as long as the input; gives that length.
    pub(crate) fn checked_len(&self, output: &'static str, input: &'static str) -> Result<usize> {
        if let Self::OutOfPlace(from, to) = self {
            same_length(output, to.len(), input, from.len())?;
        }
        Ok(self.len())
    }
}

impl<'a, T, A, B> From<(&'a A, &'a mut B)> for InOut<'a, T>
where
    A: AsRef<[T]> + ?Sized,
    B: AsMut<[T]> + ?Sized,
{
    fn from((input, output): (&'a A, &'a mut B)) -> Self {
        Self::OutOfPlace(input.as_ref(), output.as_mut())
    }
}

impl<'a, T, B> From<&'a mut B> for InOut<'a, T>
where
    B: AsMut<[T]> + ?Sized,
{
    fn from(both: &'a mut B) -> Self {
        Self::InPlace(both.as_mut())
    }
}
