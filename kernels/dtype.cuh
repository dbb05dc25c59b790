// The element types: how their bits become the type that arithmetic is done in, and back with one
// rounding. Kernels carry elements as bits, so that what only passes through stays as it is
// (a NaN keeps its payload).
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "drop_activation.h"

struct F32 {
    using Bits = unsigned int;
    using Real = float;
    static __device__ __forceinline__ Real real(Bits b) { return __uint_as_float(b); }
    static __device__ __forceinline__ Bits bits(Real r) { return __float_as_uint(r); }
};

struct F16 {
    using Bits = unsigned short;
    using Real = float;
    static __device__ __forceinline__ Real real(Bits b) { return __half2float(__ushort_as_half(b)); }
    static __device__ __forceinline__ Bits bits(Real r) { return __half_as_ushort(__float2half_rn(r)); }
    // Two at once, the first in the low half.
    static __device__ __forceinline__ uint32_t bits(Real low, Real high) {
        const __half2 pair = __floats2half2_rn(low, high);
        return *reinterpret_cast<const uint32_t*>(&pair);
    }
    // 0xFFFF in each half of the pair that is <= 0. (A zero that was converted is made again for each compare.)
    static __device__ __forceinline__ uint32_t at_most_zero(uint32_t pair) {
        const uint32_t zero = 0;
        return __hle2_mask(*reinterpret_cast<const __half2*>(&pair), *reinterpret_cast<const __half2*>(&zero));
    }
};

struct BF16 {
    using Bits = unsigned short;
    using Real = float;
    static __device__ __forceinline__ Real real(Bits b) { return __uint_as_float(uint32_t{b} << 16); }
    static __device__ __forceinline__ Bits bits(Real r) { return __bfloat16_as_ushort(__float2bfloat16_rn(r)); }
    static __device__ __forceinline__ uint32_t bits(Real low, Real high) {
        const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
        return *reinterpret_cast<const uint32_t*>(&pair);
    }
    static __device__ __forceinline__ uint32_t at_most_zero(uint32_t pair) {
        using Pair = __nv_bfloat162;
        const uint32_t zero = 0;
        return __hle2_mask(*reinterpret_cast<const Pair*>(&pair), *reinterpret_cast<const Pair*>(&zero));
    }
};

struct F64 {
    using Bits = unsigned long long;
    using Real = double;
    static __device__ __forceinline__ Real real(Bits b) { return __longlong_as_double(static_cast<long long>(b)); }
    static __device__ __forceinline__ Bits bits(Real r) {
        return static_cast<Bits>(__double_as_longlong(r));
    }
};

// A 16-byte access and the elements in it.
template <class D>
struct Pack {
    static constexpr int kElements = DA_PACK_BYTES / static_cast<int>(sizeof(typename D::Bits));
    uint4 raw;

    __device__ __forceinline__ typename D::Bits get(int i) const {
        const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
        if constexpr (sizeof(typename D::Bits) == 2) {
            return static_cast<unsigned short>(words[i / 2] >> (16 * (i % 2)));
        } else if constexpr (sizeof(typename D::Bits) == 4) {
            return words[i];
        } else {
            return words[2 * i] | static_cast<unsigned long long>(words[2 * i + 1]) << 32;
        }
    }

    static __device__ __forceinline__ Pack of(const typename D::Bits (&e)[kElements]) {
        uint32_t words[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if constexpr (sizeof(typename D::Bits) == 2) {
                words[i] = e[2 * i] | uint32_t{e[2 * i + 1]} << 16;
            } else if constexpr (sizeof(typename D::Bits) == 4) {
                words[i] = e[i];
            } else {
                words[i] = static_cast<uint32_t>(e[i / 2] >> (32 * (i % 2)));
            }
        }
        return Pack{make_uint4(words[0], words[1], words[2], words[3])};
    }
};
