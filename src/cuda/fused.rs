//! The passes over channels on cudarc's slices.

use std::sync::Arc;

use cudarc::driver::{CudaEvent, CudaSlice, CudaStream, CudaView, CudaViewMut, result};

use super::addresses::Addresses;
use super::channels::{FusedAddresses, workspace_bytes};
use super::error::{CudaError, Result as CudaResult, while_doing};
use super::io::{InOut, Saved};
use super::key::Key;
use super::loader::Kernels;
use super::mask::{self, DeviceMask, Origin};
use super::order::Turn;
use super::stream_checks::{not_capturing, not_tracking_a_capture, same_context};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::fused::{Dz, Shape};
use crate::operation::DropActivation;
use crate::pass::{Arguments, FusedArguments, MaskArgument, Pass};

/// What a pass over channels takes besides its input and output: slices or views, each absent or of the length that its
/// shape wants. A pass looks at those that it has a use for; the others must be of that length too.
///
/// Vectors have a value for each channel, in the type of the arithmetic.
pub struct FusedSlices<'a, T: Element> {
    /// The tensor x of the forward pass, for a backward pass that looks at it.
    pub x: Option<&'a dyn Saved<T>>,
    /// A tensor, added before the activation.
    pub residual: Option<&'a dyn Saved<T>>,
    /// A vector. Absent, it is 1.
    pub scale: Option<&'a dyn Saved<T::Real>>,
    /// A vector. Absent, it is 0.
    pub shift: Option<&'a dyn Saved<T::Real>>,
    /// A vector, which x is taken relative to.
    pub mean: Option<&'a dyn Saved<T::Real>>,
    /// A vector. Absent, it is 1.
    pub alpha: Option<&'a dyn Saved<T::Real>>,
    /// A vector, together with gamma and mean. Absent, these are 0.
    pub beta: Option<&'a dyn Saved<T::Real>>,
    /// A vector, together with beta and mean.
    pub gamma: Option<&'a dyn Saved<T::Real>>,
}

impl<T: Element> Default for FusedSlices<'_, T> {
    /// Nothing.
    fn default() -> Self {
        Self { x: None, residual: None, scale: None, shift: None, mean: None, alpha: None, beta: None, gamma: None }
    }
}

/// Device memory for intermediate sums, which passes of sums use again. It grows when one needs more.
#[derive(Debug, Default)]
pub struct Workspace {
    memory: Option<CudaSlice<u8>>,
}

impl Workspace {
    /// Has none yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Memory of so many bytes at least, from the stream's own context object.
    fn of(&mut self, stream: &Arc<CudaStream>, bytes: usize) -> CudaResult<&mut CudaSlice<u8>> {
        let is_enough =
            |memory: &CudaSlice<u8>| memory.len() >= bytes && same_context(stream, "workspace", memory).is_ok();
        if !self.memory.as_ref().is_some_and(is_enough) {
            not_capturing(
                stream,
                "so no memory for sums can be allocated: give a workspace that was used for as much before",
            )?;
            // SAFETY: any bits are valid, and nobody reads what the kernels have not written.
            let memory = unsafe { stream.alloc(bytes.max(1)) }.map_err(while_doing("allocating a workspace"))?;
            self.memory = Some(memory);
        }
        self.memory.as_mut().ok_or(CudaError::NullPointer { argument: "workspace" })
    }
}

