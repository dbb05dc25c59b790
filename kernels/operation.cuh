// What an operation is: a struct template over the element type that says what it reads and writes, and what becomes
// of one element. tile.cuh takes it through the tensors.
#pragma once

#include "dtype.cuh"

// Where an element's bit comes from, and which bit is stored as the mask.
// clang-format off
enum class BitsIn { kNone, kKeep, kMask };      // nowhere, the keep stream, the mask
enum class BitsOut { kNone, kKeep, kElement };  // none, the keep bit as it was drawn, the bit that element() leaves
// clang-format on

// One element, as an operation sees it. Its values are bits, so that what only passes through stays as it is.
template <class T>
struct Element {
    typename T::Bits input;  // x of a forward pass, dy of a backward pass
    typename T::Bits saved;  // the saved tensor's, with kReadsSaved
    bool bit;                // the keep bit or the mask's bit, as kBitsIn says
    uint32_t uniform;        // a random word of its own, with kUniforms
};

// What every operation has, with the defaults.
template <class T>
struct Operation {
    using D = T;
    static constexpr bool kReadsSaved = false;
    static constexpr BitsIn kBitsIn = BitsIn::kNone;
    static constexpr BitsOut kBitsOut = BitsOut::kNone;
    // Whether each element gets a random word (RReLU).
    static constexpr bool kUniforms = false;
    // How many packs of each input are in flight. Code that is long wants few: its arithmetic hides the memory.
    static constexpr int kPacksInFlight = 4;
    // Blocks that a multiprocessor must have registers for; 0 leaves it to ptxas.
    static constexpr int kMinBlocks = 0;
    // Whether there is, besides element(), a tile() that does all packs of a lane at once:
    //     uint32_t tile(Pack<T> (&packs)[PACKS], uint32_t bits) const
    // It replaces the packs by their results and returns the bits for the mask, as element() leaves them.
    static constexpr bool kWholeTile = false;

    // Reads from the arguments what is the same for all elements.
    __device__ __forceinline__ void prepare(const da_args&) {}

    // And each operation defines
    //     typename T::Bits element(Element<T>& e) const
    // which gives the element's result, and with BitsOut::kElement leaves in e.bit the bit for the mask.
};

template <class T>
struct ForwardOperation : Operation<T> {
    static __device__ __forceinline__ const void* input(const da_args& a) { return a.x; }
    static __device__ __forceinline__ const void* saved(const da_args&) { return nullptr; }
};

template <class T>
struct BackwardOperation : Operation<T> {
    static __device__ __forceinline__ const void* input(const da_args& a) { return a.dy; }
    static __device__ __forceinline__ const void* saved(const da_args& a) { return a.x; }
};
