// How every kernel goes through its tensor. What all of it computes, as a naive kernel with a thread for each element:
//
//     const uint64_t i = blockIdx.x * blockDim.x + threadIdx.x;  // the tensor's element, bit i % 32 of word i / 32
//     if (i >= n) return;
//     Element e;
//     e.input = input[i];                                        // x forward, dy backward
//     if (kReadsSaved) e.saved = saved[i];                       // x or y of the forward pass
//     if (kBitsIn == kKeep) e.bit = keep_bit(shard_start + i);   // drawn, keep_stream.cuh
//     if (kBitsIn == kMask) e.bit = bit_of(mask, i);
//     if (kBitsOut == kKeep) set_bit_of(mask, i, e.bit);
//     if (kUniforms) e.uniform = uniform_word(shard_start + i);  // uniforms.cuh
//     out[i] = operation.element(e);
//     if (kBitsOut == kElement) set_bit_of(mask, i, e.bit);
//
// That draws a word's random numbers 32 times, needs atomic operations on the mask, and asks for few bytes at once. So
// a warp takes tiles of 1024 elements, each 32 words of the mask, and every lane owns one of these words: it alone
// draws or loads it, and it alone stores it. Tile t is warp t's, and then the warp's that has t modulo the number of
// warps, so that any grid gives the same results. There are two ways through a tile.
//
// By packs, for tiles that are whole, of tensors that are all 16-byte-aligned (the host counts them: full_tiles). A
// pack is 16 bytes, E elements; lane l has the packs l, 32 + l, 64 + l, ... of the tile:
//
//     load the first kStep packs of each input
//     own = draw the mask word that this lane owns, or load it   // the loads above are under way meanwhile
//     bits = transpose(own)                                      // now the bits of this lane's own packs
//     for each step of kStep packs:
//         load its packs, but for the first step
//         for each pack: result = element() of its elements;  store it;  collect the bits that it leaves
//     store transpose(collected bits) as the mask word that this lane owns
//
// Lane l owns word l / L + E * (l % L), where L = 32 / E lanes have their packs in one word. warp.cuh says why.
//
//     f16, bf16   E = 8, L = 4    lanes 0, 1, 2, 3, 4, 5, ... own words 0, 8, 16, 24, 1, 9, ...
//     f32         E = 4, L = 8    lanes 0, 1, 2, ..., 7, 8, 9, ... own words 0, 4, 8, ..., 28, 1, 5, ...
//     f64         E = 2, L = 16   lanes 0, 1, 2, ..., 15, 16, 17, ... own words 0, 2, 4, ..., 30, 1, 3, ...
//
// By elements, for the last, partial tile and for tensors at any other address. Lane l owns word l:
//
//     own = draw or load word l
//     for j = 0 .. 31, as far as there are elements:             // coalesced at every alignment
//         lane l takes element 32 * j + l; its bit is bit l of own in lane j, which a shuffle brings
//         out = element()
//         a vote packs the 32 lanes' bits into word j, which lane j keeps
//     store the word kept as word l
//
// Every access goes through a cache-hint intrinsic: inputs and masks are streamed, results stay in the
// cache for the layer that comes next. None may use the read-only path: `out` may equal an input.
#pragma once

#include "keep_stream.cuh"
#include "offset.cuh"
#include "operation.cuh"
#include "uniforms.cuh"
#include "warp.cuh"

template <class Op>
struct TileLoop {
    using D = typename Op::D;
    using Bits = typename D::Bits;
    static constexpr int kPackElements = Pack<D>::kElements;
    static constexpr int kPacks = 32 / kPackElements;  // of a lane in a tile
    // Arithmetic on f64 takes twice the registers, so half as many packs are in flight.
    static constexpr int kInFlight = sizeof(Bits) == 8 ? Op::kPacksInFlight / 2 : Op::kPacksInFlight;
    static constexpr int kStep = kInFlight < kPacks ? kInFlight : kPacks;
    static constexpr uint32_t kPackMask = (1u << kPackElements) - 1;
    static constexpr bool kDraws = Op::kBitsIn == BitsIn::kKeep || Op::kUniforms;
    // What draws in its backward too stores the offset that it drew with.
    static constexpr bool kStoresOffset = Op::kUniforms && Op::kBitsOut != BitsOut::kNone;

    const da_args& a;
    Op op;
    unsigned lane;

    __device__ explicit TileLoop(const da_args& a) : a(a) {
        op.prepare(a);
        lane = threadIdx.x % 32;
    }

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

