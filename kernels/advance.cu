// Moves a base of offsets: what is at offset_out becomes offset, counted from what is at offset_at. With both
// addresses the same the base advances by offset; without offset_at it is set to it. One warp is enough.
#include "offset.cuh"

extern "C" __global__ void __launch_bounds__(32) da_advance(const da_args a) {
    store_offset(a);
}
