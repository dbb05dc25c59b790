// The fused forward passes, in training and at inference: from x to y.
#pragma once

#include "channel_tile.cuh"
#include "gradient.cuh"

template <class T, class Act, int PACKS>
struct FusedForward {
    using D = T;
    using Real = typename D::Real;
    static constexpr bool kDraws = true;
    static constexpr bool kStoresOutcome = Act::kStoresOutcome;
    static constexpr int kPacksAtOnce = PACKS;

    const da_args& a;
    InferenceWeights<Real> weights;

    __device__ __forceinline__ explicit FusedForward(const da_args& a) : a(a) { weights.read(a); }

    static __device__ __forceinline__ void run(const da_args& a) { ChannelTiles<FusedForward>(a).run(); }

    template <int E>
    using Loaded = typename Preactivation<D, E>::Loaded;
    template <int E>
    using Values = typename Preactivation<D, E>::Values;

    template <int E>
    __device__ __forceinline__ Loaded<E> load(uint64_t i) const {
        return Loaded<E>::load(a, i);
    }

    template <int E>
    __device__ __forceinline__ Values<E> values(const PackChannels<E>& channels) const {
        return Values<E>::load(a, channels);
    }

    template <int E>
    __device__ __forceinline__ Real apply(const Loaded<E>& loaded, const Values<E>& values, int e, bool& bit) const {
        return Act::value(weights, bit, Preactivation<D, E>::of(a, loaded, values, e));
    }
};
