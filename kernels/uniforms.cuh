// RReLU's random words, one for each element (section 4 of the mask stream's text).
#pragma once

#include "philox.cuh"

// The words of elements e to e + N - 1: output word e % 4 of the call at counter e / 4.
template <int N>
__device__ __forceinline__ void uniform_words(const uint32_t (&round_keys)[20], uint64_t offset, uint64_t e,
                                              uint32_t (&r)[N]) {
    static_assert(N == 1 || N == 2 || N % 4 == 0, "a pack's elements start at a multiple of N");
#pragma unroll
    for (int i = 0; i < N; i += 4) {
        const uint64_t q = (e + i) / 4;
        const uint4 words = philox4x32_10(
            make_uint4(static_cast<uint32_t>(q), static_cast<uint32_t>(q >> 32),
                       static_cast<uint32_t>(offset), static_cast<uint32_t>(offset >> 32)),
            round_keys);
        if constexpr (N == 1) {
            const uint32_t low = e & 1 ? words.y : words.x;
            const uint32_t high = e & 1 ? words.w : words.z;
            r[0] = e & 2 ? high : low;
        } else if constexpr (N == 2) {
            r[0] = e & 2 ? words.z : words.x;
            r[1] = e & 2 ? words.w : words.y;
        } else {
            r[i] = words.x;
            r[i + 1] = words.y;
            r[i + 2] = words.z;
            r[i + 3] = words.w;
        }
    }
}
