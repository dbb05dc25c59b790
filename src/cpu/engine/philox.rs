//! Philox4x32-10 for many counters side by side.
//!
//! Each 32-bit word sits in a 64-bit lane of its own, so that a lane's multiplication is the full
//! 32 x 32 -> 64 product that Philox wants and vector units have (pmuludq). Only the low half of a lane
//! counts; the product's high half is one move away.
//!
//! The counters drawn together are (c0, c1, c2, c3) with c0 of its own in each lane and the others the same in
//! all. So rounds 0 to 2 hold little work: with M0, M1 the multipliers and k the round's keys,
//!
//! ```text
//! round 0   M0 c0 is all that differs from lane to lane,        M1 c2 is one number
//! round 1   M1 times what M0 c0 became,                         M0 times the other word is one number
//! round 2   M0 times what depends on c0 alone, not on c1
//! ```
//!
//! and a [`Start`] made from c0 serves all values of c1, each of which adds its [`Branch`] of numbers.

use crate::cpu::simd::Simd;

const M0: u64 = 0xD251_1F53;
const M1: u64 = 0xCD9E_8D57;

/// The generator for one seed and one upper half of the counter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Philox {
    keys: [[u64; 2]; 10],
    c2: u64,
    c3: u64,
}

/// The numbers that a value of c1 brings in.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Branch {
    /// To the third word after round 1.
    round1: u64,
    /// To the third word after round 2.
    round2: u64,
}

/// The vectors that a value of c0 brings in.
#[derive(Clone, Copy)]
pub(crate) struct Start<S: Simd> {
    product0: S::Vector,
    product1: S::Vector,
    product2: S::Vector,
}

impl Philox {
    pub(crate) fn new(seed: u64, offset: u64) -> Self {
        let (mut k0, mut k1) = (seed as u32, (seed >> 32) as u32);
        let keys = std::array::from_fn(|_| {
            let keys = [k0.into(), k1.into()];
            k0 = k0.wrapping_add(0x9E37_79B9);
            k1 = k1.wrapping_add(0xBB67_AE85);
            keys
        });
        Self { keys, c2: offset & 0xFFFF_FFFF, c3: offset >> 32 }
    }

    pub(crate) fn branch(&self, c1: u32) -> Branch {
        let word0 = (M1 * self.c2) >> 32 ^ u64::from(c1) ^ self.keys[0][0];
        let product = M0 * word0;
        Branch { round1: product >> 32 ^ self.keys[1][1], round2: (product & 0xFFFF_FFFF) ^ self.keys[2][1] }
    }

    #[inline(always)]
    pub(crate) fn start<S: Simd>(&self, simd: S, c0: S::Vector) -> Start<S> {
        let product0 = simd.multiply(c0, simd.splat(M0));
        let word2 = simd.xor(simd.high(product0), simd.splat(self.c3 ^ self.keys[0][1]));
        let product1 = simd.multiply(word2, simd.splat(M1));
        let word1 = (M1 * self.c2) & 0xFFFF_FFFF;
        let word0 = simd.xor(simd.high(product1), simd.splat(word1 ^ self.keys[1][0]));
        Start { product0, product1, product2: simd.multiply(word0, simd.splat(M0)) }
    }

    /// The four words of each lane, in their low halves, after rounds 0 to 2.
    #[inline(always)]
    pub(crate) fn enter<S: Simd>(&self, simd: S, start: &Start<S>, branch: &Branch) -> [S::Vector; 4] {
        let word2 = simd.xor(start.product0, simd.splat(branch.round1));
        let product = simd.multiply(word2, simd.splat(M1));
        [
            simd.xor3(simd.high(product), start.product1, simd.splat(self.keys[2][0])),
            product,
            simd.xor(simd.high(start.product2), simd.splat(branch.round2)),
            start.product2,
        ]
    }

    /// The words after one more round. The output is what they are after the ten.
    #[inline(always)]
    pub(crate) fn round<S: Simd>(&self, simd: S, round: usize, [c0, c1, c2, c3]: [S::Vector; 4]) -> [S::Vector; 4] {
        let [k0, k1] = self.keys[round];
        let (p0, p1) = (simd.multiply(c0, simd.splat(M0)), simd.multiply(c2, simd.splat(M1)));
        [simd.xor3(simd.high(p1), c1, simd.splat(k0)), p1, simd.xor3(simd.high(p0), c3, simd.splat(k1)), p0]
    }

    /// The four output words of each lane, in their low halves.
    #[inline(always)]
    pub(crate) fn finish<S: Simd>(&self, simd: S, start: &Start<S>, branch: &Branch) -> [S::Vector; 4] {
        let mut words = self.enter(simd, start, branch);
        for round in 3..10 {
            words = self.round(simd, round, words);
        }
        words
    }

    /// A uniform 32-bit integer for each of the 32 elements from `e` on, a multiple of 32: the stream of RReLU's slopes.
    /// Eight calls of the generator return four each.
    #[inline(always)]
    pub(crate) fn uniforms<S: Simd>(&self, simd: S, e: u64) -> [u32; 32] {
        // A multiple of 8, so the eight differ in their lower half only.
        let q = e / 4;
        let branch = self.branch((q >> 32) as u32);
        let mut words = [0; 32];
        for (i, words) in words.chunks_mut(4 * S::LANES).enumerate() {
            let low = (q & 0xFFFF_FFFF) + (S::LANES * i) as u64;
            let c0 = simd.lanes(&std::array::from_fn(|lane| low + lane as u64));
            simd.quads(&self.finish(simd, &self.start(simd, c0), &branch), words);
        }
        words
    }
}
