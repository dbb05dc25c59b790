// What binary16 and bfloat16 have in common: a number of 16 bits, a pair of them, and how they compare.
#pragma once

#include "cuda_on_cpu.h"

namespace cuda_on_cpu {

// To f32, inexact results to the neighbour whose last bit is odd: a second rounding, to at most 22
// bits, then gives what one rounding from f64 would have.
inline float to_odd(double v) {
    const float nearest = static_cast<float>(v);
    const double back = nearest;
    if (back == v || v != v) return nearest;
    uint32_t bits = __float_as_uint(nearest);
    if (fabs(back) > fabs(v)) --bits;
    return __uint_as_float(bits | 1);
}

}  // namespace cuda_on_cpu

// Members of the raw types are public and those of the others are not to be relied on, as in CUDA;
// a pair's x is its low half.
#define DA_SIXTEEN_BITS(one, pair, one_raw, pair_raw)                                   \
    struct alignas(2) one_raw { unsigned short x; };                                    \
    struct alignas(4) pair_raw { unsigned short x, y; };                                \
    class one {                                                                         \
        unsigned short bits;                                                            \
                                                                                        \
      public:                                                                           \
        one() = default;                                                                \
        one(one_raw raw) : bits(raw.x) {}                                               \
        operator one_raw() const { return one_raw{bits}; }                              \
    };                                                                                  \
    struct alignas(4) pair {                                                            \
        one x, y;                                                                       \
                                                                                        \
        pair() = default;                                                               \
        pair(one low, one high) : x(low), y(high) {}                                    \
        pair(pair_raw raw) : x(one_raw{raw.x}), y(one_raw{raw.y}) {}                    \
        operator pair_raw() const { return pair_raw{one_raw(x).x, one_raw(y).x}; }      \
    };                                                                                  \
    template <> struct cuda_on_cpu::Accessed<one> : std::true_type {};                  \
    template <> struct cuda_on_cpu::Accessed<pair> : std::true_type {};                 \
    template <> struct cuda_on_cpu::Shuffled<one> : std::true_type {};                  \
    template <> struct cuda_on_cpu::Shuffled<pair> : std::true_type {};

// `name` with two numbers, with pairs as a mask of 16 bits each, and with pairs when both hold. The
// last letter u: true as well where either is a NaN.
#define DA_COMPARISON(one, pair, widen, name, holds)                                    \
    inline bool __h##name(one left, one right) {                                        \
        const float a = widen(left), b = widen(right);                                  \
        return holds;                                                                   \
    }                                                                                   \
    inline unsigned __h##name##2_mask(pair a, pair b) {                                 \
        return (__h##name(a.x, b.x) ? 0xFFFFu : 0) | (__h##name(a.y, b.y) ? 0xFFFF0000u : 0); \
    }                                                                                   \
    inline bool __hb##name##2(pair a, pair b) { return __h##name##2_mask(a, b) == 0xFFFFFFFFu; }

#define DA_COMPARISONS(one, pair, widen)                                                \
    DA_COMPARISON(one, pair, widen, eq, a == b)                                         \
    DA_COMPARISON(one, pair, widen, ne, a < b || a > b)                                 \
    DA_COMPARISON(one, pair, widen, lt, a < b)                                          \
    DA_COMPARISON(one, pair, widen, le, a <= b)                                         \
    DA_COMPARISON(one, pair, widen, gt, a > b)                                          \
    DA_COMPARISON(one, pair, widen, ge, a >= b)                                         \
    DA_COMPARISON(one, pair, widen, equ, !(a < b || a > b))                             \
    DA_COMPARISON(one, pair, widen, neu, a != b)                                        \
    DA_COMPARISON(one, pair, widen, ltu, !(a >= b))                                     \
    DA_COMPARISON(one, pair, widen, leu, !(a > b))                                      \
    DA_COMPARISON(one, pair, widen, gtu, !(a <= b))                                     \
    DA_COMPARISON(one, pair, widen, geu, !(a < b))                                      \
    inline bool __hisnan(one v) { return widen(v) != widen(v); }
