//! dz of blocks, and where it goes besides.

use super::summand::{Here, bits};
use super::values::Values;
use crate::cpu::engine::NON_TEMPORAL_BYTES;
use crate::cpu::fused::disjoint::Disjoint;
use crate::cpu::fused::gradient::Source;
use crate::cpu::lane::Lane;
use crate::cpu::part::whole_bytes;
use crate::cpu::simd::{LINE, Simd};
use crate::io::InOut;
use crate::shape::Shape;

/// dz, which is written too where the residual's gradient is asked for; `STREAMED`, by non-temporal stores where it
/// [is large](streams).
pub(super) struct Gradients<'a, T, P, const STREAMED: bool> {
    pub(super) dy: Tensors<'a, T>,
    pub(super) source: P,
    /// The mask's.
    pub(super) words: Option<&'a [u32]>,
}

/// Whether dr is so large that no cache holds it until it is used, and its blocks begin on cache lines. By ordinary stores
/// each line would be read before it is overwritten: a bias's backward pass in f32 took 1.15 to 1.5 times as long so (EPYC,
/// family 26, 51 to 103 MB). Not to be asked for 16 bits, where arithmetic bounds it: 0.9 to 1.15 times.
pub(super) fn streams<T>(shape: Shape, io: &InOut<'_, T>) -> bool {
    let InOut::OutOfPlace(_, dr) = io else { return false };
    let (inner, size) = (shape.inner(), size_of::<T>());
    whole_bytes(size_of_val(*dr)) >= NON_TEMPORAL_BYTES
        && dr.as_ptr().addr().is_multiple_of(LINE)
        && (inner == 1 || (inner * size).is_multiple_of(LINE)) // from one plane to the next
}

/// dy and dr.
pub(super) enum Tensors<'a, T> {
    Read(&'a [T]),
    Apart(&'a [T], Disjoint<'a, T>),
    InPlace(Disjoint<'a, T>),
}

impl<'a, T: Lane> Tensors<'a, T> {
    /// An output without elements is none.
    pub(super) fn new(io: InOut<'a, T>) -> Self {
        match io {
            InOut::OutOfPlace(dy, []) => Self::Read(dy),
            InOut::OutOfPlace(dy, dr) => Self::Apart(dy, Disjoint::new(dr)),
            InOut::InPlace(both) => Self::InPlace(Disjoint::new(both)),
        }
    }
}

impl<T: Lane<Real: Lane>, P: Source<T>, const STREAMED: bool> Gradients<'_, T, P, STREAMED> {
    /// dz of a block; where that is shorter, anything behind it.
    #[inline(always)]
    #[allow(unsafe_code)] // see `disjoint`
    pub(super) fn block<S: Simd, V: Values<T::Real>>(&self, simd: S, here: &Here<'_, V>) -> [T::Real; 32] {
        let dy = match &self.dy {
            Tensors::Read(dy) | Tensors::Apart(dy, _) => here.block(simd, dy),
            Tensors::InPlace(both) => {
                let mut dy = [T::default(); 32];
                // SAFETY: each element counts in one block of one part, which one thread works on.
                unsafe { both.read(here.elements(), &mut dy[here.lanes.clone()]) };
                dy
            }
        };
        let bits = self.words.map_or(u32::MAX, |words| bits(words, here.start));
        let dz = self.source.block(simd, here, &dy, bits);
        if let Tensors::Apart(_, dr) | Tensors::InPlace(dr) = &self.dy {
            let block = T::from_reals(simd, &dz);
            let lanes = here.lanes.clone();
            // SAFETY: as above.
            unsafe {
                if STREAMED {
                    dr.stream_lanes(simd, here.start, lanes, &block);
                } else {
                    dr.write_lanes(simd, here.start, lanes, &block);
                }
            }
        }
        dz
    }
}
