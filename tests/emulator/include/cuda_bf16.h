// bfloat16, as far as the kernels use it: conversions, comparisons, bits. No arithmetic: theirs is in f32.
//
// A NaN that is rounded to bfloat16 becomes 0x7FFF, as on the device.
#pragma once

#include "../cuda_on_cpu.h"
#include "../sixteen_bits.h"

DA_SIXTEEN_BITS(__nv_bfloat16, __nv_bfloat162, __nv_bfloat16_raw, __nv_bfloat162_raw)

inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 v) { return __nv_bfloat16_raw(v).x; }

namespace cuda_on_cpu {
inline float of_bfloat16(__nv_bfloat16 v) { return __uint_as_float(uint32_t{__bfloat16_as_ushort(v)} << 16); }
}  // namespace cuda_on_cpu

inline __nv_bfloat16 __float2bfloat16_rn(float v) {
    const uint32_t bits = __float_as_uint(v);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return __nv_bfloat16_raw{0x7FFF};
    return __nv_bfloat16_raw{static_cast<unsigned short>((bits + 0x7FFFu + (bits >> 16 & 1)) >> 16)};
}
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) {
    return __nv_bfloat162{__float2bfloat16_rn(x), __float2bfloat16_rn(y)};
}

DA_AT_MOST(__nv_bfloat162, cuda_on_cpu::of_bfloat16)
