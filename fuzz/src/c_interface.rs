//! Whatever a caller from C gives within the contract, a call does its work on the output and the mask alone, or
//! refuses with a message and writes nothing.
#![no_main]

use std::ffi::CStr;

use drop_activation_c::*;
use libfuzzer_sys::fuzz_target;

/// All tensors lie in here, apart or not.
const ARENA: usize = 1 << 12;

struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn u16(&mut self) -> usize {
        usize::from(self.byte()) << 8 | usize::from(self.byte())
    }

    fn u64(&mut self) -> u64 {
        (0..8).fold(0, |number, _| number << 8 | u64::from(self.byte()))
    }

    /// A number that is mostly small.
    fn code(&mut self) -> u32 {
        match self.byte() {
            255 => self.u64() as u32,
            code => u32::from(code % 20),
        }
    }

    /// Probabilities and slopes, mostly.
    fn float(&mut self) -> f64 {
        match self.byte() {
            255 => f64::from_bits(self.u64()),
            part => f64::from(part) / 128.0,
        }
    }
}

/// A structure and what follows it in memory: callers with a newer header have longer ones.
#[repr(C, align(8))]
struct Followed<T>(T, [u8; 4096]);

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = Bytes(bytes);
    let mut pass = dact_pass {
        struct_size: size_of::<dact_pass>() as u32,
        kind: bytes.code(),
        activation: bytes.code() % 8,
        reserved: u32::from(bytes.byte() == 255),
        p: bytes.float(),
        lower: bytes.float() as f32,
        upper: bytes.float() as f32,
        key: dact_key {
            seed: bytes.u64(),
            offset: bytes.u64(),
            first: bytes.u64(),
            device_offset: if bytes.byte() == 255 { 8 as *const u64 } else { std::ptr::null() },
        },
        channels: (bytes.u16() % 64) as _,
        inner: (bytes.u16() % 64) as _,
        dz: bytes.code() % 4,
        reserved2: u32::from(bytes.byte() == 255),
    };
    let mut arena = vec![0u64; ARENA / 8];
    let base = arena.as_mut_ptr().cast::<u8>();
    let dtype = bytes.code() % 6;
    let size = match dtype {
        DACT_DTYPE_F32 => 4,
        DACT_DTYPE_F64 => 8,
        _ => 2,
    };
    let len = bytes.u16() % (ARENA / 2);
    let vector_bytes = pass.channels as usize * size.max(4);
    // An address with room for so many bytes behind it, or one that has to be refused.
    let mut place = |room: usize| match bytes.byte() {
        255 => std::ptr::null_mut(),
        254 => base.wrapping_add(1),
        253 if room > 8 => std::ptr::without_provenance_mut(usize::MAX - 7),
        _ => base.wrapping_add(if room <= ARENA { bytes.u16() % (ARENA - room + 1) / 8 * 8 } else { 1 }),
    };
    let [input, saved, output] = [(); 3].map(|()| place(len * size));
    let mask = place(len.div_ceil(32) * 4).cast::<u32>();
    let residual = place(len * size);
    let [scale, shift, mean, alpha, beta, gamma, first, second] = [(); 8].map(|()| place(vector_bytes));
    let output = match bytes.byte() {
        0..100 => input,
        100..150 => saved,
        _ => output,
    };
    let mut tensors = dact_tensors {
        struct_size: size_of::<dact_tensors>() as u32,
        dtype,
        len,
        input: input.cast(),
        saved: saved.cast(),
        output: output.cast(),
        mask,
        residual: residual.cast(),
        scale: scale.cast(),
        shift: shift.cast(),
        mean: mean.cast(),
        alpha: alpha.cast(),
        beta: beta.cast(),
        gamma: gamma.cast(),
        results: [first.cast(), second.cast()],
        workspace: std::ptr::null_mut(), // of CUDA
        workspace_bytes: 0,
    };
    let mut after = [0; 4096];
    match bytes.byte() {
        255 => pass.struct_size = bytes.u16() as u32 % 5000,
        254 => tensors.struct_size = bytes.u16() as u32 % 5000,
        253 => after[usize::from(bytes.byte())] = bytes.byte(),
        _ => {}
    }
    let given = bytes.0.len().min(ARENA);
    // SAFETY: so many bytes of the input and of the arena, which nothing else uses now.
    unsafe { base.copy_from_nonoverlapping(bytes.0.as_ptr(), given) };
    let before = arena.clone();

    let (pass, tensors) = (Followed(pass, after), Followed(tensors, after));
    let mut error = std::ptr::null_mut();
    // SAFETY: the structures are followed by as many bytes as they may claim; all addresses that are not refused have
    // room in the arena.
    unsafe {
        let status = dact_cpu_run(&raw const pass.0, &raw const tensors.0, &mut error);
        let message = CStr::from_ptr(dact_error_message(error)).to_str().unwrap();
        assert_eq!(status == DACT_OK, message.is_empty(), "{status}: {message}");
        assert!(matches!(status, DACT_OK | DACT_INVALID_ARGUMENT | DACT_UNSUPPORTED), "{status}: {message}");
        dact_error_free(error);
        let given = std::slice::from_raw_parts(base, ARENA);
        let was = std::slice::from_raw_parts(before.as_ptr().cast::<u8>(), ARENA);
        let start = |address: *const u8| (address as usize).wrapping_sub(base as usize);
        let writes_mask = matches!(pass.0.kind, DACT_PASS_FORWARD | DACT_PASS_RRELU_FORWARD | DACT_PASS_FUSED_FORWARD);
        let mask_bytes = if writes_mask { len.div_ceil(32) * 4 } else { 0 };
        let writes_results = matches!(pass.0.kind, DACT_PASS_STATISTICS | DACT_PASS_FUSED_SUMS);
        let result_bytes = if writes_results { vector_bytes } else { 0 };
        let written = [
            (start(output), if pass.0.kind == DACT_PASS_STATISTICS { 0 } else { len * size }),
            (start(mask.cast()), mask_bytes),
            (start(first), result_bytes),
            (start(second), result_bytes),
        ];
        let is_written = |i: usize| written.iter().any(|(at, bytes)| (*at..at.wrapping_add(*bytes)).contains(&i));
        for i in (0..ARENA).filter(|i| given[*i] != was[*i]) {
            assert!(status == DACT_OK && is_written(i), "byte {i} was written, status {status}");
        }
    }
});
