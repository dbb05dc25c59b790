//! What is computed: the codes, the structure, and what they say in Rust.

use std::ffi::{CString, c_char};
use std::sync::LazyLock;

use drop_activation::fused::{Dz, Shape};
use drop_activation::{Activation, DropActivation, MaskKey, Pass, RRelu};

use crate::error::Failure;
use crate::structure::Structure;

/// Training forward, `y = keep ? σ(x) : x`: reads input x, writes output y and the mask.
pub const DACT_PASS_FORWARD: u32 = 1;
/// The same for ReLU alone, without a mask.
pub const DACT_PASS_FORWARD_WITHOUT_MASK: u32 = 2;
/// Training backward, `dx = keep ? dy σ'(x) : dy`: reads input dy, the mask and, but for ReLU, saved x; writes
/// output dx.
pub const DACT_PASS_BACKWARD: u32 = 3;
/// ReLU's training backward without a mask, `dx = (y == 0) ? +0 : dy`: reads input dy and saved y, writes output
/// dx.
pub const DACT_PASS_BACKWARD_FROM_OUTPUT: u32 = 4;
/// Inference forward, `y = (1-p) x + p σ(x)`: reads input x, writes output y.
pub const DACT_PASS_INFER: u32 = 5;
/// Inference backward, `dx = dy ((1-p) + p σ'(x))`: reads input dy and saved x, writes output dx.
pub const DACT_PASS_INFER_BACKWARD: u32 = 6;
/// RReLU's training forward, `y = x >= 0 ? x : U x`, U uniform between lower and upper: reads input x, writes
/// output y and the mask.
pub const DACT_PASS_RRELU_FORWARD: u32 = 7;
/// RReLU's training backward, `dx = x >= 0 ? dy : U dy` with U drawn again from the forward pass's key: reads
/// input dy and the mask, writes output dx.
pub const DACT_PASS_RRELU_BACKWARD: u32 = 8;
/// RReLU's inference forward, `y = x >= 0 ? x : (lower + upper)/2 x`: reads input x, writes output y.
pub const DACT_PASS_RRELU_INFER: u32 = 9;
/// RReLU's inference backward, `dx = x >= 0 ? dy : (lower + upper)/2 dy`: reads input dy and saved x, writes
/// output dx.
pub const DACT_PASS_RRELU_INFER_BACKWARD: u32 = 10;
/// Plain ReLU, `y = x <= 0 ? +0 : x`: reads input x, writes output y.
pub const DACT_PASS_RELU_FORWARD: u32 = 11;
/// Plain ReLU's backward, `dx = y <= 0 ? +0 : dy`: reads input dy and saved y, writes output dx.
pub const DACT_PASS_RELU_BACKWARD: u32 = 12;
/// Training forward on `z = scale[c] x + shift[c] + residual`, where c is the element's channel: `y = keep ? σ(z) : z`.
/// Reads input x and, where they are not NULL, residual, scale and shift; writes output y and the mask. This and the
/// passes after it take the channels and the inner extent of their tensors; docs/fused.md says what they compute.
pub const DACT_PASS_FUSED_FORWARD: u32 = 13;
/// Inference forward on the same z, `y = (1-p) z + p σ(z)`: reads and writes the same, but for the mask.
pub const DACT_PASS_FUSED_INFER: u32 = 14;
/// Mean and biased variance of each channel: reads input x, writes the vectors results[0] (mean) and results[1]
/// (variance).
pub const DACT_PASS_STATISTICS: u32 = 15;
/// The sums of a backward pass: reads input dy and writes the vector results[0], `s1[c] = Σ dz`; where mean is not
/// NULL, reads saved x too and writes results[1], `s2[c] = Σ dz (x - mean[c])`; where output is not NULL, writes `dr = dz`
/// there. For dz it reads the mask, or saved x and, where they are not NULL, residual, scale and shift: see DACT_DZ_.
pub const DACT_PASS_FUSED_SUMS: u32 = 16;
/// Backward, `dx = alpha[c] dz + (beta[c] (x - mean[c]) + gamma[c])`: reads input dy, what dz is computed from, alpha
/// where it is not NULL, and beta, gamma, mean and saved x where these are not NULL, which go together; writes output dx.
pub const DACT_PASS_FUSED_BACKWARD: u32 = 17;

/// `dz = dy`: it was computed before.
pub const DACT_DZ_GIVEN: u32 = 0;
/// As in training, `dz = keep ? dy σ'(z) : dy`, and for ReLU `dz = pass ? dy : +0`: from the mask and, but for ReLU, z.
pub const DACT_DZ_TRAINING: u32 = 1;
/// As at inference, `dz = dy ((1-p) + p σ'(z))`: from z.
pub const DACT_DZ_INFERENCE: u32 = 2;

