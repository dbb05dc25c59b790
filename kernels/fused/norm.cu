// Sums over channels: the statistics of a batch normalisation, and the sums of its backward pass (docs/fused.md).
#include "drop_activation.h"  // this folder's, before any other header takes the one beside itself

#include "activation.cuh"
#include "sums.cuh"

// ---- Mean and variance.

// (A) of `count` elements takes up (B) of `others`: see docs/fused.md.
template <class Real>
__device__ __forceinline__ void combine_moments(Real (&sums)[3], const Real (&others)[3], Real count, Real n_others) {
    const Real share = n_others / (count + n_others);
    const Real apart = (others[0] - sums[0]) + (others[1] - sums[1]);
    sums[1] = fma(apart, share, sums[1]);
    sums[2] = fma(apart * apart, count * share, sums[2] + others[2]);
}

// The three sums of an accumulator: its first element, the distances from it, their squares. When it is complete: the
// first element, the mean's distance from it, the squared distances from the mean.
template <class T>
struct Moments {
    using D = T;
    using Real = typename D::Real;
    static constexpr int kSums = 3;
    static constexpr int kInputs = 1;
    static constexpr bool kLong = false;

    const da_args& a;
    __device__ explicit Moments(const da_args& a) : a(a) {}

    template <int E>
    using Loaded = Elements<D, E>;
    struct None {};

    template <int E>
    __device__ __forceinline__ Loaded<E> load(uint64_t i) const {
        return Loaded<E>::load(a.x, i);
    }

    template <int C>
    __device__ __forceinline__ None values(uint64_t) const {
        return {};
    }

    template <int E>
    __device__ __forceinline__ void take(const Loaded<E>& loaded, None, uint64_t, bool first, Real (&sums)[E][3]) const {
#pragma unroll
        for (int e = 0; e < E; ++e) {
            const Real x = D::real(loaded.get(e));
            if (first) {
                sums[e][0] = x;
            } else {
                const Real distance = x - sums[e][0];
                sums[e][1] = sums[e][1] + distance;
                sums[e][2] = fma(distance, distance, sums[e][2]);
            }
        }
    }

    __device__ __forceinline__ void complete(Real (&sums)[3], uint32_t count) const {
        if (count == 0) return;
        const Real difference = sums[1] / static_cast<Real>(count);
        const Real squares = fma(-sums[1], difference, sums[2]);
        sums[1] = difference;
        sums[2] = squares < 0 ? Real(0) : squares;
    }

    __device__ __forceinline__ void combine(Real (&sums)[3], const Real (&others)[3], Real count, Real n_others) const {
        combine_moments(sums, others, count, n_others);
    }
};

// The same of all chunks, in f64.
struct TotalOfMoments {
    static constexpr int kSums = 3;
    struct State {
        double count;
        double sums[3];
    };

    static __device__ __forceinline__ void take(State& group, const double (&chunk)[3], double count) {
        if (group.count == 0) {
            group = {count, {chunk[0], chunk[1], chunk[2]}};
        } else {
            combine(group, {count, {chunk[0], chunk[1], chunk[2]}});
        }
    }

    static __device__ __forceinline__ void combine(State& group, const State& other) {
        combine_moments(group.sums, other.sums, group.count, other.count);
        group.count = group.count + other.count;
    }

    static __device__ __forceinline__ State from_lane(const State& group, unsigned distance) {
        State other;
        other.count = __shfl_xor_sync(kFullWarp, group.count, distance);
#pragma unroll
        for (int n = 0; n < 3; ++n) other.sums[n] = __shfl_xor_sync(kFullWarp, group.sums[n], distance);
        return other;
    }

    template <class Real>
    static __device__ __forceinline__ void store(const da_args& a, uint64_t c, const State& all) {
        __stwb(static_cast<Real*>(a.results[0]) + c, static_cast<Real>(all.sums[0] + all.sums[1]));
        __stwb(static_cast<Real*>(a.results[1]) + c, static_cast<Real>(all.sums[2] / all.count));
    }
};

// ---- The sums of a backward pass.

// The values of C neighbouring channels, or of the one that all elements belong to.
template <class Real, int C>
struct ChannelValues {
    Real of[C];

