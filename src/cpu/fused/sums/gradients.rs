//! dz of blocks, and where it goes besides.

use super::summand::{Here, bits};
use super::values::Values;
use crate::cpu::fused::disjoint::Disjoint;
use crate::cpu::fused::gradient::Source;
use crate::cpu::lane::Lane;
use crate::cpu::simd::Simd;
use crate::io::InOut;

/// dz, which is written too where the residual's gradient is asked for.
pub(super) struct Gradients<'a, T, P> {
    pub(super) dy: Tensors<'a, T>,
    pub(super) source: P,
    /// The mask's.
    pub(super) words: Option<&'a [u32]>,
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

impl<T: Lane<Real: Lane>, P: Source<T>> Gradients<'_, T, P> {
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
            // SAFETY: as above.
            unsafe { dr.write_lanes(simd, here.start, here.lanes.clone(), &block) }
        }
        dz
    }
}
