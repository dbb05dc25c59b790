// How the elementwise fused kernels go through their tensors. What all of it computes, as a naive kernel with a thread
// for each element:
//
//     const uint64_t i = blockIdx.x * blockDim.x + threadIdx.x;  // bit i % 32 of word i / 32
//     if (i >= n) return;
//     const uint64_t c = i / inner % channels;
//     bool bit = kDraws ? keep_bit(shard_start + i)              // all ones or zeros at inference
//                       : mask ? bit_of(mask, i) : constant_bit;
//     out[i] = operation.apply(tensors[i], vectors[c], bit);
//     if (kDraws && mask) set_bit_of(mask, i, bit);              // as it was drawn, or as apply() left it
//
// As in tile.cuh, which says why, a warp takes tiles of 1024 elements, each 32 words of the mask, and every lane owns
// one of these words. A tile has 32 / E segments of 32 packs of E elements, a pack of each segment for every lane:
//
//     load the first kStep packs of each tensor
//     own = draw the mask word that this lane owns, or load it
//     bits = transpose(own)                                      // now the bits of this lane's own packs
//     for each step of kStep packs: load those of the next step; for each pack of this one: apply(), store
//     store transpose(collected bits) as the mask word that this lane owns
//
// The vectors' values for a pack come from the first-level cache, where vectors find room. In rows of channels
// (inner == 1) they stay in registers for the whole tile, wherever that can be: after `columns` segments the channels
// begin anew, so a tile takes segments that are so far apart, and each lane has packs of the same channels only. With
// three columns and four segments to a tile (16 bits), the first three tiles have these segments, and the next three
// those after:
//
//     tile 0: 0 3 6 9        tile 1: 1 4 7 10       tile 2: 2 5 8 11
//
// The tiles behind the last such group (column_tiles) have neighbouring segments again, and each pack its own values.
// In images (inner > 1) a pack's elements are of one channel, or of two if inner is no multiple of E but as large.
//
// By elements, for the last, partial tile, for other shapes and for tensors at any address: lane l takes elements
// 32 * j + l of the tile, and owns word l.
#pragma once

#include "channels.cuh"
#include "keep_stream.cuh"
#include "offset.cuh"
#include "warp.cuh"

template <class Op>
struct ChannelTiles {
    using D = typename Op::D;
    static constexpr int kPack = Pack<D>::kElements;
    static constexpr int kPacks = 32 / kPack;  // of a lane in a tile, and segments of it
    static constexpr uint32_t kSegment = 32 * kPack;
    // Packs that a lane works on at once. As many more are loaded ahead of their use.
    static constexpr int kStep = Op::kPacksAtOnce;

    const da_args& a;
    Op op;
    unsigned lane;

    __device__ explicit ChannelTiles(const da_args& a) : a(a), op(a), lane(threadIdx.x % 32) {}

    __device__ __forceinline__ void run() const {
        const unsigned warps_per_block = blockDim.x / 32;
        const uint64_t stride = uint64_t{gridDim.x} * warps_per_block;
        uint64_t tile = uint64_t{blockIdx.x} * warps_per_block + threadIdx.x / 32;
        for (; tile < a.tiles; tile += stride) one_tile(tile);
    }

  private:
    using Packs = typename Op::template Loaded<kPack>[kStep];

    // Random numbers are drawn in one place for both ways through a tile: their code is long.
    __device__ __forceinline__ void one_tile(uint64_t tile) const {
        const bool by_packs = tile < a.full_tiles;
        const bool down_a_column = tile < a.column_tiles;
        uint64_t first = tile * DA_TILE_ELEMENTS;  // element of the first segment
        uint64_t apart = kSegment;
        if (down_a_column) {
            first = (tile / a.columns * (kPacks - 1) * a.columns + tile) * kSegment;
            apart = a.columns * kSegment;
        }
        const uint64_t at = first + kPack * lane;  // of this lane's pack 0
        Packs ahead;
        if (by_packs) load_step(at, apart, ahead);

        // By packs, word l % kPacks of the tile's segments, and in it the word that the lanes of a group share.
        uint64_t word = tile * 32 + lane;
        if (by_packs) word = (first + apart * (lane % kPacks)) / 32 + lane / kPacks;
        const uint32_t own = bits_of(word);
        if (by_packs) {
            all_packs(at, apart, down_a_column, word, own, ahead);
        } else {
            all_elements(tile, own);
        }
    }

