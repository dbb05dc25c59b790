// Words of a warp, and the exchange that turns "one mask word for each lane" into "the mask bits of
// the elements that this lane holds" and back.
#pragma once

#include "drop_activation.h"

constexpr unsigned kFullWarp = 0xFFFFFFFFu;

// The 32 mask words of a tile against the 16-byte packs of its 32 lanes.
//
// A pack holds E elements; lane l's pack k covers the tile's elements 32*E*k + E*l onwards, so its
// bits are field l % L of word E*k + l/L, where fields are E bits wide and L = 32/E lanes share a
// word. Let lane l own word l/L + E*(l % L): then the L lanes of a group own exactly the L words
// that the group needs, and going from words to packs is the transposition of an L x L matrix of
// E-bit fields, rows in lanes, columns in fields. A butterfly of log2(L) shuffles does it, and
// does the way back too, since a transposition is its own inverse.
template <int E>
struct TileBits {
    static constexpr int kLanesPerWord = 32 / E;

    unsigned lane;

    __device__ explicit TileBits(unsigned lane) : lane(lane) {}

    // Which of the tile's 32 words this lane draws, loads or stores.
    __device__ __forceinline__ unsigned own_word() const {
        return lane / kLanesPerWord + E * (lane % kLanesPerWord);
    }

    // Word to packs (field k of the result: the bits of this lane's pack k), or packs to word.
    __device__ __forceinline__ uint32_t transpose(uint32_t v) const {
#pragma unroll
        for (int distance = 1; distance < kLanesPerWord; distance *= 2) {
            const int width = E * distance;
            const uint32_t other = __shfl_xor_sync(kFullWarp, v, distance);
            const bool upper = (lane & distance) != 0;
            if (width == 16) {
                v = __byte_perm(v, other, upper ? 0x3276 : 0x5410);
            } else if (width == 8) {
                v = __byte_perm(v, other, upper ? 0x3715 : 0x6240);
            } else {
                // Fields that wrap round at the end of the rotation are the other half's and are not taken.
                const uint32_t low = width == 4 ? 0x0F0F0F0Fu : 0x33333333u;
                const uint32_t own = low << (upper ? width : 0);
                v = (v & own) | (__funnelshift_l(other, other, upper ? 32 - width : width) & ~own);
            }
        }
        return v;
    }
};
