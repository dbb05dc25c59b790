// PTX's byte permute, which can do what CUDA's __byte_perm can't: fill a byte with the sign of another.
//
// The bytes of a and b are numbered from 0 to 7, a's first. For byte i of the result, bits 4*i to 4*i + 2 of the
// selector name one of them, and bit 4*i + 3 says whether all of the byte is to be a copy of its sign bit. (PTX ISA,
// "prmt", default mode. __byte_perm looks at three bits of each selector.)
#pragma once

#include <stdint.h>

// Or it to the number of a byte.
constexpr uint32_t kSignOfByte = 8;

__device__ __forceinline__ uint32_t prmt(uint32_t a, uint32_t b, uint32_t selector) {
    uint32_t result;
#ifdef __CUDA_ARCH__
    // A selector that is constant is part of the machine instruction, though not of the PTX.
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(selector));
#else
    // On a CPU, where the tests run these sources. They hold it to what the line above does.
    const uint64_t bytes = uint64_t{b} << 32 | a;
    result = 0;
    for (int i = 0; i < 4; ++i) {
        const uint32_t of_byte = selector >> (4 * i);
        const uint32_t byte = static_cast<uint32_t>(bytes >> (8 * (of_byte & 7))) & 0xFF;
        result |= (of_byte & kSignOfByte ? (byte >> 7) * 0xFF : byte) << (8 * i);
    }
#endif
    return result;
}
