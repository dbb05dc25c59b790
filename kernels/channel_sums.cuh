// Sums over channels, in the order of section 4 of docs/fused.md, which depends on the number of a channel's elements
// alone: 32 accumulators take the elements of a chunk in turns and are halved to one; the chunks' results are summed by
// a second launch. No shared memory, no atomics.
//
// A warp takes chunks, grid-stride. Which of them, and where their accumulators are, the layout decides:
//
//   rows      Channels are next to each other in memory and come in packs of E. A warp takes one chunk of kAcross packs
//             of channels. Lane l has pack l % kAcross, and in it the accumulators l / kAcross + m * (32 / kAcross) for
//             all m.
//   images    The elements of a channel are next to each other and come in packs of E. A warp takes E neighbouring
//             chunks of a channel. Of the 32 / E lanes of a chunk, lane l has accumulators E * l to E * l + E - 1.
//   elements  Anything else, and addresses that are no multiple of a pack: images with E = 1.
//
// With kAcross == 1, rows and images have the same way through memory, and only the halving differs.
//
// In the first two, 16-byte accesses fill whole sectors.
//
// What a sum has to define:
//   D                  its element type
//   kSums              how many sums go together
//   kInputs            how many tensors it reads
//   kLong              whether its arithmetic is long
//   Loaded<E>          what it reads of E neighbouring elements
//   load<E>(i)         reads it, from element i on
//   values<E>(where)   the vectors' values for the channels of E elements
//   take<E>(...)       takes E elements up into as many accumulators
//   complete(sums, n)  when an accumulator has taken its n elements
//   combine(sums, others, n, n_others)
#pragma once

#include "channels.cuh"
#include "warp.cuh"

// Of the first `length` numbers, how many leave the rest i when they are divided by `parts`.
__device__ __forceinline__ uint32_t share_of(uint32_t length, uint32_t i, uint32_t parts) {
    return (length + parts - 1 - i) / parts;
}

template <class Sum>
struct ChunkSums {
    using D = typename Sum::D;
    using Real = typename D::Real;
    static constexpr int kSums = Sum::kSums;
    static constexpr int kPack = Pack<D>::kElements;
    // Two packs next to each other fill a sector of 32 bytes. Where arithmetic takes longer than memory, one alone:
    // each has its own copy of that.
    static constexpr int kAcross = Sum::kLong ? 1 : 2;
    static constexpr int kAccesses = Sum::kLong ? Sum::kInputs : 4;  // in flight, of a lane, as a rule

    const da_args& a;
    Sum sum;
    unsigned lane;

    __device__ explicit ChunkSums(const da_args& a) : a(a), sum(a), lane(threadIdx.x % 32) {}

    __device__ __forceinline__ void run() {
        const unsigned warps_per_block = blockDim.x / 32;
        const uint64_t stride = uint64_t{gridDim.x} * warps_per_block;
        const uint64_t warp = uint64_t{blockIdx.x} * warps_per_block + threadIdx.x / 32;
        if (a.layout == DA_LAYOUT_ELEMENTS) {
            for (uint64_t i = warp; i < a.chunks * a.across; i += stride) {
                const uint64_t chunk = quotient(i, a.by_across);
                neighbours<1>(chunk, i - chunk * a.across, false);
            }
            return;
        }
        const bool in_rows = a.layout == DA_LAYOUT_ROWS;
        if constexpr (kAcross > 1) {
            if (in_rows) {
                for (uint64_t i = warp; i < a.chunks * a.across; i += stride) {
                    const uint64_t chunk = quotient(i, a.by_across);
                    rows(chunk, kPack * kAcross * (i - chunk * a.across));
                }
                return;
            }
        }
        // Packs of channels, or of chunks.
        const uint64_t along = in_rows ? a.chunks : (a.chunks + kPack - 1) / kPack;
        for (uint64_t i = warp; i < along * a.across; i += stride) {
            const uint64_t chunk = quotient(i, a.by_across), channel = i - chunk * a.across;
            neighbours<kPack>(in_rows ? chunk : kPack * chunk, in_rows ? kPack * channel : channel, in_rows);
        }
    }

