//! On what: the caller's memory, and everything about it that can be checked.

use drop_activation::Dtype;

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
/// looked at; for a length of 0 none is.
///
/// The output may be the input or the saved tensor (in place). Else what is written overlaps with nothing.
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
    /// y of a forward pass, dx of a backward pass. Written.
    pub output: *mut std::ffi::c_void,
    /// dact_mask_words(len) words: element i is bit i % 32, least significant first, of word i / 32. Written by a
    /// forward pass, with unused bits zero; read by a backward pass.
    pub mask: *mut u32,
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
/// fits in memory, and nothing overlaps that must not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Checked {
    pub(crate) dtype: Dtype,
    pub(crate) len: usize,
    pub(crate) input: usize,
    /// 0 if the pass has none.
    pub(crate) saved: usize,
    pub(crate) output: usize,
    /// 0 if the pass has none.
    pub(crate) mask: usize,
}

impl dact_tensors {
    /// With the number that the computation's key may have in device memory, which nothing may overwrite either.
    pub(crate) fn check(&self, computation: &Computation) -> Result<Checked, Failure> {
        let pass = &computation.pass;
        let dtype = dtype(self.dtype)?;
        let nothing = Checked { dtype, len: 0, input: 0, saved: 0, output: 0, mask: 0 };
        if self.len == 0 {
            return Ok(nothing);
        }
        let tensor = |field, name, address| Region::tensor(field, name, address, self.len, dtype);
        let input = tensor("tensors.input", pass.input(), self.input.addr())?;
        let output = tensor("tensors.output", pass.output(), self.output.addr())?;
        let saved = pass.saved().map(|name| tensor("tensors.saved", name, self.saved.addr())).transpose()?;
        let has_mask = pass.writes_mask() || pass.reads_mask();
        let mask = has_mask.then(|| Region::words("tensors.mask", self.mask.addr(), self.len)).transpose()?;
        let device_offset = Region::device_offset(computation.device_offset.addr())?;

        output.apart_or_equal(&input)?;
        saved.as_ref().map_or(Ok(()), |saved| output.apart_or_equal(saved))?;
        if let Some(mask) = &mask {
            mask.apart(&output)?;
            if pass.writes_mask() {
                mask.apart(&input)?;
            }
        }
        if let Some(device_offset) = &device_offset {
            device_offset.apart(&output)?;
            mask.as_ref().map_or(Ok(()), |mask| device_offset.apart(mask))?;
        }
        let start = |region: Option<Region>| region.map_or(0, |region| region.start);
        Ok(Checked {
            len: self.len,
            input: input.start,
            saved: start(saved),
            output: output.start,
            mask: start(mask),
            ..nothing
        })
    }
}

fn dtype(code: u32) -> Result<Dtype, Failure> {
    match code {
        DACT_DTYPE_F32 => Ok(Dtype::F32),
        DACT_DTYPE_F16 => Ok(Dtype::F16),
        DACT_DTYPE_BF16 => Ok(Dtype::Bf16),
        DACT_DTYPE_F64 => Ok(Dtype::F64),
        _ => Err(Failure::invalid(format!(
            "tensors.dtype must be one of {DACT_DTYPE_F32} (f32), {DACT_DTYPE_F16} (f16), {DACT_DTYPE_BF16} (bf16), \
             {DACT_DTYPE_F64} (f64), got {code}"
        ))),
    }
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
            "{} must not overlap {}; the output may be the input or the saved tensor itself",
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
        assert_eq!((size_of::<dact_tensors>(), dact_tensors::FIRST_SIZE), (48, 48));
        let offsets = [
            std::mem::offset_of!(dact_tensors, struct_size),
            std::mem::offset_of!(dact_tensors, dtype),
            std::mem::offset_of!(dact_tensors, len),
            std::mem::offset_of!(dact_tensors, input),
            std::mem::offset_of!(dact_tensors, saved),
            std::mem::offset_of!(dact_tensors, output),
            std::mem::offset_of!(dact_tensors, mask),
        ];
        assert_eq!(offsets, [0, 4, 8, 16, 24, 32, 40]);
    }
}
