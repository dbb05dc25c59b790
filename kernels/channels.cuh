// Tensors with channels: what the fused passes take from a tensor and from vectors with a value for each channel.
#pragma once

#include "divisor.cuh"
#include "dtype.cuh"

// E neighbouring elements of a tensor: a pack, or one.
template <class D, int E>
struct Elements {
    Pack<D> pack;

    static __device__ __forceinline__ Elements load(const void* from, uint64_t i) {
        return {{__ldcs(static_cast<const uint4*>(from) + i / E)}};
    }
    __device__ __forceinline__ void store(void* to, uint64_t i) const {
        __stwb(static_cast<uint4*>(to) + i / E, pack.raw);
    }
    __device__ __forceinline__ typename D::Bits get(int e) const { return pack.get(e); }
    static __device__ __forceinline__ Elements of(const typename D::Bits (&e)[E]) { return {Pack<D>::of(e)}; }

    // Each rounded once.
    static __device__ __forceinline__ Elements rounded(const typename D::Real (&values)[E]) {
        if constexpr (sizeof(typename D::Bits) == 2) {
            return {{make_uint4(D::bits(values[0], values[1]), D::bits(values[2], values[3]),
                                D::bits(values[4], values[5]), D::bits(values[6], values[7]))}};
        } else {
            typename D::Bits bits[E];
#pragma unroll
            for (int e = 0; e < E; ++e) bits[e] = D::bits(values[e]);
            return of(bits);
        }
    }
};

template <class D>
struct Elements<D, 1> {
    typename D::Bits bits;

    static __device__ __forceinline__ Elements load(const void* from, uint64_t i) {
        return {__ldcs(static_cast<const typename D::Bits*>(from) + i)};
    }
    __device__ __forceinline__ void store(void* to, uint64_t i) const {
        __stwb(static_cast<typename D::Bits*>(to) + i, bits);
    }
    __device__ __forceinline__ typename D::Bits get(int) const { return bits; }
    static __device__ __forceinline__ Elements of(const typename D::Bits (&e)[1]) { return {e[0]}; }
    static __device__ __forceinline__ Elements rounded(const typename D::Real (&values)[1]) {
        return {D::bits(values[0])};
    }
};

// The channel of an element, and its place among the `inner` neighbours that it shares it with. Where tiles go by
// packs, both are below 2^31, and 32 bits hold them (Index).
template <class Index>
struct Place {
    Index channel, within;

    static __device__ __forceinline__ Place of(const da_args& a, uint64_t i) {
        const uint64_t row = quotient(i, a.by_inner);
        return {channel_of(a, row), static_cast<Index>(i) - static_cast<Index>(row) * static_cast<Index>(a.inner)};
    }

    // That of all elements with this i / inner.
    static __device__ __forceinline__ Index channel_of(const da_args& a, uint64_t row) {
        return static_cast<Index>(row) -
               static_cast<Index>(quotient(row, a.by_channels)) * static_cast<Index>(a.channels);
    }

    __device__ __forceinline__ Index next_channel(const da_args& a) const {
        return channel + 1 == static_cast<Index>(a.channels) ? 0 : channel + 1;
    }

    // To the element that is `elements` behind it, with elements / inner % channels and elements % inner.
    __device__ __forceinline__ void advance(const da_args& a, Index channels, Index elements_within) {
        channel += channels;
        if (channel >= static_cast<Index>(a.channels)) channel -= static_cast<Index>(a.channels);
        within += elements_within;
        if (within >= static_cast<Index>(a.inner)) {
            within -= static_cast<Index>(a.inner);
            channel = next_channel(a);
        }
    }
};

// A vector's values for the elements of a pack, or for one element.
template <class Real, int E>
struct ChannelValues {
    Real of[E];

    // Those of a vector that is not there are `absent`.
    static __device__ __forceinline__ ChannelValues constant(Real absent) {
        ChannelValues values;
#pragma unroll
        for (int e = 0; e < E; ++e) values.of[e] = absent;
        return values;
    }

    // Of E neighbouring channels, which begin at a multiple of E; the vector begins at a multiple of a pack.
    static __device__ __forceinline__ ChannelValues of_row(const void* vector, uint64_t channel, Real absent) {
        if (vector == nullptr) return constant(absent);
        constexpr int kAtOnce = DA_PACK_BYTES / sizeof(Real);
        const void* of_channels = static_cast<const Real*>(vector) + channel;
        ChannelValues values;
#pragma unroll
        for (int i = 0; i < E; i += kAtOnce) {
            if constexpr (sizeof(Real) == 4) {
                const float4 four = __ldca(static_cast<const float4*>(of_channels) + i / kAtOnce);
                values.of[i] = four.x;
                values.of[i + 1] = four.y;
                values.of[i + 2] = four.z;
                values.of[i + 3] = four.w;
            } else {
                const double2 two = __ldca(static_cast<const double2*>(of_channels) + i / kAtOnce);
                values.of[i] = two.x;
                values.of[i + 1] = two.y;
            }
        }
        return values;
    }

    // Of elements that are next to each other in one channel, or, from the one at `next_at` on, in the channel `next`.
    static __device__ __forceinline__ ChannelValues of_image(const void* vector, uint64_t channel, uint64_t next,
                                                             int next_at, Real absent) {
        if (vector == nullptr) return constant(absent);
        const Real* of_channels = static_cast<const Real*>(vector);
        ChannelValues values = constant(__ldca(of_channels + channel));
        if (next_at < E) {
            const Real of_next = __ldca(of_channels + next);
#pragma unroll
            for (int e = 1; e < E; ++e) values.of[e] = e < next_at ? values.of[e] : of_next;
        }
        return values;
    }
};

// The channels of the elements of a pack, or of one element, and so the values that vectors have for them.
template <int E>
struct PackChannels {
    bool in_a_row;  // E neighbouring channels
    uint64_t channel, next;
    int next_at;

    static __device__ __forceinline__ PackChannels of_row(uint64_t channel) { return {true, channel, 0, E}; }

    // All of one channel.
    static __device__ __forceinline__ PackChannels of_one(uint64_t channel) { return {false, channel, 0, E}; }

    // From the one at `next_at` on of the next one.
    template <class Index>
    static __device__ __forceinline__ PackChannels of_image(const da_args& a, const Place<Index>& place) {
        const Index left = static_cast<Index>(a.inner) - place.within;
        return {false, place.channel, place.next_channel(a), left < E ? static_cast<int>(left) : E};
    }

    template <class Real>
    __device__ __forceinline__ ChannelValues<Real, E> values(const void* vector, Real absent) const {
        using Values = ChannelValues<Real, E>;
        if constexpr (E > 1) {
            if (in_a_row) return Values::of_row(vector, channel, absent);
        }
        return Values::of_image(vector, channel, next, next_at, absent);
    }
};

// One entry point for each element type of an operation template, whose run() loops over the tensor.
#define DA_FUSED_ENTRY(name, ...)                                    \
    extern "C" __global__ void                                       \
    __launch_bounds__(DA_MAX_BLOCK_THREADS, __VA_ARGS__::kMinBlocks) \
        name(const da_args a) {                                      \
        __VA_ARGS__::run(a);                                         \
    }
#define DA_FUSED_ENTRIES(name, ...)                \
    DA_FUSED_ENTRY(name##_f32, __VA_ARGS__<F32>)   \
    DA_FUSED_ENTRY(name##_f16, __VA_ARGS__<F16>)   \
    DA_FUSED_ENTRY(name##_bf16, __VA_ARGS__<BF16>) \
    DA_FUSED_ENTRY(name##_f64, __VA_ARGS__<F64>)