    // Transposed, a mask word is this lane's bits: those of its pack k begin at bit kPackElements * k.
    __device__ __forceinline__ void by_packs(uint64_t tile) const {
        const TileBits<kPackElements> tile_bits(lane);
        const uint64_t word = tile * 32 + tile_bits.own_word();
        const uint4* input = static_cast<const uint4*>(Op::input(a));
        const uint4* saved = static_cast<const uint4*>(Op::saved(a));
        uint4* out = static_cast<uint4*>(a.out);
        const uint64_t at = tile * (DA_TILE_ELEMENTS / kPackElements) + lane;  // this lane's pack 0

        Pack<D> input_packs[kStep], saved_packs[kStep];
        load_step(input, at, input_packs);
        if constexpr (Op::kReadsSaved) load_step(saved, at, saved_packs);
        const uint64_t offset = kDraws ? whole_offset(a) : 0;

        uint32_t bits = 0;
        if constexpr (Op::kBitsIn == BitsIn::kKeep) {
            bits = KeepStream(a).word(offset, a.shard_start / 32 + word);
            if constexpr (Op::kBitsOut == BitsOut::kKeep) __stcs(a.mask + word, bits);
        } else if constexpr (Op::kBitsIn == BitsIn::kMask) {
            bits = __ldcs(a.mask + word);
        }
        if constexpr (Op::kBitsIn != BitsIn::kNone) bits = tile_bits.transpose(bits);

        uint32_t bits_out = 0;
        if constexpr (Op::kWholeTile) {
            static_assert(kStep == kPacks, "a whole tile is one step");
            bits_out = op.tile(input_packs, bits);
#pragma unroll
            for (int k = 0; k < kPacks; ++k) __stwb(out + at + 32 * k, input_packs[k].raw);
        } else {
#pragma unroll 1
            for (int step = 0; step < kPacks; step += kStep) {
                if (step != 0) {
                    load_step(input, at + 32 * step, input_packs);
                    if constexpr (Op::kReadsSaved) load_step(saved, at + 32 * step, saved_packs);
                }
#pragma unroll
                for (int k = 0; k < kStep; ++k) {
                    const uint64_t i = tile * DA_TILE_ELEMENTS + kPackElements * (32 * (step + k) + lane);
                    const uint32_t field = kPackElements * (step + k);
                    const uint32_t of_pack = (bits >> field) & kPackMask;
                    const uint32_t pack_bits = one_pack(input_packs[k], saved_packs[k], of_pack, offset, i);
                    __stwb(out + at + 32 * (step + k), input_packs[k].raw);
                    bits_out |= pack_bits << field;
                }
            }
        }
        if constexpr (Op::kBitsOut == BitsOut::kElement) __stcs(a.mask + word, tile_bits.transpose(bits_out));
    }

    // Replaces the pack of element i and those after it by its result; returns its bits for the mask.
    __device__ __forceinline__ uint32_t one_pack(Pack<D>& pack, const Pack<D>& saved, uint32_t bits, uint64_t offset,
                                                 uint64_t i) const {
        uint32_t uniforms[kPackElements] = {};
        if constexpr (Op::kUniforms) uniform_words(a.round_keys, offset, a.shard_start + i, uniforms);
        Bits out[kPackElements];
        uint32_t bits_out = 0;
#pragma unroll
        for (int k = 0; k < kPackElements; ++k) {
            const Bits of_saved = Op::kReadsSaved ? saved.get(k) : Bits{0};
            Element<D> e{pack.get(k), of_saved, ((bits >> k) & 1) != 0, uniforms[k]};
            out[k] = op.element(e);
            bits_out |= e.bit ? 1u << k : 0u;
        }
        pack = Pack<D>::of(out);
        return bits_out;
    }

    __device__ __forceinline__ void by_elements(uint64_t tile) const {
        const uint64_t base = tile * DA_TILE_ELEMENTS;
        const uint64_t left = a.n - base;
        const uint32_t count = left < DA_TILE_ELEMENTS ? static_cast<uint32_t>(left) : DA_TILE_ELEMENTS;
        const uint32_t words = (count + 31) / 32;
        const Bits* input = static_cast<const Bits*>(Op::input(a)) + base;
        const Bits* saved = static_cast<const Bits*>(Op::saved(a)) + (Op::kReadsSaved ? base : 0);
        Bits* out = static_cast<Bits*>(a.out) + base;
        uint32_t* mask = a.mask + tile * 32;

        const uint64_t offset = kDraws ? whole_offset(a) : 0;
        uint32_t bits = 0;  // lane l: word l
        if constexpr (Op::kBitsIn == BitsIn::kKeep) {
            bits = KeepStream(a).word(offset, a.shard_start / 32 + tile * 32 + lane);
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
            if (inside) {
                uint32_t uniform[1] = {0};
                if constexpr (Op::kUniforms) uniform_words(a.round_keys, offset, a.shard_start + base + i, uniform);
                const Bits of_saved = Op::kReadsSaved ? Bits{__ldcs(saved + i)} : Bits{0};
                Element<D> e{__ldcs(input + i), of_saved, bit, uniform[0]};
                __stwb(out + i, op.element(e));
                bit = e.bit;
            }
            if constexpr (Op::kBitsOut != BitsOut::kNone) {
                const uint32_t vote = __ballot_sync(kFullWarp, inside && bit);
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
    TileLoop<Op>(a).run();
}

// One entry point for each element type of an operation template.
#define DA_ENTRY(name, ...)                                          \
    extern "C" __global__ void                                       \
    __launch_bounds__(DA_MAX_BLOCK_THREADS, __VA_ARGS__::kMinBlocks) \
        name(const da_args a) {                                      \
        run<__VA_ARGS__>(a);                                         \
    }
#define DA_ENTRIES(name, ...)                \
    DA_ENTRY(name##_f32, __VA_ARGS__<F32>)   \
    DA_ENTRY(name##_f16, __VA_ARGS__<F16>)   \
    DA_ENTRY(name##_bf16, __VA_ARGS__<BF16>) \
    DA_ENTRY(name##_f64, __VA_ARGS__<F64>)