    __device__ __forceinline__ Real at(int e) const { return of[C == 1 ? 0 : e]; }

    // Those of a vector that is not there are `absent`.
    static __device__ __forceinline__ ChannelValues load(const void* vector, uint64_t c, Real absent) {
        ChannelValues values;
#pragma unroll
        for (int e = 0; e < C; ++e) {
            values.of[e] = absent;
            if (vector != nullptr) values.of[e] = __ldcg(static_cast<const Real*>(vector) + c + e);
        }
        return values;
    }
};

// How dz comes from dy.
struct AsGiven {
    static constexpr bool kBits = false, kSmooth = false;
};
struct ByPassBit {
    static constexpr bool kBits = true, kSmooth = false;
};
template <class Activation>
struct ByKeepBit {
    static constexpr bool kBits = true, kSmooth = true;
    template <class Real>
    static __device__ __forceinline__ Real derivative(Real z) {
        return sigma_derivative<Activation>(z);
    }
};

// The sums of dz and, with PRODUCT, of dz (x - mean); stores dz as dr unless that is null.
template <class T, class By, bool PRODUCT>
struct GradientSums {
    using D = T;
    using Real = typename D::Real;
    static constexpr bool kReadsX = PRODUCT || By::kSmooth;
    static constexpr int kSums = PRODUCT ? 2 : 1;
    static constexpr int kInputs = kReadsX ? 2 : 1;
    static constexpr bool kLong = By::kSmooth;

    const da_args& a;
    __device__ explicit GradientSums(const da_args& a) : a(a) {}

    template <int E>
    struct Loaded {
        Elements<D, E> dy, x, residual;
        uint32_t bits;
    };

    template <int C>
    struct Values {
        ChannelValues<Real, C> mean, scale, shift;
    };

    template <int E>
    __device__ __forceinline__ Loaded<E> load(uint64_t i) const {
        Loaded<E> loaded = {};
        loaded.dy = Elements<D, E>::load(a.dy, i);
        if constexpr (kReadsX) loaded.x = Elements<D, E>::load(a.x, i);
        // A pack's elements have their bits in one word.
        if constexpr (By::kBits) loaded.bits = __ldcg(a.mask + i / 32) >> (i % 32);
        if constexpr (By::kSmooth) {
            if (a.residual != nullptr) loaded.residual = Elements<D, E>::load(a.residual, i);
        }
        return loaded;
    }

    template <int C>
    __device__ __forceinline__ Values<C> values(uint64_t c) const {
        Values<C> values = {};
        if constexpr (PRODUCT) values.mean = ChannelValues<Real, C>::load(a.mean, c, 0);
        if constexpr (By::kSmooth) {
            // x times 1, and a sum with -0, are what they were.
            values.scale = ChannelValues<Real, C>::load(a.scale, c, 1);
            values.shift = ChannelValues<Real, C>::load(a.shift, c, Real(-0.0));
        }
        return values;
    }

    template <int E, int C>
    __device__ __forceinline__ void take(const Loaded<E>& loaded, const Values<C>& values, uint64_t i, bool,
                                         Real (&sums)[E][kSums]) const {
        typename D::Bits dr[E];
#pragma unroll
        for (int e = 0; e < E; ++e) {
            const bool bit = (loaded.bits >> e & 1) != 0;
            typename D::Bits dy = loaded.dy.get(e);
            if constexpr (By::kBits && !By::kSmooth) dy = bit ? dy : 0;
            Real dz = D::real(dy);
            if constexpr (By::kSmooth) {
                Real z = fma(values.scale.at(e), D::real(loaded.x.get(e)), values.shift.at(e));
                if (a.residual != nullptr) z = z + D::real(loaded.residual.get(e));
                dz = bit ? dz * By::derivative(z) : dz;
            }
            dr[e] = By::kSmooth ? (bit ? D::bits(dz) : dy) : dy;
            sums[e][0] = sums[e][0] + dz;
            if constexpr (PRODUCT) sums[e][1] = fma(dz, D::real(loaded.x.get(e)) - values.mean.at(e), sums[e][1]);
        }
        if (a.out != nullptr) Elements<D, E>::of(dr).store(a.out, i);
    }

