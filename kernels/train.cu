// Drop-Activation in training (the paper's equations 3 and 4): forward draws the keep bits and
// stores one bit for each element, backward reads that bit.
#include "activation.cuh"
#include "select.cuh"
#include "tile.cuh"

// ReLU: the stored bit says whether the element passes, and nothing else is needed for backward.
template <class T, BitsOut STORE>
struct DropRelu : ForwardOp {
    using D = T;
    static constexpr BitsIn kBitsIn = BitsIn::kKeep;
    static constexpr BitsOut kBitsOut = STORE;
    static constexpr int kPacksAtOnce = 8;
    static constexpr bool kWholeTile = sizeof(typename D::Bits) <= 4;

    __device__ explicit DropRelu(const da_args&) {}

    __device__ __forceinline__ typename D::Bits element(typename D::Bits x, typename D::Bits, bool keep, uint32_t, bool& pass) const {
        pass = !(keep && D::real(x) <= 0);
        return pass ? x : 0;
    }

    template <int PACKS>
    __device__ __forceinline__ uint32_t tile(Pack<D> (&packs)[PACKS], uint32_t keep) const {
        return drop_relu_tile(packs, keep);
    }
};

template <class T> struct DropReluForward : DropRelu<T, BitsOut::kElement> { using DropRelu<T, BitsOut::kElement>::DropRelu; };
template <class T> struct DropReluForwardNoMask : DropRelu<T, BitsOut::kNone> { using DropRelu<T, BitsOut::kNone>::DropRelu; };

template <class T>
struct DropReluBackward : BackwardOp {
    using D = T;
    static constexpr BitsIn kBitsIn = BitsIn::kMask;
    static constexpr BitsOut kBitsOut = BitsOut::kNone;
    static constexpr int kPacksAtOnce = 8;
    static constexpr bool kWholeTile = sizeof(typename D::Bits) <= 4;

    __device__ explicit DropReluBackward(const da_args&) {}

    __device__ __forceinline__ typename D::Bits element(typename D::Bits dy, typename D::Bits, bool pass, uint32_t, bool&) const {
        return pass ? dy : 0;
    }

    template <int PACKS>
    __device__ __forceinline__ uint32_t tile(Pack<D> (&packs)[PACKS], uint32_t pass) const {
        select_tile(packs, pass);
        return 0;
    }
};

// For a caller that keeps y and stored no mask: what was blocked is zero in y.
template <class T>
struct DropReluBackwardFromOutput : BackwardOp {
    using D = T;
    static constexpr int kInputs = 2;
    static constexpr BitsIn kBitsIn = BitsIn::kNone;
    static constexpr BitsOut kBitsOut = BitsOut::kNone;
    static constexpr int kPacksAtOnce = 4;

    __device__ explicit DropReluBackwardFromOutput(const da_args&) {}

    __device__ __forceinline__ typename D::Bits element(typename D::Bits dy, typename D::Bits y, bool, uint32_t, bool&) const {
        return D::real(y) == 0 ? 0 : dy;
    }
};

DA_ENTRIES(da_train_forward_relu, DropReluForward)
DA_ENTRIES(da_train_forward_relu_nomask, DropReluForwardNoMask)
DA_ENTRIES(da_train_backward_relu, DropReluBackward)
DA_ENTRIES(da_train_backward_relu_from_output, DropReluBackwardFromOutput)

// The other nonlinearities store the keep bit as it was drawn and take x again in backward.
// Their code is long, so few packs are in flight: the arithmetic hides the memory.
template <class A>
struct DropSigma {
    template <class T>
    struct Forward : ForwardOp {
        using D = T;
        static constexpr BitsIn kBitsIn = BitsIn::kKeep;
        static constexpr BitsOut kBitsOut = BitsOut::kKeep;
        static constexpr int kPacksAtOnce = 2;

        __device__ explicit Forward(const da_args&) {}

        __device__ __forceinline__ typename D::Bits element(typename D::Bits x, typename D::Bits, bool keep, uint32_t, bool&) const {
            return keep ? D::bits(sigma<A>(D::real(x))) : x;
        }
    };

    template <class T>
    struct Backward : BackwardOp {
        using D = T;
        static constexpr int kInputs = 2;
        static constexpr BitsIn kBitsIn = BitsIn::kMask;
        static constexpr BitsOut kBitsOut = BitsOut::kNone;
        static constexpr int kPacksAtOnce = 2;

        __device__ explicit Backward(const da_args&) {}

        __device__ __forceinline__ typename D::Bits element(typename D::Bits dy, typename D::Bits x, bool keep, uint32_t, bool&) const {
            return keep ? D::bits(D::real(dy) * sigma_derivative<A>(D::real(x))) : dy;
        }
    };
};

DA_ENTRIES(da_train_forward_sigmoid, DropSigma<Sigmoid>::Forward)
DA_ENTRIES(da_train_forward_tanh, DropSigma<Tanh>::Forward)
DA_ENTRIES(da_train_forward_gelu, DropSigma<Gelu>::Forward)
DA_ENTRIES(da_train_forward_silu, DropSigma<Silu>::Forward)
DA_ENTRIES(da_train_backward_sigmoid, DropSigma<Sigmoid>::Backward)
DA_ENTRIES(da_train_backward_tanh, DropSigma<Tanh>::Backward)
DA_ENTRIES(da_train_backward_gelu, DropSigma<Gelu>::Backward)
DA_ENTRIES(da_train_backward_silu, DropSigma<Silu>::Backward)
