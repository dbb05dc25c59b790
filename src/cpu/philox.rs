//! Philox4x32-10 for several counters side by side.
//!
//! Each 32-bit word sits in a 64-bit lane of its own, so that a lane's multiplication is the full
//! 32 x 32 -> 64 product that Philox wants and vector units have (pmuludq), with the high half one
//! shift away and no shuffles. Written as plain loops over arrays: the compiler turns each into
//! vector instructions of the set that the caller is compiled for.

/// The generator for the counters (c0\[i\], c1\[i\], c2, c3). Only the low half of a lane counts, in and
/// out.
#[inline(always)]
pub(crate) fn philox<const N: usize>(mut c0: [u64; N], mut c1: [u64; N], c2: u64, c3: u64, seed: u64) -> [[u64; N]; 4] {
    let (mut c2, mut c3) = ([c2; N], [c3; N]);
    let (mut k0, mut k1) = (seed as u32, (seed >> 32) as u32);
    for _ in 0..10 {
        for i in 0..N {
            let p0 = (c0[i] & 0xFFFF_FFFF) * 0xD251_1F53;
            let p1 = (c2[i] & 0xFFFF_FFFF) * 0xCD9E_8D57;
            c0[i] = (p1 >> 32) ^ c1[i] ^ u64::from(k0);
            c2[i] = (p0 >> 32) ^ c3[i] ^ u64::from(k1);
            c1[i] = p1;
            c3[i] = p0;
        }
        k0 = k0.wrapping_add(0x9E37_79B9);
        k1 = k1.wrapping_add(0xBB67_AE85);
    }
    [c0, c1, c2, c3]
}
