// RReLU (the paper's equation 6), what Drop-Activation is compared with in the paper: a negative
// element is scaled by a slope of its own. Only the sign is kept; backward draws the slope again.
#include "tile.cuh"

// slope * v in v's arithmetic, rounded once. A NaN stays the NaN it was: hardware differs in what
// it makes of a NaN's payload.
template <class D>
__device__ __forceinline__ typename D::Bits scaled(typename D::Bits v, typename D::Real slope) {
    const typename D::Real value = D::real(v);
    return value == value ? D::bits(slope * value) : v;
}

struct Slope {
    float lower, span;

    __device__ explicit Slope(const da_args& a) : lower(a.lower), span(a.upper - a.lower) {}

    __device__ __forceinline__ float draw(uint32_t random) const {
        return lower + span * static_cast<float>(random >> 8) * 0x1p-24f;
    }
};

template <class T>
struct RreluTrainForward : ForwardOp {
    using D = T;
    static constexpr BitsIn kBitsIn = BitsIn::kNone;
    static constexpr BitsOut kBitsOut = BitsOut::kElement;
    static constexpr bool kUniforms = true;
    static constexpr int kPacksAtOnce = 2;
    Slope slope;

    __device__ explicit RreluTrainForward(const da_args& a) : slope(a) {}

    __device__ __forceinline__ typename D::Bits element(typename D::Bits x, typename D::Bits, bool, uint32_t random, bool& positive) const {
        positive = D::real(x) >= 0;
        return positive ? x : scaled<D>(x, slope.draw(random));
    }
};

template <class T>
struct RreluTrainBackward : BackwardOp {
    using D = T;
    static constexpr BitsIn kBitsIn = BitsIn::kMask;
    static constexpr BitsOut kBitsOut = BitsOut::kNone;
    static constexpr bool kUniforms = true;
    static constexpr int kPacksAtOnce = 2;
    Slope slope;

    __device__ explicit RreluTrainBackward(const da_args& a) : slope(a) {}

    __device__ __forceinline__ typename D::Bits element(typename D::Bits dy, typename D::Bits, bool positive, uint32_t random, bool&) const {
        return positive ? dy : scaled<D>(dy, slope.draw(random));
    }
};

// The mean slope, in f32 or f64 arithmetic.
template <class Real>
__device__ __forceinline__ Real inference_slope(const da_args& a);
template <>
__device__ __forceinline__ float inference_slope<float>(const da_args& a) { return a.slope_f32; }
template <>
__device__ __forceinline__ double inference_slope<double>(const da_args& a) { return a.slope; }

template <class T>
struct RreluInferForward : ForwardOp {
    using D = T;
    static constexpr BitsIn kBitsIn = BitsIn::kNone;
    static constexpr BitsOut kBitsOut = BitsOut::kNone;
    static constexpr int kPacksAtOnce = 8;
    typename D::Real slope;

    __device__ explicit RreluInferForward(const da_args& a) : slope(inference_slope<typename D::Real>(a)) {}

    __device__ __forceinline__ typename D::Bits element(typename D::Bits x, typename D::Bits, bool, uint32_t, bool&) const {
        return D::real(x) >= 0 ? x : scaled<D>(x, slope);
    }
};

template <class T>
struct RreluInferBackward : BackwardOp {
    using D = T;
    static constexpr int kInputs = 2;
    static constexpr BitsIn kBitsIn = BitsIn::kNone;
    static constexpr BitsOut kBitsOut = BitsOut::kNone;
    static constexpr int kPacksAtOnce = 4;
    typename D::Real slope;

    __device__ explicit RreluInferBackward(const da_args& a) : slope(inference_slope<typename D::Real>(a)) {}

    __device__ __forceinline__ typename D::Bits element(typename D::Bits dy, typename D::Bits x, bool, uint32_t, bool&) const {
        return D::real(x) >= 0 ? dy : scaled<D>(dy, slope);
    }
};

DA_ENTRIES(da_rrelu_train_forward, RreluTrainForward)
DA_ENTRIES(da_rrelu_train_backward, RreluTrainBackward)
DA_ENTRIES(da_rrelu_infer_forward, RreluInferForward)
DA_ENTRIES(da_rrelu_infer_backward, RreluInferBackward)