/// Names the random stream of one call: equal keys give equal masks on every device. A fresh mask takes another
/// offset. This structure does not grow.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct dact_key {
    /// Chooses the stream, together with the offset.
    pub seed: u64,
    /// Another one for each call.
    pub offset: u64,
    /// The global index of element 0, a multiple of 32: 0, unless the tensor is a shard of a larger one.
    pub first: u64,
    /// NULL, or for dact_cuda_run the device address of a base, at a multiple of 8: what is there when the kernel
    /// runs is added to `offset`, modulo 2^64. So a captured graph draws fresh masks at every replay, if the base moves
    /// on in between, as by dact_cuda_advance at the end of the step. RReLU's backward pass draws again and so has to
    /// find the base as its forward pass found it: advance after it, or copy the base aside (cuMemcpyDtoDAsync) and
    /// give both passes the copy's address. On the CPU only NULL is allowed.
    pub device_offset: *const u64,
}

/// What is computed. Fields that the kind has no use for are not looked at.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct dact_pass {
    /// sizeof(dact_pass).
    pub struct_size: u32,
    /// One of DACT_PASS_.
    pub kind: u32,
    /// One of DACT_ACTIVATION_.
    pub activation: u32,
    /// 0.
    pub reserved: u32,
    /// The probability of keeping the nonlinearity, 0 <= p <= 1.
    pub p: f64,
    /// RReLU's smallest slope, 0 < lower <= upper <= 1.
    pub lower: f32,
    /// RReLU's largest slope.
    pub upper: f32,
    /// For a training forward pass, and RReLU's backward pass.
    pub key: dact_key,
    /// For a pass over channels: how many there are, at least 1.
    pub channels: usize,
    /// For a pass over channels: how many neighbouring elements belong to one. Element i belongs to channel
    /// `i / inner % channels`: 1 for rows of features and channels-last images, height times width for channels-first
    /// images. The length of the tensors is a multiple of channels times inner.
    pub inner: usize,
    /// For a backward pass over channels: one of DACT_DZ_.
    pub dz: u32,
    /// 0.
    pub reserved2: u32,
}

// SAFETY: numbers and addresses may be any bytes.
unsafe impl Structure for dact_pass {
    const NAME: &'static str = "pass";
    const FIRST_SIZE: usize = std::mem::offset_of!(Self, key) + size_of::<dact_key>();
}
const _: () = dact_pass::SIZES_FIT;

/// A pass as the library takes it. `device_offset` is null, or where to read what is to be added to the key's offset.
#[derive(Debug)]
pub(crate) struct Computation {
    pub(crate) pass: Pass,
    pub(crate) device_offset: *const u64,
}

impl dact_pass {
    /// What DACT_PASS_INIT is in C, with zeros for what only some kinds of pass have.
    pub(crate) const INIT: Self = Self {
        struct_size: size_of::<Self>() as u32,
        kind: 0,
        activation: 0,
        reserved: 0,
        p: 0.0,
        lower: 0.0,
        upper: 0.0,
        key: dact_key { seed: 0, offset: 0, first: 0, device_offset: std::ptr::null() },
        channels: 0,
        inner: 0,
        dz: 0,
        reserved2: 0,
    };

