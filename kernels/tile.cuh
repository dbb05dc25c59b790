// How every kernel walks its tensor.
//
// A warp takes tiles of 1024 elements, grid-stride, so any grid gives the same numbers. A full tile
// of 16-byte-aligned tensors goes by packs: all loads of a step first, then the random numbers while
// they fly. How many there are of these the host says. The last, partial tile and tensors at any other
// element-aligned address go by elements:
// lane l takes element 32*j + l, which is coalesced at every alignment, and a vote packs the bits.
//
// Every access goes through a cache-hint intrinsic: inputs and masks stream past the cache, results
// stay for the layer that comes next. None may use the read-only path: `out` may equal an input.
//
// What an operation gives to the walk (one struct for each, in the .cu files):
//   D                 its element type
//   kInputs           1 or 2: first() and second() are the tensors read
//   kBitsIn           where an element's bit comes from: nowhere, the keep stream, the mask
//   kBitsOut          what is stored as mask: nothing, the drawn keep bit, the bit element() returns
//   kUniforms         whether element() wants a random word for each element (RReLU)
//   kPacksAtOnce      how many packs of each input are in flight
//   kMinBlocks        blocks that a multiprocessor must have registers for; 0 leaves it to ptxas
//   element(in0, in1, bit, random, bit_out)   one element, as bits
// and, where whole-tile arithmetic beats that, kWholeTile and tile(packs, bits).
#pragma once

#include "dtype.cuh"
#include "keep_stream.cuh"
#include "offset.cuh"
#include "philox.cuh"
#include "warp.cuh"

enum class BitsIn { kNone, kKeep, kMask };
enum class BitsOut { kNone, kKeep, kElement };

// Defaults, and the tensors of the two directions.
struct ForwardOp {
    static constexpr int kInputs = 1;
    static constexpr int kMinBlocks = 0;
    static constexpr bool kUniforms = false;
    static constexpr bool kWholeTile = false;
    static __device__ __forceinline__ const void* first(const da_args& a) { return a.x; }
    static __device__ __forceinline__ const void* second(const da_args&) { return nullptr; }
};
struct BackwardOp {
    static constexpr int kInputs = 1;
    static constexpr int kMinBlocks = 0;
    static constexpr bool kUniforms = false;
    static constexpr bool kWholeTile = false;
    static __device__ __forceinline__ const void* first(const da_args& a) { return a.dy; }
    static __device__ __forceinline__ const void* second(const da_args& a) { return a.x; }
};

// RReLU's uniform words (section 4): output word e % 4 of the call at counter e / 4.
template <int N>
__device__ __forceinline__ void uniform_words(const uint32_t (&round_keys)[20], uint64_t offset, uint64_t e,
                                              uint32_t (&r)[N]) {
    static_assert(N == 1 || N == 2 || N % 4 == 0, "a pack's elements start at a multiple of N");
#pragma unroll
    for (int i = 0; i < N; i += 4) {
        const uint64_t q = (e + i) / 4;
        const uint4 words = philox4x32_10(
            make_uint4(static_cast<uint32_t>(q), static_cast<uint32_t>(q >> 32),
                       static_cast<uint32_t>(offset), static_cast<uint32_t>(offset >> 32)),
            round_keys);
        if constexpr (N == 1) {
            const uint32_t low = e & 1 ? words.y : words.x;
            const uint32_t high = e & 1 ? words.w : words.z;
            r[0] = e & 2 ? high : low;
        } else if constexpr (N == 2) {
            r[0] = e & 2 ? words.z : words.x;
            r[1] = e & 2 ? words.w : words.y;
        } else {
            r[i] = words.x;
            r[i + 1] = words.y;
            r[i + 2] = words.z;
            r[i + 3] = words.w;
        }
    }
}