/// The mask of a call.
enum MaskOf<'a> {
    None,
    Read(&'a DeviceMask),
    /// Words to write. Of new memory, the rest is cleared.
    Write(&'a mut CudaSlice<u32>, bool),
}

/// The tensors of a call that every pass has.
enum Tensors<'a, T> {
    Both(InOut<'a, T>),
    InputOnly(CudaView<'a, T>),
}

/// All of a call.
struct Call<'a, T: Element> {
    pass: Pass,
    shape: Shape,
    tensors: Tensors<'a, T>,
    slices: &'a FusedSlices<'a, T>,
    results: [Option<CudaViewMut<'a, T::Real>>; 2],
    base: Option<&'a CudaSlice<u64>>,
}

impl Kernels {
    /// Training forward on `z = scale[c] x + shift[c] + residual`: `y = keep ? σ(z) : z`, and the new mask. y may take the
    /// place of x.
    ///
    /// # Errors
    /// [`Error::ShapeLength`] for a tensor and [`Error::ChannelVector`] for a vector that does not fit the shape;
    /// [`Error::IndexRange`] if the key's `first` leaves no room for so many elements.
    pub fn fused_forward<'a, 'k, T: Element>(
        &self,
        stream: &Arc<CudaStream>,
        op: &DropActivation,
        key: impl Into<Key<'k>>,
        shape: Shape,
        slices: &FusedSlices<'_, T>,
        io: impl Into<InOut<'a, T>>,
    ) -> Result<DeviceMask> {
        let key = key.into();
        let (call, origin) = self.fused_call(stream, op, &key, shape, slices, io.into())?;
        self.track(stream)?;
        self.fused_with_new_mask(stream, call, origin)
    }

    /// [`Kernels::fused_forward`] with a mask that is overwritten. It is given more memory only if it has too little.
    ///
    /// # Errors
    /// Those of [`Kernels::fused_forward`].
    #[allow(clippy::too_many_arguments)] // as many as the call has parts
    pub fn fused_forward_into<'a, 'k, T: Element>(
        &self,
        stream: &Arc<CudaStream>,
        op: &DropActivation,
        key: impl Into<Key<'k>>,
        shape: Shape,
        slices: &FusedSlices<'_, T>,
        io: impl Into<InOut<'a, T>>,
        mask: &mut DeviceMask,
    ) -> Result<()> {
        let key = key.into();
        let (call, origin) = self.fused_call(stream, op, &key, shape, slices, io.into())?;
        let memory = mask.memory_mut();
        same_context(stream, "mask", memory)?;
        self.track(stream)?;
        if memory.len() < crate::mask::words_for(shape.len()) {
            *mask = self.fused_with_new_mask(stream, call, origin)?;
        } else {
            self.launch_fused(stream, call, MaskOf::Write(memory, false), None)?;
            mask.renew(origin, shape.len());
        }
        Ok(())
    }

    /// A checked forward pass in training, and what its mask is the mask of.
    fn fused_call<'c, T: Element>(
        &self,
        stream: &CudaStream,
        op: &DropActivation,
        key: &'c Key<'_>,
        shape: Shape,
        slices: &'c FusedSlices<'_, T>,
        io: InOut<'c, T>,
    ) -> Result<(Call<'c, T>, Origin)> {
        let pass = Pass::FusedForward { op: *op, key: key.relative(), shape };
        let call = Call::new(pass, shape, io, slices, key.base());
        self.check_fused(stream, &call, MaskArgument::MadeAnew)?;
        let origin = Origin::Known(pass.mask_origin().ok_or(Error::Missing { argument: "mask" })?);
        Ok((call, origin))
    }

    fn fused_with_new_mask<T: Element>(
        &self,
        stream: &Arc<CudaStream>,
        call: Call<'_, T>,
        origin: Origin,
    ) -> Result<DeviceMask> {
        let n = call.shape.len();
        let mut words = mask::alloc(stream, n)?;
        self.launch_fused(stream, call, MaskOf::Write(&mut words, true), None)?;
        Ok(DeviceMask::assemble(origin, n, words))
    }

    /// Inference forward on the same z: `y = (1-p) z + p σ(z)`; for ReLU `z <= 0 ? (1-p) z : z`.
    ///
    /// # Errors
    /// [`Error::ShapeLength`], [`Error::ChannelVector`].
    pub fn fused_infer<'a, T: Element>(
        &self,
        stream: &Arc<CudaStream>,
        op: &DropActivation,
        shape: Shape,
        slices: &FusedSlices<'_, T>,
        io: impl Into<InOut<'a, T>>,
    ) -> Result<()> {
        let call = Call::new(Pass::FusedInfer { op: *op, shape }, shape, io.into(), slices, None);
        self.check_fused(stream, &call, MaskArgument::None)?;
        self.track(stream)?;
        self.launch_fused(stream, call, MaskOf::None, None)
    }

    /// Mean and biased variance of each channel of x, to two vectors. Two launches.
    ///
    /// # Errors
    /// [`Error::ShapeLength`], [`Error::ChannelVector`]; [`Error::NoElements`].
    pub fn statistics<T: Element>(
        &self,
        stream: &Arc<CudaStream>,
        shape: Shape,
        x: &dyn Saved<T>,
        mean: CudaViewMut<'_, T::Real>,
        variance: CudaViewMut<'_, T::Real>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let slices = FusedSlices::default();
        let results = [Some(mean), Some(variance)];
        let tensors = Tensors::InputOnly(x.view());
        let call = Call { pass: Pass::Statistics { shape }, shape, tensors, slices: &slices, results, base: None };
        self.check_fused(stream, &call, MaskArgument::None)?;
        self.track(stream)?;
        self.launch_fused(stream, call, MaskOf::None, Some(workspace))
    }

    /// The sums of a backward pass: `s1[c] = Σ dz` and, with `slices.mean`, `s2[c] = Σ dz (x - mean[c])`, to which x
    /// belongs. With `dr`, dz is stored there too; it may take the place of dy. Two launches.
    ///
    /// # Errors
    /// [`Error::ShapeLength`], [`Error::ChannelVector`]; [`Error::MaskOrigin`] and [`Error::MaskLength`] if the
    /// mask is not of this operation and of dy's length; [`Error::Missing`] and [`Error::MissingInput`] for what is
    /// needed and absent.
    #[allow(clippy::too_many_arguments)] // as many as the call has parts
    pub fn fused_sums<'a, T: Element>(
        &self,
        stream: &Arc<CudaStream>,
        dz: &Dz,
        mask: Option<&DeviceMask>,
        shape: Shape,
        slices: &FusedSlices<'_, T>,
        dy: DyAndDr<'a, T>,
        sums: [Option<CudaViewMut<'a, T::Real>>; 2],
        workspace: &mut Workspace,
    ) -> Result<()> {
        let tensors = match dy {
            DyAndDr::Dy(dy) => Tensors::InputOnly(dy),
            DyAndDr::Both(io) => Tensors::Both(io),
        };
        let call = Call { pass: Pass::FusedSums { dz: *dz, shape }, shape, tensors, slices, results: sums, base: None };
        self.check_fused(stream, &call, made_by(mask))?;
        let mask = self.read_mask(stream, mask)?;
        self.track(stream)?;
        self.launch_fused(stream, call, mask, Some(workspace))
    }

    /// Backward, elementwise: `dx = alpha[c] dz + (beta[c] (x - mean[c]) + gamma[c])`. dx may take the place of dy.
    ///
    /// # Errors
    /// Those of [`Kernels::fused_sums`].
    pub fn fused_backward<'a, T: Element>(
        &self,
        stream: &Arc<CudaStream>,
        dz: &Dz,
        mask: Option<&DeviceMask>,
        shape: Shape,
        slices: &FusedSlices<'_, T>,
        io: impl Into<InOut<'a, T>>,
    ) -> Result<()> {
        let call = Call::new(Pass::FusedBackward { dz: *dz, shape }, shape, io.into(), slices, None);
        self.check_fused(stream, &call, made_by(mask))?;
        let mask = self.read_mask(stream, mask)?;
        self.track(stream)?;
        self.launch_fused(stream, call, mask, None)
    }

    fn read_mask<'m>(&self, stream: &CudaStream, mask: Option<&'m DeviceMask>) -> Result<MaskOf<'m>> {
        let Some(mask) = mask else { return Ok(MaskOf::None) };
        same_context(stream, "mask", mask.memory())?;
        Ok(MaskOf::Read(mask))
    }

    /// The checks of every call: those of the pass, and everything of one context.
    fn check_fused<T: Element>(&self, stream: &CudaStream, call: &Call<'_, T>, mask: MaskArgument) -> Result<()> {
        if *stream.context() != *self.context() {
            return Err(CudaError::Context { argument: "stream" }.into());
        }
        let Call { pass, tensors, slices, results, base, .. } = call;
        let tensor = |slice: Option<&dyn Saved<T>>| slice.map(|slice| slice.view().len());
        let vector = |slice: Option<&dyn Saved<T::Real>>| slice.map(|slice| slice.view().len());
        let (input, output) = match tensors {
            Tensors::Both(io) => (io.len(), Some(io.output_len())),
            Tensors::InputOnly(input) => (input.len(), None),
        };
        let fused = FusedArguments {
            residual: tensor(slices.residual),
            scale: vector(slices.scale),
            shift: vector(slices.shift),
            mean: vector(slices.mean),
            alpha: vector(slices.alpha),
            beta: vector(slices.beta),
            gamma: vector(slices.gamma),
            results: results.each_ref().map(|result| result.as_ref().map(CudaViewMut::len)),
        };
        pass.check(&Arguments { input, output, saved: tensor(slices.x), mask, fused })?;
        match tensors {
            Tensors::Both(io) => io.same_context(stream, pass.output(), pass.input())?,
            Tensors::InputOnly(input) => same_context(stream, pass.input(), input)?,
        }
        for (argument, slice) in [("x", slices.x), ("residual", slices.residual)] {
            slice.map_or(Ok(()), |slice| same_context(stream, argument, &slice.view()))?;
        }
        for (argument, slice) in slices.vectors() {
            slice.map_or(Ok(()), |slice| same_context(stream, argument, &slice.view()))?;
        }
        for (argument, result) in pass.results().into_iter().flatten().zip(results) {
            result.as_ref().map_or(Ok(()), |result| same_context(stream, argument, result))?;
        }
        base.map_or(Ok(()), |base| same_context(stream, "key", base))?;
        Ok(not_tracking_a_capture(stream)?)
    }

    /// Launches a checked call.
    fn launch_fused<T: Element>(
        &self,
        stream: &Arc<CudaStream>,
        call: Call<'_, T>,
        mask: MaskOf<'_>,
        workspace: Option<&mut Workspace>,
    ) -> Result<()> {
        let Call { pass, shape, tensors, slices, results, base } = call;
        let n = shape.len();
        if n == 0 && pass.results().is_none() {
            return Ok(());
        }
        let mut workspace = match workspace {
            Some(workspace) => Some(workspace.of(stream, workspace_bytes(&pass, T::DTYPE))?),
            None => None,
        };
        let (turn, waiting) = Turn::begin(stream)?;
        let mut events: Vec<Option<&CudaEvent>> = Vec::with_capacity(16);
        let mut place = |(address, event)| {
            events.push(event);
            address
        };
        let (input, output) = match tensors {
            Tensors::Both(io) => {
                let (input, output, both) = io.take_turn(&turn);
                let [read, written] = both;
                place((input, read));
                place((output, written));
                (input, output)
            }
            Tensors::InputOnly(view) => (place(turn.read(view)), 0),
        };
        let [scale, shift, mean, alpha, beta, gamma] =
            slices.vectors().map(|(_, slice)| slice.map_or(0, |slice| place(turn.read(slice.view()))));
        let saved = slices.x.map_or(0, |slice| place(turn.read(slice.view())));
        let residual = slices.residual.map_or(0, |slice| place(turn.read(slice.view())));
        let results = results.map(|result| result.map_or(0, |result| place(turn.write(result))));
        let workspace = workspace.as_mut().map_or(0, |memory| place(turn.write(memory.as_view_mut())));
        let offset_at = base.map_or(0, |base| place(turn.read(base.as_view())));
        let mut rest = 0..0;
        let mask = match mask {
            MaskOf::None => 0,
            MaskOf::Read(mask) => place(turn.read(mask.memory().as_view())),
            MaskOf::Write(words, new) => {
                rest = if new { crate::mask::words_for(n)..words.len() } else { rest };
                place(turn.write(words.as_view_mut()))
            }
        };
        turn.waited(waiting)?;
        if !rest.is_empty() {
            let (start, bytes) = (mask + (size_of::<u32>() * rest.start) as u64, size_of::<u32>() * rest.len());
            stream.context().bind_to_thread().map_err(while_doing("entering the context, or in earlier work"))?;
            // SAFETY: words of the slice, of the stream's context, written by nobody else: the turn orders that.
            unsafe { result::memset_d8_async(start, 0, bytes, stream.cu_stream()) }
                .map_err(while_doing("clearing the rest of a mask's memory"))?;
        }
        let tensors = Addresses { input, saved, output, mask, offset_at, ..Addresses::default() };
        let at = FusedAddresses { tensors, residual, scale, shift, mean, alpha, beta, gamma, results, workspace };
        // SAFETY: 1: `check_fused` compared the stream's context with the kernels'. 2 and 7: the checks found tensors and
        // vectors to be of the lengths that the shape wants, in the stream's context. 3: callers give a mask for n
        // elements. 4: cudarc's borrows keep what is written apart from the rest, unless it is the input. 5: the turn
        // orders the work. 6: the base is a word of a sequence of the stream's context. 8: the workspace has as many bytes.
        let launched = unsafe { self.enqueue_pass(stream.context(), stream.cu_stream(), &pass, T::DTYPE, n, &at) };
        // When the second of two launches is refused, the first is on its way, and others have to wait for it.
        if launched.is_ok() || pass.results().is_some() {
            turn.record(events);
        }
        launched
    }
}

