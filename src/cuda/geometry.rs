//! How many threads a launch gets: the numbers that tune it, in one place.
//!
//! The kernels give the same result for any grid, and for any block of whole warps up to
//! [`DA_MAX_BLOCK_THREADS`]. These were chosen by reasoning and wait for a measurement:
//!
//! - One warp for each tile. A warp that goes on to a second tile saves the start of another block, but
//!   the slowest warp then holds up the launch for a whole tile more; without it the hardware hands out
//!   blocks as others finish, which evens that out.
//! - 256 threads. That divides the threads of every multiprocessor so far (1024, 1536 or 2048), so the
//!   registers and not the block size decide how many are resident; and eight tiles pay for the start of a
//!   block.

use super::layout::{DA_MAX_BLOCK_THREADS, DA_TILE_ELEMENTS};

/// Threads of a block.
pub(super) const BLOCK: u32 = 256;

/// Threads of a warp.
pub(super) const WARP: u32 = 32;
const _: () = assert!(BLOCK.is_multiple_of(WARP) && BLOCK <= DA_MAX_BLOCK_THREADS);

/// The most blocks that a one-dimensional grid may have.
const MAX_GRID: u64 = i32::MAX as u64;

/// Blocks for `n` elements: as many as it takes to give each warp one tile.
pub(super) const fn grid(n: u64) -> u32 {
    grid_of_warps(n.div_ceil(DA_TILE_ELEMENTS as u64))
}

/// Blocks for so many warps.
pub(super) const fn grid_of_warps(warps: u64) -> u32 {
    let blocks = warps.div_ceil((BLOCK / WARP) as u64);
    if blocks < MAX_GRID { blocks as u32 } else { MAX_GRID as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_warp_for_each_tile() {
        let of_a_block = u64::from(DA_TILE_ELEMENTS * BLOCK / WARP);
        for (n, blocks) in [(1, 1), (of_a_block, 1), (of_a_block + 1, 2), (1 << 33, (1 << 33) / of_a_block)] {
            assert_eq!(u64::from(grid(n)), blocks, "{n} elements");
        }
        assert_eq!(u64::from(grid(u64::MAX)), MAX_GRID);
    }
}
