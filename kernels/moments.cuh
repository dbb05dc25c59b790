// Mean and variance of each channel, by the order of sums of docs/fused.md.
#pragma once

#include "channel_sums.cuh"

// (A) of `count` elements takes up (B) of `others`: see docs/fused.md.
template <class Real>
__device__ __forceinline__ void combine_moments(Real (&sums)[3], const Real (&others)[3], Real count, Real n_others) {
    const Real share = n_others / (count + n_others);
    const Real apart = (others[0] - sums[0]) + (others[1] - sums[1]);
    sums[1] = fma(apart, share, sums[1]);
    sums[2] = fma(apart * apart, count * share, sums[2] + others[2]);
}

// The three sums of an accumulator: its first element, the distances from it, their squares. When it is complete: the
// first element, the mean's distance from it, the squared distances from the mean.
template <class T>
struct Moments {
    using D = T;
    using Real = typename D::Real;
    static constexpr int kSums = 3;
    static constexpr int kInputs = 1;
    static constexpr bool kLong = false;
    // Left alone, ptxas takes f32's to the stack on 10.0 to make room for 32 warps.
    static constexpr int kMinBlocks = sizeof(typename T::Bits) == 4 ? 3 : 0;

    const da_args& a;
    __device__ __forceinline__ explicit Moments(const da_args& a) : a(a) {}

    static __device__ __forceinline__ void run(const da_args& a) { ChunkSums<Moments>(a).run(); }

    template <int E>
    using Loaded = Elements<D, E>;
    struct None {};

    template <int E>
    __device__ __forceinline__ Loaded<E> load(uint64_t i) const {
        return Loaded<E>::load(a.x, i);
    }

    template <int E>
    __device__ __forceinline__ None values(const PackChannels<E>&) const {
        return {};
    }

    template <int E>
    __device__ __forceinline__ void take(const Loaded<E>& loaded, None, uint64_t, bool first,
                                         Real (&sums)[E][3]) const {
#pragma unroll
        for (int e = 0; e < E; ++e) {
            const Real x = D::real(loaded.get(e));
            // Of the first element, the distance from itself adds nothing, unless it is infinite.
            sums[e][0] = first ? x : sums[e][0];
            const Real distance = first ? Real(0) : x - sums[e][0];
            sums[e][1] = sums[e][1] + distance;
            sums[e][2] = fma(distance, distance, sums[e][2]);
        }
    }

    __device__ __forceinline__ void complete(Real (&sums)[3], uint32_t count) const {
        if (count == 0) return;
        const Real difference = sums[1] / static_cast<Real>(count);
        const Real squares = fma(-sums[1], difference, sums[2]);
        sums[1] = difference;
        sums[2] = squares < 0 ? Real(0) : squares;
    }

    __device__ __forceinline__ void combine(Real (&sums)[3], const Real (&others)[3], Real count, Real n_others) const {
        combine_moments(sums, others, count, n_others);
    }
};

// The same of all chunks, in f64.
struct TotalOfMoments {
    static constexpr int kSums = 3;
    struct State {
        double count;
        double sums[3];
    };

    static __device__ __forceinline__ void take(State& group, const double (&chunk)[3], double count) {
        if (group.count == 0) {
            group = {count, {chunk[0], chunk[1], chunk[2]}};
        } else {
            combine(group, {count, {chunk[0], chunk[1], chunk[2]}});
        }
    }

    static __device__ __forceinline__ void combine(State& group, const State& other) {
        combine_moments(group.sums, other.sums, group.count, other.count);
        group.count = group.count + other.count;
    }

    static __device__ __forceinline__ State from_lane(const State& group, unsigned distance) {
        State other;
        other.count = __shfl_xor_sync(kFullWarp, group.count, distance);
#pragma unroll
        for (int n = 0; n < 3; ++n) other.sums[n] = __shfl_xor_sync(kFullWarp, group.sums[n], distance);
        return other;
    }

    template <class Real>
    static __device__ __forceinline__ void store(const da_args& a, uint64_t c, const State& all) {
        __stwb(static_cast<Real*>(a.results[0]) + c, static_cast<Real>(all.sums[0] + all.sums[1]));
        __stwb(static_cast<Real*>(a.results[1]) + c, static_cast<Real>(all.sums[2] / all.count));
    }
};
