// CUDA's functions, one for each kernel: out[i] = f(x[count * i], x[count * i + 1], ...). tests/machines/cuda_functions.rs
// runs each of them as it is emulated and as nvcc compiles it. Every one that the kernels call has to be here
// (tests/emulator/functions.rs).
//
// Lanes that meet must do so every time: launch them for a number of results that is a multiple of the grid's threads.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "drop_activation.h"
#include "prmt.cuh"

#define FUNCTION(name, In, Out, count, expression)                                                      \
    extern "C" __global__ void function_##name(const da_args a) {                                       \
        const uint64_t stride = uint64_t{gridDim.x} * blockDim.x;                                       \
        for (uint64_t i = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < a.n; i += stride) {      \
            In x[count];                                                                                \
            for (int j = 0; j < count; ++j) x[j] = __ldcs(static_cast<const In*>(a.x) + count * i + j); \
            __stwb(static_cast<Out*>(a.out) + i, static_cast<Out>(expression));                         \
        }                                                                                               \
    }

#define COPY(name, T, load, store)                                                                 \
    extern "C" __global__ void function_##name(const da_args a) {                                  \
        const uint64_t stride = uint64_t{gridDim.x} * blockDim.x;                                  \
        for (uint64_t i = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < a.n; i += stride) { \
            store(static_cast<T*>(a.out) + i, load(static_cast<const T*>(a.x) + i));               \
        }                                                                                          \
    }

// Memory
COPY(ldcs_stcs_4, uint32_t, __ldcs, __stcs)
COPY(ldcs_stwb_16, uint4, __ldcs, __stwb)
COPY(ldcs_stwb_2, unsigned short, __ldcs, __stwb)
COPY(ldcs_stwb_8, unsigned long long, __ldcs, __stwb)
COPY(ldcg_stwb_8, uint64_t, __ldcg, __stwb)
COPY(ldca_stwb_4, float, __ldca, __stwb)
COPY(ldca_stwb_8, double, __ldca, __stwb)
COPY(ldca_stwb_of_floats, float4, __ldca, __stwb)
COPY(ldca_stwb_of_doubles, double2, __ldca, __stwb)

// Bits
FUNCTION(float_as_uint, float, uint32_t, 1, __float_as_uint(x[0]))
FUNCTION(uint_as_float, uint32_t, float, 1, __uint_as_float(x[0]))
FUNCTION(double_as_longlong, double, long long, 1, __double_as_longlong(x[0]))
FUNCTION(longlong_as_double, long long, double, 1, __longlong_as_double(x[0]))
FUNCTION(ushort_as_half_as_ushort, unsigned short, unsigned short, 1, __half_as_ushort(__ushort_as_half(x[0])))
FUNCTION(make_uint4, uint32_t, uint4, 4, make_uint4(x[0], x[1], x[2], x[3]))
FUNCTION(prmt, uint32_t, uint32_t, 3, prmt(x[0], x[1], x[2]))
FUNCTION(byte_perm, uint32_t, uint32_t, 3, __byte_perm(x[0], x[1], x[2]))
FUNCTION(funnelshift_l, uint32_t, uint32_t, 3, __funnelshift_l(x[0], x[1], x[2]))
FUNCTION(umulhi, uint32_t, uint32_t, 2, __umulhi(x[0], x[1]))
FUNCTION(umul64hi, uint64_t, uint64_t, 2, __umul64hi(x[0], x[1]))

// Numbers
FUNCTION(half2float, unsigned short, uint32_t, 1, __float_as_uint(__half2float(__ushort_as_half(x[0]))))
FUNCTION(float2half_rn, float, unsigned short, 1, __half_as_ushort(__float2half_rn(x[0])))
FUNCTION(float2bfloat16_rn, float, unsigned short, 1, __bfloat16_as_ushort(__float2bfloat16_rn(x[0])))
FUNCTION(fabs, double, double, 1, fabs(x[0]))
FUNCTION(fabsf, float, float, 1, fabsf(x[0]))
FUNCTION(copysign, double, double, 2, copysign(x[0], x[1]))
FUNCTION(copysignf, float, float, 2, copysignf(x[0], x[1]))
FUNCTION(fma, double, double, 3, fma(x[0], x[1], x[2]))
FUNCTION(fma_of_floats, float, float, 3, fma(x[0], x[1], x[2]))
FUNCTION(fmaf, float, float, 3, fmaf(x[0], x[1], x[2]))
FUNCTION(two_roundings, float, float, 3, x[0] * x[1] + x[2])
FUNCTION(float_of_uint, uint32_t, float, 1, static_cast<float>(x[0]))

template <class Pair, class T>
__device__ __forceinline__ T bits_of(Pair pair) {
    return *reinterpret_cast<const T*>(&pair);
}
#define PAIR(Pair, bits) (*reinterpret_cast<const Pair*>(&bits))
FUNCTION(floats2half2_rn, float, uint32_t, 2, (bits_of<__half2, uint32_t>(__floats2half2_rn(x[0], x[1]))))
FUNCTION(floats2bfloat162_rn, float, uint32_t, 2, (bits_of<__nv_bfloat162, uint32_t>(__floats2bfloat162_rn(x[0], x[1]))))
FUNCTION(hle2_mask_of_halves, uint32_t, uint32_t, 2, __hle2_mask(PAIR(__half2, x[0]), PAIR(__half2, x[1])))
FUNCTION(hle2_mask_of_bfloats, uint32_t, uint32_t, 2, __hle2_mask(PAIR(__nv_bfloat162, x[0]), PAIR(__nv_bfloat162, x[1])))

// Lanes. The even and the odd ones meet apart.
#define ALL 0xFFFFFFFFu
#define EVEN 0x55555555u
#define ODD 0xAAAAAAAAu
FUNCTION(shfl_sync, uint32_t, uint32_t, 2, __shfl_sync(ALL, x[0], static_cast<int>(x[1])))
FUNCTION(shfl_sync_apart, uint32_t, uint32_t, 2,
         threadIdx.x & 1 ? __shfl_sync(ODD, x[0], static_cast<int>(x[1] | 1))
                         : __shfl_sync(EVEN, x[0], static_cast<int>(x[1] & ~1u)))
FUNCTION(shfl_xor_sync, uint32_t, uint32_t, 2, __shfl_xor_sync(ALL, x[0], static_cast<int>(x[1] & 31)))
FUNCTION(shfl_xor_sync_apart, uint32_t, uint32_t, 2,
         threadIdx.x & 1 ? __shfl_xor_sync(ODD, x[0], static_cast<int>(x[1] & 30))
                         : __shfl_xor_sync(EVEN, x[0], static_cast<int>(x[1] & 30)))
FUNCTION(ballot_sync, uint32_t, uint32_t, 1, __ballot_sync(ALL, x[0] & 4))
FUNCTION(ballot_sync_apart, uint32_t, uint32_t, 1,
         threadIdx.x & 1 ? __ballot_sync(ODD, x[0] & 4) : __ballot_sync(EVEN, x[0] & 4))
FUNCTION(any_sync, uint32_t, uint32_t, 1, __any_sync(ALL, (x[0] & 0x1F) == 0) != 0)
FUNCTION(any_sync_apart, uint32_t, uint32_t, 1,
         (threadIdx.x & 1 ? __any_sync(ODD, (x[0] & 0xF) == 0) : __any_sync(EVEN, (x[0] & 0xF) == 0)) != 0)
