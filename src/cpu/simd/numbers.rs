//! Arithmetic on blocks of 32 numbers. A loop over elements says the same, but whether it becomes vector code, and whether
//! its blocks stay in registers, depends on what is around it.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use super::portable::Portable;
#[cfg(target_arch = "x86_64")]
use super::{avx2::Avx2, avx512::Avx512};
use crate::real::Real;

/// Operations on blocks of numbers: element by element, each rounded once.
pub(crate) trait NumberOps: Copy {
    /// The value in every place.
    #[inline(always)]
    fn repeat<R: Real>(self, value: R) -> [R; 32] {
        [value; 32]
    }

    #[inline(always)]
    fn plus<R: Real>(self, a: &[R; 32], b: &[R; 32]) -> [R; 32] {
        each(|i| a[i] + b[i])
    }

    #[inline(always)]
    fn minus<R: Real>(self, a: &[R; 32], b: &[R; 32]) -> [R; 32] {
        each(|i| a[i] - b[i])
    }

    #[inline(always)]
    fn times<R: Real>(self, a: &[R; 32], b: &[R; 32]) -> [R; 32] {
        each(|i| a[i] * b[i])
    }

    #[inline(always)]
    fn over<R: Real>(self, a: &[R; 32], b: &[R; 32]) -> [R; 32] {
        each(|i| a[i] / b[i])
    }

    /// `a b + c`.
    #[inline(always)]
    fn times_plus<R: Real>(self, a: &[R; 32], b: &[R; 32], c: &[R; 32]) -> [R; 32] {
        each(|i| a[i].mul_add(b[i], c[i]))
    }

    /// Element i + BY at place i, anything at the last BY; BY is 1, 2, 4, 8 or 16.
    #[inline(always)]
    fn moved_down<R: Real, const BY: usize>(self, a: &[R; 32]) -> [R; 32] {
        let mut out = [R::ZERO; 32];
        out[..32 - BY].copy_from_slice(&a[BY..]);
        out
    }
}

#[inline(always)]
fn each<R: Real>(f: impl Fn(usize) -> R) -> [R; 32] {
    let mut out = [R::ZERO; 32];
    for (i, out) in out.iter_mut().enumerate() {
        *out = f(i);
    }
    out
}

impl NumberOps for Portable {}

/// An operation by an instruction for f32 and one for f64, each with how to load and store, and how many numbers a vector
/// has.
#[cfg(target_arch = "x86_64")]
macro_rules! operations {
    ($loads:tt $($name:ident($($argument:ident),*) $f32:ident $f64:ident;)*) => {$(
        operations!(@one $loads $name($($argument),*) $f32 $f64);
    )*};
    (@one [$load32:ident $store32:ident $count32:literal $load64:ident $store64:ident $count64:literal]
        $name:ident($($argument:ident),*) $f32:ident $f64:ident) => {
        #[inline(always)]
        fn $name<R: Real>(self, $($argument: &[R; 32]),*) -> [R; 32] {
            let mut out = [R::ZERO; 32];
            let to = out.as_mut_ptr();
            $(let $argument = $argument.as_ptr();)*
            if size_of::<R>() == 4 {
                for i in 0..32 / $count32 {
                    // SAFETY: whoever has a value of this type may use the instructions; numbers of 4 bytes are f32 (the
                    // trait is implemented for f32 and f64), and blocks have 32 of them.
                    unsafe {
                        $(let $argument = $load32($argument.cast::<f32>().add($count32 * i));)*
                        $store32(to.cast::<f32>().add($count32 * i), $f32($($argument),*));
                    }
                }
            } else {
                for i in 0..32 / $count64 {
                    // SAFETY: as above, for f64.
                    unsafe {
                        $(let $argument = $load64($argument.cast::<f64>().add($count64 * i));)*
                        $store64(to.cast::<f64>().add($count64 * i), $f64($($argument),*));
                    }
                }
            }
            out
        }
    };
}

#[cfg(target_arch = "x86_64")]
impl NumberOps for Avx512 {
    #[inline(always)]
    fn repeat<R: Real>(self, value: R) -> [R; 32] {
        let mut out = [R::ZERO; 32];
        let (from, to) = (&raw const value, out.as_mut_ptr());
        for i in 0..size_of::<R>() / 2 {
            // SAFETY: whoever has a value of this type may use the instructions; a number is 4 bytes or 8, and a block has
            // as many vectors as the loop says.
            unsafe {
                if size_of::<R>() == 4 {
                    _mm512_storeu_ps(to.cast::<f32>().add(16 * i), _mm512_set1_ps(from.cast::<f32>().read()));
                } else {
                    _mm512_storeu_pd(to.cast::<f64>().add(8 * i), _mm512_set1_pd(from.cast::<f64>().read()));
                }
            }
        }
        out
    }

    operations! {
        [_mm512_loadu_ps _mm512_storeu_ps 16 _mm512_loadu_pd _mm512_storeu_pd 8]
        plus(a, b) _mm512_add_ps _mm512_add_pd;
        minus(a, b) _mm512_sub_ps _mm512_sub_pd;
        times(a, b) _mm512_mul_ps _mm512_mul_pd;
        over(a, b) _mm512_div_ps _mm512_div_pd;
        times_plus(a, b, c) _mm512_fmadd_ps _mm512_fmadd_pd;
    }

    #[inline(always)]
    fn moved_down<R: Real, const BY: usize>(self, a: &[R; 32]) -> [R; 32] {
        let mut out = [R::ZERO; 32];
        let (from, to) = (a.as_ptr().cast::<__m512i>(), out.as_mut_ptr().cast::<__m512i>());
        let lanes = 64 / size_of::<R>();
        let vectors = size_of::<R>() / 2;
        for i in 0..vectors {
            let at = i + BY / lanes;
            // SAFETY: whoever has a value of this type may use the instructions; only vectors of either block are touched,
            // of which there are `vectors`.
            unsafe {
                if at >= vectors {
                    break;
                }
                let low = _mm512_loadu_si512(from.add(at));
                let high = if at + 1 < vectors { _mm512_loadu_si512(from.add(at + 1)) } else { low };
                let moved = match (size_of::<R>(), BY % lanes) {
                    (4, 1) => _mm512_alignr_epi32::<1>(high, low),
                    (4, 2) => _mm512_alignr_epi32::<2>(high, low),
                    (4, 4) => _mm512_alignr_epi32::<4>(high, low),
                    (4, 8) => _mm512_alignr_epi32::<8>(high, low),
                    (8, 1) => _mm512_alignr_epi64::<1>(high, low),
                    (8, 2) => _mm512_alignr_epi64::<2>(high, low),
                    (8, 4) => _mm512_alignr_epi64::<4>(high, low),
                    _ => low,
                };
                _mm512_storeu_si512(to.add(i), moved);
            }
        }
        out
    }
}

#[cfg(target_arch = "x86_64")]
impl NumberOps for Avx2 {
    operations! {
        [_mm256_loadu_ps _mm256_storeu_ps 8 _mm256_loadu_pd _mm256_storeu_pd 4]
        plus(a, b) _mm256_add_ps _mm256_add_pd;
        minus(a, b) _mm256_sub_ps _mm256_sub_pd;
        times(a, b) _mm256_mul_ps _mm256_mul_pd;
        over(a, b) _mm256_div_ps _mm256_div_pd;
        times_plus(a, b, c) _mm256_fmadd_ps _mm256_fmadd_pd;
    }
}
