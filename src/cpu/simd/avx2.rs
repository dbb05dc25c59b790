//! AVX2: compares write whole elements, whose top bits are gathered into words; words are spread by
//! testing, in each element, its own bit.

use std::arch::asm;
use std::arch::x86_64::*;

use half::{bf16, f16};

use super::{BlockOps, CacheLines, MAX_LANES, MemoryOps, Simd, Task, VectorOps};
use crate::element::Element;

/// Stands for the instructions: who has one may use them.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

impl Avx2 {
    pub(super) const COMPILED_FOR: bool = cfg!(all(
        target_feature = "avx2",
        target_feature = "f16c",
        target_feature = "fma",
        target_feature = "bmi2",
        target_feature = "popcnt"
    ));

    pub(super) fn available() -> bool {
        is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("f16c")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("popcnt")
    }
}

/// Runs the task; never inlined, so that there is one copy of each.
///
/// # Safety
/// The machine must have the instructions that [`Avx2::available`] asks for.
#[inline(never)]
#[target_feature(enable = "avx2,f16c,fma,bmi2,popcnt")]
pub(super) unsafe fn run(task: impl Task) {
    task.run(Avx2(()));
}

/// [`VectorOps::order_barrier`], apart because a register's name needs the instruction set.
#[inline]
#[target_feature(enable = "avx2")]
fn order_barrier([[a0, _, a2, _], [b0, _, b2, _]]: &mut [[__m256i; 4]; 2]) {
    // SAFETY: there are no instructions.
    unsafe {
        asm!(
            "/* {0} {1} {2} {3} */",
            inout(ymm_reg) * a0,
            inout(ymm_reg) * a2,
            inout(ymm_reg) * b0,
            inout(ymm_reg) * b2,
            options(nomem, nostack, preserves_flags)
        );
    }
}

/// The places of the bits that are set, a byte for each, from the lowest. (pext would do, but takes tens of cycles on
/// the older of the machines that have no AVX-512.)
const ORDERS: [u64; 256] = {
    let mut orders = [0; 256];
    let mut bits = 0;
    while bits < 256 {
        let (mut place, mut count) = (0, 0);
        while place < 8 {
            if bits >> place & 1 == 1 {
                orders[bits] |= (place as u64) << (8 * count);
                count += 1;
            }
            place += 1;
        }
        bits += 1;
    }
    orders
};

/// [`BlockOps::optimizer_barrier`] for a vector, apart likewise.
#[inline]
#[target_feature(enable = "avx2")]
fn optimizer_barrier(mut v: __m256i) -> __m256i {
    // SAFETY: there are no instructions.
    unsafe { asm!("/* {0} */", inout(ymm_reg) v, options(nomem, nostack, preserves_flags, pure)) };
    v
}

// The contract that each block below leans on:
// 1. An `Avx2` is made by `run` alone, whose caller vouches for the instructions.
// 2. Elements are 2, 4 or 8 bytes of plain bits (the trait is sealed), so 32 of them, the block behind an array
//    reference, are as many vectors of 32 bytes as each loop says. These may begin anywhere: all loads and
//    stores but the streaming ones are unaligned.
impl Simd for Avx2 {
    #[inline(always)]
    fn outlined(self, task: impl Task) {
        // SAFETY: 1.
        unsafe { run(task) }
    }
}

impl Avx2 {
    /// Where a vector of elements, read as two's complement, is greater than a number.
    #[inline(always)]
    fn greater<T: Element>(self, v: __m256i, than: u64) -> __m256i {
        // SAFETY: 1.
        unsafe {
            match size_of::<T>() {
                2 => _mm256_cmpgt_epi16(v, _mm256_set1_epi16(than as i16)),
                4 => _mm256_cmpgt_epi32(v, _mm256_set1_epi32(than as i32)),
                _ => _mm256_cmpgt_epi64(v, _mm256_set1_epi64x(than as i64)),
            }
        }
    }

    /// Where all bits of an element are zero.
    #[inline(always)]
    fn zero<T: Element>(self, v: __m256i) -> __m256i {
        // SAFETY: 1.
        unsafe {
            let zero = _mm256_setzero_si256();
            match size_of::<T>() {
                2 => _mm256_cmpeq_epi16(v, zero),
                4 => _mm256_cmpeq_epi32(v, zero),
                _ => _mm256_cmpeq_epi64(v, zero),
            }
        }
    }
}

