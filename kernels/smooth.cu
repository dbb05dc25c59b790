// The smooth activations with Drop-Activation: training and inference, forward and backward.
//
// In training the keep bit is stored as it was drawn, and backward takes x again. The code of an activation is long, so
// few packs are in flight.
#include "activation.cuh"
#include "inference.cuh"
#include "tile.cuh"

// Training (the paper's equations 3 and 4).
template <class Act>
struct DropActivation {
    template <class T>
    struct Forward : ForwardOperation<T> {
        static constexpr BitsIn kBitsIn = BitsIn::kKeep;
        static constexpr BitsOut kBitsOut = BitsOut::kKeep;
        static constexpr int kPacksInFlight = 2;

        __device__ __forceinline__ typename T::Bits element(Element<T>& e) const {
            const typename T::Bits x = e.input;
            const bool keep = e.bit;
            return keep ? T::bits(sigma<Act>(T::real(x))) : x;
        }
    };

    template <class T>
    struct Backward : BackwardOperation<T> {
        static constexpr bool kReadsSaved = true;
        static constexpr BitsIn kBitsIn = BitsIn::kMask;
        static constexpr int kPacksInFlight = 2;

        __device__ __forceinline__ typename T::Bits element(Element<T>& e) const {
            const typename T::Bits dy = e.input, x = e.saved;
            const bool keep = e.bit;
            return keep ? T::bits(T::real(dy) * sigma_derivative<Act>(T::real(x))) : dy;
        }
    };
};

// Inference (the paper's equation 5): (1-p) x + p σ(x), the mean of the training forward, and its derivative. p == 0 is
// the identity and p == 1 is σ, exactly.
template <class Act>
struct InferActivation {
    template <class T>
    struct Forward : ForwardOperation<T> {
        static constexpr int kPacksInFlight = 2;
        InferenceWeights<typename T::Real> weights;

        __device__ __forceinline__ void prepare(const da_args& a) { weights.read(a); }

        __device__ __forceinline__ typename T::Bits element(Element<T>& e) const {
            const typename T::Bits x = e.input;
            if (weights.mixture == DA_MIXTURE_IDENTITY) return x;
            const typename T::Real value = T::real(x);
            const typename T::Real s = sigma<Act>(value);
            return T::bits(weights.mixture == DA_MIXTURE_SIGMA ? s : fma(weights.p, s, weights.slope * value));
        }
    };

    template <class T>
    struct Backward : BackwardOperation<T> {
        static constexpr bool kReadsSaved = true;
        static constexpr int kPacksInFlight = 2;
        // Left alone, ptxas spills in GELU on sm_100 to make room for 32 warps; f64 needs no more than 16.
        static constexpr int kMinBlocks = sizeof(typename T::Bits) == 8 ? 1 : 0;
        InferenceWeights<typename T::Real> weights;

        __device__ __forceinline__ void prepare(const da_args& a) { weights.read(a); }

        __device__ __forceinline__ typename T::Bits element(Element<T>& e) const {
            const typename T::Bits dy = e.input, x = e.saved;
            if (weights.mixture == DA_MIXTURE_IDENTITY) return dy;
            const typename T::Real d = sigma_derivative<Act>(T::real(x));
            return T::bits(T::real(dy) * (weights.mixture == DA_MIXTURE_SIGMA ? d : fma(weights.p, d, weights.slope)));
        }
    };
};

#define DA_TRAIN_FORWARD(name, Act) DA_ENTRIES(da_train_forward_##name, DropActivation<Act>::Forward)
#define DA_TRAIN_BACKWARD(name, Act) DA_ENTRIES(da_train_backward_##name, DropActivation<Act>::Backward)
#define DA_INFER_FORWARD(name, Act) DA_ENTRIES(da_infer_forward_##name, InferActivation<Act>::Forward)
#define DA_INFER_BACKWARD(name, Act) DA_ENTRIES(da_infer_backward_##name, InferActivation<Act>::Backward)

DA_SMOOTH_ACTIVATIONS(DA_TRAIN_FORWARD)
DA_SMOOTH_ACTIVATIONS(DA_TRAIN_BACKWARD)
DA_SMOOTH_ACTIVATIONS(DA_INFER_FORWARD)
DA_SMOOTH_ACTIVATIONS(DA_INFER_BACKWARD)
