// What CUDA's functions and types are on a CPU: enough of the language for the kernels of this crate, so that the
// same .cu files compile as host C++ and run lane by lane under cuda_on_cpu.cpp.
//
// Forced into every translation unit, as nvcc does with its own runtime header. Three ideas:
//
//   collectives  (__shfl_sync, __syncwarp, ...) call meet(), which suspends the lane until every lane
//                named in its mask has come to the same place;
//   global memory is touched through __ldcs, __stcg and their kin only, which call read() and
//                write(), where each access is checked against the buffers of the launch;
//   __shared__   is a variable of the operating-system thread that runs the launch, one block at a
//                time; it is not checked, but the lanes can be run in another order.
//
// A name of CUDA's that is not here is a compile error: an undeclared name, or a poisoned one where the
// host's own headers may declare it. What the kernels use is held to what nvcc makes of it
// (functions.rs). Sums and products are rounded one by one: the compiler is told not to contract them.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <type_traits>

// ---------------------------------------------------------------------------------------------------
// Words of the language

#define __global__ __attribute__((visibility("default")))
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))
// Static initialisation is refused for `__thread`, as it is for CUDA's __shared__; so is `extern`,
// shared memory whose size only the launch knows.
#define __shared__ static __thread

#define DA_VECTOR2(name, T, bytes)                           \
    struct alignas(bytes) name {                             \
        T x, y;                                              \
    };                                                       \
    inline name make_##name(T x, T y) { return name{x, y}; }
#define DA_VECTOR3(name, T)                                          \
    struct name {                                                    \
        T x, y, z;                                                   \
    };                                                               \
    inline name make_##name(T x, T y, T z) { return name{x, y, z}; }
#define DA_VECTOR4(name, T, bytes)                                           \
    struct alignas(bytes) name {                                             \
        T x, y, z, w;                                                        \
    };                                                                       \
    inline name make_##name(T x, T y, T z, T w) { return name{x, y, z, w}; }

DA_VECTOR2(char2, signed char, 2)
DA_VECTOR4(char4, signed char, 4)
DA_VECTOR2(uchar2, unsigned char, 2)
DA_VECTOR4(uchar4, unsigned char, 4)
DA_VECTOR2(short2, short, 4)
DA_VECTOR4(short4, short, 8)
DA_VECTOR2(ushort2, unsigned short, 4)
DA_VECTOR4(ushort4, unsigned short, 8)
DA_VECTOR2(int2, int, 8)
DA_VECTOR3(int3, int)
DA_VECTOR4(int4, int, 16)
DA_VECTOR2(uint2, unsigned int, 8)
DA_VECTOR3(uint3, unsigned int)
DA_VECTOR4(uint4, unsigned int, 16)
DA_VECTOR2(longlong2, long long, 16)
DA_VECTOR2(ulonglong2, unsigned long long, 16)
DA_VECTOR2(float2, float, 8)
DA_VECTOR3(float3, float)
DA_VECTOR4(float4, float, 16)
DA_VECTOR2(double2, double, 16)

#undef DA_VECTOR2
#undef DA_VECTOR3
#undef DA_VECTOR4

using dim3 = uint3;

#pragma GCC visibility push(hidden)

// Set by the scheduler each time it lets a lane go on.
extern __thread uint3 threadIdx;
extern __thread uint3 blockIdx;
extern __thread dim3 blockDim;
extern __thread dim3 gridDim;
constexpr int warpSize = 32;

// ---------------------------------------------------------------------------------------------------
// Collectives

