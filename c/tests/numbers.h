/* Numbers of the four types, as C has them. */
#ifndef NUMBERS_H
#define NUMBERS_H

#include <drop_activation.h>

#include <math.h>
#include <string.h>

static int bit(const uint32_t *mask, size_t i) { return mask[i / 32] >> (i % 32) & 1; }

/* The types as C has them: 16-bit floats are read and written by their bits. */
static double load(uint32_t dtype, const void *from, size_t i) {
  if (dtype == DACT_DTYPE_F64) return ((const double *)from)[i];
  if (dtype == DACT_DTYPE_F32) return ((const float *)from)[i];
  uint16_t bits = ((const uint16_t *)from)[i];
  if (dtype == DACT_DTYPE_BF16) {
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, 4);
    return value;
  }
  int exponent = bits >> 10 & 31;
  double fraction = bits & 1023;
  double value = exponent ? ldexp(1 + fraction / 1024, exponent - 15) : ldexp(fraction, -24);
  return bits >> 15 ? -value : value;
}

static void store(uint32_t dtype, void *to, size_t i, double value) {
  if (dtype == DACT_DTYPE_F64) {
    ((double *)to)[i] = value;
  } else if (dtype == DACT_DTYPE_F32) {
    ((float *)to)[i] = (float)value;
  } else if (dtype == DACT_DTYPE_BF16) {
    float narrow = (float)value;
    uint32_t bits;
    memcpy(&bits, &narrow, 4);
    ((uint16_t *)to)[i] = (uint16_t)(bits >> 16);
  } else {
    int exponent;
    double fraction = frexp(fabs(value), &exponent);
    uint16_t bits = value == 0 ? 0 : (uint16_t)((exponent + 14) << 10 | (int)((2 * fraction - 1) * 1024));
    ((uint16_t *)to)[i] = (uint16_t)(bits | (value < 0 ? 0x8000 : 0));
  }
}

static size_t size_of(uint32_t dtype) { return dtype == DACT_DTYPE_F64 ? 8 : dtype == DACT_DTYPE_F32 ? 4 : 2; }

/* Half the distance of neighbouring numbers, relative, and room for a few ulp of σ where it is the larger. */
static double tolerance(uint32_t dtype) {
  switch (dtype) {
  case DACT_DTYPE_F64: return 1e-14;
  case DACT_DTYPE_F32: return 1e-6;
  case DACT_DTYPE_F16: return 6e-4;
  default: return 5e-3;
  }
}

#endif