    /// For tensors of so many elements.
    pub(crate) fn computation(&self, len: usize) -> Result<Computation, Failure> {
        for (field, value) in [("reserved", self.reserved), ("reserved2", self.reserved2)] {
            if value != 0 {
                return Err(Failure::invalid(format!("pass.{field} must be 0, got {value}")));
            }
        }
        let pass = match self.kind {
            DACT_PASS_FORWARD => Pass::Forward { op: self.op()?, key: self.key.mask_key()? },
            DACT_PASS_FORWARD_WITHOUT_MASK => Pass::ForwardWithoutMask { op: self.op()?, key: self.key.mask_key()? },
            DACT_PASS_BACKWARD => Pass::Backward { op: self.op()? },
            DACT_PASS_BACKWARD_FROM_OUTPUT => Pass::BackwardFromOutput { op: self.op()? },
            DACT_PASS_INFER => Pass::Infer { op: self.op()? },
            DACT_PASS_INFER_BACKWARD => Pass::InferBackward { op: self.op()? },
            DACT_PASS_RRELU_FORWARD => Pass::RreluForward { op: self.rrelu()?, key: self.key.mask_key()? },
            DACT_PASS_RRELU_BACKWARD => Pass::RreluBackward { op: self.rrelu()?, key: self.key.mask_key()? },
            DACT_PASS_RRELU_INFER => Pass::RreluInfer { op: self.rrelu()? },
            DACT_PASS_RRELU_INFER_BACKWARD => Pass::RreluInferBackward { op: self.rrelu()? },
            DACT_PASS_RELU_FORWARD => Pass::ReluForward,
            DACT_PASS_RELU_BACKWARD => Pass::ReluBackward,
            DACT_PASS_FUSED_FORWARD => {
                Pass::FusedForward { op: self.op()?, key: self.key.mask_key()?, shape: self.shape(len)? }
            }
            DACT_PASS_FUSED_INFER => Pass::FusedInfer { op: self.op()?, shape: self.shape(len)? },
            DACT_PASS_STATISTICS => Pass::Statistics { shape: self.shape(len)? },
            DACT_PASS_FUSED_SUMS => Pass::FusedSums { dz: self.dz()?, shape: self.shape(len)? },
            DACT_PASS_FUSED_BACKWARD => Pass::FusedBackward { dz: self.dz()?, shape: self.shape(len)? },
            kind => {
                let text = format!(
                    "pass.kind must be in [{DACT_PASS_FORWARD}, {DACT_PASS_FUSED_BACKWARD}], from DACT_PASS_FORWARD to \
                     DACT_PASS_FUSED_BACKWARD, got {kind}"
                );
                return Err(Failure::invalid(text));
            }
        };
        let has_key =
            matches!(pass, Pass::ForwardWithoutMask { .. } | Pass::RreluBackward { .. }) || pass.writes_mask();
        let device_offset = if has_key { self.key.device_offset } else { std::ptr::null() };
        Ok(Computation { pass, device_offset })
    }

    pub(crate) fn op(&self) -> Result<DropActivation, Failure> {
        let activation = Activation::ALL.get(self.activation as usize).ok_or_else(|| {
            let known: Vec<_> = Activation::ALL.iter().map(|a| format!("{} ({a})", *a as u32)).collect();
            Failure::invalid(format!("pass.activation must be one of {}, got {}", known.join(", "), self.activation))
        })?;
        Ok(DropActivation::new(*activation, self.p)?)
    }

    fn dz(&self) -> Result<Dz, Failure> {
        match self.dz {
            DACT_DZ_GIVEN => Ok(Dz::Given),
            DACT_DZ_TRAINING => Ok(Dz::Training(self.op()?)),
            DACT_DZ_INFERENCE => Ok(Dz::Inference(self.op()?)),
            dz => Err(Failure::invalid(format!(
                "pass.dz must be one of {DACT_DZ_GIVEN} (DACT_DZ_GIVEN), {DACT_DZ_TRAINING} (DACT_DZ_TRAINING), \
                 {DACT_DZ_INFERENCE} (DACT_DZ_INFERENCE), got {dz}"
            ))),
        }
    }

    fn shape(&self, len: usize) -> Result<Shape, Failure> {
        Ok(Shape::of_len(len, self.channels, self.inner)?)
    }

    fn rrelu(&self) -> Result<RRelu, Failure> {
        Ok(RRelu::new(self.lower, self.upper)?)
    }
}

impl dact_key {
    pub(crate) fn mask_key(&self) -> Result<MaskKey, Failure> {
        Ok(MaskKey::new(self.seed, self.offset).shard(self.first)?)
    }
}

/// The name of an activation, as "gelu", which is never freed, by its code; NULL for what is no code. Codes count from 0.
#[unsafe(no_mangle)]
pub extern "C" fn dact_activation_name(activation: u32) -> *const c_char {
    static NAMES: LazyLock<Vec<CString>> =
        LazyLock::new(|| Activation::ALL.map(|a| CString::new(a.name()).unwrap_or_default()).into());
    NAMES.get(activation as usize).map_or(std::ptr::null(), |name| name.as_ptr())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn the_structures_of_version_1_stay_as_they_are() {
        assert_eq!(size_of::<dact_key>(), 32);
        assert_eq!((size_of::<dact_pass>(), dact_pass::FIRST_SIZE), (88, 64));
        let offsets = [
            std::mem::offset_of!(dact_pass, struct_size),
            std::mem::offset_of!(dact_pass, kind),
            std::mem::offset_of!(dact_pass, activation),
            std::mem::offset_of!(dact_pass, p),
            std::mem::offset_of!(dact_pass, lower),
            std::mem::offset_of!(dact_pass, upper),
            std::mem::offset_of!(dact_pass, key),
            std::mem::offset_of!(dact_pass, channels),
            std::mem::offset_of!(dact_pass, inner),
            std::mem::offset_of!(dact_pass, dz),
        ];
        assert_eq!(offsets, [0, 4, 8, 16, 24, 28, 32, 64, 72, 80]);
    }
}
