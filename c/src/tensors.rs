//! On what: the caller's memory, and everything about it that can be checked.

use drop_activation::fused::Shape;
use drop_activation::{Dtype, Pass};

use crate::error::Failure;
use crate::pass::Computation;
use crate::structure::Structure;

/// IEEE binary32.
pub const DACT_DTYPE_F32: u32 = 1;
/// IEEE binary16.
pub const DACT_DTYPE_F16: u32 = 2;
/// bfloat16, the upper half of a binary32.
pub const DACT_DTYPE_BF16: u32 = 3;
/// IEEE binary64.
pub const DACT_DTYPE_F64: u32 = 4;

/// The tensors of a call: contiguous, of one type and one length. Addresses are of the host for dact_cpu_run and of
/// the device for dact_cuda_run, at multiples of the element's size. Those that the pass has no use for are not
/// looked at; for a length of 0 those with elements are not.
///
/// Those from `residual` on are for passes over channels, and each may be NULL where the pass does not say that it needs
/// it. All but the residual are vectors with a value for each channel, float, or double where the elements are; for a
/// length of 0 too, where all sums are 0.
///
/// The output may be the input (in place) and, but for a pass over channels, the saved tensor. Else what is written
/// overlaps with nothing.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct dact_tensors {
    /// sizeof(dact_tensors).
    pub struct_size: u32,
    /// One of DACT_DTYPE_.
    pub dtype: u32,
    /// Elements of each tensor.
    pub len: usize,
    /// x of a forward pass, dy of a backward pass. Read.
    pub input: *const std::ffi::c_void,
    /// x or y of the forward pass, for those backward passes that need it. Read.
    pub saved: *const std::ffi::c_void,
    /// y of a forward pass, dx of a backward pass; dr of DACT_PASS_FUSED_SUMS, if it is wanted. Written.
    pub output: *mut std::ffi::c_void,
    /// dact_mask_words(len) words: element i is bit i % 32, least significant first, of word i / 32. Written by a
    /// forward pass, with unused bits zero; read by a backward pass.
    pub mask: *mut u32,
    /// r, as long as the input: added to z. Read.
    pub residual: *const std::ffi::c_void,
    /// What x is multiplied by; NULL is 1. Read.
    pub scale: *const std::ffi::c_void,
    /// What is added to that; NULL is 0. Read.
    pub shift: *const std::ffi::c_void,
    /// What x is taken relative to by a backward pass. Read.
    pub mean: *const std::ffi::c_void,
    /// The factor of dz in dx; NULL is 1. Read.
    pub alpha: *const std::ffi::c_void,
    /// The factor of `x - mean[c]` in dx; NULL is 0, and so is gamma then. Read.
    pub beta: *const std::ffi::c_void,
    /// The summand of dx. Read.
    pub gamma: *const std::ffi::c_void,
    /// Mean and variance, or s1 and s2. Written.
    pub results: [*mut std::ffi::c_void; 2],
    /// For dact_cuda_run and sums: memory for what is summed on the way, at a multiple of 8. What is in it before and
    /// after does not matter. Written.
    pub workspace: *mut std::ffi::c_void,
    /// Bytes at `workspace`: no fewer than dact_cuda_workspace_bytes says.
    pub workspace_bytes: usize,
}

// SAFETY: numbers and addresses may be any bytes.
unsafe impl Structure for dact_tensors {
    const NAME: &'static str = "tensors";
    const FIRST_SIZE: usize = std::mem::offset_of!(Self, mask) + size_of::<*mut u32>();
}
const _: () = dact_tensors::SIZES_FIT;

/// Words of 32 bits in a mask of `len` elements.
#[unsafe(no_mangle)]
pub extern "C" fn dact_mask_words(len: usize) -> usize {
    len.div_ceil(32)
}

/// Tensors that a pass can take: where it needs an address, that is neither null nor misaligned, what is there
/// fits in memory, and nothing overlaps that must not. Addresses are 0 where the pass has none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Checked {
    pub(crate) dtype: Dtype,
    pub(crate) len: usize,
    pub(crate) input: usize,
    pub(crate) saved: usize,
    pub(crate) output: usize,
    pub(crate) mask: usize,
    pub(crate) residual: usize,
    /// Scale, shift, mean, alpha, beta and gamma.
    pub(crate) vectors: [usize; 6],
    pub(crate) results: [usize; 2],
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "only passes on a GPU have one"))]
    pub(crate) workspace: usize,
}