namespace cuda_on_cpu {

enum class Meeting {
    kShfl,
    kShflUp,
    kShflDown,
    kShflXor,
    kBallot,
    kAny,
    kAll,
    kSyncWarp,
    kSyncThreads
};

// Suspends the calling lane until all lanes of `mask` wait at the same file and line for the same
// kind of meeting with the same mask. `source`: the lane whose value a shuffle returns.
uint64_t meet(Meeting kind, uint32_t mask, uint64_t value, uint32_t source, const char* file, int line);

// Stops the launch: a lane asked for what CUDA does not define.
[[noreturn]] void refuse(const char* what, const char* file, int line);

inline uint32_t lane() { return threadIdx.x % 32; }

template <class T> struct Shuffled : std::false_type {};
template <> struct Shuffled<int> : std::true_type {};
template <> struct Shuffled<unsigned> : std::true_type {};
template <> struct Shuffled<long> : std::true_type {};
template <> struct Shuffled<unsigned long> : std::true_type {};
template <> struct Shuffled<long long> : std::true_type {};
template <> struct Shuffled<unsigned long long> : std::true_type {};
template <> struct Shuffled<float> : std::true_type {};
template <> struct Shuffled<double> : std::true_type {};

template <class T>
inline T shuffle(Meeting kind, uint32_t mask, T value, uint32_t source, const char* file, int line) {
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    bits = meet(kind, mask, bits, source, file, line);
    memcpy(&value, &bits, sizeof value);
    return value;
}

// The first lane of the caller's segment of `width` lanes.
inline uint32_t segment(int width, const char* file, int line) {
    if (width < 1 || width > 32 || (width & (width - 1)) != 0) {
        refuse("a shuffle's width is a power of two up to 32", file, line);
    }
    return lane() & ~static_cast<uint32_t>(width - 1);
}

}  // namespace cuda_on_cpu

// Where the kernel's source makes the call.
#define DA_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

// A source outside the segment means the lane's own value, except for __shfl_sync, which wraps.
template <class T, class = std::enable_if_t<cuda_on_cpu::Shuffled<T>::value>>
inline T __shfl_sync(unsigned mask, T value, int source, int width = 32, DA_SITE) {
    const uint32_t from = cuda_on_cpu::segment(width, file, line) + (static_cast<uint32_t>(source) & (width - 1));
    return cuda_on_cpu::shuffle(cuda_on_cpu::Meeting::kShfl, mask, value, from, file, line);
}
template <class T, class = std::enable_if_t<cuda_on_cpu::Shuffled<T>::value>>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, DA_SITE) {
    const uint32_t within = cuda_on_cpu::lane() - cuda_on_cpu::segment(width, file, line);
    const uint32_t from = within >= delta ? cuda_on_cpu::lane() - delta : cuda_on_cpu::lane();
    return cuda_on_cpu::shuffle(cuda_on_cpu::Meeting::kShflUp, mask, value, from, file, line);
}
template <class T, class = std::enable_if_t<cuda_on_cpu::Shuffled<T>::value>>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, DA_SITE) {
    const uint32_t within = cuda_on_cpu::lane() - cuda_on_cpu::segment(width, file, line);
    const uint32_t from = uint64_t{within} + delta < static_cast<uint32_t>(width) ? cuda_on_cpu::lane() + delta : cuda_on_cpu::lane();
    return cuda_on_cpu::shuffle(cuda_on_cpu::Meeting::kShflDown, mask, value, from, file, line);
}
template <class T, class = std::enable_if_t<cuda_on_cpu::Shuffled<T>::value>>
inline T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, DA_SITE) {
    const uint32_t end = cuda_on_cpu::segment(width, file, line) + width;
    const uint32_t partner = cuda_on_cpu::lane() ^ static_cast<uint32_t>(lane_mask);
    const uint32_t from = partner < end ? partner : cuda_on_cpu::lane();
    return cuda_on_cpu::shuffle(cuda_on_cpu::Meeting::kShflXor, mask, value, from, file, line);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, DA_SITE) {
    return static_cast<unsigned>(cuda_on_cpu::meet(cuda_on_cpu::Meeting::kBallot, mask, predicate != 0, 0, file, line));
}
inline int __any_sync(unsigned mask, int predicate, DA_SITE) {
    return static_cast<int>(cuda_on_cpu::meet(cuda_on_cpu::Meeting::kAny, mask, predicate != 0, 0, file, line));
}
inline int __all_sync(unsigned mask, int predicate, DA_SITE) {
    return static_cast<int>(cuda_on_cpu::meet(cuda_on_cpu::Meeting::kAll, mask, predicate != 0, 0, file, line));
}
inline void __syncwarp(unsigned mask = 0xFFFFFFFFu, DA_SITE) {
    cuda_on_cpu::meet(cuda_on_cpu::Meeting::kSyncWarp, mask, 0, 0, file, line);
}
inline void __syncthreads(DA_SITE) {
    cuda_on_cpu::meet(cuda_on_cpu::Meeting::kSyncThreads, 0, 0, 0, file, line);
}

// ---------------------------------------------------------------------------------------------------
// Global memory

