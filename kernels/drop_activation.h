/* What host and device agree on: argument layout, codes and geometry.
 *
 * Read by nvcc (kernels), by bindgen (src/cuda/layout.rs) and by the host C++ build of the kernels.
 * Plain C, so that each of them can. */
#ifndef DROP_ACTIVATION_H
#define DROP_ACTIVATION_H

#include <stdint.h>

/* One warp works on tiles of this many elements: 32 mask words, one for each lane. */
#define DA_TILE_ELEMENTS 1024

/* Threads of a block: any multiple of 32 up to this is accepted. */
#define DA_MAX_BLOCK_THREADS 256

/* Bytes of one vector access of the aligned path. Where a tensor's address is no multiple of this, all
 * tiles take the element-wise path; its results are the same. */
#define DA_PACK_BYTES 16

/* How inference mixes identity and nonlinearity: p == 0 and p == 1 are exact, not limits. */
enum da_mixture {
    DA_MIXTURE_IDENTITY = 0, /* p == 0 */
    DA_MIXTURE_SIGMA = 1,    /* p == 1 */
    DA_MIXTURE_MIXED = 2     /* 0 < p < 1 */
};

/* Elements of a channel that are summed together before anything else is added: docs/fused.md. */
#define DA_CHUNK_ELEMENTS 1024

/* How packs meet channels. */
enum da_layout {
    DA_LAYOUT_ELEMENTS = 0, /* any other shape, or addresses that are no multiples of a pack */
    DA_LAYOUT_ROWS = 1,     /* inner == 1, and a pack has as many channels as elements */
    DA_LAYOUT_IMAGES = 2,   /* inner is a multiple of a pack: each is of one channel */
    DA_LAYOUT_UNEVEN = 3    /* elementwise: inner is as large as a pack at least: each is of one channel or of two */
};

/* A number d that a kernel divides by, with s the least integer such that d <= 2^s. */
struct da_divisor {
    uint64_t multiplier; /* ceil(2^(63 + s) / d) */
    uint32_t shift;      /* s */
};

/* The one argument of every kernel. A field that an entry point does not use is zero. */
struct da_args {
    uint64_t n;                /* elements */
    uint64_t tiles;            /* of DA_TILE_ELEMENTS each, the last one perhaps less */
    uint64_t full_tiles;       /* the first of them that go by vector accesses: whole, and all addresses allow it */
    const void* x;             /* forward: the input. backward: the saved input, or the saved output y */
    const void* dy;            /* backward: gradient of the output */
    void* out;                 /* y or dx; may equal x or dy (in place) */
    uint32_t* mask;            /* ceil(n / 32) words: written by forward, read by backward */
    uint64_t shard_start;      /* global index of element 0, a multiple of 32 */
    uint64_t offset;           /* upper half of the Philox counter, counted from what is at offset_at */
    const uint64_t* offset_at; /* device memory that holds the offset's base; null: the base is 0 */
    const uint64_t* seed_at;   /* beside offset_at: a generator's seed; the offset is what it draws there (offset.cuh) */
    uint64_t* offset_out;      /* RReLU's forward stores its whole offset here, unless null; da_advance always */
    uint32_t threshold;        /* T of the keep stream, when planes != 0 */
    uint32_t planes;           /* bits of T that matter (32 - trailing zeros); 0: every keep word is constant_word */
    uint32_t constant_word;    /* the keep word when planes == 0: all zeros or all ones */
    uint32_t mixture;          /* enum da_mixture */
    double p;                  /* weight of the nonlinearity, for f64 arithmetic */
    double slope;              /* 1 - p, or RReLU's inference slope, for f64 arithmetic */
    float p_f32;               /* the same two for f32 arithmetic (f32, f16, bf16), */
    float slope_f32;           /* each rounded once from f64 */
    float lower;               /* RReLU: slopes are uniform on [lower, upper) */
    float upper;
    uint32_t round_keys[20];   /* Philox's key in each of its ten rounds, two words each; the first is the seed */
    uint32_t plane_masks[12];  /* threshold's first bits, the highest first: all zeros or all ones for each */

    /* The fused passes: tensors of the shape [outer, channels, inner]. Element i is of channel i / inner % channels.
     * Vectors have a value for each channel, in the type of the arithmetic. */
    uint64_t channels;
    uint64_t inner;
    struct da_divisor by_channels;
    struct da_divisor by_inner;
    uint64_t layout;           /* enum da_layout */
    uint32_t step_channels;    /* elementwise: what 32 packs add to an element's channel, modulo channels, */
    uint32_t step_within;      /* and to its place in that channel, modulo inner */
    uint64_t columns;          /* elementwise, rows: after so many segments of 32 packs the channels begin anew */
    struct da_divisor by_columns;
    uint64_t column_tiles;     /* elementwise, rows: the first of full_tiles, whose segments are so far apart */
    uint64_t straight_tiles;   /* elementwise: the first of full_tiles, which ReLU's kernels may do as a whole */
    const void* residual;      /* may be null */
    const void* scale;         /* vector; null: 1 */
    const void* shift;         /* vector; null: 0 */
    const void* alpha;         /* vector; null: 1 */
    const void* beta;          /* vector; null: 0, and neither x nor mean and gamma are looked at for it */
    const void* gamma;         /* vector */
    const void* mean;          /* vector */
    uint64_t count;            /* sums: elements of a channel */
    uint64_t chunks;           /* sums: of DA_CHUNK_ELEMENTS each, the last one perhaps less */
    uint64_t across;           /* sums: warps that have the same chunk of other channels */
    struct da_divisor by_across;
    uint64_t row_step;         /* sums: what 32 elements of a channel add to an element's index, */
    uint64_t within_step;      /* and to its place in its row of the channel */
    void* partial;             /* sums: those of chunks: of each sum, of each channel, of each chunk */
    void* results[2];          /* sums: vectors; the second may be null */
};

#endif
