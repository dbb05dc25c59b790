//! AVX-512: compares write mask registers, which are the packed bits.

use std::arch::asm;
use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{BlockOps, CacheLines, MAX_LANES, MemoryOps, Simd, Task, VectorOps, clear_by_bits};
use crate::element::Element;

/// Stands for the instructions: who has one may use them.
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

impl Avx512 {
    pub(super) const COMPILED_FOR: bool = cfg!(all(
        target_feature = "avx512f",
        target_feature = "avx512bw",
        target_feature = "avx512dq",
        target_feature = "avx512vl",
        target_feature = "fma",
        target_feature = "bmi2",
        target_feature = "popcnt"
    ));

    pub(super) fn available() -> bool {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("popcnt")
    }
}

/// Runs the task; never inlined, so that there is one copy of each.
///
/// # Safety
/// The machine must have the instructions that [`Avx512::available`] asks for.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma,bmi2,popcnt")]
pub(super) unsafe fn run(task: impl Task) {
    task.run(Avx512(()));
}

/// [`VectorOps::order_barrier`], apart because a register's name needs the instruction set.
#[inline]
#[target_feature(enable = "avx512f")]
fn order_barrier([[a0, _, a2, _], [b0, _, b2, _]]: &mut [[__m512i; 4]; 2]) {
    // SAFETY: there are no instructions.
    unsafe {
        asm!(
            "/* {0} {1} {2} {3} */",
            inout(zmm_reg) * a0,
            inout(zmm_reg) * a2,
            inout(zmm_reg) * b0,
            inout(zmm_reg) * b2,
            options(nomem, nostack, preserves_flags)
        );
    }
}

/// The elements whose bit is not set, apart likewise. Written as a selection it becomes one by the inverted mask.
#[inline]
#[target_feature(enable = "avx512f")]
fn clear(mut v: __m512i, mask: __mmask16) -> __m512i {
    // SAFETY: the instruction touches no memory.
    unsafe {
        asm!(
            "vpxord {0}{{{1}}}, {0}, {0}",
            inout(zmm_reg) v,
            in(kreg) mask,
            options(nomem, nostack, preserves_flags, pure)
        );
    }
    v
}

/// The mask as a word in a register for integers, whatever becomes of it.
#[inline]
#[target_feature(enable = "avx512f")]
fn word(mask: __mmask16) -> u32 {
    let word;
    // SAFETY: the instruction touches no memory.
    unsafe {
        asm!("kmovw {0:e}, {1}", out(reg) word, in(kreg) mask, options(nomem, nostack, preserves_flags, pure));
    }
    word
}

/// [`BlockOps::optimizer_barrier`] for a vector, apart likewise.
#[inline]
#[target_feature(enable = "avx512f")]
fn optimizer_barrier(mut v: __m512i) -> __m512i {
    // SAFETY: there are no instructions.
    unsafe { asm!("/* {0} */", inout(zmm_reg) v, options(nomem, nostack, preserves_flags, pure)) };
    v
}

// The contract that each block below leans on:
// 1. An `Avx512` is made by `run` alone, whose caller vouches for the instructions.
// 2. Elements are 2, 4 or 8 bytes of plain bits (the trait is sealed), so 32 of them, the block behind an array
//    reference, are as many vectors of 64 bytes as each loop says. These may begin anywhere: all loads and
//    stores but the streaming ones are unaligned.
impl Simd for Avx512 {
    #[inline(always)]
    fn outlined(self, task: impl Task) {
        // SAFETY: 1.
        unsafe { run(task) }
    }
}

impl Avx512 {
    /// The sign of each element of 2 or 4 bytes is set if it is at most zero. With a sign it is, unless a sum that carries
    /// beyond negative infinity loses it; and without one if it is zero, which the number before it tells.
    #[inline(always)]
    fn sign_if_at_most_zero<T: Element>(self, v: __m512i) -> __m512i {
        let beyond = !T::NEGATIVE_INFINITY;
        // SAFETY: 1.
        unsafe {
            let (with, without) = match size_of::<T>() {
                2 => {
                    (_mm512_add_epi16(v, _mm512_set1_epi16(beyond as i16)), _mm512_add_epi16(v, _mm512_set1_epi16(-1)))
                }
                _ => {
                    (_mm512_add_epi32(v, _mm512_set1_epi32(beyond as i32)), _mm512_add_epi32(v, _mm512_set1_epi32(-1)))
                }
            };
            _mm512_ternarylogic_epi32::<0b1100_1010>(v, with, without)
        }
    }
}

