// RReLU (the paper's equation 6), what Drop-Activation is compared with in the paper: a negative
// element is scaled by a slope of its own. Only the sign is kept; backward draws the slope again.
#include "inference.cuh"
#include "tile.cuh"

// slope * v in v's arithmetic, rounded once. A NaN stays the NaN it was: hardware differs in what
// it makes of a NaN's payload.
template <class T>
__device__ __forceinline__ typename T::Bits scaled(typename T::Bits v, typename T::Real slope) {
    const typename T::Real value = T::real(v);
    return value == value ? T::bits(slope * value) : v;
}

// A slope from 24 of the 32 bits of an element's random word (section 4 of the mask stream's text).
struct Slopes {
    float lower, span;

    __device__ __forceinline__ void read(const da_args& a) {
        lower = a.lower;
        span = a.upper - a.lower;
    }

    __device__ __forceinline__ float draw(uint32_t uniform) const {
        return lower + span * static_cast<float>(uniform >> 8) * 0x1p-24f;
    }
};

template <class T>
struct RreluTrainForward : ForwardOperation<T> {
    static constexpr BitsOut kBitsOut = BitsOut::kElement;
    static constexpr bool kUniforms = true;
    static constexpr int kPacksInFlight = 2;
    Slopes slopes;

    __device__ __forceinline__ void prepare(const da_args& a) { slopes.read(a); }

    __device__ __forceinline__ typename T::Bits element(Element<T>& e) const {
        const typename T::Bits x = e.input;
        const bool positive = T::real(x) >= 0;
        e.bit = positive;
        return positive ? x : scaled<T>(x, slopes.draw(e.uniform));
    }
};

template <class T>
struct RreluTrainBackward : BackwardOperation<T> {
    static constexpr BitsIn kBitsIn = BitsIn::kMask;
    static constexpr bool kUniforms = true;
    static constexpr int kPacksInFlight = 2;
    Slopes slopes;

    __device__ __forceinline__ void prepare(const da_args& a) { slopes.read(a); }

    __device__ __forceinline__ typename T::Bits element(Element<T>& e) const {
        const typename T::Bits dy = e.input;
        const bool positive = e.bit;
        return positive ? dy : scaled<T>(dy, slopes.draw(e.uniform));
    }
};

// At inference the slope is the mean of those.
template <class T>
struct RreluInferForward : ForwardOperation<T> {
    static constexpr int kPacksInFlight = 8;
    InferenceWeights<typename T::Real> weights;

    __device__ __forceinline__ void prepare(const da_args& a) { weights.read(a); }

    __device__ __forceinline__ typename T::Bits element(Element<T>& e) const {
        const typename T::Bits x = e.input;
        return T::real(x) >= 0 ? x : scaled<T>(x, weights.slope);
    }
};

template <class T>
struct RreluInferBackward : BackwardOperation<T> {
    static constexpr bool kReadsSaved = true;
    InferenceWeights<typename T::Real> weights;

    __device__ __forceinline__ void prepare(const da_args& a) { weights.read(a); }

    __device__ __forceinline__ typename T::Bits element(Element<T>& e) const {
        const typename T::Bits dy = e.input, x = e.saved;
        return T::real(x) >= 0 ? dy : scaled<T>(dy, weights.slope);
    }
};

DA_ENTRIES(da_rrelu_train_forward, RreluTrainForward)
DA_ENTRIES(da_rrelu_train_backward, RreluTrainBackward)
DA_ENTRIES(da_rrelu_infer_forward, RreluInferForward)
DA_ENTRIES(da_rrelu_infer_backward, RreluInferBackward)