  private:
    __device__ __forceinline__ uint32_t length_of(uint64_t chunk) const {
        const uint64_t start = chunk * DA_CHUNK_ELEMENTS;
        if (start >= a.count) return 0;
        const uint64_t left = a.count - start;
        return left < DA_CHUNK_ELEMENTS ? static_cast<uint32_t>(left) : DA_CHUNK_ELEMENTS;
    }

    // Value i of a chunk takes up value i + s, which `others` is.
    __device__ __forceinline__ void combine(Real (&sums)[kSums], const Real (&others)[kSums], uint32_t length,
                                            uint32_t i, uint32_t s) const {
        const uint32_t n_others = share_of(length, i + s, 2 * s);
        if (n_others != 0) {
            sum.combine(sums, others, static_cast<Real>(share_of(length, i, 2 * s)), static_cast<Real>(n_others));
        }
    }

    // Halves N values that each lane has against the N values of the lane at this distance, of which the upper one's
    // are s behind: value e is number i + e * kBetween. Of the N results, the lower lane keeps the first half, the
    // upper lane the other, so that both have work; a single result is the lower lane's.
    template <int N, int kBetween, int kMost>
    __device__ __forceinline__ void halve_lanes(Real (&sums)[kMost][kSums], unsigned distance, uint32_t length,
                                                uint32_t i, uint32_t s) const {
        constexpr int kKept = (N + 1) / 2;
        const bool upper = (lane & distance) != 0;
#pragma unroll
        for (int e = 0; e < kKept; ++e) {
            Real lower_one[kSums], upper_one[kSums];
#pragma unroll
            for (int n = 0; n < kSums; ++n) {
                const Real first = sums[e][n], other = sums[e + N / 2][n];
                const Real taken = __shfl_xor_sync(kFullWarp, upper ? first : other, distance);
                lower_one[n] = upper ? taken : first;
                upper_one[n] = upper ? other : taken;
            }
            const uint32_t number = i + kBetween * (upper ? e + N / 2 : e);
            combine(lower_one, upper_one, length, number & (s - 1), s);
#pragma unroll
            for (int n = 0; n < kSums; ++n) sums[e][n] = lower_one[n];
        }
    }

    __device__ __forceinline__ void store(const Real (&sums)[kSums], uint64_t chunk, uint64_t channel) const {
        Real* partial = static_cast<Real*>(a.partial) + channel * a.chunks + chunk;
#pragma unroll
        for (int n = 0; n < kSums; ++n) __stwb(partial + n * a.channels * a.chunks, sums[n]);
    }

    // One chunk of the channels from `first_channel` on.
    __device__ __forceinline__ void rows(uint64_t chunk, uint64_t first_channel) const {
        constexpr int kApart = 32 / kAcross;  // accumulators of a lane
        constexpr int kSteps = kAccesses / (kAcross * Sum::kInputs) > 0 ? kAccesses / (kAcross * Sum::kInputs) : 1;
        const uint64_t channel = first_channel + kPack * (lane % kAcross);
        const bool inside = channel < a.channels;
        const uint32_t length = inside ? length_of(chunk) : 0;
        const uint32_t own = lane / kAcross;
        const auto values = sum.template values<kPack>(PackChannels<kPack>::of_row(inside ? channel : 0));

        Real sums[kAcross][kPack][kSums] = {};
#pragma unroll 1
        for (uint32_t step = 0; step < 32; step += kSteps) {
            typename Sum::template Loaded<kPack> loaded[kSteps][kAcross];
            uint64_t element[kSteps][kAcross];
#pragma unroll
            for (int u = 0; u < kSteps; ++u) {
#pragma unroll
                for (int m = 0; m < kAcross; ++m) {
                    const uint32_t t = 32 * (step + u) + kApart * m + own;
                    element[u][m] = (chunk * DA_CHUNK_ELEMENTS + t) * a.channels + channel;
                    if (t < length) loaded[u][m] = sum.template load<kPack>(element[u][m]);
                }
            }
#pragma unroll
            for (int u = 0; u < kSteps; ++u) {
#pragma unroll
                for (int m = 0; m < kAcross; ++m) {
                    const uint32_t t = 32 * (step + u) + kApart * m + own;
                    if (t < length) sum.take(loaded[u][m], values, element[u][m], u == 0 && step == 0, sums[m]);
                }
            }
        }
#pragma unroll
        for (int m = 0; m < kAcross; ++m) {
#pragma unroll
            for (int e = 0; e < kPack; ++e) sum.complete(sums[m][e], share_of(length, kApart * m + own, 32));
        }

        halve_own<16>(sums, length, own);
        store_row<kApart>(sums[0], chunk, channel, length, own);
    }