impl Checked {
    const fn nothing(dtype: Dtype) -> Self {
        let (vectors, results) = ([0; 6], [0; 2]);
        Self { dtype, len: 0, input: 0, saved: 0, output: 0, mask: 0, residual: 0, vectors, results, workspace: 0 }
    }
}

impl dact_tensors {
    /// What DACT_TENSORS_INIT is in C: none.
    pub(crate) const INIT: Self = Self {
        struct_size: size_of::<Self>() as u32,
        dtype: 0,
        len: 0,
        input: std::ptr::null(),
        saved: std::ptr::null(),
        output: std::ptr::null_mut(),
        mask: std::ptr::null_mut(),
        residual: std::ptr::null(),
        scale: std::ptr::null(),
        shift: std::ptr::null(),
        mean: std::ptr::null(),
        alpha: std::ptr::null(),
        beta: std::ptr::null(),
        gamma: std::ptr::null(),
        results: [std::ptr::null_mut(); 2],
        workspace: std::ptr::null_mut(),
        workspace_bytes: 0,
    };

    pub(crate) fn dtype(&self) -> Result<Dtype, Failure> {
        match self.dtype {
            DACT_DTYPE_F32 => Ok(Dtype::F32),
            DACT_DTYPE_F16 => Ok(Dtype::F16),
            DACT_DTYPE_BF16 => Ok(Dtype::Bf16),
            DACT_DTYPE_F64 => Ok(Dtype::F64),
            _ => Err(Failure::invalid(format!(
                "tensors.dtype must be one of {DACT_DTYPE_F32} (f32), {DACT_DTYPE_F16} (f16), {DACT_DTYPE_BF16} (bf16), \
                 {DACT_DTYPE_F64} (f64), got {}",
                self.dtype
            ))),
        }
    }

    /// With the number that the computation's key may have in device memory, which nothing may overwrite either, and a
    /// workspace of so many bytes.
    pub(crate) fn check(&self, computation: &Computation, workspace_bytes: usize) -> Result<Checked, Failure> {
        let pass = &computation.pass;
        let dtype = self.dtype()?;
        if let Some(shape) = pass.shape() {
            return self.check_channels(computation, shape, dtype, workspace_bytes);
        }
        if self.len == 0 {
            return Ok(Checked::nothing(dtype));
        }
        let tensor = |field, name, address| Region::tensor(field, name, address, self.len, dtype);
        let input = tensor("tensors.input", pass.input(), self.input.addr())?;
        let output = tensor("tensors.output", pass.output(), self.output.addr())?;
        let saved = pass.saved().map(|name| tensor("tensors.saved", name, self.saved.addr())).transpose()?;
        let mask = self.mask_of(pass)?;

        output.apart_or_equal(&input)?;
        saved.as_ref().map_or(Ok(()), |saved| output.apart_or_equal(saved))?;
        if let Some(mask) = &mask {
            mask.apart(&output)?;
            if pass.writes_mask() {
                mask.apart(&input)?;
            }
        }
        device_offset_apart(computation, [Some(output), mask])?;
        Ok(Checked {
            len: self.len,
            input: input.start,
            saved: start(saved),
            output: output.start,
            mask: start(mask),
            ..Checked::nothing(dtype)
        })
    }

