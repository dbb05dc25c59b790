// Statistics, and ReLU with Drop-Activation fused with what stands before it: a scale and a shift for each channel, a
// residual, and the sums that their gradients need (docs/fused.md). All that a program with ReLU loads for it.
//
// The sums of a pass take two launches: da_fused_moments and da_fused_moments_total, say. A gradient that is given, and
// one by ReLU's pass bits, are the same kernels.
#include "fused_backward.cuh"
#include "fused_forward.cuh"
#include "moments.cuh"

// Packs at once: all 64 bytes that a lane has of a tile of 16-bit elements, and as many of others. f32's forward pass
// reads one tensor before it draws, so that there is room for its 128 bytes.
template <class T> constexpr int kPacks = sizeof(typename T::Real) == 8 ? 2 : 4;
template <class T> using ReluForward = FusedForward<T, Relu, sizeof(typename T::Bits) == 4 ? 8 : kPacks<T>>;
template <class T> using ReluBackward = FusedBackward<T, ByPassBit, kPacks<T>>;
template <class T> using ReluInferBackward = FusedBackward<T, ByRelu, 1>;
template <class T> using ReluSums = GradientSums<T, ByPassBit, false>;
template <class T> using ReluProducts = GradientSums<T, ByPassBit, true>;
template <class T> using ReluInferProducts = GradientSums<T, ByRelu, true>;

DA_FUSED_ENTRIES(da_fused_forward_relu, ReluForward)
DA_FUSED_ENTRIES(da_fused_backward_relu, ReluBackward)
DA_FUSED_ENTRIES(da_fused_infer_backward_relu, ReluInferBackward)
DA_FUSED_ENTRIES(da_fused_moments, Moments)
DA_FUSED_ENTRIES(da_fused_sums_relu, ReluSums)
DA_FUSED_ENTRIES(da_fused_products_relu, ReluProducts)
DA_FUSED_ENTRIES(da_fused_infer_products_relu, ReluInferProducts)

DA_TOTAL_ENTRY(da_fused_moments_total_f32, TotalOfMoments, float)
DA_TOTAL_ENTRY(da_fused_moments_total_f64, TotalOfMoments, double)
DA_TOTAL_ENTRY(da_fused_sums_total_f32, TotalOfSums<1>, float)
DA_TOTAL_ENTRY(da_fused_sums_total_f64, TotalOfSums<1>, double)
DA_TOTAL_ENTRY(da_fused_products_total_f32, TotalOfSums<2>, float)
DA_TOTAL_ENTRY(da_fused_products_total_f64, TotalOfSums<2>, double)
