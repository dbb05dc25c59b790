// Drop-Activation at inference (the paper's equation 5): (1-p) x + p σ(x), the mean of the training
// forward, and its derivative. p == 0 is the identity and p == 1 is σ, exactly.
#include "activation.cuh"
#include "tile.cuh"

// p and 1 - p in the type of the arithmetic.
template <class Real>
struct Mixture;
template <>
struct Mixture<float> {
    uint32_t kind;
    float p, slope;
    __device__ explicit Mixture(const da_args& a) : kind(a.mixture), p(a.p_f32), slope(a.slope_f32) {}
};
template <>
struct Mixture<double> {
    uint32_t kind;
    double p, slope;
    __device__ explicit Mixture(const da_args& a) : kind(a.mixture), p(a.p), slope(a.slope) {}
};

// ReLU is Leaky ReLU of slope 1 - p. At p == 0 the slope is 1 and multiplying by it changes nothing;
// p == 1 must give +0, where a slope of 0 would give -0 and, at -inf, NaN.
template <class T>
struct InferReluForward : ForwardOp {
    using D = T;
    static constexpr BitsIn kBitsIn = BitsIn::kNone;
    static constexpr BitsOut kBitsOut = BitsOut::kNone;
    static constexpr int kPacksAtOnce = 8;
    static constexpr bool kWholeTile = sizeof(typename D::Bits) == 2;
    Mixture<typename D::Real> mix;

    __device__ explicit InferReluForward(const da_args& a) : mix(a) {}

    __device__ __forceinline__ typename D::Bits element(typename D::Bits x, typename D::Bits, bool, uint32_t, bool&) const {
        const typename D::Real value = D::real(x);
        const typename D::Bits below = mix.kind == DA_MIXTURE_SIGMA ? typename D::Bits{0} : D::bits(mix.slope * value);
        return value <= 0 ? below : x;
    }

    template <int PACKS>
    __device__ __forceinline__ uint32_t tile(Pack<D> (&packs)[PACKS], uint32_t) const {
        if (mix.kind == DA_MIXTURE_SIGMA) {
            scale_tile<true>(packs);
        } else {
            scale_tile<false>(packs);
        }
        return 0;
    }

    // Types of 16 bits: the products are f32's as above; compare, rounding and choice are made for two at once.
    template <bool IS_SIGMA, int PACKS>
    __device__ __forceinline__ void scale_tile(Pack<D> (&packs)[PACKS]) const {
#pragma unroll
        for (int k = 0; k < PACKS; ++k) {
            uint32_t* pairs[4] = {&packs[k].raw.x, &packs[k].raw.y, &packs[k].raw.z, &packs[k].raw.w};
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const uint32_t at_most_zero = D::at_most_zero(*pairs[j]);
                const typename D::Real low = D::real(packs[k].get(2 * j)), high = D::real(packs[k].get(2 * j + 1));
                const uint32_t below = IS_SIGMA ? 0 : D::bits(mix.slope * low, mix.slope * high);
                *pairs[j] = (*pairs[j] & ~at_most_zero) | (below & at_most_zero);
            }
        }
    }
};

template <class T>
struct InferReluBackward : BackwardOp {
    using D = T;
    static constexpr int kInputs = 2;
    static constexpr BitsIn kBitsIn = BitsIn::kNone;
    static constexpr BitsOut kBitsOut = BitsOut::kNone;
    static constexpr int kPacksAtOnce = 4;
    Mixture<typename D::Real> mix;

    __device__ explicit InferReluBackward(const da_args& a) : mix(a) {}

    __device__ __forceinline__ typename D::Bits element(typename D::Bits dy, typename D::Bits x, bool, uint32_t, bool&) const {
        const typename D::Real value = D::real(dy);
        // A NaN gradient keeps its payload, which a multiplication would change differently on
        // different hardware.
        const typename D::Bits scaled = value == value ? D::bits(mix.slope * value) : dy;
        const typename D::Bits below = mix.kind == DA_MIXTURE_SIGMA ? typename D::Bits{0} : scaled;
        return D::real(x) <= 0 ? below : dy;
    }
};

DA_ENTRIES(da_infer_forward_relu, InferReluForward)
DA_ENTRIES(da_infer_backward_relu, InferReluBackward)

template <class A>
struct InferSigma {
    template <class T>
    struct Forward : ForwardOp {
        using D = T;
        static constexpr BitsIn kBitsIn = BitsIn::kNone;
        static constexpr BitsOut kBitsOut = BitsOut::kNone;
        static constexpr int kPacksAtOnce = 2;
        Mixture<typename D::Real> mix;

        __device__ explicit Forward(const da_args& a) : mix(a) {}

        __device__ __forceinline__ typename D::Bits element(typename D::Bits x, typename D::Bits, bool, uint32_t, bool&) const {
            if (mix.kind == DA_MIXTURE_IDENTITY) return x;
            const typename D::Real value = D::real(x);
            const typename D::Real s = sigma<A>(value);
            return D::bits(mix.kind == DA_MIXTURE_SIGMA ? s : fma(mix.p, s, mix.slope * value));
        }
    };

    template <class T>
    struct Backward : BackwardOp {
        using D = T;
        static constexpr int kInputs = 2;
        static constexpr BitsIn kBitsIn = BitsIn::kNone;
        static constexpr BitsOut kBitsOut = BitsOut::kNone;
        static constexpr int kPacksAtOnce = 2;
        // Left alone, ptxas spills in GELU on sm_100 to make room for 32 warps; f64 needs no more than 16.
        static constexpr int kMinBlocks = sizeof(typename D::Bits) == 8 ? 1 : 0;
        Mixture<typename D::Real> mix;

        __device__ explicit Backward(const da_args& a) : mix(a) {}

        __device__ __forceinline__ typename D::Bits element(typename D::Bits dy, typename D::Bits x, bool, uint32_t, bool&) const {
            if (mix.kind == DA_MIXTURE_IDENTITY) return dy;
            const typename D::Real d = sigma_derivative<A>(D::real(x));
            return D::bits(D::real(dy) * (mix.kind == DA_MIXTURE_SIGMA ? d : fma(mix.p, d, mix.slope)));
        }
    };
};

DA_ENTRIES(da_infer_forward_sigmoid, InferSigma<Sigmoid>::Forward)
DA_ENTRIES(da_infer_forward_tanh, InferSigma<Tanh>::Forward)
DA_ENTRIES(da_infer_forward_gelu, InferSigma<Gelu>::Forward)
DA_ENTRIES(da_infer_forward_silu, InferSigma<Silu>::Forward)
DA_ENTRIES(da_infer_backward_sigmoid, InferSigma<Sigmoid>::Backward)
DA_ENTRIES(da_infer_backward_tanh, InferSigma<Tanh>::Backward)
DA_ENTRIES(da_infer_backward_gelu, InferSigma<Gelu>::Backward)
DA_ENTRIES(da_infer_backward_silu, InferSigma<Silu>::Backward)
