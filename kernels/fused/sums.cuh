// Sums over channels, in the order of section 4 of docs/fused.md, which depends on the number of a channel's elements
// alone: 32 accumulators take the elements of a chunk in turns and are halved to one; the chunks' results are summed by
// a second launch. No shared memory, no atomics.
//
// A warp takes chunks, grid-stride. Which of them, and where their accumulators are, the layout decides:
//
//   rows      Channels are next to each other in memory and come in packs. A warp takes one chunk of kAcross packs of
//             channels. Lane l has pack l % kAcross, and in it the accumulators l / kAcross + m * (32 / kAcross) for all m.
//   planes    The elements of a channel are next to each other and come in packs of E. A warp takes E neighbouring
//             chunks of a channel. Of the 32 / E lanes of a chunk, lane l has accumulators E * l to E * l + E - 1.
//   elements  Anything else, and addresses that are no multiple of a pack: planes with E = 1.
//
// In the first two, 16-byte accesses fill whole sectors.
//
// What a sum gives to the walk (one struct for each, in norm.cu):
//   D                  its element type
//   kSums              how many sums go together
//   kInputs            how many tensors it reads
//   kLong              whether its arithmetic is long
//   Loaded<E>          what it reads of E neighbouring elements
//   load<E>(i)         reads it, from element i on
//   values<C>(c)       the values of C neighbouring channels that it needs
//   take<E>(...)       takes E elements up into as many accumulators
//   complete(sums, n)  when an accumulator has taken its n elements
//   combine(sums, others, n, n_others)
#pragma once

#include "drop_activation.h"

#include "dtype.cuh"
#include "warp.cuh"

// E neighbouring elements: a pack, or one.
template <class D, int E>
struct Elements {
    Pack<D> pack;

    static __device__ __forceinline__ Elements load(const void* from, uint64_t i) {
        return {{__ldcs(static_cast<const uint4*>(from) + i / E)}};
    }
    __device__ __forceinline__ void store(void* to, uint64_t i) const {
        __stwb(static_cast<uint4*>(to) + i / E, pack.raw);
    }
    __device__ __forceinline__ typename D::Bits get(int e) const { return pack.get(e); }
    static __device__ __forceinline__ Elements of(const typename D::Bits (&e)[E]) { return {Pack<D>::of(e)}; }
};

template <class D>
struct Elements<D, 1> {
    typename D::Bits bits;

