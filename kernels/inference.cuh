// What weighs identity and nonlinearity at inference, in the type of the arithmetic.
#pragma once

#include "drop_activation.h"

template <class Real>
struct InferenceWeights {
    uint32_t mixture;  // enum da_mixture
    Real p, slope;     // p and 1 - p; RReLU has its slope alone

    __device__ __forceinline__ void read(const da_args& a) {
        mixture = a.mixture;
        if constexpr (sizeof(Real) == sizeof(double)) {
            p = a.p;
            slope = a.slope;
        } else {
            p = a.p_f32;
            slope = a.slope_f32;
        }
    }
};