    __device__ __forceinline__ void complete(Real (&)[kSums], uint32_t) const {}

    __device__ __forceinline__ void combine(Real (&sums)[kSums], const Real (&others)[kSums], Real, Real) const {
#pragma unroll
        for (int n = 0; n < kSums; ++n) sums[n] = sums[n] + others[n];
    }
};

template <int N>
struct TotalOfSums {
    static constexpr int kSums = N;
    struct State {
        double sums[N];
    };

    static __device__ __forceinline__ void take(State& group, const double (&chunk)[N], double) {
        combine(group, reinterpret_cast<const State&>(chunk));
    }

    static __device__ __forceinline__ void combine(State& group, const State& other) {
#pragma unroll
        for (int n = 0; n < N; ++n) group.sums[n] = group.sums[n] + other.sums[n];
    }

    static __device__ __forceinline__ State from_lane(const State& group, unsigned distance) {
        State other;
#pragma unroll
        for (int n = 0; n < N; ++n) other.sums[n] = __shfl_xor_sync(kFullWarp, group.sums[n], distance);
        return other;
    }

    template <class Real>
    static __device__ __forceinline__ void store(const da_args& a, uint64_t c, const State& all) {
#pragma unroll
        for (int n = 0; n < N; ++n) __stwb(static_cast<Real*>(a.results[n]) + c, static_cast<Real>(all.sums[n]));
    }
};

// ---- Entry points.

#define DA_SUM_ENTRY(name, ...)                                                                              \
    extern "C" __global__ void __launch_bounds__(DA_MAX_BLOCK_THREADS) name(const da_args a) {               \
        ChunkSums<__VA_ARGS__>(a).run();                                                                     \
    }
#define DA_TOTAL_ENTRY(name, ...)                                                                            \
    extern "C" __global__ void __launch_bounds__(DA_MAX_BLOCK_THREADS) name(const da_args a) {               \
        total_of_chunks<__VA_ARGS__>(a);                                                                     \
    }

#define DA_GRADIENT_SUMS(name, By, product)                               \
    DA_SUM_ENTRY(name##_f32, GradientSums<F32, By, product>)              \
    DA_SUM_ENTRY(name##_f16, GradientSums<F16, By, product>)              \
    DA_SUM_ENTRY(name##_bf16, GradientSums<BF16, By, product>)            \
    DA_SUM_ENTRY(name##_f64, GradientSums<F64, By, product>)

DA_SUM_ENTRY(da_moments_f32, Moments<F32>)
DA_SUM_ENTRY(da_moments_f16, Moments<F16>)
DA_SUM_ENTRY(da_moments_bf16, Moments<BF16>)
DA_SUM_ENTRY(da_moments_f64, Moments<F64>)
DA_TOTAL_ENTRY(da_moments_total_f32, TotalOfMoments, float)
DA_TOTAL_ENTRY(da_moments_total_f64, TotalOfMoments, double)

DA_GRADIENT_SUMS(da_sums, AsGiven, false)
DA_GRADIENT_SUMS(da_sums_relu, ByPassBit, false)
DA_GRADIENT_SUMS(da_products, AsGiven, true)
DA_GRADIENT_SUMS(da_products_relu, ByPassBit, true)
DA_GRADIENT_SUMS(da_products_sigmoid, ByKeepBit<Sigmoid>, true)
DA_GRADIENT_SUMS(da_products_tanh, ByKeepBit<Tanh>, true)
DA_GRADIENT_SUMS(da_products_gelu, ByKeepBit<Gelu>, true)
DA_GRADIENT_SUMS(da_products_silu, ByKeepBit<Silu>, true)
DA_TOTAL_ENTRY(da_sums_total_f32, TotalOfSums<1>, float)
DA_TOTAL_ENTRY(da_sums_total_f64, TotalOfSums<1>, double)
DA_TOTAL_ENTRY(da_products_total_f32, TotalOfSums<2>, float)
DA_TOTAL_ENTRY(da_products_total_f64, TotalOfSums<2>, double)
