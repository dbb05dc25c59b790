// bfloat16, as far as the kernels use it: conversions, comparisons, bits. No arithmetic: theirs is in f32.
//
// A NaN that is rounded to bfloat16 becomes 0x7FFF, as on the device; the way back keeps every bit.
#pragma once

#include "../cuda_on_cpu.h"
#include "../sixteen_bits.h"

DA_SIXTEEN_BITS(__nv_bfloat16, __nv_bfloat162, __nv_bfloat16_raw, __nv_bfloat162_raw)

inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 v) { return __nv_bfloat16_raw(v).x; }
inline short __bfloat16_as_short(__nv_bfloat16 v) { return static_cast<short>(__nv_bfloat16_raw(v).x); }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) { return __nv_bfloat16_raw{bits}; }
inline __nv_bfloat16 __short_as_bfloat16(short bits) { return __nv_bfloat16_raw{static_cast<unsigned short>(bits)}; }

inline float __bfloat162float(__nv_bfloat16 v) { return __uint_as_float(uint32_t{__bfloat16_as_ushort(v)} << 16); }

inline __nv_bfloat16 __float2bfloat16_rn(float v) {
    const uint32_t bits = __float_as_uint(v);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return __ushort_as_bfloat16(0x7FFF);
    return __ushort_as_bfloat16(static_cast<unsigned short>((bits + 0x7FFFu + (bits >> 16 & 1)) >> 16));
}
inline __nv_bfloat16 __float2bfloat16(float v) { return __float2bfloat16_rn(v); }
inline __nv_bfloat16 __double2bfloat16(double v) { return __float2bfloat16_rn(cuda_on_cpu::to_odd(v)); }

inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return __nv_bfloat162{x, y}; }
inline __nv_bfloat162 make_bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return __nv_bfloat162{x, y}; }
inline __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 v) { return __nv_bfloat162{v, v}; }
inline __nv_bfloat16 __low2bfloat16(__nv_bfloat162 v) { return v.x; }
inline __nv_bfloat16 __high2bfloat16(__nv_bfloat162 v) { return v.y; }
inline __nv_bfloat162 __float2bfloat162_rn(float v) { return __bfloat162bfloat162(__float2bfloat16_rn(v)); }
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) {
    return __nv_bfloat162{__float2bfloat16_rn(x), __float2bfloat16_rn(y)};
}
inline __nv_bfloat162 __float22bfloat162_rn(float2 v) { return __floats2bfloat162_rn(v.x, v.y); }
inline float2 __bfloat1622float2(__nv_bfloat162 v) { return make_float2(__bfloat162float(v.x), __bfloat162float(v.y)); }
inline float __low2float(__nv_bfloat162 v) { return __bfloat162float(v.x); }
inline float __high2float(__nv_bfloat162 v) { return __bfloat162float(v.y); }

DA_COMPARISONS(__nv_bfloat16, __nv_bfloat162, __bfloat162float)