impl BlockOps for Avx512 {
    #[inline(always)]
    fn at_most_zero<T: Element>(self, among: u32, block: &[T; 32]) -> u32 {
        let at = block.as_ptr().cast::<__m512i>();
        let limit = T::NEGATIVE_INFINITY;
        match size_of::<T>() {
            // SAFETY: 1; 2, for one vector of 32 elements of 2 bytes.
            2 => unsafe {
                let (zero, limit) = (_mm512_setzero_si512(), _mm512_set1_epi16(limit as i16));
                let v = _mm512_loadu_si512(at);
                _mm512_mask_cmple_epu16_mask(_mm512_mask_cmple_epi16_mask(among, v, zero), v, limit)
            },
            // SAFETY: 1; 2, for two vectors of 16 elements of 4 bytes.
            4 => unsafe {
                let (zero, limit) = (_mm512_setzero_si512(), _mm512_set1_epi32(limit as i32));
                let mut bits = 0;
                for i in 0..2 {
                    let v = _mm512_loadu_si512(at.add(i));
                    let among = (among >> (16 * i)) as __mmask16;
                    let le = _mm512_mask_cmple_epu32_mask(_mm512_mask_cmple_epi32_mask(among, v, zero), v, limit);
                    bits |= u32::from(le) << (16 * i);
                }
                bits
            },
            // SAFETY: 1; 2, for four vectors of 8 elements of 8 bytes.
            _ => unsafe {
                let (zero, limit) = (_mm512_setzero_si512(), _mm512_set1_epi64(limit as i64));
                let mut bits = 0;
                for i in 0..4 {
                    let v = _mm512_loadu_si512(at.add(i));
                    let among = (among >> (8 * i)) as __mmask8;
                    let le = _mm512_mask_cmple_epu64_mask(_mm512_mask_cmple_epi64_mask(among, v, zero), v, limit);
                    bits |= u32::from(le) << (8 * i);
                }
                bits
            },
        }
    }

    /// Mask registers have two ports, those of the multiplications, so little is done in them: one test in place of two
    /// comparisons, and halves of 16 elements are not joined to a word and taken apart again, as the compiler does it.
    #[inline(always)]
    fn clear_among_at_most_zero<T: Element>(self, among: u32, block: &[T; 32]) -> ([T; 32], u32) {
        if size_of::<T>() == 8 {
            return clear_by_bits(self, among, block);
        }
        let mut out = [T::default(); 32];
        let (at, to) = (block.as_ptr().cast::<__m512i>(), out.as_mut_ptr().cast::<__m512i>());
        let mut cleared = 0;
        for i in 0..size_of::<T>() / 2 {
            // SAFETY: 1; 2, for all vectors of both blocks.
            unsafe {
                let v = _mm512_loadu_si512(at.add(i));
                let sign = self.sign_if_at_most_zero::<T>(v);
                if size_of::<T>() == 2 {
                    cleared = _mm512_mask_test_epi16_mask(among, sign, _mm512_set1_epi16(i16::MIN));
                    _mm512_storeu_si512(to, _mm512_maskz_mov_epi16(!cleared, v));
                } else {
                    let among = (among >> (16 * i)) as __mmask16;
                    let le = _mm512_mask_test_epi32_mask(among, sign, _mm512_set1_epi32(i32::MIN));
                    _mm512_storeu_si512(to.add(i), clear(v, le));
                    cleared |= word(le) << (16 * i);
                }
            }
        }
        (out, !cleared)
    }

