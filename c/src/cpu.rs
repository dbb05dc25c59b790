//! The functions for tensors in host memory.

use std::slice;

use drop_activation::fused::{Operands, Shape};
use drop_activation::half::{bf16, f16};
use drop_activation::{Activation, DropActivation, Dtype, Element, InOut, Pass, cpu};

use crate::error::{Failure, dact_error, dact_status, guarded};
use crate::pass::{dact_key, dact_pass};
use crate::structure::read;
use crate::tensors::{Checked, Region, dact_mask_words, dact_tensors};

/// Runs a pass on tensors in host memory and returns when it is done. Long tensors are shared by the threads of
/// rayon's pool, as many as RAYON_NUM_THREADS says or the machine has; the calling thread does alone what these have no
/// time for, and all of it in a process that was forked from one that had used this library. Results do not depend on
/// the thread's floating-point environment, which is as before when the function returns. It needs 64 KiB of
/// stack, or 512 if the library was built without optimisation.
///
/// `error` may be NULL; else it is set to NULL, or on failure to an error that dact_error_free takes back.
///
/// # Safety
/// `pass` and `tensors` are NULL or the addresses of such structures. Where the pass reads or writes, there are as
/// many elements or words as `tensors` says, and no other thread writes what it reads or touches what it writes.
/// `error` is NULL or the address of a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dact_cpu_run(
    pass: *const dact_pass,
    tensors: *const dact_tensors,
    error: *mut *mut dact_error,
) -> dact_status {
    let run = || {
        // SAFETY: null or the address of such a structure, by this function's contract.
        let (pass, tensors) = unsafe { (read(pass)?, read(tensors)?) };
        let computation = pass.computation(tensors.len)?;
        if !computation.device_offset.is_null() {
            let address = computation.device_offset.addr();
            let text = format!("pass.key.device_offset must be NULL on the CPU, got {address:#x}");
            return Err(Failure::invalid(text));
        }
        let (tensors, pass) = (tensors.check(&computation, 0)?, computation.pass);
        // SAFETY: the tensors are checked, and what is there is as this function's contract says.
        unsafe {
            match tensors.dtype {
                Dtype::F32 => over::<f32>(&pass, tensors),
                Dtype::F16 => over::<f16>(&pass, tensors),
                Dtype::Bf16 => over::<bf16>(&pass, tensors),
                Dtype::F64 => over::<f64>(&pass, tensors),
            }
        }
    };
    // SAFETY: `error` is as `guarded` asks, by this function's contract.
    unsafe { guarded(error, run) }
}

/// The keep bits of `len` elements by themselves, packed as a mask is: the bits that a training forward pass with
/// the same p and key draws. Writes dact_mask_words(len) words.
///
/// `error` may be NULL; else it is set to NULL, or on failure to an error that dact_error_free takes back.
///
/// # Safety
/// `key` is NULL or the address of a key. At `words` there are as many words as `len` says, and no other thread
/// touches them. `error` is NULL or the address of a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dact_cpu_keep_mask(
    p: f64,
    key: *const dact_key,
    len: usize,
    words: *mut u32,
    error: *mut *mut dact_error,
) -> dact_status {
    let draw = || {
        if key.is_null() || !key.is_aligned() {
            let (alignment, address) = (align_of::<dact_key>(), key.addr());
            let text =
                format!("key must be the address of a dact_key, a multiple of {alignment} bytes, got {address:#x}");
            return Err(Failure::invalid(text));
        }
        // SAFETY: not null, aligned and readable, by this function's contract.
        let key = unsafe { key.read() };
        if !key.device_offset.is_null() {
            let text = format!("key.device_offset must be NULL on the CPU, got {:#x}", key.device_offset.addr());
            return Err(Failure::invalid(text));
        }
        let (op, key) = (DropActivation::new(Activation::Relu, p)?, key.mask_key()?);
        let words = if len == 0 {
            &mut []
        } else {
            Region::words("words", words.addr(), len)?;
            // SAFETY: checked, and writable by nobody else, by this function's contract.
            unsafe { slice::from_raw_parts_mut(words, dact_mask_words(len)) }
        };
        Ok(cpu::keep_words(&op, key, len, words)?)
    };
    // SAFETY: `error` is as `guarded` asks, by this function's contract.
    unsafe { guarded(error, draw) }
}

