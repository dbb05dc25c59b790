// Philox4x32-10, the counter-based generator of Salmon et al., "Parallel random numbers: as easy as
// 1, 2, 3" (SC 2011): a pure function from a 128-bit counter and a 64-bit key to four 32-bit words.
//
// The key of each round is the key of the round before plus a constant. It is the same for all counters, so the
// host makes all ten (src/cuda/parameters.rs) and the kernels find them among their parameters.
#pragma once

#include <stdint.h>

#include "drop_activation.h"

__device__ __forceinline__ uint4 philox4x32_10(uint4 counter, const uint32_t (&round_keys)[20]) {
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        // High and low product apart: written as one 64-bit product, nvcc 13 adds a zero to each high half.
        // ptxas joins the two into one wide multiplication.
        counter = make_uint4(__umulhi(0xCD9E8D57u, counter.z) ^ counter.y ^ round_keys[2 * round],
                             0xCD9E8D57u * counter.z,
                             __umulhi(0xD2511F53u, counter.x) ^ counter.w ^ round_keys[2 * round + 1],
                             0xD2511F53u * counter.x);
    }
    return counter;
}
