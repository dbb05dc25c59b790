//! Structures that may grow: a caller says by `struct_size` which fields its header had.

use crate::error::Failure;

/// A structure of the interface.
///
/// # Safety
/// It is `repr(C)`, its first field is `struct_size: u32`, and any bytes are a value of it.
pub(crate) unsafe trait Structure: Copy {
    /// What messages call it.
    const NAME: &'static str;
    /// Its size in the first version of the binary interface: up to the end of the field that was its last then.
    const FIRST_SIZE: usize;
    /// Else no caller's structure is taken. To be asked for wherever there is a structure, so that it is checked on
    /// every target.
    const SIZES_FIT: () = assert!(Self::FIRST_SIZE <= size_of::<Self>());
}

/// No structure will ever be as large; what claims to be was not initialised.
const LARGEST: usize = 4096;

/// A copy of the caller's structure. Fields that the caller's header did not have yet are zero, which stands for
/// what was before there was the field. Fields that this library does not know must be zero.
///
/// # Safety
/// `from` is null, misaligned, or the address of `struct_size` readable bytes of which that number is the first
/// four.
pub(crate) unsafe fn read<T: Structure>(from: *const T) -> Result<T, Failure> {
    let name = T::NAME;
    if from.is_null() {
        return Err(Failure::invalid(format!("{name} must be the address of a dact_{name}, got NULL")));
    }
    if !from.is_aligned() {
        let alignment = align_of::<T>();
        let text = format!("{name} must be at a multiple of {alignment} bytes, got {:#x}", from.addr());
        return Err(Failure::invalid(text));
    }
    // SAFETY: aligned and readable, by this function's contract; any four bytes are a u32.
    let given = unsafe { from.cast::<u32>().read() } as usize;
    if !(T::FIRST_SIZE..=LARGEST).contains(&given) {
        return Err(Failure::invalid(format!(
            "{name}.struct_size must be sizeof(dact_{name}), which is {}, got {given}: begin with \
             DACT_{}_INIT",
            size_of::<T>(),
            name.to_uppercase()
        )));
    }
    let known = given.min(size_of::<T>());
    // SAFETY: `given` bytes are readable by this function's contract; those beyond what is known, the caller has set.
    let unknown = unsafe { std::slice::from_raw_parts(from.cast::<u8>().add(known), given - known) };
    if unknown.iter().any(|byte| *byte != 0) {
        return Err(Failure::unsupported(format!(
            "{name}.struct_size must be at most {}, what this library knows, unless all beyond is 0, got {given}",
            size_of::<T>()
        )));
    }
    let mut copy = std::mem::MaybeUninit::<T>::zeroed();
    // SAFETY: `known` bytes are readable, are no more than T has, and lie elsewhere; the others are zero, any bytes are
    // a T, and padding is copied as what it is.
    unsafe {
        copy.as_mut_ptr().cast::<u8>().copy_from_nonoverlapping(from.cast(), known);
        Ok(copy.assume_init())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(C, align(8))]
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Grown {
        struct_size: u32,
        old: u32,
        new: u64,
    }

    // SAFETY: three integers without padding.
    unsafe impl Structure for Grown {
        const NAME: &'static str = "grown";
        const FIRST_SIZE: usize = 8;
    }

    fn given(words: [u32; 6]) -> Result<Grown, Failure> {
        #[repr(align(8))]
        struct Aligned([u32; 6]);
        let words = Aligned(words);
        // SAFETY: 24 aligned bytes, and no test says that there are more, except where that is refused.
        unsafe { read((&raw const words.0).cast()) }
    }

    #[test]
    fn older_and_newer_callers_are_understood() {
        assert_eq!(given([8, 7, 1, 1, 1, 1]).unwrap(), Grown { struct_size: 8, old: 7, new: 0 });
        assert_eq!(given([16, 7, 5, 0, 1, 1]).unwrap(), Grown { struct_size: 16, old: 7, new: 5 });
        assert_eq!(given([24, 7, 5, 0, 0, 0]).unwrap(), Grown { struct_size: 24, old: 7, new: 5 });
        assert_eq!(given([24, 7, 5, 0, 0, 1]).unwrap_err().status, crate::DACT_UNSUPPORTED);
        for size in [0, 7, 4097, u32::MAX] {
            let message = given([size, 0, 0, 0, 0, 0]).unwrap_err().message;
            assert!(message.contains(&format!("which is 16, got {size}: ")), "{message}");
        }
    }
}
