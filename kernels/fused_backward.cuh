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
#include "select.cuh"

// What is read of the tensors for dz, and x where something else wants it.
template <class D, class By, int E>
struct GradientInputs {
    using Real = typename D::Real;

    Elements<D, E> dy;
    typename Preactivation<D, E>::Loaded from;

    static __device__ __forceinline__ GradientInputs load(const da_args& a, uint64_t i, bool wants_x) {
        GradientInputs loaded = {};
        loaded.dy = Elements<D, E>::load(a.dy, i);
        if constexpr (By::kReadsZ) {
            loaded.from = Preactivation<D, E>::Loaded::load(a, i);
        } else if (wants_x) {
            loaded.from.x = Elements<D, E>::load(a.x, i);
        }
        return loaded;
    }

    __device__ __forceinline__ Real x(int e) const { return D::real(from.x.get(e)); }

    __device__ __forceinline__ Real dz(const da_args& a, const InferenceWeights<Real>& weights,
                                       const typename Preactivation<D, E>::Values& before, int e, bool bit) const {
        Real z = 0;
        if constexpr (By::kReadsZ) z = Preactivation<D, E>::of(a, from, before, e);
        return By::dz(weights, bit, D::real(dy.get(e)), z);
    }
};

// ---- Elementwise: dx.

template <class T, class By, int PACKS>
struct FusedBackward {
    using D = T;
    using Real = typename D::Real;
    static constexpr bool kDraws = false;
    static constexpr bool kStoresOutcome = false;
    static constexpr int kPacksAtOnce = PACKS;
    static constexpr bool kStraight = !By::kReadsZ && sizeof(typename D::Bits) <= 4;
    static constexpr bool kStraightLate = false;
    // Left alone, ptxas spills on 8.0 to make room for 24 warps.
    static constexpr int kMinBlocks = By::kReadsZ && sizeof(typename D::Bits) == 4 ? 2 : 0;

    const da_args& a;
    InferenceWeights<Real> weights;

    __device__ __forceinline__ explicit FusedBackward(const da_args& a) : a(a) { weights.read(a); }

    static __device__ __forceinline__ void run(const da_args& a) { ChannelTiles<FusedBackward>(a).run(); }

    template <int E>
    using Loaded = GradientInputs<D, By, E>;

    template <int E>
    struct Values {
        ChannelValues<Real, E> alpha, beta, gamma, mean;
        typename Preactivation<D, E>::Values before;
    };

    template <int E>
    __device__ __forceinline__ Loaded<E> load(uint64_t i) const {
        return Loaded<E>::load(a, i, a.beta != nullptr);
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

    __device__ __forceinline__ bool loads_late() const { return false; }
    template <int E>
    __device__ __forceinline__ void load_late(Loaded<E>&, uint64_t) const {}

    template <int E>
    __device__ __forceinline__ Real apply(const Loaded<E>& loaded, const Values<E>& values, int e, bool& bit) const {
        const Real dz = loaded.dz(a, weights, values.before, e, bit);
        return a.beta != nullptr ? dx<true>(dz, loaded, values, e) : dx<false>(dz, loaded, values, e);
    }

    // For ReLU in training: dx of some packs. Without beta and x there is little to compute, and the other way through
    // a tile will do.
    __device__ __forceinline__ bool is_straight() const { return a.beta != nullptr; }

    template <bool, int N, int CHANNELS, class PackLoaded, class PackValues>
    __device__ __forceinline__ uint32_t tile(const PackLoaded (&loaded)[N], const PackValues (&values)[CHANNELS],
                                             uint32_t pass, Pack<D> (&results)[N]) const {
        constexpr int kPack = Pack<D>::kElements;
#pragma unroll
        for (int k = 0; k < N; ++k) results[k] = loaded[k].dy.pack;
        select_tile(results, pass);
#pragma unroll
        for (int k = 0; k < N; ++k) {
            Real of_pack[kPack];
#pragma unroll
            for (int e = 0; e < kPack; ++e) {
                of_pack[e] = dx<true>(D::real(results[k].get(e)), loaded[k], values[k % CHANNELS], e);
            }
            results[k] = Elements<D, kPack>::rounded(of_pack).pack;
        }
        return 0;
    }

  private:
    template <bool REST, int E>
    __device__ __forceinline__ Real dx(Real dz, const Loaded<E>& loaded, const Values<E>& values, int e) const {
        Real rest = Real(-0.0);
        if constexpr (REST) {
            const Real distance = loaded.x(e) - values.mean.of[e];
            rest = fma(values.beta.of[e], distance, values.gamma.of[e]);
        }
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
    // The same of f64 on 10.0.
    static constexpr int kMinBlocks = kLong && sizeof(typename D::Bits) == 8 ? 2 : 0;

    const da_args& a;
    InferenceWeights<Real> weights;

    __device__ __forceinline__ explicit GradientSums(const da_args& a) : a(a) { weights.read(a); }

    static __device__ __forceinline__ void run(const da_args& a) { ChunkSums<GradientSums>(a).run(); }

    template <int E>
    struct Loaded {
        GradientInputs<D, By, E> inputs;
        uint32_t bits;
    };

    template <int E>
    struct Values {
        ChannelValues<Real, E> mean;
        typename Preactivation<D, E>::Values before;
    };

    template <int E>
    __device__ __forceinline__ Loaded<E> load(uint64_t i) const {
        // A pack's elements have their bits in one word.
        return {GradientInputs<D, By, E>::load(a, i, PRODUCT),
                a.mask != nullptr ? __ldcg(a.mask + i / 32) >> (i % 32) : a.constant_word};
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
            const Real dz = loaded.inputs.dz(a, weights, values.before, e, (loaded.bits >> e & 1) != 0);
            dr[e] = dz;
            sums[e][0] = sums[e][0] + dz;
            if constexpr (PRODUCT) {
                const Real distance = loaded.inputs.x(e) - values.mean.of[e];
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
