//! The passes over channels on the GPU, as a machine that `tests/support/fused_cases.rs` launches on.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::Arc;

use drop_activation::cuda::cudarc::driver::{CudaModule, result};
use drop_activation::cuda::cudarc::nvrtc::Ptx;
use drop_activation::half::{bf16, f16};

use crate::device::{Device, Failure, Image};
use crate::emulator::{Access, Blocks, Buffer, Machine, Order};
use crate::fused_cases::{Case, Finding, Real64, cases, few_cases, run};
use crate::shipped;
use crate::support::data::Bits;

/// The machine code that the library embeds.
const EMBEDDED: [&[u8]; 2] = [
    include_bytes!(concat!(env!("OUT_DIR"), "/fused.fatbin")),
    include_bytes!(concat!(env!("OUT_DIR"), "/fused_smooth.fatbin")),
];

pub const DTYPES: [&str; 4] = ["f32", "f16", "bf16", "f64"];

/// What became of each entry point: why it failed, if it did.
pub type Outcomes = BTreeMap<&'static str, Option<String>>;

/// All cases over one type, or a few of them that launch every entry point. `Err` if the context is dead: nothing more
/// can be launched in this process.
pub fn check(device: &Device, image: Image, dtype: &str, all: bool) -> (Outcomes, Result<(), ()>) {
    match dtype {
        "f32" => over::<f32>(device, image, all),
        "f16" => over::<f16>(device, image, all),
        "bf16" => over::<bf16>(device, image, all),
        _ => over::<f64>(device, image, all),
    }
}

fn over<T: Bits<Real: Real64>>(device: &Device, image: Image, all: bool) -> (Outcomes, Result<(), ()>) {
    let gpu =
        Gpu { device, image, modules: RefCell::default(), launched: RefCell::default(), dead: RefCell::new(false) };
    let mut outcomes = Outcomes::new();
    let chosen: Vec<Case> = if all { cases::<T>() } else { few_cases::<T>() };
    for case in chosen {
        gpu.launched.borrow_mut().clear();
        let found = run::<T, _>(&gpu, &case, Order::Forward).map(drop);
        let why = found.err().map(|(Finding::Report(what) | Finding::Numbers(what))| format!("{what}, in {case:?}"));
        for name in gpu.launched.borrow().iter() {
            let outcome = outcomes.entry(*name).or_default();
            *outcome = outcome.take().or(why.clone());
        }
        if *gpu.dead.borrow() {
            return (outcomes, Err(()));
        }
    }
    (outcomes, Ok(()))
}

/// Copies what a launch is given to the device, and what it may have written back.
struct Gpu<'a> {
    device: &'a Device,
    image: Image,
    /// Those of the image, once they were asked for.
    modules: RefCell<Vec<Arc<CudaModule>>>,
    launched: RefCell<Vec<&'static str>>,
    dead: RefCell<bool>,
}

impl Gpu<'_> {
    fn modules(&self) -> Result<Vec<Arc<CudaModule>>, Failure> {
        let mut modules = self.modules.borrow_mut();
        if modules.is_empty() {
            let codes: Vec<Ptx> = match self.image {
                Image::Embedded => EMBEDDED.map(|code| Ptx::from_binary(code.to_vec())).into(),
                Image::Prebuilt => {
                    let fused = shipped::ptx().iter().filter(|(name, _)| name.starts_with("fused"));
                    fused.map(|(_, text)| Ptx::from_src(text.as_str())).collect()
                }
            };
            for code in codes {
                modules.push(self.device.load(code)?);
            }
        }
        Ok(modules.clone())
    }

    fn launch_on<A: Copy>(
        &self,
        entry: &str,
        (grid, block): (u32, u32),
        args: &A,
        buffers: &[Buffer],
    ) -> Result<(), Failure> {
        let modules = self.modules()?;
        let function = modules.iter().find_map(|module| module.load_function(entry).ok());
        let function = function.ok_or_else(|| Failure::Here(format!("there is no {entry}")))?;
        let mut uploaded = Vec::new();
        for buffer in buffers {
            // SAFETY: a buffer of a launch is borrowed for as long as that takes.
            let bytes = unsafe { std::slice::from_raw_parts(buffer.host() as *const u8, buffer.bytes()) };
            uploaded.push(self.device.upload(bytes)?);
        }
        // An address that a buffer has for the emulation becomes the address of its copy.
        let mut words = vec![0u64; size_of::<A>() / 8];
        // SAFETY: `args` is a value of as many bytes, all of them initialised (`da_args` has no padding).
        unsafe {
            std::ptr::copy_nonoverlapping((&raw const *args).cast::<u8>(), words.as_mut_ptr().cast(), size_of::<A>())
        };
        for word in &mut words {
            let of = buffers.iter().position(|b| (b.address()..b.address() + b.bytes().max(1) as u64).contains(word));
            if let Some(i) = of {
                *word = self.device.address(&uploaded[i]) + (*word - buffers[i].address());
            }
        }
        let mut arguments = [words.as_mut_ptr().cast::<c_void>()];
        // SAFETY: a kernel of ours with its one argument, in a geometry that it accepts, over copies of the buffers.
        unsafe {
            result::launch_kernel(
                function.cu_function(),
                (grid, 1, 1),
                (block, 1, 1),
                0,
                self.device.stream().cu_stream(),
                &mut arguments,
            )
        }
        .map_err(|e| self.device.refused(e))?;
        self.device.wait()?;
        for (buffer, memory) in buffers.iter().zip(&uploaded) {
            let bytes = self.device.download(buffer.name(), memory)?;
            if buffer.access() != Access::Input {
                // SAFETY: as above, and what is not an input may be written.
                unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), buffer.host() as *mut u8, bytes.len()) };
            }
        }
        Ok(())
    }
}

impl Machine for Gpu<'_> {
    fn has(&self, entry: &str) -> bool {
        self.modules().is_ok_and(|modules| modules.iter().any(|module| module.load_function(entry).is_ok()))
    }

    fn launch_blocks<A: Copy>(
        &self,
        entry: &str,
        Blocks { grid, block, which: blocks }: Blocks,
        args: &A,
        buffers: &[Buffer],
        _: Order,
    ) -> Result<(), String> {
        assert_eq!(blocks, 0..grid, "a GPU runs all blocks");
        let known = drop_activation::cuda::launch::Entry::ALL.iter().find(|known| known.name() == entry);
        self.launched.borrow_mut().push(known.expect("an entry point of the library").name());
        let done = self.launch_on(entry, (grid, block), args, buffers);
        *self.dead.borrow_mut() |= matches!(done, Err(Failure::Dead(_)));
        done.map_err(|why| why.to_string())
    }
}
