//! The CUDA kernels on a CPU, as source and as compiled: the plan that a GPU would get, carried out by
//! `tests/emulator` or `tests/ptx_machine`. Both check every access against the slices of the call, and that each
//! output is written exactly once.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use drop_activation::cuda::launch::plan;
use drop_activation::cuda::{Addresses, Pass};
use drop_activation::{InOut, MaskOrigin, PackedMask, Result};

use super::{Backend, Call, Run, dirty_mask};
use crate::data::Bits;
use crate::emulator::{Buffer, Emulator, Machine, Order, device_address};
use crate::ptx_machine::{Ptx, compile};

#[derive(Debug)]
pub struct OnCpu<M: 'static> {
    name: &'static str,
    machine: &'static M,
    /// Blocks and threads of a block; those of the plan if `None`.
    pub geometry: Option<(u32, u32)>,
    /// That of lanes, warps and blocks; another one for each launch if `None`.
    pub order: Option<Order>,
    launches: AtomicUsize,
}

/// The sources.
pub type Emulated = OnCpu<Emulator>;
/// What a compiler made of them.
pub type Compiled = OnCpu<Ptx>;

impl Emulated {
    /// `None`, after telling so once, on a machine without a C++ compiler.
    pub fn load() -> Option<Self> {
        Emulator::load_or_tell().map(|emulator| Self::on("emulated", emulator))
    }
}

impl Compiled {
    /// The PTX that is shipped, compiled for the oldest GPU.
    pub fn shipped() -> Option<Self> {
        Some(Self::on("the shipped PTX", compile::shipped()))
    }

    /// A fresh compile for sm_90. `None`, after telling so once, on a machine without an nvcc.
    pub fn fresh_90() -> Option<Self> {
        compile::fresh_90().map(|ptx| Self::on("fresh PTX for sm_90", ptx))
    }
}

impl<M: Machine> OnCpu<M> {
    fn on(name: &'static str, machine: &'static M) -> Self {
        Self { name, machine, geometry: None, order: None, launches: AtomicUsize::new(0) }
    }

    fn launch<T: Bits>(
        &self,
        pass: &Pass,
        io: InOut<T>,
        saved: Option<&[T]>,
        mask: Option<Buffer>,
        words: *const u32,
    ) -> Result<()> {
        let n = io.len();
        let (input, output) = match &io {
            InOut::OutOfPlace(input, output) => (input.as_ptr(), output.as_ptr()),
            InOut::InPlace(both) => (both.as_ptr(), both.as_ptr()),
        };
        let at = Addresses {
            input: device_address(input),
            saved: saved.map_or(0, |saved| device_address(saved.as_ptr())),
            output: device_address(output),
            mask: device_address(words),
            ..Addresses::default()
        };
        let Some(launch) = plan(pass, T::DTYPE, n, at)? else { return Ok(()) };
        let mut buffers = Vec::new();
        match io {
            InOut::OutOfPlace(input, output) => {
                buffers.push(Buffer::input("input", input));
                buffers.push(Buffer::output("output", output));
            }
            InOut::InPlace(both) => buffers.push(Buffer::in_place("input and output", both)),
        }
        buffers.extend(saved.map(|saved| Buffer::input("saved", saved)));
        buffers.extend(mask);
        let (grid, block) = self.geometry.unwrap_or((launch.grid, launch.block));
        let entry = launch.entry.name();
        let turn = self.launches.fetch_add(1, Relaxed) % Order::ALL.len();
        let order = self.order.unwrap_or(Order::ALL[turn]);
        self.machine
            .launch(entry, grid, block, &launch.args, &buffers, order)
            .unwrap_or_else(|report| panic!("{report}\n(grid {grid}, block {block}, {order:?}, {pass:?})"));
        Ok(())
    }

    fn make_mask<T: Bits>(&self, pass: &Pass, io: InOut<T>, origin: MaskOrigin) -> Result<Option<PackedMask>> {
        let len = io.len();
        let mut words = dirty_mask().into_words();
        words.resize(len.div_ceil(32), u32::MAX);
        let at = words.as_ptr();
        self.launch(pass, io, None, Some(Buffer::output("mask", &mut words)), at)?;
        PackedMask::from_words(origin, len, words).map(Some)
    }

    fn read_mask<T: Bits>(&self, pass: &Pass, io: InOut<T>, saved: Option<&[T]>, mask: &PackedMask) -> Result<()> {
        let words = mask.words();
        self.launch(pass, io, saved, Some(Buffer::input("mask", words)), words.as_ptr())
    }
}

impl<M: Machine, T: Bits> Run<T> for OnCpu<M> {
    fn run_call(&self, call: &Call<T>, io: InOut<T>) -> Result<Option<PackedMask>> {
        let none = std::ptr::null();
        match *call {
            Call::Forward(op, key) | Call::ForwardInto(op, key) => {
                return self.make_mask(&Pass::Forward { op, key }, io, MaskOrigin::DropActivation(op));
            }
            Call::ForwardWithoutMask(op, key) => {
                self.launch(&Pass::ForwardWithoutMask { op, key }, io, None, None, none)
            }
            Call::Backward(op, mask, x) => self.read_mask(&Pass::Backward { op }, io, x, mask),
            Call::BackwardFromOutput(op, y) => self.launch(&Pass::BackwardFromOutput { op }, io, Some(y), None, none),
            Call::Infer(op) => self.launch(&Pass::Infer { op }, io, None, None, none),
            Call::InferBackward(op, x) => self.launch(&Pass::InferBackward { op }, io, Some(x), None, none),
            Call::RreluForward(op, key) | Call::RreluForwardInto(op, key) => {
                return self.make_mask(&Pass::RreluForward { op, key }, io, MaskOrigin::RRelu(op, key));
            }
            Call::RreluBackward(op, mask) => {
                let MaskOrigin::RRelu(_, key) = mask.origin() else { panic!("the mask is RReLU's") };
                self.read_mask(&Pass::RreluBackward { op, key }, io, None, mask)
            }
            Call::RreluInfer(op) => self.launch(&Pass::RreluInfer { op }, io, None, None, none),
            Call::RreluInferBackward(op, x) => self.launch(&Pass::RreluInferBackward { op }, io, Some(x), None, none),
            Call::ReluForward => self.launch(&Pass::ReluForward, io, None, None, none),
            Call::ReluBackward(y) => self.launch(&Pass::ReluBackward, io, Some(y), None, none),
        }?;
        Ok(None)
    }
}

impl<M: Machine> Backend for OnCpu<M> {
    fn name(&self) -> String {
        format!("{} (geometry {:?}, {:?})", self.name, self.geometry, self.order)
    }

    fn is_slow(&self) -> bool {
        true
    }
}
