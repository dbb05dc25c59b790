// What binary16 and bfloat16 have in common: a number of 16 bits, a pair of them, and how pairs compare.
#pragma once

#include "cuda_on_cpu.h"

// Members of the raw types are public and those of the others are not to be relied on, as in CUDA;
// a pair's x is its low half.
#define DA_SIXTEEN_BITS(one, pair, one_raw, pair_raw)                              \
    struct alignas(2) one_raw {                                                    \
        unsigned short x;                                                          \
    };                                                                             \
    struct alignas(4) pair_raw {                                                   \
        unsigned short x, y;                                                       \
    };                                                                             \
    class one {                                                                    \
        unsigned short bits;                                                       \
                                                                                   \
      public:                                                                      \
        one() = default;                                                           \
        one(one_raw raw) : bits(raw.x) {}                                          \
        operator one_raw() const { return one_raw{bits}; }                         \
    };                                                                             \
    struct alignas(4) pair {                                                       \
        one x, y;                                                                  \
                                                                                   \
        pair() = default;                                                          \
        pair(one low, one high) : x(low), y(high) {}                               \
        pair(pair_raw raw) : x(one_raw{raw.x}), y(one_raw{raw.y}) {}               \
        operator pair_raw() const { return pair_raw{one_raw(x).x, one_raw(y).x}; } \
    };                                                                             \
    template <> struct cuda_on_cpu::Accessed<one> : std::true_type {};             \
    template <> struct cuda_on_cpu::Accessed<pair> : std::true_type {};            \
    template <> struct cuda_on_cpu::Shuffled<one> : std::true_type {};             \
    template <> struct cuda_on_cpu::Shuffled<pair> : std::true_type {};

// 0xFFFF in each half of the pair where a number is at most the other; a NaN is not.
#define DA_AT_MOST(pair, widen)                                                                         \
    inline unsigned __hle2_mask(pair a, pair b) {                                                       \
        return (widen(a.x) <= widen(b.x) ? 0xFFFFu : 0) | (widen(a.y) <= widen(b.y) ? 0xFFFF0000u : 0); \
    }