/// dy, and dr where it is wanted.
#[derive(Debug)]
pub enum DyAndDr<'a, T> {
    /// Reads dy alone.
    Dy(CudaView<'a, T>),
    /// Writes dr too.
    Both(InOut<'a, T>),
}

impl<'a, T: Element> FusedSlices<'a, T> {
    #[allow(clippy::type_complexity)] // a name and a slice
    fn vectors(&self) -> [(&'static str, Option<&'a dyn Saved<T::Real>>); 6] {
        [
            ("scale", self.scale),
            ("shift", self.shift),
            ("mean", self.mean),
            ("alpha", self.alpha),
            ("beta", self.beta),
            ("gamma", self.gamma),
        ]
    }
}

impl<'a, T: Element> Call<'a, T> {
    /// Of a pass without results.
    fn new(
        pass: Pass,
        shape: Shape,
        io: InOut<'a, T>,
        slices: &'a FusedSlices<'a, T>,
        base: Option<&'a CudaSlice<u64>>,
    ) -> Self {
        Self { pass, shape, tensors: Tensors::Both(io), slices, results: [None, None], base }
    }
}

fn made_by(mask: Option<&DeviceMask>) -> MaskArgument {
    mask.map_or(MaskArgument::None, |mask| MaskArgument::MadeBy(mask.origin(), mask.len()))
}
