// Philox4x32-10, the counter-based generator of Salmon et al., "Parallel random numbers: as easy as
// 1, 2, 3" (SC 2011): a pure function from a 128-bit counter and a 64-bit key to four 32-bit words.
#pragma once

#include <stdint.h>

__device__ __forceinline__ uint4 philox4x32_10(uint4 counter, uint64_t seed) {
    uint32_t key0 = static_cast<uint32_t>(seed);
    uint32_t key1 = static_cast<uint32_t>(seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const uint64_t product0 = uint64_t{0xD2511F53u} * counter.x;
        const uint64_t product1 = uint64_t{0xCD9E8D57u} * counter.z;
        counter = make_uint4(static_cast<uint32_t>(product1 >> 32) ^ counter.y ^ key0,
                             static_cast<uint32_t>(product1),
                             static_cast<uint32_t>(product0 >> 32) ^ counter.w ^ key1,
                             static_cast<uint32_t>(product0));
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    return counter;
}