    #[inline(always)]
    fn clear_at_most_zero<T: Element>(self, block: &[T; 32]) -> [T; 32] {
        let mut out = [T::default(); 32];
        let (at, to) = (block.as_ptr().cast::<__m512i>(), out.as_mut_ptr().cast::<__m512i>());
        let limit = T::NEGATIVE_INFINITY;
        for i in 0..size_of::<T>() / 2 {
            // SAFETY: 1; 2, for all vectors of both blocks.
            unsafe {
                let v = _mm512_loadu_si512(at.add(i));
                let cleared = match size_of::<T>() {
                    2 => _mm512_maskz_mov_epi16(_mm512_cmpgt_epi16_mask(v, _mm512_set1_epi16(limit as i16)), v),
                    4 => _mm512_maskz_mov_epi32(_mm512_cmpgt_epi32_mask(v, _mm512_set1_epi32(limit as i32)), v),
                    _ => _mm512_maskz_mov_epi64(_mm512_cmpgt_epi64_mask(v, _mm512_set1_epi64(limit as i64)), v),
                };
                _mm512_storeu_si512(to.add(i), cleared);
            }
        }
        out
    }

    #[inline(always)]
    fn clear_where_at_most_zero<T: Element>(self, saved: &[T; 32], block: &[T; 32]) -> [T; 32] {
        let mut out = [T::default(); 32];
        let (saved, block) = (saved.as_ptr().cast::<__m512i>(), block.as_ptr().cast::<__m512i>());
        let to = out.as_mut_ptr().cast::<__m512i>();
        let limit = T::NEGATIVE_INFINITY;
        for i in 0..size_of::<T>() / 2 {
            // SAFETY: 1; 2, for all vectors of the three blocks.
            unsafe {
                let (s, v) = (_mm512_loadu_si512(saved.add(i)), _mm512_loadu_si512(block.add(i)));
                let cleared = match size_of::<T>() {
                    2 => {
                        let greater = _mm512_cmpgt_epi16_mask(s, _mm512_set1_epi16(limit as i16));
                        _mm512_maskz_mov_epi16(_mm512_mask_test_epi16_mask(greater, s, s), v)
                    }
                    4 => {
                        let greater = _mm512_cmpgt_epi32_mask(s, _mm512_set1_epi32(limit as i32));
                        _mm512_maskz_mov_epi32(_mm512_mask_test_epi32_mask(greater, s, s), v)
                    }
                    _ => {
                        let greater = _mm512_cmpgt_epi64_mask(s, _mm512_set1_epi64(limit as i64));
                        _mm512_maskz_mov_epi64(_mm512_mask_test_epi64_mask(greater, s, s), v)
                    }
                };
                _mm512_storeu_si512(to.add(i), cleared);
            }
        }
        out
    }

    #[inline(always)]
    fn clear_where_zero<T: Element>(self, saved: &[T; 32], block: &[T; 32]) -> [T; 32] {
        let mut out = [T::default(); 32];
        let (saved, block) = (saved.as_ptr().cast::<__m512i>(), block.as_ptr().cast::<__m512i>());
        let to = out.as_mut_ptr().cast::<__m512i>();
        for i in 0..size_of::<T>() / 2 {
            // SAFETY: 1; 2, for all vectors of the three blocks.
            unsafe {
                let (s, v) = (_mm512_loadu_si512(saved.add(i)), _mm512_loadu_si512(block.add(i)));
                // All bits but the sign.
                let cleared = match size_of::<T>() {
                    2 => _mm512_maskz_mov_epi16(_mm512_test_epi16_mask(s, _mm512_set1_epi16(i16::MAX)), v),
                    4 => _mm512_maskz_mov_epi32(_mm512_test_epi32_mask(s, _mm512_set1_epi32(i32::MAX)), v),
                    _ => _mm512_maskz_mov_epi64(_mm512_test_epi64_mask(s, _mm512_set1_epi64(i64::MAX)), v),
                };
                _mm512_storeu_si512(to.add(i), cleared);
            }
        }
        out
    }

