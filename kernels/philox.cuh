// Philox4x32-10, the counter-based generator of Salmon et al., "Parallel random numbers: as easy as
// 1, 2, 3" (SC 2011): a pure function from a 128-bit counter and a 64-bit key to four 32-bit words.
#pragma once

#include <stdint.h>

__device__ __forceinline__ uint4 philox4x32_10(uint4 counter, uint64_t seed) {
    uint32_t key0 = static_cast<uint32_t>(seed);
    uint32_t key1 = static_cast<uint32_t>(seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        // High and low product apart: written as one 64-bit product, nvcc 13 adds a zero to each high half.
        // ptxas joins the two into one wide multiplication.
        counter = make_uint4(__umulhi(0xCD9E8D57u, counter.z) ^ counter.y ^ key0,
                             0xCD9E8D57u * counter.z,
                             __umulhi(0xD2511F53u, counter.x) ^ counter.w ^ key1,
                             0xD2511F53u * counter.x);
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    return counter;
}