    static __device__ __forceinline__ Elements load(const void* from, uint64_t i) {
        return {__ldcs(static_cast<const typename D::Bits*>(from) + i)};
    }
    __device__ __forceinline__ void store(void* to, uint64_t i) const {
        __stwb(static_cast<typename D::Bits*>(to) + i, bits);
    }
    __device__ __forceinline__ typename D::Bits get(int) const { return bits; }
    static __device__ __forceinline__ Elements of(const typename D::Bits (&e)[1]) { return {e[0]}; }
};

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
    // A lane has 16 accumulators of `rows`, so that they fit its registers. Where arithmetic takes longer than memory,
    // as few as can be: each has its own copy of that.
    static constexpr int kAcross = Sum::kLong ? 1 : 16 / kPack;
    static constexpr int kAccesses = Sum::kLong ? Sum::kInputs : 8;  // in flight, of a lane, as a rule

    const da_args& a;
    Sum sum;
    unsigned lane;

    __device__ explicit ChunkSums(const da_args& a) : a(a), sum(a), lane(threadIdx.x % 32) {}

    __device__ __forceinline__ void run() {
        const unsigned warps_per_block = blockDim.x / 32;
        const uint64_t stride = uint64_t{gridDim.x} * warps_per_block;
        const uint64_t warp = uint64_t{blockIdx.x} * warps_per_block + threadIdx.x / 32;
        if (a.layout == DA_LAYOUT_ROWS) {
            const uint64_t groups = (a.channels + kPack * kAcross - 1) / (kPack * kAcross);
            for (uint64_t i = warp; i < a.chunks * groups; i += stride) rows(i / groups, kPack * kAcross * (i % groups));
        } else if (a.layout == DA_LAYOUT_PLANES) {
            const uint64_t groups = (a.chunks + kPack - 1) / kPack;
            for (uint64_t i = warp; i < groups * a.channels; i += stride) planes<kPack>(kPack * (i / a.channels), i % a.channels);
        } else {
            for (uint64_t i = warp; i < a.chunks * a.channels; i += stride) planes<1>(i / a.channels, i % a.channels);
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
    __device__ __forceinline__ void combine(Real (&sums)[kSums], const Real (&others)[kSums], uint32_t length, uint32_t i,
                                            uint32_t s) const {
        const uint32_t n_others = share_of(length, i + s, 2 * s);
        if (n_others != 0) {
            sum.combine(sums, others, static_cast<Real>(share_of(length, i, 2 * s)), static_cast<Real>(n_others));
        }
    }

    // The same with a value of another lane.
    __device__ __forceinline__ void combine_across(Real (&sums)[kSums], unsigned distance, uint32_t length, uint32_t i,
                                                   uint32_t s) const {
        Real others[kSums];
#pragma unroll
        for (int n = 0; n < kSums; ++n) others[n] = __shfl_xor_sync(kFullWarp, sums[n], distance);
        combine(sums, others, length, i, s);
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
        const auto values = sum.template values<kPack>(inside ? channel : 0);

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
#pragma unroll
        for (int s = kApart / 2; s > 0; s /= 2) {
#pragma unroll
            for (int e = 0; e < kPack; ++e) combine_across(sums[0][e], s * kAcross, length, own, s);
        }
        if (own == 0 && inside) {
#pragma unroll
            for (int e = 0; e < kPack; ++e) store(sums[0][e], chunk, channel + e);
        }
    }

    // Those of a lane's accumulators that are S and less apart. (A loop is not always unrolled, and then all accumulators
    // are in memory.)
    template <int S>
    __device__ __forceinline__ void halve_own(Real (&sums)[kAcross][kPack][kSums], uint32_t length, uint32_t own) const {
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

    // E chunks of a channel.
    template <int E>
    __device__ __forceinline__ void planes(uint64_t first_chunk, uint64_t channel) const {
        constexpr int kLanes = 32 / E;  // of a chunk
        constexpr int kSteps = kAccesses / Sum::kInputs;
        const uint64_t chunk = first_chunk + lane / kLanes;
        const uint32_t length = length_of(chunk);
        const uint32_t own = E * (lane % kLanes);
        const auto values = sum.template values<1>(channel);

        // The element at which the lane is, and its place in the row of its channel.
        const uint64_t t = chunk * DA_CHUNK_ELEMENTS + own;
        uint64_t place = t % a.inner;
        uint64_t next = (t / a.inner * a.channels + channel) * a.inner + place;
        const uint64_t rest = 32 % a.inner;
        const uint64_t ahead = 32 / a.inner * a.channels * a.inner + rest;
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
                next += ahead;
                place += rest;
                if (place >= a.inner) {
                    place -= a.inner;
                    next += next_row;
                }
            }
#pragma unroll
            for (int u = 0; u < kSteps; ++u) {
                if (32 * (step + u) + own < length) sum.take(loaded[u], values, element[u], u == 0 && step == 0, sums);
            }
        }
#pragma unroll
        for (int e = 0; e < E; ++e) sum.complete(sums[e], share_of(length, own + e, 32));

#pragma unroll
        for (int s = 16; s >= E; s /= 2) {
#pragma unroll
            for (int e = 0; e < E; ++e) combine_across(sums[e], s / E, length, own + e, s);
        }
#pragma unroll
        for (int s = E / 2; s > 0; s /= 2) {
#pragma unroll
            for (int e = 0; e < s; ++e) combine(sums[e], sums[e + s], length, own + e, s);
        }
        if (own == 0 && length != 0) store(sums[0], chunk, channel);
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
