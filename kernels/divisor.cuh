// Division by numbers that the host knows (da_divisor): a multiplication and shifts, where a division of 64 bits would
// be some hundred instructions.
#pragma once

#include "drop_activation.h"

// dividend / divisor, for dividends below 2^63.
__device__ __forceinline__ uint64_t quotient(uint64_t dividend, const da_divisor& divisor) {
    return __umul64hi(2 * dividend, divisor.multiplier) >> divisor.shift;
}
