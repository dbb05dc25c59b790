// What the fused passes compute of an element, but for sums: z from x, y from z, dz from dy (docs/fused.md, sections 2
// and 3). In training the keep bit, or for ReLU's backward pass the pass bit, decides; at inference all elements have
// the same bit, and what it chooses is mixed:
//
//     z  = scale x + shift + residual
//     y  = bit ? σ(z) : z                                     training, and the ends of inference, p == 0 and p == 1
//     y  = (1-p) z + p σ(z)                                   inference between them
//     dz = bit ? dy σ'(z) : dy
//     dz = dy ((1-p) + p σ'(z))
//
// An absent scale is 1 and an absent shift -0: x times 1, and a sum with -0, are what they were.
#pragma once

#include "channels.cuh"
#include "inference.cuh"

// z of a pack's elements, or of one.
template <class D, int E>
struct Preactivation {
    using Real = typename D::Real;

    // What is read of the tensors.
    struct Loaded {
        Elements<D, E> x, residual;

        static __device__ __forceinline__ Loaded load(const da_args& a, uint64_t i) {
            Loaded loaded = {};
            loaded.x = Elements<D, E>::load(a.x, i);
            if (a.residual != nullptr) loaded.load_residual(a, i);
            return loaded;
        }
        __device__ __forceinline__ void load_residual(const da_args& a, uint64_t i) {
            residual = Elements<D, E>::load(a.residual, i);
        }
    };

    // What is read of the vectors.
    struct Values {
        ChannelValues<Real, E> scale, shift;

        template <class Channels>
        static __device__ __forceinline__ Values load(const da_args& a, const Channels& channels) {
            return {channels.template values<Real>(a.scale, Real(1)),
                    channels.template values<Real>(a.shift, Real(-0.0))};
        }
    };

    static __device__ __forceinline__ Real of(const da_args& a, const Loaded& loaded, const Values& values, int e) {
        return a.residual != nullptr ? of<true>(loaded, values, e) : of<false>(loaded, values, e);
    }

    template <bool RESIDUAL>
    static __device__ __forceinline__ Real of(const Loaded& loaded, const Values& values, int e) {
        const Real z = fma(values.scale.of[e], D::real(loaded.x.get(e)), values.shift.of[e]);
        return RESIDUAL ? z + D::real(loaded.residual.get(e)) : z;
    }
};

// ---- ReLU: y from z, and dz from dy. fused_smooth.cu has the same for the smooth activations.

struct Relu {
    // The stored bit says whether the element passes.
    static constexpr bool kStoresOutcome = true;

    template <class Real>
    static __device__ __forceinline__ Real value(const InferenceWeights<Real>& weights, bool& bit, Real z) {
        const Real below = weights.mixture == DA_MIXTURE_MIXED ? weights.slope * z : Real(0);
        const bool blocked = bit && z <= 0;
        bit = !blocked;
        return blocked ? below : z;
    }
};

// In training, by the pass bit. Where dz is given there is no mask, and every bit is set.
struct ByPassBit {
    static constexpr bool kReadsZ = false;

    template <class Real>
    static __device__ __forceinline__ Real dz(const InferenceWeights<Real>&, bool bit, Real dy, Real) {
        return bit ? dy : Real(0);
    }
};

// At inference, where there is no mask.
struct ByRelu {
    static constexpr bool kReadsZ = true;

    template <class Real>
    static __device__ __forceinline__ Real dz(const InferenceWeights<Real>& weights, bool bit, Real dy, Real z) {
        const Real below = weights.mixture == DA_MIXTURE_MIXED ? weights.slope * dy : Real(0);
        return bit && z <= 0 ? below : dy;
    }
};
