// The fused forward passes, in training and at inference: from x to y.
#pragma once

#include "channel_tile.cuh"
#include "gradient.cuh"
#include "select.cuh"

template <class T, class Act, int PACKS>
struct FusedForward {
    using D = T;
    using Real = typename D::Real;
    static constexpr bool kDraws = true;
    static constexpr bool kStoresOutcome = Act::kStoresOutcome;
    static constexpr int kPacksAtOnce = PACKS;
    static constexpr bool kStraight = Act::kStoresOutcome && sizeof(typename D::Bits) <= 4;
    // Of 16 bits with a residual too: of f32 there is time for the other way through a tile, and no more code.
    static constexpr bool kStraightLate = sizeof(typename D::Bits) == 2;
    // Left alone, ptxas takes registers for 16 warps, which have too few bytes in flight where elements have 16 bits.
    // From 10.0 on it spills instead.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
    static constexpr int kMinBlocks = 0;
#else
    static constexpr int kMinBlocks = kStraight && sizeof(typename D::Bits) == 2 ? 3 : 0;
#endif

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
        Loaded<E> loaded = {};
        loaded.x = Elements<D, E>::load(a.x, i);
        return loaded;
    }

    __device__ __forceinline__ bool loads_late() const { return a.residual != nullptr; }

    template <int E>
    __device__ __forceinline__ void load_late(Loaded<E>& loaded, uint64_t i) const {
        loaded.load_residual(a, i);
    }

    template <int E>
    __device__ __forceinline__ Values<E> values(const PackChannels<E>& channels) const {
        return Values<E>::load(a, channels);
    }

    template <int E>
    __device__ __forceinline__ Real apply(const Loaded<E>& loaded, const Values<E>& values, int e, bool& bit) const {
        return Act::value(weights, bit, Preactivation<D, E>::of(a, loaded, values, e));
    }

    // For ReLU in training: y of some packs, and their pass bits.
    __device__ __forceinline__ bool is_straight() const { return kStraightLate || a.residual == nullptr; }

    template <bool RESIDUAL, int N, int CHANNELS, class PackLoaded, class PackValues>
    __device__ __forceinline__ uint32_t tile(const PackLoaded (&loaded)[N], const PackValues (&values)[CHANNELS],
                                             uint32_t keep, Pack<D> (&y)[N]) const {
        constexpr int kPack = Pack<D>::kElements;
        Gather32 at_most_zero;
#pragma unroll
        for (int k = 0; k < N; ++k) {
            Real z[kPack];
#pragma unroll
            for (int e = 0; e < kPack; ++e) {
                z[e] = Preactivation<D, kPack>::template of<RESIDUAL>(loaded[k], values[k % CHANNELS], e);
                at_most_zero.add(kPack * k + e, z[e] <= 0);
            }
            y[k] = Elements<D, kPack>::rounded(z).pack;
        }
        const uint32_t blocked = keep & at_most_zero.bits();
        clear_tile(y, blocked, 0xFFFFFFFFu);
        return ~blocked;
    }
};