    #[inline(always)]
    fn blend<T: Element>(self, bits: u32, set: &[T; 32], clear: &[T; 32]) -> [T; 32] {
        let mut out = [T::default(); 32];
        let (set, clear) = (set.as_ptr().cast::<__m512i>(), clear.as_ptr().cast::<__m512i>());
        let to = out.as_mut_ptr().cast::<__m512i>();
        for i in 0..size_of::<T>() / 2 {
            // SAFETY: 1; 2, for all vectors of the three blocks.
            unsafe {
                let (set, clear) = (_mm512_loadu_si512(set.add(i)), _mm512_loadu_si512(clear.add(i)));
                let blended = match size_of::<T>() {
                    2 => _mm512_mask_mov_epi16(clear, bits, set),
                    4 => _mm512_mask_mov_epi32(clear, (bits >> (16 * i)) as __mmask16, set),
                    _ => _mm512_mask_mov_epi64(clear, (bits >> (8 * i)) as __mmask8, set),
                };
                _mm512_storeu_si512(to.add(i), blended);
            }
        }
        out
    }

    #[inline(always)]
    fn optimizer_barrier<T: Element>(self, mut block: [T; 32]) -> [T; 32] {
        let at = block.as_mut_ptr().cast::<__m512i>();
        for i in 0..size_of::<T>() / 2 {
            // SAFETY: 1; 2, for all vectors of the block.
            unsafe { _mm512_storeu_si512(at.add(i), optimizer_barrier(_mm512_loadu_si512(at.add(i)))) };
        }
        block
    }

    #[inline(always)]
    fn widen(self, block: &[f16; 32]) -> [f32; 32] {
        let mut out = [0.0; 32];
        let (at, to) = (block.as_ptr().cast::<__m256i>(), out.as_mut_ptr());
        for i in 0..2 {
            // SAFETY: 1; 2, for 16 of the elements on either side.
            unsafe { _mm512_storeu_ps(to.add(16 * i), _mm512_cvtph_ps(_mm256_loadu_si256(at.add(i)))) };
        }
        out
    }

    #[inline(always)]
    fn narrow(self, block: &[f32; 32]) -> [f16; 32] {
        let mut out = [f16::ZERO; 32];
        let (at, to) = (block.as_ptr(), out.as_mut_ptr().cast::<__m256i>());
        for i in 0..2 {
            // SAFETY: 1; 2, for 16 of the elements on either side.
            unsafe {
                let values = _mm512_loadu_ps(at.add(16 * i));
                _mm256_storeu_si256(
                    to.add(i),
                    _mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(values),
                );
            }
        }
        out
    }

    #[inline(always)]
    fn widen_bf16(self, block: &[bf16; 32]) -> [f32; 32] {
        let mut out = [0.0; 32];
        let (at, to) = (block.as_ptr().cast::<__m256i>(), out.as_mut_ptr());
        for i in 0..2 {
            // SAFETY: 1; 2, for 16 of the elements on either side.
            unsafe {
                let bits = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(at.add(i))));
                let values = _mm512_castsi512_ps(bits);
                let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(values, values);
                let quiet = _mm512_mask_or_epi32(bits, nan, bits, _mm512_set1_epi32(1 << 22));
                _mm512_storeu_ps(to.add(16 * i), _mm512_castsi512_ps(quiet));
            }
        }
        out
    }

    #[inline(always)]
    fn widen_bf16_to_compute(self, block: &[bf16; 32]) -> [f32; 32] {
        let mut out = [0.0; 32];
        let (at, to) = (block.as_ptr().cast::<__m256i>(), out.as_mut_ptr());
        for i in 0..2 {
            // SAFETY: 1; 2, for 16 of the elements on either side.
            unsafe {
                let bits = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(at.add(i))));
                _mm512_storeu_ps(to.add(16 * i), _mm512_castsi512_ps(bits));
            }
        }
        out
    }

    #[inline(always)]
    fn narrow_bf16(self, block: &[f32; 32]) -> [bf16; 32] {
        // The places of the upper halves.
        const UPPER: [u16; 32] = {
            let mut places = [0; 32];
            let mut i = 0;
            while i < 32 {
                places[i] = 2 * i as u16 + 1;
                i += 1;
            }
            places
        };
        let mut out = [bf16::ZERO; 32];
        let at = block.as_ptr();
        // SAFETY: 1; 2, for 16 of the numbers each, 32 places, and 32 elements.
        unsafe {
            let mut rounded = [_mm512_setzero_si512(); 2];
            for (i, to) in rounded.iter_mut().enumerate() {
                let values = _mm512_loadu_ps(at.add(16 * i));
                let bits = _mm512_castps_si512(values);
                let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(values, values);
                // Half a unit less the smallest part, and that too where the last bit is odd: ties go to even.
                let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
                let up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
                *to = _mm512_mask_or_epi32(up, nan, bits, _mm512_set1_epi32(0x40 << 16));
            }
            let places = _mm512_loadu_si512(UPPER.as_ptr().cast());
            let upper = _mm512_permutex2var_epi16(rounded[0], places, rounded[1]);
            _mm512_storeu_si512(out.as_mut_ptr().cast(), upper);
        }
        out
    }
}

