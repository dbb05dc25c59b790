//! The tensors of a pass in host memory.

use half::{bf16, f16};

use crate::element::{Element, ForEachType};
use crate::pass::{Arguments, MaskArgument};

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

    /// Elements of the output, which may be another number before a call has been checked.
    pub(crate) fn output_len(&self) -> usize {
        match self {
            Self::OutOfPlace(_, output) | Self::InPlace(output) => output.len(),
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

/// The tensors of a pass by role, as [`Pass`](crate::Pass) names them.
#[derive(Debug)]
pub struct Tensors<'a, T> {
    pub(crate) io: InOut<'a, T>,
    pub(crate) saved: Option<&'a [T]>,
}

/// [`Tensors`] of any element type. What takes these is compiled once, with this crate, and not for every caller.
#[derive(Debug)]
pub enum AnyTensors<'a> {
    F32(Tensors<'a, f32>),
    F16(Tensors<'a, f16>),
    Bf16(Tensors<'a, bf16>),
    F64(Tensors<'a, f64>),
}

impl<'a, T> Tensors<'a, T> {
    /// The first `at` elements, and the others.
    pub(crate) fn split_at(self, at: usize) -> (Self, Self) {
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
        let (saved_a, saved_b) = self.saved.map(|saved| saved.split_at(at)).unzip();
        (Self { io: io_a, saved: saved_a }, Self { io: io_b, saved: saved_b })
    }

    #[inline(always)]
    fn arguments(&self, mask: MaskArgument) -> Arguments {
        let (output, saved) = (Some(self.io.output_len()), self.saved.map(<[T]>::len));
        Arguments { output, saved, mask, ..Arguments::of_length(self.io.len()) }
    }
}

impl AnyTensors<'_> {
    /// The arguments of a call on these tensors.
    #[inline(always)]
    pub(crate) fn arguments(&self, mask: MaskArgument) -> Arguments {
        match self {
            Self::F32(tensors) => tensors.arguments(mask),
            Self::F16(tensors) => tensors.arguments(mask),
            Self::Bf16(tensors) => tensors.arguments(mask),
            Self::F64(tensors) => tensors.arguments(mask),
        }
    }
}

impl<'a> ForEachType for AnyTensors<'a> {
    type Argument<T: Element> = Tensors<'a, T>;
    type Output = Self;

    #[inline(always)]
    fn f32(tensors: Tensors<'a, f32>) -> Self {
        Self::F32(tensors)
    }

    #[inline(always)]
    fn f16(tensors: Tensors<'a, f16>) -> Self {
        Self::F16(tensors)
    }

    #[inline(always)]
    fn bf16(tensors: Tensors<'a, bf16>) -> Self {
        Self::Bf16(tensors)
    }

    #[inline(always)]
    fn f64(tensors: Tensors<'a, f64>) -> Self {
        Self::F64(tensors)
    }
}