namespace cuda_on_cpu {

// `unchanging`: the read-only path, which CUDA allows only for what no thread writes in the launch.
void read(void* to, const void* from, uint32_t bytes, bool unchanging, const char* file, int line);
void write(void* to, const void* from, uint32_t bytes, const char* file, int line);

// What one instruction can move: scalars, and vectors of 2 or 4 that fill a power of two of bytes.
template <class T> struct Accessed : std::is_arithmetic<T> {};
template <> struct Accessed<bool> : std::false_type {};
// clang-format off
#define DA_ACCESSED(T) template <> struct Accessed<T> : std::true_type {};
DA_ACCESSED(char2) DA_ACCESSED(char4) DA_ACCESSED(uchar2) DA_ACCESSED(uchar4)
DA_ACCESSED(short2) DA_ACCESSED(short4) DA_ACCESSED(ushort2) DA_ACCESSED(ushort4)
DA_ACCESSED(int2) DA_ACCESSED(int4) DA_ACCESSED(uint2) DA_ACCESSED(uint4)
DA_ACCESSED(longlong2) DA_ACCESSED(ulonglong2)
DA_ACCESSED(float2) DA_ACCESSED(float4) DA_ACCESSED(double2)
// clang-format on
#undef DA_ACCESSED

}  // namespace cuda_on_cpu

#define DA_LOAD(name, unchanging)                                                 \
    template <class T, class = std::enable_if_t<cuda_on_cpu::Accessed<T>::value>> \
    inline T name(const T* from, DA_SITE) {                                       \
        T value;                                                                  \
        cuda_on_cpu::read(&value, from, sizeof(T), unchanging, file, line);       \
        return value;                                                             \
    }
#define DA_STORE(name)                                                            \
    template <class T, class = std::enable_if_t<cuda_on_cpu::Accessed<T>::value>> \
    inline void name(T* to, std::common_type_t<T> value, DA_SITE) {               \
        cuda_on_cpu::write(to, &value, sizeof(T), file, line);                    \
    }
DA_LOAD(__ldg, true)
DA_LOAD(__ldca, false)
DA_LOAD(__ldcg, false)
DA_LOAD(__ldcs, false)
DA_LOAD(__ldcv, false)
DA_LOAD(__ldlu, false)
DA_STORE(__stwb)
DA_STORE(__stcg)
DA_STORE(__stcs)
DA_STORE(__stwt)
#undef DA_LOAD
#undef DA_STORE

// ---------------------------------------------------------------------------------------------------
// Numbers. CUDA's mathematical functions have the names of C's; these and no others mean the same.

extern "C" {
double copysign(double magnitude, double sign);
double fabs(double v);
double fma(double a, double b, double c);
float copysignf(float magnitude, float sign);
float fabsf(float v);
float fmaf(float a, float b, float c);
}
inline float fma(float a, float b, float c) { return fmaf(a, b, c); }

// ---------------------------------------------------------------------------------------------------
// Bits

template <class To, class From>
inline To da_bit_cast(From from) {
    static_assert(sizeof(To) == sizeof(From), "same bits, another type");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
inline unsigned __float_as_uint(float v) { return da_bit_cast<unsigned>(v); }
inline float __uint_as_float(unsigned v) { return da_bit_cast<float>(v); }
inline long long __double_as_longlong(double v) { return da_bit_cast<long long>(v); }
inline double __longlong_as_double(long long v) { return da_bit_cast<double>(v); }

// Three bits of each selector name one of the eight bytes (x low, y high); the fourth is not looked at.
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
    const uint64_t bytes = uint64_t{y} << 32 | x;
    unsigned result = 0;
    for (int i = 0; i < 4; ++i) {
        const unsigned byte = selector >> (4 * i) & 7;
        result |= static_cast<unsigned>(bytes >> (8 * byte) & 0xFF) << (8 * i);
    }
    return result;
}
inline unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned shift) {
    return static_cast<unsigned>((uint64_t{hi} << 32 | lo) << (shift & 31) >> 32);
}
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(uint64_t{a} * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}

#pragma GCC visibility pop

// Declared by the C library under names that CUDA gives another meaning, or beyond what is checked here.
#pragma GCC poison __expf __exp10f __logf __log2f __log10f __sinf __cosf __tanf __sincosf __powf
#pragma GCC poison __fdividef __tanhf __activemask __match_any_sync __match_all_sync
#pragma GCC poison atomicAdd atomicCAS atomicExch atomicMin atomicMax atomicAnd atomicOr atomicXor
#pragma GCC poison __threadfence __threadfence_block __threadfence_system __constant__ __managed__
#pragma GCC poison asm
