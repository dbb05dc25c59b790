// The smooth activations with Drop-Activation, fused with what stands before them as fused.cu has it for ReLU. Each
// kernel is for training and for inference: what differs are the bits and whether they choose a mixture (gradient.cuh).
#include "activation.cuh"

#include "fused_backward.cuh"
#include "fused_forward.cuh"

template <class Act>
struct Smooth {
    static constexpr bool kStoresOutcome = false;

    template <class Real>
    static __device__ __forceinline__ Real value(const InferenceWeights<Real>& weights, bool& bit, Real z) {
        const Real s = sigma<Act>(z);
        const Real kept = weights.mixture == DA_MIXTURE_MIXED ? fma(weights.p, s, weights.slope * z) : s;
        return bit ? kept : z;
    }
};

// In training by the keep bit, at inference by the mixture.
template <class Act>
struct BySmooth {
    static constexpr bool kReadsZ = true;

    template <class Real>
    static __device__ __forceinline__ Real dz(const InferenceWeights<Real>& weights, bool bit, Real dy, Real z) {
        const Real d = sigma_derivative<Act>(z);
        const Real factor = weights.mixture == DA_MIXTURE_MIXED ? fma(weights.p, d, weights.slope) : d;
        return bit ? dy * factor : dy;
    }
};

template <class Act>
struct Fused {
    template <class T> using Forward = FusedForward<T, Smooth<Act>, 1>;
    template <class T> using Backward = FusedBackward<T, BySmooth<Act>, 1>;
    template <class T> using Products = GradientSums<T, BySmooth<Act>, true>;
};

#define DA_FUSED_FORWARD(name, Act) DA_FUSED_ENTRIES(da_fused_forward_##name, Fused<Act>::Forward)
#define DA_FUSED_BACKWARD(name, Act) DA_FUSED_ENTRIES(da_fused_backward_##name, Fused<Act>::Backward)
#define DA_FUSED_PRODUCTS(name, Act) DA_FUSED_ENTRIES(da_fused_products_##name, Fused<Act>::Products)

DA_SMOOTH_ACTIVATIONS(DA_FUSED_FORWARD)
DA_SMOOTH_ACTIVATIONS(DA_FUSED_BACKWARD)
DA_SMOOTH_ACTIVATIONS(DA_FUSED_PRODUCTS)
