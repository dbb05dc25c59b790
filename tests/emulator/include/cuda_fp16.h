// binary16, as far as the kernels use it: conversions, comparisons, bits. No arithmetic: theirs is in f32.
//
// A NaN that is converted loses sign and payload, as on the device: 0x7FFF in 16 bits, 0x7FFFFFFF in 32.
#pragma once

#include "../cuda_on_cpu.h"
#include "../sixteen_bits.h"

DA_SIXTEEN_BITS(__half, __half2, __half_raw, __half2_raw)

inline unsigned short __half_as_ushort(__half v) { return __half_raw(v).x; }
inline __half __ushort_as_half(unsigned short bits) { return __half_raw{bits}; }

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
inline __half2 __floats2half2_rn(float x, float y) { return __half2{__float2half_rn(x), __float2half_rn(y)}; }

DA_AT_MOST(__half2, __half2float)