impl BlockOps for Avx2 {
    #[inline(always)]
    fn at_most_zero<T: Element>(self, among: u32, block: &[T; 32]) -> u32 {
        let at = block.as_ptr().cast::<__m256i>();
        let limit = T::NEGATIVE_INFINITY;
        // There is no unsigned compare. Read as signed, what is beyond negative infinity and not zero is positive or
        // NaN.
        let others = match size_of::<T>() {
            // SAFETY: 1; 2, for two vectors of 16 elements of 2 bytes.
            2 => unsafe {
                let (zero, limit) = (_mm256_setzero_si256(), _mm256_set1_epi16(limit as i16));
                let mut others = [zero; 2];
                for (i, others) in others.iter_mut().enumerate() {
                    let v = _mm256_loadu_si256(at.add(i));
                    *others = _mm256_andnot_si256(_mm256_cmpeq_epi16(v, zero), _mm256_cmpgt_epi16(v, limit));
                }
                // Packing works within halves of 128 bits; the permutation puts these in order.
                let bytes = _mm256_packs_epi16(others[0], others[1]);
                _mm256_movemask_epi8(_mm256_permute4x64_epi64::<0b11_01_10_00>(bytes)) as u32
            },
            // SAFETY: 1; 2, for four vectors of 8 elements of 4 bytes.
            4 => unsafe {
                let (zero, limit) = (_mm256_setzero_si256(), _mm256_set1_epi32(limit as i32));
                let mut bits = 0;
                for i in 0..4 {
                    let v = _mm256_loadu_si256(at.add(i));
                    let others = _mm256_andnot_si256(_mm256_cmpeq_epi32(v, zero), _mm256_cmpgt_epi32(v, limit));
                    bits |= (_mm256_movemask_ps(_mm256_castsi256_ps(others)) as u32) << (8 * i);
                }
                bits
            },
            // SAFETY: 1; 2, for eight vectors of 4 elements of 8 bytes.
            _ => unsafe {
                let (zero, limit) = (_mm256_setzero_si256(), _mm256_set1_epi64x(limit as i64));
                let mut bits = 0;
                for i in 0..8 {
                    let v = _mm256_loadu_si256(at.add(i));
                    let others = _mm256_andnot_si256(_mm256_cmpeq_epi64(v, zero), _mm256_cmpgt_epi64(v, limit));
                    bits |= (_mm256_movemask_pd(_mm256_castsi256_pd(others)) as u32) << (4 * i);
                }
                bits
            },
        };
        among & !others
    }

    #[inline(always)]
    fn clear_at_most_zero<T: Element>(self, block: &[T; 32]) -> [T; 32] {
        let mut out = [T::default(); 32];
        let (at, to) = (block.as_ptr().cast::<__m256i>(), out.as_mut_ptr().cast::<__m256i>());
        for i in 0..size_of::<T>() {
            // SAFETY: 1; 2, for all vectors of both blocks.
            unsafe {
                let v = _mm256_loadu_si256(at.add(i));
                _mm256_storeu_si256(to.add(i), _mm256_and_si256(v, self.greater::<T>(v, T::NEGATIVE_INFINITY)));
            }
        }
        out
    }

    #[inline(always)]
    fn clear_where_at_most_zero<T: Element>(self, saved: &[T; 32], block: &[T; 32]) -> [T; 32] {
        let mut out = [T::default(); 32];
        let (saved, block) = (saved.as_ptr().cast::<__m256i>(), block.as_ptr().cast::<__m256i>());
        let to = out.as_mut_ptr().cast::<__m256i>();
        for i in 0..size_of::<T>() {
            // SAFETY: 1; 2, for all vectors of the three blocks.
            unsafe {
                let (s, v) = (_mm256_loadu_si256(saved.add(i)), _mm256_loadu_si256(block.add(i)));
                let passed = _mm256_andnot_si256(self.zero::<T>(s), self.greater::<T>(s, T::NEGATIVE_INFINITY));
                _mm256_storeu_si256(to.add(i), _mm256_and_si256(v, passed));
            }
        }
        out
    }

