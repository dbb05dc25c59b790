// Whole-tile arithmetic: ReLU's training passes come down to compares and logic on 32-bit registers, each
// of which holds one element of f32 or two of f16 or bf16. Two things are to be done for all elements of a lane: to
// spread its 32 bits into masks of 16 or 32 ones or zeros (Masks16, Masks32), and to gather the outcome of 32 compares
// back into bits (Gather16, Gather32).
//
// The types of 16 bits. Four packs of eight elements; element e of pack k has bit 8*k + e:
//
//     bit      31     24 23     16 15      8 7       0
//             +---------+---------+---------+---------+
//     bits    | pack 3  | pack 2  | pack 1  | pack 0  |     in each: elements 7 6 5 4 3 2 1 0
//             +---------+---------+---------+---------+
//
// Shifted left by 7 - e, a register has element e of packs 0..3 at the top of its bytes 0..3, and a byte permute that
// fills bytes with a byte's top bit (prmt.cuh) spreads two of them, from the registers of e = 2*j and 2*j + 1, into the
// mask of pair j. Seven shifts serve the whole tile. With element 3 of pack 1 alone set:
//
//     bits                = 0x00000800                      bit 8*1 + 3
//     shifted[2] = << 5   = 0x00010000                      byte 1 is 0x00, its top bit 0: element 2
//     shifted[3] = << 4   = 0x00008000                      byte 1 is 0x80, its top bit 1: element 3
//     of(1, 1)            = 0xFFFF0000                      elements 3 (upper half) and 2 (lower) of pack 1
//
// Back, Gather16 multiplies a pair's mask by minus a power of two of its own and adds up; see there.
//
// f32. Eight packs of four elements; element e of pack k has bit 4*k + e:
//
//     bit      31  28 27  24 23  20 19  16 15  12 11   8 7    4 3    0
//             +------+------+------+------+------+------+------+------+
//     bits    | p. 7 | p. 6 | p. 5 | p. 4 | p. 3 | p. 2 | p. 1 | p. 0 |     in each: elements 3 2 1 0
//             +------+------+------+------+------+------+------+------+
//
// Shifted left by 7 - (4*(k%2) + e), a register has the bit at the top of byte k/2: the byte permute spreads it over
// the mask of one element. With element 1 of pack 5 alone set:
//
//     bits                = 0x00200000                      bit 4*5 + 1
//     shifted[5] = << 2   = 0x00800000                      4*(5%2) + 1 = 5; byte 5/2 = 2 is 0x80, its top bit 1
//     of(5, 1)            = 0xFFFFFFFF
//
// There is no instruction that compares floats and gives a mask, but one that gives 1.0 or 0.0. Multiplied by a power
// of two for each element and added up (Gather32), that is the bits side by side: one fused multiply-add for each, on
// units that the logic leaves idle. Both instructions are exact, and NaN <= 0 is false as the mask stream's text wants.
#pragma once

#include "dtype.cuh"
#include "prmt.cuh"

struct Masks16 {
    uint32_t shifted[8];

    __device__ explicit Masks16(uint32_t bits) {
#pragma unroll
        for (int e = 0; e < 8; ++e) shifted[e] = bits << (7 - e);
    }

    // 0xFFFF in the half whose element's bit is set, for elements 2*j (low) and 2*j + 1 of pack k.
    __device__ __forceinline__ uint32_t of(int k, int j) const {
        const uint32_t low = kSignOfByte | k, high = kSignOfByte | (4 + k);
        return prmt(shifted[2 * j], shifted[2 * j + 1], low | low << 4 | high << 8 | high << 12);
    }
};

// Gathers one bit for each element out of 16-bit pair masks, by multiplication: the units that multiply have time.
// A pair mask is L * 0xFFFF + H * 0xFFFF0000, with L and H the bits of its low and its high element. Times
// -2^place and modulo 2^32 that is L * 2^place + (H - L) * 2^(place + 16). In the sum over all pairs, each at a place
// of its own from 0 to 15, the low half holds the L; once more added to the upper half it leaves the H there.
//
// The places are chosen so that half of all bits are where they belong then, and the others are 15 places off. For the
// pair above, elements 3 and 2 of pack 1, with L = 0 and H = 1:
//
//     place               = 8*1 + 2*1 = 10
//     sum                 = 0xFFFF0000 * -2^10 = 2^26
//     gathered            = 2^26                            H at place + 16
//     bits()              = 2^11                            of the upper half's even places, 15 down: bit 8*1 + 3
struct Gather16 {
    uint32_t sum = 0;