    // The bits of mask word `word`, which a lane owns.
    __device__ __forceinline__ uint32_t bits_of(uint64_t word) const {
        if constexpr (Op::kDraws) {
            return a.planes == 0 ? a.constant_word : KeepStream(a).word(whole_offset(a), a.shard_start / 32 + word);
        } else {
            // The last tile may have fewer words than lanes.
            return a.mask != nullptr && word < (a.n + 31) / 32 ? __ldcs(a.mask + word) : a.constant_word;
        }
    }

    __device__ __forceinline__ void load_step(uint64_t at, uint64_t apart, Packs& packs) const {
#pragma unroll
        for (int k = 0; k < kStep; ++k) packs[k] = op.template load<kPack>(at + apart * k);
    }

    __device__ __forceinline__ void all_packs(uint64_t at, uint64_t apart, bool down_a_column, uint64_t word,
                                              uint32_t own, Packs& ahead) const {
        const TileBits<kPack> tile_bits(lane);
        if constexpr (Op::kDraws && !Op::kStoresOutcome) {
            if (a.mask != nullptr) __stcs(a.mask + word, own);
        }
        const uint32_t bits = tile_bits.transpose(own);

        Place place = Place::of(a, at);
        const bool in_rows = a.layout == DA_LAYOUT_ROWS;
        typename Op::template Values<kPack> values;
        uint32_t bits_out = 0;
#pragma unroll 1
        for (int step = 0; step < kPacks; step += kStep) {
            Packs packs;
#pragma unroll
            for (int k = 0; k < kStep; ++k) packs[k] = ahead[k];
            if (step + kStep < kPacks) load_step(at + apart * (step + kStep), apart, ahead);
#pragma unroll
            for (int k = 0; k < kStep; ++k) {
                if (step + k == 0 || !down_a_column) {
                    using Channels = PackChannels<kPack>;
                    values = op.template values<kPack>(in_rows ? Channels::of_row(place.channel)
                                                               : Channels::of_image(a, place));
                    place.advance(a, a.step_channels, a.step_within);
                }
                const uint32_t field = kPack * (step + k);
                const uint32_t pack_bits = one_pack<kPack>(packs[k], values, bits >> field, at + apart * (step + k));
                bits_out |= pack_bits << field;
            }
        }
        if constexpr (Op::kDraws && Op::kStoresOutcome) {
            if (a.mask != nullptr) __stcs(a.mask + word, tile_bits.transpose(bits_out));
        }
    }

    // Stores the results of a pack, or of an element; returns their bits as apply() leaves them.
    template <int E>
    __device__ __forceinline__ uint32_t one_pack(const typename Op::template Loaded<E>& loaded,
                                                 const typename Op::template Values<E>& values, uint32_t bits,
                                                 uint64_t i) const {
        typename D::Real results[E];
        uint32_t bits_out = 0;
#pragma unroll
        for (int e = 0; e < E; ++e) {
            bool bit = (bits >> e & 1) != 0;
            results[e] = op.template apply<E>(loaded, values, e, bit);
            bits_out |= bit ? 1u << e : 0u;
        }
        Elements<D, E>::rounded(results).store(a.out, i);
        return bits_out;
    }

    __device__ __forceinline__ void all_elements(uint64_t tile, uint32_t own) const {
        const uint64_t base = tile * DA_TILE_ELEMENTS;
        const uint64_t left = a.n - base;
        const uint32_t count = left < DA_TILE_ELEMENTS ? static_cast<uint32_t>(left) : DA_TILE_ELEMENTS;
        const uint32_t words = (count + 31) / 32;

        Place place = Place::of(a, base + lane);
        const uint64_t step_channels = 32 / a.inner % a.channels, step_within = 32 % a.inner;
        uint32_t bits_out = 0;  // lane l: word l
#pragma unroll 1
        for (uint32_t j = 0; j < words; ++j) {
            const uint32_t i = 32 * j + lane;
            const bool inside = i < count;
            bool bit = (__shfl_sync(kFullWarp, own, j) >> lane & 1) != 0;
            if (inside) {
                const auto loaded = op.template load<1>(base + i);
                const auto values = op.template values<1>(PackChannels<1>::of_image(a, place));
                bit = one_pack<1>(loaded, values, bit, base + i) != 0;
            }
            place.advance(a, step_channels, step_within);
            if constexpr (Op::kDraws) {
                const uint32_t vote = __ballot_sync(kFullWarp, inside && bit);
                if (lane == j) bits_out = vote;
            }
        }
        if constexpr (Op::kDraws) {
            if (a.mask != nullptr && lane < words) __stcs(a.mask + tile * 32 + lane, bits_out);
        }
    }
};