    #[inline(always)]
    fn clear_where_zero<T: Element>(self, saved: &[T; 32], block: &[T; 32]) -> [T; 32] {
        let mut out = [T::default(); 32];
        let (saved, block) = (saved.as_ptr().cast::<__m256i>(), block.as_ptr().cast::<__m256i>());
        let to = out.as_mut_ptr().cast::<__m256i>();
        for i in 0..size_of::<T>() {
            // SAFETY: 1; 2, for all vectors of the three blocks.
            unsafe {
                let (s, v) = (_mm256_loadu_si256(saved.add(i)), _mm256_loadu_si256(block.add(i)));
                // A number added to itself loses the sign.
                let unsigned = match size_of::<T>() {
                    2 => _mm256_add_epi16(s, s),
                    4 => _mm256_add_epi32(s, s),
                    _ => _mm256_add_epi64(s, s),
                };
                _mm256_storeu_si256(to.add(i), _mm256_andnot_si256(self.zero::<T>(unsigned), v));
            }
        }
        out
    }

    #[inline(always)]
    fn blend<T: Element>(self, bits: u32, set: &[T; 32], clear: &[T; 32]) -> [T; 32] {
        let mut out = [T::default(); 32];
        let (set, clear) = (set.as_ptr().cast::<__m256i>(), clear.as_ptr().cast::<__m256i>());
        let to = out.as_mut_ptr().cast::<__m256i>();
        for i in 0..size_of::<T>() {
            // SAFETY: 1; 2, for all vectors of the three blocks.
            unsafe {
                let chosen = match size_of::<T>() {
                    2 => {
                        let own = _mm256_setr_epi16(
                            1,
                            2,
                            4,
                            8,
                            16,
                            32,
                            64,
                            128,
                            256,
                            512,
                            1024,
                            2048,
                            4096,
                            8192,
                            16384,
                            i16::MIN,
                        );
                        _mm256_cmpeq_epi16(_mm256_and_si256(_mm256_set1_epi16((bits >> (16 * i)) as i16), own), own)
                    }
                    4 => {
                        let own = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
                        _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32((bits >> (8 * i)) as i32), own), own)
                    }
                    _ => {
                        let own = _mm256_setr_epi64x(1, 2, 4, 8);
                        _mm256_cmpeq_epi64(_mm256_and_si256(_mm256_set1_epi64x((bits >> (4 * i)).into()), own), own)
                    }
                };
                let (set, clear) = (_mm256_loadu_si256(set.add(i)), _mm256_loadu_si256(clear.add(i)));
                _mm256_storeu_si256(to.add(i), _mm256_blendv_epi8(clear, set, chosen));
            }
        }
        out
    }

    #[inline(always)]
    fn optimizer_barrier<T: Element>(self, mut block: [T; 32]) -> [T; 32] {
        let at = block.as_mut_ptr().cast::<__m256i>();
        for i in 0..size_of::<T>() {
            // SAFETY: 1; 2, for all vectors of the block.
            unsafe { _mm256_storeu_si256(at.add(i), optimizer_barrier(_mm256_loadu_si256(at.add(i)))) };
        }
        block
    }

    #[inline(always)]
    fn widen(self, block: &[f16; 32]) -> [f32; 32] {
        let mut out = [0.0; 32];
        let (at, to) = (block.as_ptr().cast::<__m128i>(), out.as_mut_ptr());
        for i in 0..4 {
            // SAFETY: 1; 2, for 8 of the elements on either side.
            unsafe { _mm256_storeu_ps(to.add(8 * i), _mm256_cvtph_ps(_mm_loadu_si128(at.add(i)))) };
        }
        out
    }

    #[inline(always)]
    fn narrow(self, block: &[f32; 32]) -> [f16; 32] {
        let mut out = [f16::ZERO; 32];
        let (at, to) = (block.as_ptr(), out.as_mut_ptr().cast::<__m128i>());
        for i in 0..4 {
            // SAFETY: 1; 2, for 8 of the elements on either side.
            unsafe {
                let values = _mm256_loadu_ps(at.add(8 * i));
                _mm_storeu_si128(to.add(i), _mm256_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT }>(values));
            }
        }
        out
    }

    #[inline(always)]
    fn widen_bf16(self, block: &[bf16; 32]) -> [f32; 32] {
        let mut out = [0.0; 32];
        let (at, to) = (block.as_ptr().cast::<__m128i>(), out.as_mut_ptr());
        for i in 0..4 {
            // SAFETY: 1; 2, for 8 of the elements on either side.
            unsafe {
                let bits = _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(at.add(i))));
                let values = _mm256_castsi256_ps(bits);
                let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(values, values));
                let quiet = _mm256_or_si256(bits, _mm256_and_si256(nan, _mm256_set1_epi32(1 << 22)));
                _mm256_storeu_ps(to.add(8 * i), _mm256_castsi256_ps(quiet));
            }
        }
        out
    }

    #[inline(always)]
    fn widen_bf16_to_compute(self, block: &[bf16; 32]) -> [f32; 32] {
        let mut out = [0.0; 32];
        let (at, to) = (block.as_ptr().cast::<__m128i>(), out.as_mut_ptr());
        for i in 0..4 {
            // SAFETY: 1; 2, for 8 of the elements on either side.
            unsafe {
                let bits = _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(at.add(i))));
                _mm256_storeu_ps(to.add(8 * i), _mm256_castsi256_ps(bits));
            }
        }
        out
    }

    #[inline(always)]
    fn narrow_bf16(self, block: &[f32; 32]) -> [bf16; 32] {
        let mut out = [bf16::ZERO; 32];
        let (at, to) = (block.as_ptr(), out.as_mut_ptr().cast::<__m256i>());
        for i in 0..2 {
            // SAFETY: 1; 2, for 16 of the elements on either side.
            unsafe {
                let mut halves = [_mm256_setzero_si256(); 2];
                for (k, half) in halves.iter_mut().enumerate() {
                    let values = _mm256_loadu_ps(at.add(16 * i + 8 * k));
                    let bits = _mm256_castps_si256(values);
                    let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(values, values));
                    // Half a unit less the smallest part, and that too where the last bit is odd: ties go to even.
                    let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
                    let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
                    let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x40 << 16));
                    *half = _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, nan));
                }
                // Packed lane by lane, then put in order.
                let packed = _mm256_packus_epi32(halves[0], halves[1]);
                _mm256_storeu_si256(to.add(i), _mm256_permute4x64_epi64::<0b11_01_10_00>(packed));
            }
        }
        out
    }
}