    /// [`dact_tensors::check`] for a pass over channels. What it has no use for is left out.
    fn check_channels(
        &self,
        computation: &Computation,
        shape: Shape,
        dtype: Dtype,
        workspace_bytes: usize,
    ) -> Result<Checked, Failure> {
        let pass = &computation.pass;
        let (sums, backward) = (matches!(pass, Pass::FusedSums { .. }), matches!(pass, Pass::FusedBackward { .. }));
        let reads_x = sums && !self.mean.is_null() || backward && !self.beta.is_null();
        let real = if dtype == Dtype::F64 { Dtype::F64 } else { Dtype::F32 };
        let tensor = |field, name, address: usize, needed: bool| {
            let wanted = self.len > 0 && (needed || address != 0);
            wanted.then(|| Region::tensor(field, name, address, self.len, dtype)).transpose()
        };
        let vector = |field, name, address: usize, wanted: bool| {
            let wanted = wanted && address != 0;
            wanted.then(|| Region::tensor(field, name, address, shape.channels(), real)).transpose()
        };
        let input = tensor("tensors.input", pass.input(), self.input.addr(), true)?;
        let output = match pass {
            Pass::Statistics { .. } => None,
            _ => tensor("tensors.output", pass.output(), self.output.addr(), !sums)?,
        };
        let saved = match pass.saved().is_some() || reads_x {
            true => tensor("tensors.saved", "x", self.saved.addr(), true)?,
            false => None,
        };
        let residual = match pass.computes_z() {
            true => tensor("tensors.residual", "r", self.residual.addr(), false)?,
            false => None,
        };
        let z = pass.computes_z();
        let vectors = [
            vector("tensors.scale", "a vector", self.scale.addr(), z)?,
            vector("tensors.shift", "a vector", self.shift.addr(), z)?,
            vector("tensors.mean", "a vector", self.mean.addr(), sums || backward)?,
            vector("tensors.alpha", "a vector", self.alpha.addr(), backward)?,
            vector("tensors.beta", "a vector", self.beta.addr(), backward)?,
            vector("tensors.gamma", "a vector", self.gamma.addr(), backward)?,
        ];
        let mut results = [None; 2];
        if let Some(names) = pass.results() {
            let second = matches!(pass, Pass::Statistics { .. }) || reads_x;
            let result = |field, name, address| Region::tensor(field, name, address, shape.channels(), real);
            results[0] = Some(result("tensors.results[0]", names[0], self.results[0].addr())?);
            if second {
                results[1] = Some(result("tensors.results[1]", names[1], self.results[1].addr())?);
            }
        }
        let mask = if self.len > 0 { self.mask_of(pass)? } else { None };
        let workspace = (workspace_bytes > 0).then(|| self.workspace_of(workspace_bytes)).transpose()?;

        let read = [saved, residual].into_iter().chain(vectors);
        let read: Vec<Region> = read.chain([mask.filter(|_| pass.reads_mask())]).flatten().collect();
        let written = [mask.filter(|_| pass.writes_mask()), results[0], results[1], workspace];
        let written: Vec<Region> = written.into_iter().flatten().collect();
        for (i, region) in written.iter().enumerate() {
            input.iter().chain(&read).chain(&written[..i]).try_for_each(|other| region.apart(other))?;
        }
        if let Some(output) = &output {
            // In place. Whatever else is read there is overwritten all the same.
            input.iter().try_for_each(|input| output.apart_or_equal(input))?;
            read.iter().try_for_each(|other| output.apart(other))?;
            written.iter().try_for_each(|region| region.apart(output))?;
        }
        device_offset_apart(computation, written.into_iter().chain(output).map(Some))?;
        Ok(Checked {
            dtype,
            len: self.len,
            input: start(input),
            saved: start(saved),
            output: start(output),
            mask: start(mask),
            residual: start(residual),
            vectors: vectors.map(start),
            results: results.map(start),
            workspace: start(workspace),
        })
    }

    fn workspace_of(&self, bytes: usize) -> Result<Region, Failure> {
        if self.workspace_bytes < bytes {
            return Err(Failure::invalid(format!(
                "tensors.workspace_bytes must be {bytes} or more, as dact_cuda_workspace_bytes says, got {}",
                self.workspace_bytes
            )));
        }
        Region::new("tensors.workspace", "intermediate sums", self.workspace.addr(), bytes, size_of::<f64>())
    }

    fn mask_of(&self, pass: &Pass) -> Result<Option<Region>, Failure> {
        let has_mask = pass.writes_mask() || pass.reads_mask();
        has_mask.then(|| Region::words("tensors.mask", self.mask.addr(), self.len)).transpose()
    }
}

fn start(region: Option<Region>) -> usize {
    region.map_or(0, |region| region.start)
}

/// Nothing that is written may be what the key's offset is counted from.
fn device_offset_apart(
    computation: &Computation,
    written: impl IntoIterator<Item = Option<Region>>,
) -> Result<(), Failure> {
    let Some(device_offset) = Region::device_offset(computation.device_offset.addr())? else { return Ok(()) };
    written.into_iter().flatten().try_for_each(|region| device_offset.apart(&region))
}

