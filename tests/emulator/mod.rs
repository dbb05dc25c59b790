//! The CUDA kernels on a CPU: the same `.cu` files, compiled as C++ against `cuda_on_cpu.h` and run
//! lane by lane under its checks (see there, and `cuda_on_cpu.cpp`). A launch that breaks a rule comes
//! back as an `Err` that names kernel, block, thread, buffer, offset and line.
//!
//! It needs a C++ compiler (g++ or clang++) at run time; without one `Emulator::load` says so. What is
//! compiled is kept in cargo's folder for the temporary files of tests, under a hash of all it was made from.

#![allow(dead_code)] // each test binary uses its own part

pub mod compile;
mod functions;
mod launch;

use std::{
    ffi::{CStr, CString, c_char, c_void},
    fmt,
    io::Write,
    mem::ManuallyDrop,
    path::Path,
    sync::OnceLock,
};

#[allow(unused_imports)]
pub use compile::{BuildError, root, scratch_folder};
#[allow(unused_imports)]
pub use launch::{Access, Blocks, Buffer, Machine, Order, device_address};

#[allow(unused_imports)]
pub use functions::untested;

/// A set of kernels, compiled and loaded.
pub struct Emulator {
    /// Never unloaded: it handles faults for as long as the process lives.
    library: ManuallyDrop<libloading::Library>,
}

impl Emulator {
    /// The kernels of this crate, compiled once for all test binaries and loaded once in each.
    ///
    /// `Err` says why this machine can't (no C++ compiler): the reason to give for a skipped test.
    /// Kernels that don't compile, or that call what nobody compares with the compiler, are a failure, and panic.
    pub fn load() -> Result<&'static Emulator, String> {
        static LOADED: OnceLock<Result<Emulator, BuildError>> = OnceLock::new();
        let kernels = root().join("kernels");
        let build = || match functions::untested(&kernels)[..] {
            [] => Emulator::build(&kernels),
            ref unknown => {
                Err(BuildError::Failed(format!("the kernels call {unknown:?}, not in tests/emulator/functions")))
            }
        };
        match LOADED.get_or_init(build) {
            Ok(emulator) => Ok(emulator),
            Err(BuildError::Unavailable(why)) => Err(why.clone()),
            Err(BuildError::Failed(why)) => panic!("{why}"),
        }
    }

    /// `load`, or `None` after telling why, for tests that can do without.
    pub fn load_or_tell() -> Option<&'static Emulator> {
        Emulator::load().map_err(|why| tell_skipped(&why)).ok()
    }

    /// Compiles every `.cu` file of a folder. Headers are those beside it; the shared header may be missing.
    pub fn build(sources: &Path) -> Result<Emulator, BuildError> {
        let path = compile::library(sources)?;
        // SAFETY: the library was made from this repository's sources; loading it runs no code of theirs.
        let library = unsafe { libloading::Library::new(&path) }
            .map_err(|e| BuildError::Failed(format!("cannot load {}: {e}", path.display())))?;
        Ok(Emulator { library: ManuallyDrop::new(library) })
    }

    fn kernel(&self, entry: &str) -> Option<*const c_void> {
        // SAFETY: only the address is taken.
        let symbol = unsafe { self.library.get::<*const c_void>(entry) }.ok()?;
        // SAFETY: a raw symbol is the function's address, valid while the library is loaded.
        unsafe { symbol.try_as_raw_ptr() }.map(<*mut c_void>::cast_const)
    }
}

impl Machine for Emulator {
    fn has(&self, entry: &str) -> bool {
        self.kernel(entry).is_some()
    }

    fn launch_blocks<A: Copy>(
        &self,
        entry: &str,
        Blocks { grid, block, which: blocks }: Blocks,
        args: &A,
        buffers: &[Buffer],
        order: Order,
    ) -> Result<(), String> {
        let kernel = self.kernel(entry).ok_or_else(|| format!("there is no kernel {entry}"))?;
        // SAFETY: both symbols are defined in cuda_on_cpu.cpp, part of every library that `build` makes.
        let (args_bytes, run) = unsafe {
            (
                self.library.get::<extern "C" fn() -> u64>("da_emulator_args_bytes").map_err(|e| e.to_string())?,
                self.library
                    .get::<unsafe extern "C" fn(*const Launch) -> i32>("da_emulator_run")
                    .map_err(|e| e.to_string())?,
            )
        };
        if args_bytes() != size_of::<A>() as u64 {
            return Err(format!(
                "da_args has {} bytes in the kernels, the caller's has {}",
                args_bytes(),
                size_of::<A>()
            ));
        }

        let entry = CString::new(entry).map_err(|e| e.to_string())?;
        let names: Vec<CString> = buffers.iter().map(|b| CString::new(b.name).unwrap_or_default()).collect();
        let table: Vec<LaunchBuffer> = buffers
            .iter()
            .zip(&names)
            .map(|(b, name)| LaunchBuffer {
                name: name.as_ptr(),
                address: b.address,
                host: b.host,
                bytes: b.bytes as u64,
                flags: match b.access {
                    Access::Input => READABLE | DEFINED,
                    Access::Output => WRITABLE | WRITE_ONCE,
                    Access::InPlace => READABLE | WRITABLE | DEFINED | WRITE_ONCE,
                    Access::Scratch => READABLE | WRITABLE,
                },
            })
            .collect();
        let (order, random) = match order {
            Order::Forward => (0, 0),
            Order::Reversed => (1, 0),
            Order::Random(seed) => (2, seed),
        };
        let mut report = [0u8; 1024];
        let launch = Launch {
            entry: entry.as_ptr(),
            kernel,
            args: (args as *const A).cast(),
            buffers: table.as_ptr(),
            buffer_count: table.len() as u64,
            grid,
            block,
            first_block: blocks.start,
            last_block: blocks.end,
            order,
            random,
            report: report.as_mut_ptr().cast(),
            report_bytes: report.len() as u64,
        };
        // SAFETY: `launch` and all it points to live until the call returns; the kernel takes a da_args,
        // whose size was compared; the buffers are borrowed, and the table gives their true extents.
        if unsafe { run(&launch) } == 0 {
            return Ok(());
        }
        let report = CStr::from_bytes_until_nul(&report).unwrap_or(c"a report too long to be read");
        Err(report.to_string_lossy().into_owned())
    }
}

/// Says once on standard error, past the test harness' capture, that the tests on this backend are skipped.
pub fn tell_skipped(why: &str) {
    static TOLD: OnceLock<()> = OnceLock::new();
    TOLD.get_or_init(|| {
        let _ = writeln!(std::io::stderr(), "SKIPPED: the kernels on a CPU: {why}");
    });
}

impl fmt::Debug for Emulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Emulator")
    }
}

// cuda_on_cpu.cpp has the same.

const READABLE: u32 = 1;
const WRITABLE: u32 = 2;
const DEFINED: u32 = 4;
const WRITE_ONCE: u32 = 8;

#[repr(C)]
struct LaunchBuffer {
    name: *const c_char,
    address: u64,
    host: *mut u8,
    bytes: u64,
    flags: u32,
}

#[repr(C)]
struct Launch {
    entry: *const c_char,
    kernel: *const c_void,
    args: *const c_void,
    buffers: *const LaunchBuffer,
    buffer_count: u64,
    grid: u32,
    block: u32,
    first_block: u32,
    last_block: u32,
    order: u32,
    random: u64,
    report: *mut c_char,
    report_bytes: u64,
}
