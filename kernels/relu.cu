// ReLU: plain, with Drop-Activation in training, and with its mean at inference. All that a program with ReLU loads.
#include "inference.cuh"
#include "select.cuh"
#include "tile.cuh"

// ---- Plain ReLU, what the operation is compared with: forward, and backward from (dy, y).

template <class T>
struct ReluForward : ForwardOperation<T> {
    __device__ __forceinline__ typename T::Bits element(Element<T>& e) const {
        const typename T::Bits x = e.input;
        return T::real(x) <= 0 ? 0 : x;
    }
};

template <class T>
struct ReluBackward : BackwardOperation<T> {
    static constexpr bool kReadsSaved = true;

    __device__ __forceinline__ typename T::Bits element(Element<T>& e) const {
        const typename T::Bits dy = e.input, y = e.saved;
        return T::real(y) <= 0 ? 0 : dy;
    }
};

DA_ENTRIES(da_relu_forward, ReluForward)
DA_ENTRIES(da_relu_backward, ReluBackward)

// ---- Training (the paper's equations 3 and 4). The stored bit says whether the element passes, and is all that
// backward needs.

template <class T, BitsOut STORED>
struct DropRelu : ForwardOperation<T> {
    static constexpr BitsIn kBitsIn = BitsIn::kKeep;
    static constexpr BitsOut kBitsOut = STORED;
    static constexpr int kPacksInFlight = 8;
    static constexpr bool kWholeTile = sizeof(typename T::Bits) <= 4;

    __device__ __forceinline__ typename T::Bits element(Element<T>& e) const {
        const typename T::Bits x = e.input;
        const bool keep = e.bit;
        const bool pass = !(keep && T::real(x) <= 0);
        e.bit = pass;
        return pass ? x : 0;
    }

    template <int PACKS>
    __device__ __forceinline__ uint32_t tile(Pack<T> (&packs)[PACKS], uint32_t keep) const {
        return drop_relu_tile(packs, keep);
    }
};

template <class T> struct DropReluForward : DropRelu<T, BitsOut::kElement> {};
template <class T> struct DropReluForwardNoMask : DropRelu<T, BitsOut::kNone> {};

template <class T>
struct DropReluBackward : BackwardOperation<T> {
    static constexpr BitsIn kBitsIn = BitsIn::kMask;
    static constexpr int kPacksInFlight = 8;
    static constexpr bool kWholeTile = sizeof(typename T::Bits) <= 4;

    __device__ __forceinline__ typename T::Bits element(Element<T>& e) const {
        const typename T::Bits dy = e.input;
        const bool pass = e.bit;
        return pass ? dy : 0;
    }

    template <int PACKS>
    __device__ __forceinline__ uint32_t tile(Pack<T> (&packs)[PACKS], uint32_t pass) const {
        select_tile(packs, pass);
        return 0;
    }
};

// For a caller that keeps y and stored no mask: what was blocked is zero in y.
template <class T>
struct DropReluBackwardFromOutput : BackwardOperation<T> {
    static constexpr bool kReadsSaved = true;

    __device__ __forceinline__ typename T::Bits element(Element<T>& e) const {
        const typename T::Bits dy = e.input, y = e.saved;
        return T::real(y) == 0 ? 0 : dy;
    }
};

DA_ENTRIES(da_train_forward_relu, DropReluForward)
DA_ENTRIES(da_train_forward_relu_nomask, DropReluForwardNoMask)
DA_ENTRIES(da_train_backward_relu, DropReluBackward)
DA_ENTRIES(da_train_backward_relu_from_output, DropReluBackwardFromOutput)

// ---- Inference (the paper's equation 5): Leaky ReLU of slope 1 - p.
//
// At p == 0 the slope is 1 and multiplying by it changes nothing; p == 1 must give +0, where a slope of 0 would give -0
// and, at -inf, NaN.

template <class T>
struct InferReluForward : ForwardOperation<T> {
    using Bits = typename T::Bits;
    using Real = typename T::Real;
    static constexpr int kPacksInFlight = 8;
    static constexpr bool kWholeTile = sizeof(Bits) == 2;
    InferenceWeights<Real> weights;

    __device__ __forceinline__ void prepare(const da_args& a) { weights.read(a); }

    __device__ __forceinline__ Bits element(Element<T>& e) const {
        const Bits x = e.input;
        const Real value = T::real(x);
        const Bits below = weights.mixture == DA_MIXTURE_SIGMA ? Bits{0} : T::bits(weights.slope * value);
        return value <= 0 ? below : x;
    }

    template <int PACKS>
    __device__ __forceinline__ uint32_t tile(Pack<T> (&packs)[PACKS], uint32_t) const {
        if (weights.mixture == DA_MIXTURE_SIGMA) {
            scale_tile<true>(packs);
        } else {
            scale_tile<false>(packs);
        }
        return 0;
    }

    // Types of 16 bits: the products are f32's as above; compare, rounding and choice are made for two at once.
    template <bool IS_SIGMA, int PACKS>
    __device__ __forceinline__ void scale_tile(Pack<T> (&packs)[PACKS]) const {
#pragma unroll
        for (int k = 0; k < PACKS; ++k) {
            uint32_t* pairs[4] = {&packs[k].raw.x, &packs[k].raw.y, &packs[k].raw.z, &packs[k].raw.w};
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const uint32_t at_most_zero = T::at_most_zero(*pairs[j]);
                const Real low = T::real(packs[k].get(2 * j)), high = T::real(packs[k].get(2 * j + 1));
                const uint32_t below = IS_SIGMA ? 0 : T::bits(weights.slope * low, weights.slope * high);
                *pairs[j] = (*pairs[j] & ~at_most_zero) | (below & at_most_zero);
            }
        }
    }
};

template <class T>
struct InferReluBackward : BackwardOperation<T> {
    using Bits = typename T::Bits;
    using Real = typename T::Real;
    static constexpr bool kReadsSaved = true;
    InferenceWeights<Real> weights;

    __device__ __forceinline__ void prepare(const da_args& a) { weights.read(a); }

    __device__ __forceinline__ Bits element(Element<T>& e) const {
        const Bits dy = e.input, x = e.saved;
        const Real value = T::real(dy);
        // A NaN gradient keeps its payload, which a multiplication would change differently on
        // different hardware.
        const Bits scaled = value == value ? T::bits(weights.slope * value) : dy;
        const Bits below = weights.mixture == DA_MIXTURE_SIGMA ? Bits{0} : scaled;
        return T::real(x) <= 0 ? below : dy;
    }
};

DA_ENTRIES(da_infer_forward_relu, InferReluForward)
DA_ENTRIES(da_infer_backward_relu, InferReluBackward)