/// More than any machine's address space holds: a length beyond is a mistake.
const MOST_BYTES: usize = usize::MAX >> if usize::BITS == 64 { 12 } else { 1 };

/// A part of memory that a pass works on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Region {
    /// The argument, and what the pass calls it.
    field: &'static str,
    name: &'static str,
    start: usize,
    end: usize,
}

impl Region {
    fn tensor(
        field: &'static str,
        name: &'static str,
        start: usize,
        len: usize,
        dtype: Dtype,
    ) -> Result<Self, Failure> {
        let most = MOST_BYTES / dtype.size();
        if len > most {
            let dtype = dtype.name();
            return Err(Failure::invalid(format!("tensors.len must be at most {most} elements of {dtype}, got {len}")));
        }
        Self::new(field, name, start, len * dtype.size(), dtype.size())
    }

    /// The words of a mask for `len` elements.
    pub(crate) fn words(field: &'static str, start: usize, len: usize) -> Result<Self, Failure> {
        let most = MOST_BYTES.saturating_mul(8);
        if len > most {
            return Err(Failure::invalid(format!("len must be at most {most} elements of a mask, got {len}")));
        }
        Self::new(field, "mask", start, dact_mask_words(len) * size_of::<u32>(), align_of::<u32>())
    }

    /// The number that a key's offset is counted from, if it has one.
    fn device_offset(start: usize) -> Result<Option<Self>, Failure> {
        let size = size_of::<u64>();
        (start != 0).then(|| Self::new("pass.key.device_offset", "base", start, size, size)).transpose()
    }

    fn new(
        field: &'static str,
        name: &'static str,
        start: usize,
        bytes: usize,
        alignment: usize,
    ) -> Result<Self, Failure> {
        let invalid = |text: String| Err(Failure::invalid(format!("{field} ({name}) {text}")));
        if start == 0 {
            return invalid(format!("must be the address of {bytes} bytes for this pass, got NULL"));
        }
        if !start.is_multiple_of(alignment) {
            return invalid(format!("must be at a multiple of {alignment}, the size of an element, got {start:#x}"));
        }
        match start.checked_add(bytes) {
            Some(end) => Ok(Self { field, name, start, end }),
            None => invalid(format!(
                "must be the address of {bytes} bytes, got {start:#x}, which is too near the end of memory"
            )),
        }
    }

    fn apart_or_equal(&self, other: &Self) -> Result<(), Failure> {
        if self.start == other.start { Ok(()) } else { self.apart(other) }
    }

    fn apart(&self, other: &Self) -> Result<(), Failure> {
        if self.end <= other.start || other.end <= self.start {
            return Ok(());
        }
        let text = |region: &Self| {
            let Self { field, name, start, end } = region;
            format!("{field} ({name}), bytes {start:#x} to {end:#x}")
        };
        Err(Failure::invalid(format!(
            "{} must not overlap {}; the output may be the input itself or, but for a pass over channels, the saved \
             tensor",
            text(self),
            text(other)
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn the_structure_of_version_1_stays_as_it_is() {
        assert_eq!((size_of::<dact_tensors>(), dact_tensors::FIRST_SIZE), (136, 48));
        let offsets = [
            std::mem::offset_of!(dact_tensors, struct_size),
            std::mem::offset_of!(dact_tensors, dtype),
            std::mem::offset_of!(dact_tensors, len),
            std::mem::offset_of!(dact_tensors, input),
            std::mem::offset_of!(dact_tensors, saved),
            std::mem::offset_of!(dact_tensors, output),
            std::mem::offset_of!(dact_tensors, mask),
            std::mem::offset_of!(dact_tensors, residual),
            std::mem::offset_of!(dact_tensors, scale),
            std::mem::offset_of!(dact_tensors, shift),
            std::mem::offset_of!(dact_tensors, mean),
            std::mem::offset_of!(dact_tensors, alpha),
            std::mem::offset_of!(dact_tensors, beta),
            std::mem::offset_of!(dact_tensors, gamma),
            std::mem::offset_of!(dact_tensors, results),
            std::mem::offset_of!(dact_tensors, workspace),
            std::mem::offset_of!(dact_tensors, workspace_bytes),
        ];
        assert_eq!(offsets, [0, 4, 8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 96, 104, 120, 128]);
    }
}
