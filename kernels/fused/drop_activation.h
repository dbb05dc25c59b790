// The argument of the kernels for channels: that of the passes, with more behind it.
//
// A folder of its own, since the library does not load these kernels yet; with them, the fields belong into the shared
// header. Whatever is compiled in this folder finds this file in place of that one.
#ifndef DROP_ACTIVATION_FUSED_H
#define DROP_ACTIVATION_FUSED_H

#define da_args da_pass_args
#include "../drop_activation.h"
#undef da_args

/* Elements of a channel that are summed together before anything else is added: docs/fused.md. */
#define DA_CHUNK_ELEMENTS 1024

/* Where the elements of a channel are, and whether they come in packs: sums.cuh. */
enum da_layout {
    DA_LAYOUT_ELEMENTS = 0, /* anywhere */
    DA_LAYOUT_ROWS = 1,     /* inner == 1, channels in whole packs, all addresses multiples of a pack */
    DA_LAYOUT_PLANES = 2    /* inner in whole packs, all addresses multiples of a pack */
};

/* Tensors of the shape [outer, channels, inner]. Vectors have a value for each channel, in the type of the arithmetic. */
struct da_args : da_pass_args {
    uint64_t channels;
    uint64_t inner;
    uint64_t count;       /* elements of a channel */
    uint64_t chunks;      /* of DA_CHUNK_ELEMENTS each, the last one perhaps less */
    const void *residual; /* may be null */
    const void *scale;    /* may be null, for 1 */
    const void *shift;    /* may be null, for 0 */
    const void *mean;
    void *partial;        /* the sums of chunks: of each sum, of each channel, of each chunk */
    void *results[2];     /* vectors */
    uint64_t layout;      /* enum da_layout */
};

#endif