impl VectorOps for Avx2 {
    type Vector = __m256i;
    const LANES: usize = 4;
    const CALLS_IN_FLIGHT: usize = 1;

    #[inline(always)]
    fn splat(self, value: u64) -> __m256i {
        // SAFETY: 1.
        unsafe { _mm256_set1_epi64x(value as i64) }
    }

    #[inline(always)]
    fn lanes(self, values: &[u64; MAX_LANES]) -> __m256i {
        // SAFETY: 1; the values are more than 32 bytes.
        unsafe { _mm256_loadu_si256(values.as_ptr().cast()) }
    }

    #[inline(always)]
    fn add(self, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: 1.
        unsafe { _mm256_add_epi64(a, b) }
    }

    #[inline(always)]
    fn multiply(self, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: 1.
        unsafe { _mm256_mul_epu32(a, b) }
    }

    #[inline(always)]
    fn high(self, a: __m256i) -> __m256i {
        // A shift would wait for a port that multiplies; this move does not.
        // SAFETY: 1.
        unsafe { _mm256_shuffle_epi32::<0b11_11_01_01>(a) }
    }

    #[inline(always)]
    fn xor(self, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: 1.
        unsafe { _mm256_xor_si256(a, b) }
    }

    #[inline(always)]
    fn xor3(self, a: __m256i, b: __m256i, c: __m256i) -> __m256i {
        self.xor(self.xor(a, b), c)
    }

    #[inline(always)]
    fn or_and_not(self, a: __m256i, b: __m256i, c: __m256i) -> __m256i {
        // SAFETY: 1.
        unsafe { _mm256_or_si256(a, _mm256_andnot_si256(c, b)) }
    }

    #[inline(always)]
    fn compare(self, plane: u64, r: [__m256i; 2], not_less: &mut [__m256i; 2], equal: &mut [__m256i; 2]) {
        // Each plane's branch goes the same way for all words of a tensor, and saves three of five instructions.
        for i in 0..2 {
            // SAFETY: 1.
            unsafe {
                if plane != 0 {
                    not_less[i] = _mm256_and_si256(not_less[i], r[i]);
                    equal[i] = _mm256_and_si256(equal[i], r[i]);
                } else {
                    not_less[i] = _mm256_or_si256(not_less[i], r[i]);
                    equal[i] = _mm256_andnot_si256(r[i], equal[i]);
                }
            }
        }
    }