impl VectorOps for Avx512 {
    type Vector = __m512i;
    const LANES: usize = 8;
    const CALLS_IN_FLIGHT: usize = 2;

    #[inline(always)]
    fn splat(self, value: u64) -> __m512i {
        // SAFETY: 1.
        unsafe { _mm512_set1_epi64(value as i64) }
    }

    #[inline(always)]
    fn lanes(self, values: &[u64; MAX_LANES]) -> __m512i {
        // SAFETY: 1; the values are 64 bytes.
        unsafe { _mm512_loadu_si512(values.as_ptr().cast()) }
    }

    #[inline(always)]
    fn add(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: 1.
        unsafe { _mm512_add_epi64(a, b) }
    }

    #[inline(always)]
    fn multiply(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: 1.
        unsafe { _mm512_mul_epu32(a, b) }
    }

    #[inline(always)]
    fn high(self, a: __m512i) -> __m512i {
        // A shift would wait for the port that multiplies; this move does not.
        // SAFETY: 1.
        unsafe { _mm512_shuffle_epi32::<0b11_11_01_01>(a) }
    }

    #[inline(always)]
    fn xor(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: 1.
        unsafe { _mm512_xor_si512(a, b) }
    }

    #[inline(always)]
    fn xor3(self, a: __m512i, b: __m512i, c: __m512i) -> __m512i {
        // SAFETY: 1.
        unsafe { _mm512_ternarylogic_epi64::<0b1001_0110>(a, b, c) }
    }

    #[inline(always)]
    fn or_and_not(self, a: __m512i, b: __m512i, c: __m512i) -> __m512i {
        // SAFETY: 1.
        unsafe { _mm512_ternarylogic_epi64::<0b1111_0100>(a, b, c) }
    }

    #[inline(always)]
    fn compare(self, plane: u64, r: [__m512i; 2], not_less: &mut [__m512i; 2], equal: &mut [__m512i; 2]) {
        let plane = self.splat(plane);
        for i in 0..2 {
            // SAFETY: 1.
            unsafe {
                not_less[i] = _mm512_ternarylogic_epi64::<0b1000_1110>(plane, r[i], not_less[i]);
                equal[i] = _mm512_ternarylogic_epi64::<0b1000_0010>(plane, r[i], equal[i]);
            }
        }
    }

    #[inline(always)]
    fn order_barrier(self, r: &mut [[__m512i; 4]; 2]) {
        // SAFETY: 1.
        unsafe { order_barrier(r) }
    }

    #[inline(always)]
    fn pairs(self, words: &[u32]) -> __m512i {
        let words = &words[..2 * Self::LANES];
        // SAFETY: 1; there are 64 bytes behind the slice.
        unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
    }

    #[inline(always)]
    fn compress(self, words: &[u32], others: &[u32], to: &mut [u32], others_to: &mut [u32]) -> usize {
        const N: usize = 2 * Avx512::LANES;
        let (words, others, to, others_to) = (&words[..N], &others[..N], &mut to[..N], &mut others_to[..N]);
        // SAFETY: 1; there are 64 bytes behind each slice.
        unsafe {
            let words = _mm512_loadu_si512(words.as_ptr().cast());
            let others = _mm512_loadu_si512(others.as_ptr().cast());
            let nonzero = _mm512_test_epi32_mask(words, words);
            _mm512_storeu_si512(to.as_mut_ptr().cast(), _mm512_maskz_compress_epi32(nonzero, words));
            _mm512_storeu_si512(others_to.as_mut_ptr().cast(), _mm512_maskz_compress_epi32(nonzero, others));
            nonzero.count_ones() as usize
        }
    }