/// # Safety
/// Where `tensors` has an address, there are as many elements of T or words as it says, which the pass may read or
/// write.
unsafe fn over<T: Element>(pass: &Pass, tensors: Checked) -> Result<(), Failure> {
    if let Some(shape) = pass.shape() {
        // SAFETY: by this function's contract.
        return unsafe { over_channels::<T>(pass, shape, tensors) };
    }
    let Checked { len, input, saved, output, mask, .. } = tensors;
    if len == 0 {
        return Ok(cpu::run::<T>(pass, &mut [], Some(&[]), empty_mask(pass))?);
    }
    // SAFETY: each is checked to be neither null nor misaligned nor too long, and by the caller's promise there is
    // what the pass reads or writes. What is written overlaps with nothing that another slice covers: equal
    // addresses are told apart below.
    unsafe {
        let dx = slice::from_raw_parts_mut(output as *mut T, len);
        let apart = (input != output).then(|| slice::from_raw_parts(input as *const T, len));
        let mask = words_at(pass, mask, len);
        if saved == output {
            return Ok(cpu::run_over_saved(pass, apart, dx, mask)?);
        }
        let saved = (saved != 0).then(|| slice::from_raw_parts(saved as *const T, len));
        let io = match apart {
            Some(input) => InOut::OutOfPlace(input, dx),
            None => InOut::InPlace(dx),
        };
        Ok(cpu::run(pass, io, saved, mask)?)
    }
}

/// [`over`] for a pass over channels.
///
/// # Safety
/// Where `tensors` has an address, there are as many elements of T, values of its arithmetic or words as it says, which
/// the pass may read or write.
unsafe fn over_channels<T: Element>(pass: &Pass, shape: Shape, tensors: Checked) -> Result<(), Failure> {
    let Checked { len, input, saved, output, mask, residual, vectors, results, .. } = tensors;
    let channels = shape.channels();
    // SAFETY: each address that is not 0 is checked to be aligned and its memory not too long, and by the caller's promise
    // there is what the pass reads or writes. What is written overlaps with nothing that another slice covers: output and
    // input at one address are told apart below.
    unsafe {
        let tensor = |at: usize| (at != 0).then(|| slice::from_raw_parts(at as *const T, len));
        let vector = |at: usize| (at != 0).then(|| slice::from_raw_parts(at as *const T::Real, channels));
        let result = |at: usize| (at != 0).then(|| slice::from_raw_parts_mut(at as *mut T::Real, channels));
        let [scale, shift, mean, alpha, beta, gamma] = vectors.map(vector);
        // Without elements there are no addresses, and what needs a tensor is content with none of its elements.
        let x = if len == 0 { Some(&[][..]) } else { tensor(saved) };
        let (residual, results) = (tensor(residual), results.map(result));
        let operands = Operands { x, residual, scale, shift, mean, alpha, beta, gamma, results };
        let io: InOut<'_, T> = match (input, output) {
            (0, _) => InOut::OutOfPlace(&[], &mut []),
            (_, 0) => InOut::OutOfPlace(slice::from_raw_parts(input as *const T, len), &mut []),
            _ if input == output => InOut::InPlace(slice::from_raw_parts_mut(output as *mut T, len)),
            _ => InOut::OutOfPlace(
                slice::from_raw_parts(input as *const T, len),
                slice::from_raw_parts_mut(output as *mut T, len),
            ),
        };
        let mask = if len == 0 { empty_mask(pass) } else { words_at(pass, mask, len) };
        Ok(cpu::run_fused(pass, io, operands, mask)?)
    }
}

/// The mask of a pass.
///
/// # Safety
/// Where the pass has one, there are as many words as `len` elements have, which live for 'a and which it may read or
/// write.
unsafe fn words_at<'a>(pass: &Pass, mask: usize, len: usize) -> cpu::MaskWords<'a> {
    let words = dact_mask_words(len);
    // SAFETY: by this function's contract.
    unsafe {
        if pass.writes_mask() {
            cpu::MaskWords::Write(slice::from_raw_parts_mut(mask as *mut u32, words))
        } else if pass.reads_mask() {
            cpu::MaskWords::Read(slice::from_raw_parts(mask as *const u32, words))
        } else {
            cpu::MaskWords::None
        }
    }
}

fn empty_mask(pass: &Pass) -> cpu::MaskWords<'static> {
    if pass.writes_mask() { cpu::MaskWords::Write(&mut []) } else { cpu::MaskWords::Read(&[]) }
}