template <class Op>
struct Walk {
    using D = typename Op::D;
    using Bits = typename D::Bits;
    static constexpr int kPackElements = Pack<D>::kElements;
    static constexpr int kPacks = 32 / kPackElements;  // of a lane in a tile
    // Arithmetic on f64 takes twice the registers, so half as many packs are in flight.
    static constexpr int kAtOnce = sizeof(Bits) == 8 ? Op::kPacksAtOnce / 2 : Op::kPacksAtOnce;
    static constexpr int kStep = kAtOnce < kPacks ? kAtOnce : kPacks;
    static constexpr uint32_t kPackMask = (1u << kPackElements) - 1;
    static constexpr bool kDraws = Op::kBitsIn == BitsIn::kKeep || Op::kUniforms;
    // What draws in its backward too stores the offset that it drew with.
    static constexpr bool kStoresOffset = Op::kUniforms && Op::kBitsOut != BitsOut::kNone;

    const da_args& a;
    Op op;
    unsigned lane;

    __device__ explicit Walk(const da_args& a) : a(a), op(a), lane(threadIdx.x % 32) {}

    __device__ __forceinline__ void run() {
        if constexpr (kStoresOffset) {
            if (a.offset_out != nullptr) store_offset(a);
        }
        const unsigned warps_per_block = blockDim.x / 32;
        const uint64_t stride = uint64_t{gridDim.x} * warps_per_block;
        uint64_t tile = uint64_t{blockIdx.x} * warps_per_block + threadIdx.x / 32;
        for (; tile < a.tiles; tile += stride) {
            if (tile < a.full_tiles) {
                by_packs(tile);
            } else {
                by_elements(tile);
            }
        }
    }

    __device__ __forceinline__ void load_step(const uint4* from, uint64_t at, Pack<D> (&packs)[kStep]) const {
#pragma unroll
        for (int k = 0; k < kStep; ++k) packs[k].raw = __ldcs(from + at + 32 * k);
    }

    __device__ __forceinline__ void by_packs(uint64_t tile) const {
        const TileBits<kPackElements> tile_bits(lane);
        const uint64_t word = tile * 32 + tile_bits.own_word();
        const uint4* first = static_cast<const uint4*>(Op::first(a));
        const uint4* second = static_cast<const uint4*>(Op::second(a));
        uint4* out = static_cast<uint4*>(a.out);
        const uint64_t at = tile * (DA_TILE_ELEMENTS / kPackElements) + lane;  // this lane's pack 0

        Pack<D> in0[kStep], in1[kStep];
        load_step(first, at, in0);
        if constexpr (Op::kInputs == 2) load_step(second, at, in1);
        const uint64_t offset = kDraws ? whole_offset(a) : 0;

        uint32_t bits = 0;
        if constexpr (Op::kBitsIn == BitsIn::kKeep) {
            bits = KeepStream(a).word(offset, a.first / 32 + word);
            if constexpr (Op::kBitsOut == BitsOut::kKeep) __stcs(a.mask + word, bits);
        } else if constexpr (Op::kBitsIn == BitsIn::kMask) {
            bits = __ldcs(a.mask + word);
        }
        if constexpr (Op::kBitsIn != BitsIn::kNone) bits = tile_bits.transpose(bits);

        uint32_t bits_out = 0;
        if constexpr (Op::kWholeTile) {
            static_assert(kStep == kPacks, "a whole tile is one step");
            bits_out = op.tile(in0, bits);
#pragma unroll
            for (int k = 0; k < kPacks; ++k) __stwb(out + at + 32 * k, in0[k].raw);
        } else {
#pragma unroll 1
            for (int step = 0; step < kPacks; step += kStep) {
                if (step != 0) {
                    load_step(first, at + 32 * step, in0);
                    if constexpr (Op::kInputs == 2) load_step(second, at + 32 * step, in1);
                }
#pragma unroll
                for (int k = 0; k < kStep; ++k) {
                    const uint64_t e = tile * DA_TILE_ELEMENTS + kPackElements * (32 * (step + k) + lane);
                    const uint32_t field = kPackElements * (step + k);
                    const uint32_t pack_bits = one_pack(in0[k], in1[k], (bits >> field) & kPackMask, offset, e);
                    __stwb(out + at + 32 * (step + k), in0[k].raw);
                    bits_out |= pack_bits << field;
                }
            }
        }
        if constexpr (Op::kBitsOut == BitsOut::kElement) __stcs(a.mask + word, tile_bits.transpose(bits_out));
    }