    // Lane `own` has accumulator `own` of N channels, those from `kept` on.
    template <int N, int S>
    __device__ __forceinline__ void halve_rows(Real (&sums)[kPack][kSums], uint32_t length, uint32_t own,
                                               uint32_t& kept) const {
        if constexpr (S > 0) {
            halve_lanes<N, 0>(sums, S * kAcross, length, own, S);
            if ((own & S) != 0) kept += N / 2;
            halve_rows<(N + 1) / 2, S / 2>(sums, length, own, kept);
        }
    }

    // Halves the accumulators of kPack channels, of which each lane has one, and stores the results.
    template <int kApart>
    __device__ __forceinline__ void store_row(Real (&sums)[kPack][kSums], uint64_t chunk, uint64_t channel,
                                              uint32_t length, uint32_t own) const {
        uint32_t kept = 0;
        halve_rows<kPack, kApart / 2>(sums, length, own, kept);
        // Lanes whose `own` differs in bits by which no channels were given away have the same.
        if (own % (kApart / kPack) == 0 && length != 0) store(sums[0], chunk, channel + kept);
    }

    // Those of a lane's accumulators that are S and less apart. (A loop is not always unrolled, and then all
    // accumulators are in memory.)
    template <int S>
    __device__ __forceinline__ void halve_own(Real (&sums)[kAcross][kPack][kSums], uint32_t length,
                                              uint32_t own) const {
        constexpr int kApart = 32 / kAcross;
        if constexpr (S >= kApart) {
#pragma unroll
            for (int m = 0; m < S / kApart; ++m) {
#pragma unroll
                for (int e = 0; e < kPack; ++e) {
                    combine(sums[m][e], sums[m + S / kApart][e], length, kApart * m + own, S);
                }
            }
            halve_own<S / 2>(sums, length, own);
        }
    }