    #[inline(always)]
    fn interleave(self, even: __m512i, odd: __m512i, to: &mut [u32]) {
        let to = &mut to[..2 * Self::LANES];
        // SAFETY: 1; there are 64 bytes behind the slice.
        unsafe {
            let both = _mm512_mask_shuffle_epi32::<0b10_10_00_00>(even, 0xAAAA, odd);
            _mm512_storeu_si512(to.as_mut_ptr().cast(), both);
        }
    }

    #[inline(always)]
    fn quads(self, [a, b, c, d]: &[__m512i; 4], to: &mut [u32]) {
        let to = &mut to[..4 * Self::LANES];
        // SAFETY: 1; there are 128 bytes behind the slice.
        unsafe {
            let ab = _mm512_mask_shuffle_epi32::<0b10_10_00_00>(*a, 0xAAAA, *b);
            let cd = _mm512_mask_shuffle_epi32::<0b10_10_00_00>(*c, 0xAAAA, *d);
            let to = to.as_mut_ptr().cast::<__m512i>();
            let (low, high) =
                (_mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11), _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15));
            _mm512_storeu_si512(to, _mm512_permutex2var_epi64(ab, low, cd));
            _mm512_storeu_si512(to.add(1), _mm512_permutex2var_epi64(ab, high, cd));
        }
    }
}

impl MemoryOps for Avx512 {
    const CONTROLS_CACHES: bool = true;

    #[inline(always)]
    fn prefetch<T>(self, at: *const T) {
        // SAFETY: 1; a prefetch of any address at all changes no memory and cannot fault.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) };
    }

    #[inline(always)]
    fn prefetch_near<T>(self, at: *const T) {
        // SAFETY: 1; as in `prefetch`.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
    }

    #[inline(always)]
    fn prefetch_to_write<T>(self, at: *const T) {
        // SAFETY: 1; as in `prefetch`. All processors with AVX-512 have this instruction. (The intrinsic becomes it
        // only where a feature of its own is asked for.)
        unsafe { asm!("prefetchw [{}]", in(reg) at, options(nostack, preserves_flags)) };
    }

    #[inline(always)]
    fn store_non_temporal<T: Element>(self, block: &[T; 32], to: &mut CacheLines<'_, T>, k: usize) {
        let (block, to) = (block.as_ptr().cast::<__m512i>(), to.0[k].as_mut_ptr().cast::<__m512i>());
        for i in 0..32 * size_of::<T>() / 64 {
            // SAFETY: 1; 2, for all vectors of both blocks; `CacheLines` begin on lines of 64 bytes. What follows is
            // ordered by the fence that the trait asks for.
            unsafe { _mm512_stream_si512(to.add(i), _mm512_loadu_si512(block.add(i))) };
        }
    }

    #[inline(always)]
    unsafe fn store_lanes<T: Element>(self, lanes: std::ops::Range<usize>, block: &[T; 32], to: *mut T) {
        let bits = ((1_u64 << lanes.end.min(32)) - 1) as u32 & !((1_u64 << lanes.start.min(32)) - 1) as u32;
        let (block, to) = (block.as_ptr().cast::<__m512i>(), to.cast::<__m512i>());
        for i in 0..size_of::<T>() / 2 {
            // SAFETY: 1; 2, for all vectors of the block. Only lanes whose bit is set are written, which may be, by this
            // function's contract.
            unsafe {
                let (v, to) = (_mm512_loadu_si512(block.add(i)), to.wrapping_add(i));
                match size_of::<T>() {
                    2 => _mm512_mask_storeu_epi16(to.cast(), bits, v),
                    4 => _mm512_mask_storeu_epi32(to.cast(), (bits >> (16 * i)) as __mmask16, v),
                    _ => _mm512_mask_storeu_epi64(to.cast(), (bits >> (8 * i)) as __mmask8, v),
                }
            }
        }
    }

    #[inline(always)]
    fn fence(self) {
        // SAFETY: 1; it touches no memory.
        unsafe { _mm_sfence() };
    }
}
