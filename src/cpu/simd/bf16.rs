//! Blocks of bf16 as loops without branches and without `array::map`, of the kind that compilers make vectors of.

use half::bf16;

/// [`bf16::to_f32`] of each.
#[inline(always)]
pub(super) fn widen(block: &[bf16; 32]) -> [f32; 32] {
    let mut out = [0.0; 32];
    for (out, x) in out.iter_mut().zip(block) {
        let bits = u32::from(x.to_bits()) << 16;
        let quiet = if bits << 1 > 0xFF00_0000 { 1 << 22 } else { 0 };
        *out = f32::from_bits(bits | quiet);
    }
    out
}

/// The same, but a signalling NaN stays one.
#[inline(always)]
pub(super) fn widen_to_compute(block: &[bf16; 32]) -> [f32; 32] {
    let mut out = [0.0; 32];
    for (out, x) in out.iter_mut().zip(block) {
        *out = f32::from_bits(u32::from(x.to_bits()) << 16);
    }
    out
}

/// Its bits, of which the upper half is rounded to bf16; not for NaN.
#[inline(always)]
pub(crate) fn rounded(value: f32) -> u32 {
    let bits = value.to_bits();
    // Half a unit less the smallest part, and that too where the last bit is odd: ties go to even.
    bits.wrapping_add(0x7FFF + (bits >> 16 & 1))
}

/// [`bf16::from_f32`] of each.
#[inline(always)]
pub(super) fn narrow(block: &[f32; 32]) -> [bf16; 32] {
    let mut out = [bf16::ZERO; 32];
    for (out, x) in out.iter_mut().zip(block) {
        let bits = x.to_bits();
        let rounded = rounded(*x) >> 16;
        let quiet = bits >> 16 | 0x40;
        *out = bf16::from_bits(if bits << 1 > 0xFF00_0000 { quiet } else { rounded } as u16);
    }
    out
}
