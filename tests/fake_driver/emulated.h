// Launches that compute: FAKE_DRIVER_KERNELS names the library that tests/emulator made of the kernels, and a launch
// runs there, every access checked. So a program that needs a GPU can be rehearsed without one.
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "drop_activation.h"

// As in tests/emulator/cuda_on_cpu.cpp.
enum {
    READABLE = 1,
    WRITABLE = 2,
    DEFINED = 4,
    WRITE_ONCE = 8
};

struct emulator_buffer {
    const char* name;
    uint64_t address;
    const void* host;
    uint64_t bytes;
    uint32_t flags;
};

struct emulator_launch {
    const char* entry;
    void* kernel;
    const struct da_args* args;
    const struct emulator_buffer* buffers;
    uint64_t buffer_count;
    uint32_t grid, block;
    uint32_t first_block, last_block;
    uint32_t order;
    uint64_t random;
    char* report;
    uint64_t report_bytes;
};

// The library that the variable names, opened once; NULL if it names none.
static void* opened(const char* variable, void** library) {
    const char* path = getenv(variable);
    if (!*library && path && *path && !(*library = dlopen(path, RTLD_NOW | RTLD_LOCAL))) {
        fprintf(stderr, "stand-in driver: %s\n", dlerror());
        abort();
    }
    return *library;
}

static void* emulator(void) {
    static void* library;
    return opened("FAKE_DRIVER_KERNELS", &library);
}

static void add(struct emulator_buffer* buffers, uint64_t* count, const char* name, const void* at, uint64_t bytes,
                uint32_t flags) {
    if (!at) return;
    // In place: the result replaces what was there.
    for (uint64_t i = 0; i < *count; ++i)
        if (buffers[i].host == at) {
            buffers[i].flags |= flags;
            return;
        }
    buffers[(*count)++] = (struct emulator_buffer){name, (uint64_t)(uintptr_t)at, at, bytes, flags};
}

// 0, or another number if the kernel broke a rule, which standard error then tells.
static int emulate(const char* name, const struct da_args* a, unsigned grid, unsigned block) {
    void* library = emulator();
    typedef int Run(const struct emulator_launch*);
    Run* run = (Run*)dlsym(library, "da_emulator_run");
    uint64_t (*args_bytes)(void) = (uint64_t (*)(void))dlsym(library, "da_emulator_args_bytes");
    void* kernel = dlsym(library, name);
    if (!run || !args_bytes || !kernel || args_bytes() != sizeof *a) {
        fprintf(stderr, "stand-in driver: the library of kernels has not what %s takes\n", name);
        return 1;
    }
    const uint64_t bytes = a->n * (strstr(name, "f64") ? 8 : (strstr(name, "f32") ? 4 : 2));
    const uint64_t vector = a->channels * (strstr(name, "f64") ? 8 : 4);
    const uint64_t sums = strstr(name, "moments") ? 3 : (strstr(name, "products") ? 2 : 1);
    const int is_total = strstr(name, "_total_") != 0;
    const int writes_mask = strstr(name, "forward") && !strstr(name, "infer");
    const uint32_t input = READABLE | DEFINED, output = WRITABLE | WRITE_ONCE;
    struct emulator_buffer buffers[19];
    uint64_t count = 0;
    if (!is_total) {
        add(buffers, &count, "x", a->x, bytes, input);
        add(buffers, &count, "dy", a->dy, bytes, input);
        add(buffers, &count, "out", a->out, bytes, output);
        add(buffers, &count, "mask", a->mask, (a->n + 31) / 32 * 4, writes_mask ? output : input);
        add(buffers, &count, "residual", a->residual, bytes, input);
    }
    add(buffers, &count, "offset_at", a->offset_at, 8, input);
    add(buffers, &count, "seed_at", a->seed_at, 8, input);
    add(buffers, &count, "offset_out", a->offset_out, 8, output);
    add(buffers, &count, "scale", a->scale, vector, input);
    add(buffers, &count, "shift", a->shift, vector, input);
    add(buffers, &count, "alpha", a->alpha, vector, input);
    add(buffers, &count, "beta", a->beta, vector, input);
    add(buffers, &count, "gamma", a->gamma, vector, input);
    add(buffers, &count, "mean", a->mean, vector, input);
    add(buffers, &count, "partial", a->partial, sums * a->chunks * vector, is_total ? input : output);
    if (is_total) {
        add(buffers, &count, "result 0", a->results[0], vector, output);
        add(buffers, &count, "result 1", a->results[1], vector, output);
    }
    char report[1024] = "";
    const struct emulator_launch launch = {name, kernel, a, buffers, count, grid, block, 0,
                                           grid, 0, 0, report, sizeof report};
    if (run(&launch) == 0) return 0;
    fprintf(stderr, "stand-in driver: %s\n", report);
    return 1;
}