    // E chunks of a channel; or, in rows, one chunk of E channels, of which lane l has accumulator l.
    template <int E>
    __device__ __forceinline__ void neighbours(uint64_t first_chunk, uint64_t channel, bool in_rows) const {
        constexpr int kLanes = 32 / E;  // of a chunk
        constexpr int kSteps = kAccesses / Sum::kInputs;
        const uint64_t chunk = in_rows ? first_chunk : first_chunk + lane / kLanes;
        const uint32_t length = length_of(chunk);
        const uint32_t own = in_rows ? lane : E * (lane % kLanes);
        using Channels = PackChannels<E>;
        const auto values = sum.template values<E>(in_rows ? Channels::of_row(channel) : Channels::of_one(channel));

        // The element at which the lane is, and how many are left of the row of its channel, or many.
        constexpr uint64_t kMany = uint64_t{1} << 30;
        const uint64_t t = chunk * DA_CHUNK_ELEMENTS + own;
        const uint64_t row = quotient(t, a.by_inner);
        const uint64_t place = t - row * a.inner, behind = a.inner - place;
        uint64_t next = (row * a.channels + channel) * a.inner + place;
        int32_t left = static_cast<int32_t>(behind < kMany ? behind : kMany);
        const int32_t inner = static_cast<int32_t>(a.inner < kMany ? a.inner : kMany);
        const int32_t step_within = static_cast<int32_t>(a.within_step);
        const uint64_t next_row = (a.channels - 1) * a.inner;

        Real sums[E][kSums] = {};
#pragma unroll 1
        for (uint32_t step = 0; step < 32; step += kSteps) {
            typename Sum::template Loaded<E> loaded[kSteps];
            uint64_t element[kSteps];
#pragma unroll
            for (int u = 0; u < kSteps; ++u) {
                element[u] = next;
                if (32 * (step + u) + own < length) loaded[u] = sum.template load<E>(next);
                next += a.row_step;
                left -= step_within;
                if (left <= 0) {
                    left += inner;
                    next += next_row;
                }
            }
#pragma unroll
            for (int u = 0; u < kSteps; ++u) {
                if (32 * (step + u) + own < length) sum.take(loaded[u], values, element[u], u == 0 && step == 0, sums);
            }
        }
#pragma unroll
        for (int e = 0; e < E; ++e) sum.complete(sums[e], share_of(length, in_rows ? own : own + e, 32));

        if (in_rows) {
            if constexpr (kAcross == 1 && E > 1) store_row<32>(sums, chunk, channel, length, own);
        } else {
            halve_images<E, E, 16>(sums, kLanes / 2, length, own);
            if (own == 0 && length != 0) store(sums[0], chunk, channel);
        }
    }

    // A lane has accumulators i to i + N - 1. The lanes of a chunk take turns in which bit of the lane they differ.
    template <int E, int N, int S>
    __device__ __forceinline__ void halve_images(Real (&sums)[E][kSums], unsigned distance, uint32_t length,
                                                 uint32_t i) const {
        if constexpr (S > 0) {
            halve_lanes<N, 1>(sums, distance, length, i, S);
            if ((lane & distance) != 0) i += N / 2;
            halve_images<E, (N + 1) / 2, S / 2>(sums, distance > 1 ? distance / 2 : 16 / E, length, i);
        }
    }
};

// The second launch: a warp for each channel, of which lane l sums the chunks k with k % 32 == l, in f64.
template <class Total, class Real>
__device__ __forceinline__ void total_of_chunks(const da_args& a) {
    constexpr int kSums = Total::kSums;
    const unsigned warps_per_block = blockDim.x / 32;
    const uint64_t stride = uint64_t{gridDim.x} * warps_per_block;
    const unsigned lane = threadIdx.x % 32;
    for (uint64_t c = uint64_t{blockIdx.x} * warps_per_block + threadIdx.x / 32; c < a.channels; c += stride) {
        typename Total::State group = {};
        const Real* partial = static_cast<const Real*>(a.partial) + c * a.chunks;
        for (uint64_t k = lane; k < a.chunks; k += 32) {
            const uint64_t left = a.count - k * DA_CHUNK_ELEMENTS;
            double sums[kSums];
#pragma unroll
            for (int n = 0; n < kSums; ++n) sums[n] = __ldcg(partial + n * a.channels * a.chunks + k);
            Total::take(group, sums, static_cast<double>(left < DA_CHUNK_ELEMENTS ? left : DA_CHUNK_ELEMENTS));
        }
#pragma unroll
        for (unsigned s = 16; s > 0; s /= 2) {
            const typename Total::State other = Total::from_lane(group, s);
            if (lane < s && lane + s < a.chunks) Total::combine(group, other);
        }
        if (lane == 0) Total::template store<Real>(a, c, group);
    }
}

#define DA_TOTAL_ENTRY(name, ...)                                                              \
    extern "C" __global__ void __launch_bounds__(DA_MAX_BLOCK_THREADS) name(const da_args a) { \
        total_of_chunks<__VA_ARGS__>(a);                                                       \
    }
