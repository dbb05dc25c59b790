// Launches of candle's own kernels on the stand-in driver, for rehearsals of the candle module's tests: a library of its
// own, which FAKE_DRIVER_CANDLE names, since not every compiler knows _Float16.
//
// A kernel is told by its name, as candle's sources have it: operation and types, which say what the arguments are.
// Numbers are computed in f64 and rounded once; sums are added up in order.
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

_Noreturn static void unknown(const char* name) {
    fprintf(stderr, "stand-in driver: candle's kernel %s is not known\n", name);
    abort();
}

static double get(const char* type, const void* at, size_t i) {
    if (!strcmp(type, "u8")) return ((const uint8_t*)at)[i];
    if (!strcmp(type, "f64")) return ((const double*)at)[i];
    if (!strcmp(type, "f32")) return ((const float*)at)[i];
    if (!strcmp(type, "f16")) return (double)((const _Float16*)at)[i];
    if (strcmp(type, "bf16")) unknown(type);
    const uint32_t bits = (uint32_t)((const uint16_t*)at)[i] << 16;
    float value;
    return memcpy(&value, &bits, sizeof value), value;
}

static void put(const char* type, void* at, size_t i, double value) {
    if (!strcmp(type, "u8")) {
        ((uint8_t*)at)[i] = (uint8_t)value;
    } else if (!strcmp(type, "f64")) {
        ((double*)at)[i] = value;
    } else if (!strcmp(type, "f32")) {
        ((float*)at)[i] = (float)value;
    } else if (!strcmp(type, "f16")) {
        ((_Float16*)at)[i] = (_Float16)value;
    } else if (!strcmp(type, "bf16")) {
        const float rounded = (float)value;
        uint32_t bits;
        memcpy(&bits, &rounded, sizeof bits);
        // To nearest, ties to even; NaNs stay what they are.
        if (rounded == rounded) bits += 0x7FFF + (bits >> 16 & 1);
        ((uint16_t*)at)[i] = (uint16_t)(bits >> 16);
    } else {
        unknown(type);
    }
}

// Where element i is: the dimensions' lengths come first in `info`, then strides for each tensor in turn.
static size_t at(size_t i, size_t dimensions, const size_t* info, size_t tensor) {
    if (!info) return i;
    const size_t* strides = info + (1 + tensor) * dimensions;
    size_t at = 0;
    for (size_t d = dimensions; d-- != 0; i /= info[d]) at += i % info[d] * strides[d];
    return at;
}

static double unary(const char* operation, double x) {
    if (!strcmp(operation, "ucopy")) return x;
    if (!strcmp(operation, "uneg")) return -x;
    if (!strcmp(operation, "usqr")) return x * x;
    if (!strcmp(operation, "usqrt")) return sqrt(x);
    if (!strcmp(operation, "urecip")) return 1 / x;
    if (!strcmp(operation, "urelu")) return fmax(x, 0);
    unknown(operation);
}

static double binary(const char* operation, double x, double y) {
    if (!strcmp(operation, "badd")) return x + y;
    if (!strcmp(operation, "bsub")) return x - y;
    if (!strcmp(operation, "bmul")) return x * y;
    if (!strcmp(operation, "bdiv")) return x / y;
    if (!strcmp(operation, "ge")) return x >= y;
    unknown(operation);
}

static size_t size_of(const char* type) {
    return !strcmp(type, "u8") ? 1 : (!strcmp(type, "f64") ? 8 : (!strcmp(type, "f32") ? 4 : 2));
}

void candle_launch(const char* entry, unsigned grid, void** given) {
#define ARGUMENT(type, i) (*(type*)given[i])
    char name[64];
    snprintf(name, sizeof name, "%s", entry);
    char* type = strrchr(name, '_');
    if (!type) unknown(entry);
    *type++ = 0;  // now the operation, with the source's type where there is one
    if (!strcmp(name, "copy2d")) {
        const uint32_t rows = ARGUMENT(uint32_t, 2), columns = ARGUMENT(uint32_t, 3);
        const size_t size = size_of(type);
        for (uint32_t i = 0; i < rows; ++i)
            memmove(ARGUMENT(char*, 1) + i * ARGUMENT(uint32_t, 5) * size,
                    ARGUMENT(char*, 0) + i * ARGUMENT(uint32_t, 4) * size, columns * size);
        return;
    }
    const size_t n = ARGUMENT(size_t, 0);
    if (!strncmp(name, "fast_sum", 8)) {
        const size_t many = ARGUMENT(size_t, 1), dimensions = ARGUMENT(size_t, 2);
        const size_t sums = strcmp(name, "fast_sum") ? n : grid;
        for (size_t i = 0; i < sums; ++i) {
            double sum = 0;
            for (size_t k = 0; k < many; ++k)
                sum += get(type, ARGUMENT(void*, 4), at(i * many + k, dimensions, ARGUMENT(size_t*, 3), 0));
            put(type, ARGUMENT(void*, 5), i, sum);
        }
        return;
    }
    const size_t dimensions = ARGUMENT(size_t, 1);
    const size_t* info = ARGUMENT(size_t*, 2);
    for (size_t i = 0; i < n; ++i) {
        const size_t first = at(i, dimensions, info, 0);
        if (!strcmp(name, "const_set")) {
            put(type, ARGUMENT(void*, 4), first, get(type, given[3], 0));
        } else if (!strcmp(name, "affine")) {
            const double x = get(type, ARGUMENT(void*, 3) ? ARGUMENT(void*, 3) : ARGUMENT(void*, 4), first);
            put(type, ARGUMENT(void*, 4), i, x * get(type, given[5], 0) + get(type, given[6], 0));
        } else if (!strncmp(name, "cast_", 5)) {
            put(type, ARGUMENT(void*, 4), i, get(name + 5, ARGUMENT(void*, 3), first));
        } else if (!strcmp(name, "where_u8")) {
            const size_t which = ARGUMENT(uint8_t*, 3)[first] ? 1 : 2;
            const double x = get(type, ARGUMENT(void*, 3 + which), at(i, dimensions, info, which));
            put(type, ARGUMENT(void*, 6), i, x);
        } else if (name[0] == 'u') {
            put(type, ARGUMENT(void*, 4), i, unary(name, get(type, ARGUMENT(void*, 3), first)));
        } else {
            const double x = get(type, ARGUMENT(void*, 3), first);
            const double y = get(type, ARGUMENT(void*, 4), at(i, dimensions, info, 1));
            put(name[0] == 'b' ? type : "u8", ARGUMENT(void*, 5), i, binary(name, x, y));
        }
    }
#undef ARGUMENT
}
