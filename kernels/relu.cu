// Plain ReLU, what the operation is compared with: forward, and backward from (dy, y).
#include "tile.cuh"

template <class T>
struct ReluForward : ForwardOp {
    using D = T;
    static constexpr BitsIn kBitsIn = BitsIn::kNone;
    static constexpr BitsOut kBitsOut = BitsOut::kNone;
    static constexpr int kPacksAtOnce = 4;

    __device__ explicit ReluForward(const da_args&) {}

    __device__ __forceinline__ typename D::Bits element(typename D::Bits x, typename D::Bits, bool, uint32_t, bool&) const {
        return D::real(x) <= 0 ? 0 : x;
    }
};

template <class T>
struct ReluBackward : BackwardOp {
    using D = T;
    static constexpr int kInputs = 2;
    static constexpr BitsIn kBitsIn = BitsIn::kNone;
    static constexpr BitsOut kBitsOut = BitsOut::kNone;
    static constexpr int kPacksAtOnce = 4;

    __device__ explicit ReluBackward(const da_args&) {}

    __device__ __forceinline__ typename D::Bits element(typename D::Bits dy, typename D::Bits y, bool, uint32_t, bool&) const {
        return D::real(y) <= 0 ? 0 : dy;
    }
};

DA_ENTRIES(da_relu_forward, ReluForward)
DA_ENTRIES(da_relu_backward, ReluBackward)