    // Replaces the pack by its result; returns its bits for the mask.
    __device__ __forceinline__ uint32_t one_pack(Pack<D>& in0, const Pack<D>& in1, uint32_t bits, uint64_t offset,
                                                 uint64_t e) const {
        uint32_t random[kPackElements] = {};
        if constexpr (Op::kUniforms) uniform_words(a.round_keys, offset, a.first + e, random);
        Bits out[kPackElements];
        uint32_t bits_out = 0;
#pragma unroll
        for (int i = 0; i < kPackElements; ++i) {
            bool bit_out = false;
            const Bits saved = Op::kInputs == 2 ? in1.get(i) : Bits{0};
            out[i] = op.element(in0.get(i), saved, (bits >> i) & 1, random[i], bit_out);
            bits_out |= bit_out ? 1u << i : 0u;
        }
        in0 = Pack<D>::of(out);
        return bits_out;
    }

    __device__ __forceinline__ void by_elements(uint64_t tile) const {
        const uint64_t base = tile * DA_TILE_ELEMENTS;
        const uint64_t left = a.n - base;
        const uint32_t count = left < DA_TILE_ELEMENTS ? static_cast<uint32_t>(left) : DA_TILE_ELEMENTS;
        const uint32_t words = (count + 31) / 32;
        const Bits* first = static_cast<const Bits*>(Op::first(a)) + base;
        const Bits* second = static_cast<const Bits*>(Op::second(a)) + (Op::kInputs == 2 ? base : 0);
        Bits* out = static_cast<Bits*>(a.out) + base;
        uint32_t* mask = a.mask + tile * 32;

        const uint64_t offset = kDraws ? whole_offset(a) : 0;
        uint32_t bits = 0;  // lane l: word l
        if constexpr (Op::kBitsIn == BitsIn::kKeep) {
            bits = KeepStream(a).word(offset, a.first / 32 + tile * 32 + lane);
        } else if constexpr (Op::kBitsIn == BitsIn::kMask) {
            if (lane < words) bits = __ldcs(mask + lane);
        }

        uint32_t bits_out = 0;  // lane l: word l
#pragma unroll 1
        for (uint32_t j = 0; j < words; ++j) {
            const uint32_t i = 32 * j + lane;
            const bool inside = i < count;
            bool bit = false;
            if constexpr (Op::kBitsIn != BitsIn::kNone) bit = (__shfl_sync(kFullWarp, bits, j) >> lane) & 1;
            bool bit_out = bit;
            if (inside) {
                uint32_t random[1] = {0};
                if constexpr (Op::kUniforms) uniform_words(a.round_keys, offset, a.first + base + i, random);
                const Bits saved = Op::kInputs == 2 ? Bits{__ldcs(second + i)} : Bits{0};
                const Bits result = op.element(__ldcs(first + i), saved, bit, random[0], bit_out);
                __stwb(out + i, result);
            }
            if constexpr (Op::kBitsOut != BitsOut::kNone) {
                const uint32_t vote = __ballot_sync(kFullWarp, inside && bit_out);
                if (lane == j) bits_out = vote;
            }
        }
        if constexpr (Op::kBitsOut != BitsOut::kNone) {
            if (lane < words) __stcs(mask + lane, bits_out);
        }
    }
};

template <class Op>
__device__ __forceinline__ void run(const da_args& a) {
    Walk<Op>(a).run();
}

// One entry point for each element type of an operation template.
#define DA_ENTRY(name, ...)                                              \
    extern "C" __global__ void                                           \
    __launch_bounds__(DA_MAX_BLOCK_THREADS, __VA_ARGS__::kMinBlocks)     \
    name(const da_args a) {                                              \
        run<__VA_ARGS__>(a);                                             \
    }
#define DA_ENTRIES(name, ...)              \
    DA_ENTRY(name##_f32, __VA_ARGS__<F32>) \
    DA_ENTRY(name##_f16, __VA_ARGS__<F16>) \
    DA_ENTRY(name##_bf16, __VA_ARGS__<BF16>) \
    DA_ENTRY(name##_f64, __VA_ARGS__<F64>)
