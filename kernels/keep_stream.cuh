// The keep stream (section 3 of the mask stream's text): 32 Bernoulli(p) bits at a time.
//
// Bit i of the words R[0], R[1], ... spells, most significant bit first, a uniform integer U[i];
// keep[i] = U[i] < T. All 32 comparisons advance together, one bit plane for each R, and a lane is
// decided once every U has differed from T somewhere. Four planes come from one Philox call.
#pragma once

#include "drop_activation.h"
#include "philox.cuh"
#include "warp.cuh"

// A plane of T is all ones or all zeros, as its bit is. The host makes those of the first three calls
// (da_args::plane_masks), which are nearly always all that is needed.
struct KeepStream {
    const da_args& a;

    __device__ explicit KeepStream(const da_args& a) : a(a) {}

    // The keep bits of mask word `w` (a global word index) for the call at `offset`. All 32 lanes call it
    // together, each with a word of its own; the warp goes on until its slowest word is decided.
    __device__ __forceinline__ uint32_t word(uint64_t offset, uint64_t w) const {
        uint32_t keep = a.constant_word;
        uint32_t undecided = 0xFFFFFFFFu;
        if (a.planes <= 8) {
            if (a.planes > 0) four_planes(offset, w, 0, a.plane_masks, keep, undecided);
            if (a.planes > 4) four_planes(offset, w, 1, a.plane_masks + 4, keep, undecided);
            return keep;
        }
        // 1024 bits are hardly ever all decided by 8 planes, so three calls are made without asking.
        four_planes(offset, w, 0, a.plane_masks, keep, undecided);
        four_planes(offset, w, 1, a.plane_masks + 4, keep, undecided);
        four_planes(offset, w, 2, a.plane_masks + 8, keep, undecided);
        for (uint32_t block = 3; 4 * block < a.planes && __any_sync(kFullWarp, undecided != 0); ++block) {
            const uint32_t bits = a.threshold << (4 * block);
            const uint32_t planes[4] = {plane(bits), plane(bits << 1), plane(bits << 2), plane(bits << 3)};
            four_planes(offset, w, block, planes, keep, undecided);
        }
        return keep;
    }

  private:
    // The plane of the top bit.
    static __device__ __forceinline__ uint32_t plane(uint32_t bits) {
        return static_cast<uint32_t>(static_cast<int32_t>(bits) >> 31);
    }

    // The planes of one Philox call, from the last to the first, so that "less" needs one three-input
    // operation for each: an earlier plane overrules a later one.
    __device__ __forceinline__ void four_planes(uint64_t offset, uint64_t w, uint32_t block, const uint32_t* planes,
                                                uint32_t& keep, uint32_t& undecided) const {
        const uint4 r = philox4x32_10(
            make_uint4(static_cast<uint32_t>(w), static_cast<uint32_t>(w >> 32) | (block << 29),
                       static_cast<uint32_t>(offset), static_cast<uint32_t>(offset >> 32)),
            a.round_keys);
        uint32_t less = 0;
        uint32_t equal = 0xFFFFFFFFu;
        compare(r.w, planes[3], less, equal);
        compare(r.z, planes[2], less, equal);
        compare(r.y, planes[1], less, equal);
        compare(r.x, planes[0], less, equal);
        keep |= undecided & less;
        undecided &= equal;
    }

    // One plane of the random bits against T's.
    static __device__ __forceinline__ void compare(uint32_t r, uint32_t plane, uint32_t& less, uint32_t& equal) {
        less = (plane & ~r) | (~(plane ^ r) & less);
        equal &= ~(plane ^ r);
    }
};