    #[inline(always)]
    fn order_barrier(self, r: &mut [[__m256i; 4]; 2]) {
        // SAFETY: 1.
        unsafe { order_barrier(r) }
    }

    #[inline(always)]
    fn pairs(self, words: &[u32]) -> __m256i {
        let words = &words[..2 * Self::LANES];
        // SAFETY: 1; there are 32 bytes behind the slice.
        unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
    }

    #[inline(always)]
    fn compress(self, words: &[u32], others: &[u32], to: &mut [u32], others_to: &mut [u32]) -> usize {
        const N: usize = 2 * Avx2::LANES;
        let (words, others, to, others_to) = (&words[..N], &others[..N], &mut to[..N], &mut others_to[..N]);
        // SAFETY: 1; there are 32 bytes behind each slice.
        unsafe {
            let words = _mm256_loadu_si256(words.as_ptr().cast());
            let others = _mm256_loadu_si256(others.as_ptr().cast());
            let zero = _mm256_cmpeq_epi32(words, _mm256_setzero_si256());
            let nonzero = !_mm256_movemask_ps(_mm256_castsi256_ps(zero)) as u32 & 0xFF;
            let order = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(ORDERS[nonzero as usize] as i64));
            _mm256_storeu_si256(to.as_mut_ptr().cast(), _mm256_permutevar8x32_epi32(words, order));
            _mm256_storeu_si256(others_to.as_mut_ptr().cast(), _mm256_permutevar8x32_epi32(others, order));
            nonzero.count_ones() as usize
        }
    }

    #[inline(always)]
    fn interleave(self, even: __m256i, odd: __m256i, to: &mut [u32]) {
        let to = &mut to[..2 * Self::LANES];
        // SAFETY: 1; there are 32 bytes behind the slice.
        unsafe {
            let both = _mm256_blend_epi32::<0b1010_1010>(even, _mm256_slli_epi64::<32>(odd));
            _mm256_storeu_si256(to.as_mut_ptr().cast(), both);
        }
    }

    #[inline(always)]
    fn quads(self, [a, b, c, d]: &[__m256i; 4], to: &mut [u32]) {
        let to = &mut to[..4 * Self::LANES];
        // SAFETY: 1; there are 64 bytes behind the slice.
        unsafe {
            let ab = _mm256_blend_epi32::<0b1010_1010>(*a, _mm256_slli_epi64::<32>(*b));
            let cd = _mm256_blend_epi32::<0b1010_1010>(*c, _mm256_slli_epi64::<32>(*d));
            let (even, odd) = (_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
            let to = to.as_mut_ptr().cast::<__m256i>();
            _mm256_storeu_si256(to, _mm256_permute2x128_si256::<0x20>(even, odd));
            _mm256_storeu_si256(to.add(1), _mm256_permute2x128_si256::<0x31>(even, odd));
        }
    }
}

impl MemoryOps for Avx2 {
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
        // SAFETY: 1; as in `prefetch`. Processors with AVX2 that do not have this instruction do nothing. (The
        // intrinsic becomes it only where a feature is asked for that these lack.)
        unsafe { asm!("prefetchw [{}]", in(reg) at, options(nostack, preserves_flags)) };
    }

    #[inline(always)]
    fn store_non_temporal<T: Element>(self, block: &[T; 32], to: &mut CacheLines<'_, T>, k: usize) {
        let (block, to) = (block.as_ptr().cast::<__m256i>(), to.0[k].as_mut_ptr().cast::<__m256i>());
        for i in 0..32 * size_of::<T>() / 32 {
            // SAFETY: 1; 2, for all vectors of both blocks; `CacheLines` begin on lines of 64 bytes. What follows is
            // ordered by the fence that the trait asks for.
            unsafe { _mm256_stream_si256(to.add(i), _mm256_loadu_si256(block.add(i))) };
        }
    }

    #[inline(always)]
    fn fence(self) {
        // SAFETY: 1; it touches no memory.
        unsafe { _mm_sfence() };
    }
}
