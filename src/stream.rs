//! The random bits, specified: which word of Philox4x32-10 decides about which element.
//!
//! A stream is named by a [`MaskKey`]: the seed is the generator's key, the offset the upper half of its counter. The
//! same key gives the same bits on every backend, whatever the number of threads, the width of vectors, the launch
//! geometry or the way a tensor is divided.
//!
//! The reference calls these functions. The CPU engine and the CUDA kernels draw the same bits in ways of their own.

use crate::float_environment::in_default;
use crate::key::MaskKey;
use crate::operation::RRelu;

/// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).
pub fn philox4x32_10(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..10 {
        let p0 = 0xD251_1F53 * u64::from(c0);
        let p1 = 0xCD9E_8D57 * u64::from(c2);
        (c0, c1, c2, c3) = ((p1 >> 32) as u32 ^ c1 ^ k0, p1 as u32, (p0 >> 32) as u32 ^ c3 ^ k1, p0 as u32);
        k0 = k0.wrapping_add(0x9E37_79B9);
        k1 = k1.wrapping_add(0xBB67_AE85);
    }
    [c0, c1, c2, c3]
}

pub(crate) const fn low(v: u64) -> u32 {
    v as u32
}

pub(crate) const fn high(v: u64) -> u32 {
    (v >> 32) as u32
}

/// The 32 keep bits of global word `w` for the threshold T in \[0, 2^32\] (section 3 of the mask
/// stream): U\[i\] < T for 32 uniform integers U whose bits, most significant first, are bit i of
/// R\[0\], R\[1\], ..., R\[31\].
pub fn keep_word(threshold: u64, key: MaskKey, w: u64) -> u32 {
    if threshold == 0 {
        return 0;
    }
    if threshold == 1 << 32 {
        return u32::MAX;
    }
    let threshold = threshold as u32;
    let mut keep = 0;
    let mut undecided = u32::MAX;
    for block in 0..8 {
        let counter = [low(w), high(w) | block << 29, low(key.offset()), high(key.offset())];
        let r = philox4x32_10(counter, [low(key.seed()), high(key.seed())]);
        for (j, r) in r.into_iter().enumerate() {
            let k = 4 * block + j as u32;
            if threshold >> (31 - k) & 1 == 1 {
                keep |= undecided & !r;
                undecided &= r;
            } else {
                undecided &= !r;
            }
            let rest_is_zero = k == 31 || threshold << (k + 1) == 0;
            if undecided == 0 || rest_is_zero {
                return keep;
            }
        }
    }
    keep
}

/// The word that RReLU's slope of global element `e` is made of (section 4 of the mask stream).
pub fn rrelu_word(key: MaskKey, e: u64) -> u32 {
    let q = e / 4;
    let counter = [low(q), high(q), low(key.offset()), high(key.offset())];
    philox4x32_10(counter, [low(key.seed()), high(key.seed())])[(e % 4) as usize]
}

/// RReLU's slope of global element `e`, uniform between the bounds, in f32 arithmetic.
pub fn rrelu_slope(op: &RRelu, key: MaskKey, e: u64) -> f32 {
    let word = rrelu_word(key, e);
    in_default((op.lower(), op.upper()), |(lower, upper)| lower + (upper - lower) * (word >> 8) as f32 / 16_777_216.0)
}
