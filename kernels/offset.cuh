// The offset of a call: the launch's own, counted from a base in device memory where there is one. A graph
// replays its launches with the arguments they were captured with; the base is what changes.
#pragma once

#include "drop_activation.h"

// Modulo 2^64. The load goes past the first-level cache, so it sees what earlier kernels of the stream wrote.
__device__ __forceinline__ uint64_t whole_offset(const da_args& a) {
    uint64_t base = 0;
    if (a.offset_at != nullptr) base = __ldcg(a.offset_at);
    return base + a.offset;
}

// One thread of the grid does it: base and destination may be the same.
__device__ __forceinline__ void store_offset(const da_args& a) {
    if (blockIdx.x == 0 && threadIdx.x == 0) __stwb(a.offset_out, whole_offset(a));
}