    __device__ __forceinline__ void add(int k, int j, uint32_t pair_mask) {
        const int place = k < 2 ? 8 * k + 2 * j : 8 * (k - 2) + 2 * j + 1;
        sum += pair_mask * (0u - (1u << place));
    }

    __device__ __forceinline__ uint32_t bits() const {
        const uint32_t gathered = sum * 0x10001u;
        return (gathered & 0xAAAA5555u) | (gathered & 0x0000AAAAu) << 15 | (gathered & 0x55550000u) >> 15;
    }
};

// ReLU's training forward: replaces x by y, returns the pass bits.
template <class D>
__device__ __forceinline__ uint32_t drop_relu_tile(Pack<D> (&packs)[4], uint32_t keep) {
    const Masks16 kept(keep);
    Gather16 at_most_zero;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        uint32_t* pairs[4] = {&packs[k].raw.x, &packs[k].raw.y, &packs[k].raw.z, &packs[k].raw.w};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const uint32_t low = D::at_most_zero(*pairs[j]);
            at_most_zero.add(k, j, low);
            *pairs[j] &= ~(low & kept.of(k, j));
        }
    }
    return ~(keep & at_most_zero.bits());
}

struct Masks32 {
    uint32_t shifted[8];

    __device__ explicit Masks32(uint32_t word_bits) {
#pragma unroll
        for (int place = 0; place < 8; ++place) shifted[place] = word_bits << (7 - place);
    }

    // All ones where the bit of element e of pack k is set.
    __device__ __forceinline__ uint32_t of(int k, int e) const {
        const uint32_t top = kSignOfByte | (k / 2);
        return prmt(shifted[4 * (k % 2) + e], 0, top * 0x1111u);
    }
};

// Gathers one bit for each element out of compares of f32. A sum begins at 2^23, where the last place of an f32
// counts units, so that its low half is the 16 bits it has gathered. Element 1 of pack 5 in f32 has place 4*5 + 1 = 21.
// Where it is set, it adds 2^5 to the second sum: 2^23 + 2^5 is 0x4B000020 as bits, and its low half goes to the upper
// half of the word, so that 2^5 is bit 16 + 5.
struct Gather32 {
    float gathered[2] = {0x1p23f, 0x1p23f};

    __device__ __forceinline__ void add(int place, bool bit) {
        const float weight = static_cast<float>(1u << (place % 16));
        gathered[place / 16] = fma(bit ? 1.0f : 0.0f, weight, gathered[place / 16]);
    }

    __device__ __forceinline__ uint32_t bits() const {
        return __byte_perm(__float_as_uint(gathered[0]), __float_as_uint(gathered[1]), 0x5410);
    }
};

// clang-format off
template <class D> struct MasksOf { using Type = Masks16; };
template <> struct MasksOf<F32> { using Type = Masks32; };
// clang-format on

// Clears the elements whose bit equals `cleared`, which is 0 or all ones. (Inverted as a word, the bits would
// be inverted once more for every shift.)
template <class D, int PACKS>
__device__ __forceinline__ void clear_tile(Pack<D> (&packs)[PACKS], uint32_t bits, uint32_t cleared) {
    const typename MasksOf<D>::Type set(bits);
#pragma unroll
    for (int k = 0; k < PACKS; ++k) {
        uint32_t* words[4] = {&packs[k].raw.x, &packs[k].raw.y, &packs[k].raw.z, &packs[k].raw.w};
#pragma unroll
        for (int j = 0; j < 4; ++j) *words[j] &= set.of(k, j) ^ cleared;
    }
}

__device__ __forceinline__ uint32_t drop_relu_tile(Pack<F32> (&packs)[8], uint32_t keep) {
    Gather32 at_most_zero;
#pragma unroll
    for (int k = 0; k < 8; ++k) {
#pragma unroll
        for (int e = 0; e < 4; ++e) at_most_zero.add(4 * k + e, F32::real(packs[k].get(e)) <= 0);
    }
    const uint32_t blocked = keep & at_most_zero.bits();
    clear_tile(packs, blocked, 0xFFFFFFFFu);
    return ~blocked;
}

// Its backward: zero where the pass bit is clear.
template <class D, int PACKS>
__device__ __forceinline__ void select_tile(Pack<D> (&packs)[PACKS], uint32_t pass) {
    clear_tile(packs, pass, 0);
}
