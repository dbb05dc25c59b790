// binary16, as far as the kernels use it: conversions, comparisons, bits. No arithmetic: theirs is in f32.
//
// A NaN that is converted loses sign and payload, as on the device: 0x7FFF in 16 bits, 0x7FFFFFFF in 32.
#pragma once

#include "../cuda_on_cpu.h"
#include "../sixteen_bits.h"

DA_SIXTEEN_BITS(__half, __half2, __half_raw, __half2_raw)

inline unsigned short __half_as_ushort(__half v) { return __half_raw(v).x; }
inline short __half_as_short(__half v) { return static_cast<short>(__half_raw(v).x); }
inline __half __ushort_as_half(unsigned short bits) { return __half_raw{bits}; }
inline __half __short_as_half(short bits) { return __half_raw{static_cast<unsigned short>(bits)}; }

inline float __half2float(__half v) {
    const uint32_t bits = __half_as_ushort(v);
    const uint32_t sign = (bits & 0x8000u) << 16;
    const uint32_t magnitude = bits & 0x7FFFu;
    if (magnitude > 0x7C00u) return __uint_as_float(0x7FFFFFFFu);
    if (magnitude == 0x7C00u) return __uint_as_float(sign | 0x7F800000u);
    if (magnitude < 0x0400u) {  // subnormal: a whole number of 2^-24
        const float value = static_cast<float>(magnitude) * 0x1p-24f;
        return __uint_as_float(sign | __float_as_uint(value));
    }
    return __uint_as_float(sign | ((magnitude << 13) + (112u << 23)));
}

inline __half __float2half_rn(float v) {
    const uint32_t bits = __float_as_uint(v);
    const uint32_t sign = bits >> 16 & 0x8000u;
    uint32_t magnitude = bits & 0x7FFFFFFFu;
    if (magnitude > 0x7F800000u) {
        return __ushort_as_half(0x7FFF);
    } else if (magnitude >= 0x477FF000u) {  // 65520, the tie above the largest binary16
        magnitude = 0x7C00u;
    } else if (magnitude >= 0x38800000u) {  // normal, from 2^-14
        magnitude += 0xFFFu + (magnitude >> 13 & 1) - (112u << 23);
        magnitude >>= 13;
    } else {  // the last bit of a sum near 0.5 is 2^-24, subnormal binary16's unit
        magnitude = __float_as_uint(__uint_as_float(magnitude) + 0.5f) - 0x3F000000u;
    }
    return __ushort_as_half(static_cast<unsigned short>(sign | magnitude));
}
inline __half __float2half(float v) { return __float2half_rn(v); }
inline __half __double2half(double v) { return __float2half_rn(cuda_on_cpu::to_odd(v)); }

inline __half2 __halves2half2(__half x, __half y) { return __half2{x, y}; }
inline __half2 make_half2(__half x, __half y) { return __half2{x, y}; }
inline __half2 __half2half2(__half v) { return __half2{v, v}; }
inline __half __low2half(__half2 v) { return v.x; }
inline __half __high2half(__half2 v) { return v.y; }
inline __half2 __float2half2_rn(float v) { return __half2half2(__float2half_rn(v)); }
inline __half2 __floats2half2_rn(float x, float y) { return __half2{__float2half_rn(x), __float2half_rn(y)}; }
inline __half2 __float22half2_rn(float2 v) { return __floats2half2_rn(v.x, v.y); }
inline float2 __half22float2(__half2 v) { return make_float2(__half2float(v.x), __half2float(v.y)); }
inline float __low2float(__half2 v) { return __half2float(v.x); }
inline float __high2float(__half2 v) { return __half2float(v.y); }

DA_COMPARISONS(__half, __half2, __half2float)
