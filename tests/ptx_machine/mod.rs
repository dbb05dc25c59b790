//! The compiled kernels on a CPU: PTX, executed instruction by instruction, every access and every collective
//! checked. What the compiler made of a kernel is judged here by what NVIDIA says that PTX means, not by what this
//! project believes that CUDA's functions do; that is `tests/emulator`, which runs the sources.
//!
//! Not shown: what ptxas or a driver makes of PTX, the memory model, time. Lanes of different warps do not run side by
//! side, which kernels without shared memory can't tell.

#![allow(dead_code)] // each test binary uses its own part

mod alu;
pub mod compile;
mod memory;
mod parse;
mod program;
mod warp;

use std::{collections::HashMap, fmt};

use crate::emulator::{Blocks, Buffer, Machine, Order};
use memory::Memory;
use program::Kernel;
use warp::{Position, Warp};

/// Kernels, ready to be run.
pub struct Ptx {
    kernels: HashMap<String, Kernel>,
}

impl Ptx {
    /// The kernels of these modules. What is not understood is an error that names module and line.
    pub fn new<'a>(modules: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, String> {
        let mut kernels = HashMap::new();
        for (name, text) in modules {
            for parsed in parse::module(text).map_err(|why| format!("{name}: {why}"))? {
                let kernel = program::kernel(parsed).map_err(|why| format!("{name}: {why}"))?;
                if let Some(twice) = kernels.insert(kernel.name.clone(), kernel) {
                    return Err(format!("{name}: a second kernel {}", twice.name));
                }
            }
        }
        Ok(Self { kernels })
    }

    /// The names of the kernels, in no order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.kernels.keys().map(String::as_str)
    }
}

impl Ptx {
    /// The instructions of all kernels that compute something: the others move data, or steer.
    pub fn computing(&self) -> impl Iterator<Item = &str> {
        let instructions = self.kernels.values().flat_map(|kernel| &kernel.code);
        instructions.filter(|i| matches!(i.action, program::Action::Compute { .. })).map(|i| i.opcode.as_str())
    }
}

impl Machine for Ptx {
    fn has(&self, entry: &str) -> bool {
        self.kernels.contains_key(entry)
    }

    fn launch_blocks<A: Copy>(
        &self,
        entry: &str,
        Blocks { grid, block, which: blocks }: Blocks,
        args: &A,
        buffers: &[Buffer],
        order: Order,
    ) -> Result<(), String> {
        let kernel = self.kernels.get(entry).ok_or_else(|| format!("there is no kernel {entry}"))?;
        if kernel.param_bytes != size_of::<A>() {
            let (kernels, callers) = (kernel.param_bytes, size_of::<A>());
            return Err(format!("the argument has {kernels} bytes in the kernel, the caller's has {callers}"));
        }
        let most = if kernel.most_threads == 0 { 1024 } else { kernel.most_threads.min(1024) };
        if block == 0 || block > most || grid == 0 || grid > 0x7FFF_FFFF || blocks.is_empty() || blocks.end > grid {
            return Err(format!("no such launch of {entry}: 1 to 2147483647 blocks of 1 to {most} threads"));
        }
        // SAFETY: `args` is a value of this many bytes, all of them initialised (`da_args` has no padding).
        let param = unsafe { std::slice::from_raw_parts((&raw const *args).cast::<u8>(), size_of::<A>()) };
        let named = |what| format!("{entry}, grid {grid}, block size {block}: {what}");

        let ranks = warp::ranks(kernel, order);
        let mut memory = Memory::new(buffers).map_err(named)?;
        let mut warp = Warp::new(kernel, param, &ranks);
        let warps = u64::from(block.div_ceil(32));
        let bytes: u64 = buffers.iter().map(|buffer| buffer.bytes as u64).sum();
        let mut budget = (1 << 20) + 64 * (bytes + warps * u64::from(blocks.end - blocks.start));
        for i in in_order(u64::from(blocks.end - blocks.start), order, 1) {
            let number = blocks.start + i as u32;
            for w in in_order(warps, order, i) {
                let position = Position { grid, block_threads: block, block: number, warp: w as u32 };
                warp.run(position, &mut memory, &mut budget).map_err(named)?;
            }
        }
        memory.unwritten().map_err(named)
    }
}

/// Each of `count` once. A random order is a stride that has no factor in common with the count.
pub fn in_order(count: u64, order: Order, salt: u64) -> impl Iterator<Item = u64> {
    let (start, stride) = match order {
        Order::Forward => (0, 1),
        Order::Reversed => (count - 1, count - 1),
        Order::Random(seed) => {
            let random = (seed ^ salt).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let stride = (1 + (random >> 32) % count..).find(|&stride| gcd(stride, count) == 1);
            (random % count, stride.expect("count + 1 is one") % count)
        }
    };
    let stride = if count == 1 { 0 } else { stride };
    (0..count).map(move |i| ((u128::from(start) + u128::from(i) * u128::from(stride)) % u128::from(count)) as u64)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl fmt::Debug for Ptx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ptx")
    }
}
