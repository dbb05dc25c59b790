//! What a launch is, for every machine that carries one out on a CPU: memory, the order of lanes, the call.

use std::{marker::PhantomData, ops::Range};

/// Runs kernels on a CPU and checks them: the sources (`Emulator`), or what a compiler made of them
/// (`tests/ptx_machine`).
pub trait Machine {
    /// Whether there is a kernel of this name.
    fn has(&self, entry: &str) -> bool;

    /// Runs these blocks; those of the grid that are left out are taken to do the rest of the work. `args` is the
    /// kernel's one argument. `Err` says which rule was broken, and where.
    fn launch_blocks<A: Copy>(
        &self,
        entry: &str,
        blocks: Blocks,
        args: &A,
        buffers: &[Buffer],
        order: Order,
    ) -> Result<(), String>;

    /// `launch_blocks` of all blocks.
    fn launch<A: Copy>(
        &self,
        entry: &str,
        grid: u32,
        block: u32,
        args: &A,
        buffers: &[Buffer],
        order: Order,
    ) -> Result<(), String> {
        self.launch_blocks(entry, Blocks { grid, block, which: 0..grid }, args, buffers, order)
    }
}

/// Blocks of a grid of `grid` blocks of `block` threads.
pub struct Blocks {
    pub grid: u32,
    pub block: u32,
    pub which: Range<u32>,
}

/// Which lane, warp and block goes first, wherever more than one can. Correct kernels can't tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Forward,
    Reversed,
    /// Another order at every step, drawn from this seed.
    Random(u64),
}

impl Order {
    /// One of each.
    pub const ALL: [Order; 3] = [Order::Forward, Order::Reversed, Order::Random(0x00DD_BA11)];
}

/// What a launch does with a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It reads only.
    Input,
    /// It writes only, each byte exactly once.
    Output,
    /// An input that the result replaces: each byte is written exactly once, and not read afterwards.
    InPlace,
    /// It reads and writes freely, but reads nothing before it is written.
    Scratch,
}

/// Memory that a launch may touch, and how. Everything else is out of bounds.
pub struct Buffer<'a> {
    pub(crate) name: &'static str,
    pub(crate) host: *mut u8,
    pub(crate) bytes: usize,
    pub(crate) address: u64,
    pub(crate) access: Access,
    memory: PhantomData<&'a mut [u8]>,
}

impl<'a> Buffer<'a> {
    pub fn input<T: Copy>(name: &'static str, data: &'a [T]) -> Self {
        // SAFETY: valid for reads for 'a, and inputs are not written.
        unsafe { Self::raw(name, data.as_ptr().cast_mut().cast(), size_of_val(data), Access::Input) }
    }

    pub fn output<T: Copy>(name: &'static str, data: &'a mut [T]) -> Self {
        // SAFETY: valid for reads and writes for 'a.
        unsafe { Self::raw(name, data.as_mut_ptr().cast(), size_of_val(data), Access::Output) }
    }

    pub fn in_place<T: Copy>(name: &'static str, data: &'a mut [T]) -> Self {
        // SAFETY: as for `output`.
        unsafe { Self::raw(name, data.as_mut_ptr().cast(), size_of_val(data), Access::InPlace) }
    }

    pub fn scratch<T: Copy>(name: &'static str, data: &'a mut [T]) -> Self {
        // SAFETY: as for `output`.
        unsafe { Self::raw(name, data.as_mut_ptr().cast(), size_of_val(data), Access::Scratch) }
    }

    /// For callers that hold addresses, as a checked launch does.
    ///
    /// # Safety
    /// For as long as the buffer lives, `bytes` bytes from `host` on can be read and, unless it is an input, written,
    /// and nothing else writes them.
    pub unsafe fn raw(name: &'static str, host: *mut u8, bytes: usize, access: Access) -> Self {
        Buffer { name, host, bytes, address: device_address(host), access, memory: PhantomData }
    }

    /// The same memory under another address: a window on a tensor that is too large to allocate.
    pub fn at(self, address: u64) -> Self {
        Buffer { address, ..self }
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What a kernel's arguments call it.
    pub fn address(&self) -> u64 {
        self.address
    }

    pub fn access(&self) -> Access {
        self.access
    }

    /// Where the memory really is.
    pub fn host(&self) -> u64 {
        self.host as u64
    }
}

/// The address by which a kernel's arguments have to name this memory. In truth nothing is there, so that an access
/// which goes round the checks is a fault. Null stays null.
pub fn device_address<T>(at: *const T) -> u64 {
    // The upper half of the address space, which is never a program's.
    if at.is_null() { 0 } else { at as u64 | 0xFFFF_8000_0000_0000 }
}
