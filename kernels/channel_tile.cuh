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
// one of these words. A tile has 32 / E segments of 32 packs of E elements, a pack of each segment for every lane.
//
// By packs, for tiles that are whole, where addresses and shape allow it:
//
//     load the first kStep packs
//     own = draw the mask word that this lane owns, or load it   // in one place: the code is long
//     load_late() of these packs, so that there are registers to draw in: a residual
//     bits = transpose(own)                                      // now the bits of this lane's own packs
//     for each step of kStep packs: load those of the next step; for each pack of this one: apply(), store
//     store transpose(collected bits) as the mask word that this lane owns
//
// Most tiles of ReLU's passes in training are straight (straight_tiles): then an operation's tile() does all packs of a
// step at once, by the logic of select.cuh, and each pack is of one channel, or all are of the same channels. They have
// larger steps, and load each when it comes.
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
    static constexpr int kStep = Op::kPacksAtOnce;
    static constexpr bool kAhead = !Op::kStraight;
    static constexpr uint32_t kStepBits = static_cast<uint32_t>((uint64_t{1} << (kPack * kStep)) - 1);

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
    using Channels = PackChannels<kPack>;
    using Packs = typename Op::template Loaded<kPack>[kStep];
    using Values = typename Op::template Values<kPack>;

    // Where a lane's packs of a tile are: pack k is number first + apart * k of the tensor.
    struct Walk {
        uint64_t first;
        uint32_t apart;

        __device__ __forceinline__ uint64_t element(int k) const { return kPack * (first + uint64_t{apart} * k); }
    };

    __device__ __forceinline__ Walk walk_of(uint64_t tile) const {
        if (tile >= a.column_tiles) return {tile * (32 * kPacks) + lane, 32};
        const uint32_t columns = static_cast<uint32_t>(a.columns);
        const uint32_t column =
            static_cast<uint32_t>(tile) - static_cast<uint32_t>(quotient(tile, a.by_columns)) * columns;
        // Before its group of tiles, all segments are done; within it, one for each column.
        return {(kPacks * (tile - column) + column) * 32 + lane, 32 * columns};
    }

    __device__ __forceinline__ void one_tile(uint64_t tile) const {
        const bool by_packs = tile < a.full_tiles;
        const Walk walk = walk_of(tile);
        Packs packs;
        if (by_packs) load_step(walk, 0, packs);

        // By packs, word l % kPacks of the tile's segments, and in it the word that the lanes of a group share.
        uint64_t word = tile * 32 + lane;
        if (by_packs) {
            const uint64_t segment = walk.first / 32 + uint64_t{walk.apart / 32 * (lane % kPacks)};
            word = segment * kPack + lane / kPacks;
        }
        const uint32_t own = bits_of(word);
        if (!by_packs) {
            all_elements(tile, own);
            return;
        }
        load_late(walk, 0, packs);
        const TileBits<kPack> tile_bits(lane);
        if constexpr (Op::kDraws && !Op::kStoresOutcome) {
            if (a.mask != nullptr) __stcs(a.mask + word, own);
        }
        const uint32_t bits = tile_bits.transpose(own);
        const bool down_a_column = tile < a.column_tiles;
        uint32_t bits_out;
        if (Op::kStraight && tile < a.straight_tiles && op.is_straight()) {
            bits_out = down_a_column ? straight_tile<true>(walk, bits, packs) : straight_tile<false>(walk, bits, packs);
        } else {
            bits_out = all_packs(walk, down_a_column, bits, packs);
        }
        if constexpr (Op::kDraws && Op::kStoresOutcome) {
            if (a.mask != nullptr) __stcs(a.mask + word, tile_bits.transpose(bits_out));
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

    __device__ __forceinline__ void load_step(const Walk& walk, int step, Packs& packs) const {
#pragma unroll
        for (int k = 0; k < kStep; ++k) packs[k] = op.template load<kPack>(walk.element(step + k));
    }

    __device__ __forceinline__ void load_late(const Walk& walk, int step, Packs& packs) const {
        if (!op.loads_late()) return;
#pragma unroll
        for (int k = 0; k < kStep; ++k) op.template load_late<kPack>(packs[k], walk.element(step + k));
    }

    __device__ __forceinline__ void load_all(const Walk& walk, int step, Packs& packs) const {
        load_step(walk, step, packs);
        load_late(walk, step, packs);
    }

    template <bool COLUMN>
    __device__ __forceinline__ uint32_t straight_tile(const Walk& walk, uint32_t bits, Packs& packs) const {
        if constexpr (!Op::kStraight) {
            return 0;
        } else if constexpr (!Op::kStraightLate) {
            return straight_tile<COLUMN, false>(walk, bits, packs);
        } else {
            return op.loads_late() ? straight_tile<COLUMN, true>(walk, bits, packs)
                                   : straight_tile<COLUMN, false>(walk, bits, packs);
        }
    }

    // With the same channels for all packs (COLUMN), or one channel for each; with what is loaded late, or without.
    template <bool COLUMN, bool LATE>
    __device__ __forceinline__ uint32_t straight_tile(const Walk& walk, uint32_t bits, Packs& packs) const {
        Values values[COLUMN ? 1 : kStep];
        Place<uint32_t> place = {};
        if constexpr (COLUMN) {
            values[0] = op.template values<kPack>(Channels::of_row(Place<uint32_t>::channel_of(a, walk.element(0))));
        } else {
            place = Place<uint32_t>::of(a, walk.element(0));
        }
        uint32_t bits_out = 0;
#pragma unroll 1
        for (int step = 0; step < kPacks; step += kStep) {
            if (step != 0) load_all(walk, step, packs);
            if constexpr (!COLUMN) {
#pragma unroll
                for (int k = 0; k < kStep; ++k) {
                    values[k] = op.template values<kPack>(Channels::of_one(place.channel));
                    place.advance(a, a.step_channels, a.step_within);
                }
            }
            Pack<D> results[kStep];
            const uint32_t of_step = op.template tile<LATE>(packs, values, bits >> (kPack * step), results);
            bits_out |= (of_step & kStepBits) << (kPack * step);
#pragma unroll
            for (int k = 0; k < kStep; ++k) Elements<D, kPack>{results[k]}.store(a.out, walk.element(step + k));
        }
        return bits_out;
    }

    __device__ __forceinline__ uint32_t all_packs(const Walk& walk, bool down_a_column, uint32_t bits,
                                                  Packs& packs) const {
        Place<uint32_t> place = Place<uint32_t>::of(a, walk.element(0));
        const bool in_rows = a.layout == DA_LAYOUT_ROWS;
        Values values;
        uint32_t bits_out = 0;
#pragma unroll 1
        for (int step = 0; step < kPacks; step += kStep) {
            if (!kAhead && step != 0) load_all(walk, step, packs);
            Packs now;
#pragma unroll
            for (int k = 0; k < kStep; ++k) now[k] = packs[k];
            if (kAhead && step + kStep < kPacks) load_all(walk, step + kStep, packs);
#pragma unroll
            for (int k = 0; k < kStep; ++k) {
                if (step + k == 0 || !down_a_column) {
                    values = op.template values<kPack>(in_rows ? Channels::of_row(place.channel)
                                                               : Channels::of_image(a, place));
                    place.advance(a, a.step_channels, a.step_within);
                }
                const uint32_t field = kPack * (step + k);
                bits_out |= one_pack<kPack>(now[k], values, bits >> field, walk.element(step + k)) << field;
            }
        }
        return bits_out;
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

        using Wide = Place<uint64_t>;
        Wide place = Wide::of(a, base + lane);
        // What 32 elements add to a place.
        const Wide step = Wide::of(a, 32);
        uint32_t bits_out = 0;  // lane l: word l
#pragma unroll 1
        for (uint32_t j = 0; j < words; ++j) {
            const uint32_t i = 32 * j + lane;
            const bool inside = i < count;
            bool bit = (__shfl_sync(kFullWarp, own, j) >> lane & 1) != 0;
            if (inside) {
                auto loaded = op.template load<1>(base + i);
                if (op.loads_late()) op.template load_late<1>(loaded, base + i);
                const auto values = op.template values<1>(PackChannels<1>::of_image(a, place));
                bit = one_pack<1>(loaded, values, bit, base + i) != 0;
            }
            place.advance(a, step.channel, step.within);
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
