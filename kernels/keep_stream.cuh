// The keep stream (section 3 of the mask stream's text): 32 Bernoulli(p) bits at a time.
//
// Bit i of the words R[0], R[1], ... spells, most significant bit first, a uniform integer U[i];
// keep[i] = U[i] < T. All 32 comparisons advance together, one bit plane for each R, and a lane is
// settled once every U has differed from T somewhere. Four planes come from one Philox call.
#pragma once

#include "drop_activation.h"
#include "philox.cuh"
#include "warp.cuh"

struct KeepStream {
    uint64_t seed;
    uint32_t threshold;
    uint32_t planes;
    uint32_t settled;

    __device__ explicit KeepStream(const da_args& a)
        : seed(a.seed), threshold(a.threshold), planes(a.planes), settled(a.settled) {}

    // The keep bits of mask word `w` (a global word index) for the call at `offset`. All 32 lanes call it
    // together, each with a word of its own; the warp goes on until its slowest word is settled.
    __device__ __forceinline__ uint32_t word(uint64_t offset, uint64_t w) const {
        uint32_t keep = settled;
        uint32_t undecided = 0xFFFFFFFFu;
        if (planes <= 8) {
            if (planes > 0) four_planes(offset, w, 0, keep, undecided);
            if (planes > 4) four_planes(offset, w, 1, keep, undecided);
            return keep;
        }
        // 1024 bits are hardly ever all settled by 8 planes, so three calls are made without asking.
        four_planes(offset, w, 0, keep, undecided);
        four_planes(offset, w, 1, keep, undecided);
        four_planes(offset, w, 2, keep, undecided);
        for (uint32_t block = 3; 4 * block < planes && __any_sync(kFullWarp, undecided != 0); ++block) {
            four_planes(offset, w, block, keep, undecided);
        }
        return keep;
    }

  private:
    // The planes of one Philox call, from the last to the first, so that "less" needs one three-input
    // operation for each: an earlier plane overrules a later one.
    __device__ __forceinline__ void four_planes(uint64_t offset, uint64_t w, uint32_t block, uint32_t& keep,
                                                uint32_t& undecided) const {
        const uint4 r = philox4x32_10(
            make_uint4(static_cast<uint32_t>(w), static_cast<uint32_t>(w >> 32) | (block << 29),
                       static_cast<uint32_t>(offset), static_cast<uint32_t>(offset >> 32)),
            seed);
        uint32_t less = 0;
        uint32_t equal = 0xFFFFFFFFu;
        const uint32_t bits = threshold << (4 * block);
        compare(r.w, bits << 3, less, equal);
        compare(r.z, bits << 2, less, equal);
        compare(r.y, bits << 1, less, equal);
        compare(r.x, bits, less, equal);
        keep |= undecided & less;
        undecided &= equal;
    }

    // One plane: the top bit of `t` is T's bit, the same for all 32 comparisons.
    static __device__ __forceinline__ void compare(uint32_t r, uint32_t t, uint32_t& less, uint32_t& equal) {
        const uint32_t plane = static_cast<uint32_t>(static_cast<int32_t>(t) >> 31);
        less = (plane & ~r) | (~(plane ^ r) & less);
        equal &= ~(plane ^ r);
    }
};
