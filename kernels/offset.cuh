// The offset of a call: the launch's own, counted from a base in device memory where there is one. A graph
// replays its launches with the arguments they were captured with; the base is what changes.
#pragma once

#include "drop_activation.h"

// The offset that a generator draws (reference::drawn_offset): of Philox's block offset / 4 the first two words, modulo
// 2^63 - 1. The seed is not the launch's, so no host has made its round keys.
__device__ __forceinline__ uint64_t drawn_offset(uint64_t seed, uint64_t offset) {
    uint32_t x = static_cast<uint32_t>(offset / 4), y = static_cast<uint32_t>(offset / 4 >> 32), z = 0, w = 0;
    uint32_t low = static_cast<uint32_t>(seed), high = static_cast<uint32_t>(seed >> 32);
#pragma unroll 1
    for (int round = 0; round < 10; ++round) {
        const uint32_t of_x = 0xD2511F53u * x, of_z = 0xCD9E8D57u * z;
        const uint32_t next_x = __umulhi(0xCD9E8D57u, z) ^ y ^ low;
        z = __umulhi(0xD2511F53u, x) ^ w ^ high;
        x = next_x;
        y = of_z;
        w = of_x;
        low += 0x9E3779B9u;
        high += 0xBB67AE85u;
    }
    const uint64_t bound = 0x7FFFFFFFFFFFFFFFu;
    const uint64_t drawn = uint64_t{x} << 32 | y;
    const uint64_t folded = (drawn & bound) + (drawn >> 63);  // 2^63 is 1 more than the bound
    return folded < bound ? folded : folded - bound;
}

// Modulo 2^64. The loads go past the first-level cache, so they see what earlier kernels of the stream wrote.
__device__ __forceinline__ uint64_t whole_offset(const da_args& a) {
    uint64_t offset = a.offset;
    if (a.offset_at != nullptr) {
        offset += __ldcg(a.offset_at);
        if (a.seed_at != nullptr) offset = drawn_offset(__ldcg(a.seed_at), offset);
    }
    return offset;
}

// One thread of the grid does it: base and destination may be the same.
__device__ __forceinline__ void store_offset(const da_args& a) {
    if (blockIdx.x == 0 && threadIdx.x == 0) __stwb(a.offset_out, whole_offset(a));
}
