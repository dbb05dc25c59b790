// The fused backward passes. They have in common what dz is computed from (gradient.cuh): dy, a bit, and with
// By::kReadsZ all that z is computed from. Then
//
//     sums           s1 = Σ dz, s2 = Σ dz (x - mean), dr = dz rounded
//     elementwise    dx = alpha dz + (beta (x - mean) + gamma)
//
// An absent alpha is 1, and what is absent of the rest -0.
#pragma once

#include "channel_sums.cuh"
#include "channel_tile.cuh"
#include "gradient.cuh"

// ---- Elementwise: dx.

template <class T, class By, int PACKS>
struct FusedBackward {
    using D = T;
    using Real = typename D::Real;
    static constexpr bool kDraws = false;
    static constexpr bool kStoresOutcome = false;
    static constexpr int kPacksAtOnce = PACKS;

    const da_args& a;
    InferenceWeights<Real> weights;

    __device__ __forceinline__ explicit FusedBackward(const da_args& a) : a(a) { weights.read(a); }

    static __device__ __forceinline__ void run(const da_args& a) { ChannelTiles<FusedBackward>(a).run(); }

    template <int E>
    struct Loaded {
        Elements<D, E> dy;
        typename Preactivation<D, E>::Loaded from;
    };

    template <int E>
    struct Values {
        ChannelValues<Real, E> alpha, beta, gamma, mean;
        typename Preactivation<D, E>::Values before;
    };

    template <int E>
    __device__ __forceinline__ Loaded<E> load(uint64_t i) const {
        Loaded<E> loaded = {};
        loaded.dy = Elements<D, E>::load(a.dy, i);
        if constexpr (By::kReadsZ) {
            loaded.from = Preactivation<D, E>::Loaded::load(a, i);
        } else if (a.beta != nullptr) {
            loaded.from.x = Elements<D, E>::load(a.x, i);
        }
        return loaded;
    }

    template <int E>
    __device__ __forceinline__ Values<E> values(const PackChannels<E>& channels) const {
        Values<E> values = {};
        values.alpha = channels.template values<Real>(a.alpha, Real(1));
        if (a.beta != nullptr) {
            values.beta = channels.template values<Real>(a.beta, Real(0));
            values.gamma = channels.template values<Real>(a.gamma, Real(0));
            values.mean = channels.template values<Real>(a.mean, Real(0));
        }
        if constexpr (By::kReadsZ) values.before = Preactivation<D, E>::Values::load(a, channels);
        return values;
    }

    template <int E>
    __device__ __forceinline__ Real apply(const Loaded<E>& loaded, const Values<E>& values, int e, bool& bit) const {
        Real z = 0;
        if constexpr (By::kReadsZ) z = Preactivation<D, E>::of(a, loaded.from, values.before, e);
        const Real dz = By::dz(weights, bit, D::real(loaded.dy.get(e)), z);
        const Real distance = D::real(loaded.from.x.get(e)) - values.mean.of[e];
        const Real rest = a.beta != nullptr ? fma(values.beta.of[e], distance, values.gamma.of[e]) : Real(-0.0);
        return fma(values.alpha.of[e], dz, rest);
    }
};

// ---- Sums of dz and, with PRODUCT, of dz (x - mean). Stores dz as dr unless that is null. A null mean is 0: then only
// the first sum is wanted.

template <class T, class By, bool PRODUCT>
struct GradientSums {
    using D = T;
    using Real = typename D::Real;
    static constexpr bool kReadsX = PRODUCT || By::kReadsZ;
    static constexpr int kSums = PRODUCT ? 2 : 1;
    static constexpr int kInputs = kReadsX ? 2 : 1;
    static constexpr bool kLong = By::kReadsZ;

    const da_args& a;
    InferenceWeights<Real> weights;

    __device__ __forceinline__ explicit GradientSums(const da_args& a) : a(a) { weights.read(a); }

    static __device__ __forceinline__ void run(const da_args& a) { ChunkSums<GradientSums>(a).run(); }

    template <int E>
    struct Loaded {
        Elements<D, E> dy;
        typename Preactivation<D, E>::Loaded from;
        uint32_t bits;
    };

    template <int E>
    struct Values {
        ChannelValues<Real, E> mean;
        typename Preactivation<D, E>::Values before;
    };

    template <int E>
    __device__ __forceinline__ Loaded<E> load(uint64_t i) const {
        Loaded<E> loaded = {};
        loaded.dy = Elements<D, E>::load(a.dy, i);
        if constexpr (By::kReadsZ) {
            loaded.from = Preactivation<D, E>::Loaded::load(a, i);
        } else if constexpr (PRODUCT) {
            loaded.from.x = Elements<D, E>::load(a.x, i);
        }
        // A pack's elements have their bits in one word.
        loaded.bits = a.mask != nullptr ? __ldcg(a.mask + i / 32) >> (i % 32) : a.constant_word;
        return loaded;
    }

    template <int E>
    __device__ __forceinline__ Values<E> values(const PackChannels<E>& channels) const {
        Values<E> values = {};
        if constexpr (PRODUCT) values.mean = channels.template values<Real>(a.mean, Real(0));
        if constexpr (By::kReadsZ) values.before = Preactivation<D, E>::Values::load(a, channels);
        return values;
    }

    template <int E>
    __device__ __forceinline__ void take(const Loaded<E>& loaded, const Values<E>& values, uint64_t i, bool,
                                         Real (&sums)[E][kSums]) const {
        Real dr[E];
#pragma unroll
        for (int e = 0; e < E; ++e) {
            Real z = 0;
            if constexpr (By::kReadsZ) z = Preactivation<D, E>::of(a, loaded.from, values.before, e);
            const Real dz = By::dz(weights, (loaded.bits >> e & 1) != 0, D::real(loaded.dy.get(e)), z);
            dr[e] = dz;
            sums[e][0] = sums[e][0] + dz;
            if constexpr (PRODUCT) {
                const Real distance = D::real(loaded.from.x.get(e)) - values.mean.of[e];
                sums[e][1] = fma(dz, distance, sums[e][1]);
            }
        }
        if (a.out != nullptr) Elements<D, E>::rounded(dr).store(a.out, i);
    }

    __device__ __forceinline__ void complete(Real (&)[kSums], uint32_t) const {}

    __device__ __forceinline__ void combine(Real (&sums)[kSums], const Real (&others)[kSums], Real, Real) const {
#pragma unroll
        for (int n = 0; n < kSums; ++n) sums[n] = sums[n] + others[n];
    }
};

// The same of all chunks, in f64.
template <int N>
struct TotalOfSums {
    static constexpr int kSums = N;
    struct State {
        double sums[N];
    };

    static __device__ __forceinline__ void take(State& group, const double (&chunk)[N], double) {
#pragma unroll
        for (int n = 0; n < N; ++n) group.sums[n] = group.sums[n] + chunk[n];
    }

    static __device__ __forceinline__ void combine(State& group, const State& other) { take(group, other.sums, 0); }

    static __device__ __forceinline__ State from_lane(const State& group, unsigned distance) {
        State other;
#pragma unroll
        for (int n = 0; n < N; ++n) other.sums[n] = __shfl_xor_sync(kFullWarp, group.sums[n], distance);
        return other;
    }

    template <class Real>
    static __device__ __forceinline__ void store(const da_args& a, uint64_t c, const State& all) {
#pragma unroll
        for (int n = 0; n < N; ++n) {
            if (a.results[n] != nullptr) __stwb(static_cast<Real*>(a.results[n]) + c, static_cast<Real>(all.sums[n]));
        }
    }
};
