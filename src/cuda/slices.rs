//! The safe entry point: the operations on cudarc's slices. Each method checks its arguments, orders its call among
//! the streams, and hands a pass to the launch that raw pointers take too.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, CudaView, result};

use super::addresses::Addresses;
use super::channels::FusedAddresses;
use super::error::{CudaError, while_doing};
use super::io::{InOut, Saved};
use super::key::Key;
use super::loader::Kernels;
use super::mask::{self, DeviceMask, Origin};
use super::order::Turn;
use super::stream_checks::{not_tracking_a_capture, same_context};
use crate::element::Element;
use crate::error::{Error, Result};
use crate::mask::MaskOrigin;
use crate::operation::{DropActivation, RRelu};
use crate::pass::{Arguments, MaskArgument, Pass};

impl Kernels {
    /// Training forward (the paper's equation 3): `y[i] = keep[i] ? σ(x[i]) : x[i]`, and the new mask.
    ///
    /// # Errors
    /// [`Error::Length`](crate::Error::Length) if y is not as long as x;
    /// [`Error::IndexRange`](crate::Error::IndexRange) if the key's `first` leaves no room for so many elements.
    pub fn forward<'a, 'k, T: Element>(
        &self,
        stream: &Arc<CudaStream>,
        op: &DropActivation,
        key: impl Into<Key<'k>>,
        io: impl Into<InOut<'a, T>>,
    ) -> Result<DeviceMask> {
        let key = key.into();
        let pass = Pass::Forward { op: *op, key: key.relative() };
        self.forward_with_new_mask(stream, pass, key.base(), io.into())
    }

    /// [`Kernels::forward`] with a mask that is overwritten. It is given more memory only if it has too little,
    /// so a call for no more elements than before allocates nothing.
    ///
    /// # Errors
    /// Those of [`Kernels::forward`].
    pub fn forward_into<'a, 'k, T: Element>(
        &self,
        stream: &Arc<CudaStream>,
        op: &DropActivation,
        key: impl Into<Key<'k>>,
        io: impl Into<InOut<'a, T>>,
        mask: &mut DeviceMask,
    ) -> Result<()> {
        let key = key.into();
        let pass = Pass::Forward { op: *op, key: key.relative() };
        self.forward_with_mask(stream, pass, key.base(), io.into(), mask)
    }

    /// Training forward of ReLU for a caller that keeps y: the same y as [`Kernels::forward`], and no mask.
    ///
    /// # Errors
    /// [`Error::NeedsMask`](crate::Error::NeedsMask) for an activation other than ReLU; those of
    /// [`Kernels::forward`].
    pub fn forward_without_mask<'a, 'k, T: Element>(
        &self,
        stream: &Arc<CudaStream>,
        op: &DropActivation,
        key: impl Into<Key<'k>>,
        io: impl Into<InOut<'a, T>>,
    ) -> Result<()> {
        let key = key.into();
        let pass = Pass::ForwardWithoutMask { op: *op, key: key.relative() };
        self.launch_reading(stream, pass, io.into(), None, None, key.base())
    }

    /// Training backward: `dx[i] = keep[i] ? dy[i] σ'(x[i]) : dy[i]`; for ReLU `pass[i] ? dy[i] : +0`, and x
    /// may be `None`.
    ///
    /// # Errors
    /// [`Error::MaskOrigin`](crate::Error::MaskOrigin) and [`Error::MaskLength`](crate::Error::MaskLength) if the
    /// mask is not of this operation and of dy's length; [`Error::MissingInput`](crate::Error::MissingInput) if
    /// the activation needs x; [`Error::Length`](crate::Error::Length) if x or dx is not as long as dy.
    pub fn backward<'a, T: Element>(
        &self,
        stream: &Arc<CudaStream>,
        op: &DropActivation,
        mask: &DeviceMask,
        x: Option<&dyn Saved<T>>,
        io: impl Into<InOut<'a, T>>,
    ) -> Result<()> {
        let x = x.map(|x| x.view());
        self.launch_reading(stream, Pass::Backward { op: *op }, io.into(), x, Some(mask), None)
    }

    /// ReLU's training backward for a caller that kept y and no mask: `dx[i] = (y[i] == 0) ? +0 : dy[i]`.
    ///
    /// It differs from [`Kernels::backward`] only where x was exactly zero and σ dropped.
    ///
    /// # Errors
    /// [`Error::NeedsMask`](crate::Error::NeedsMask) for an activation other than ReLU;
    /// [`Error::Length`](crate::Error::Length) if y or dx is not as long as dy.
    pub fn backward_from_output<'a, T: Element>(
        &self,
        stream: &Arc<CudaStream>,
        op: &DropActivation,
        y: &dyn Saved<T>,
        io: impl Into<InOut<'a, T>>,
    ) -> Result<()> {
        self.launch_reading(stream, Pass::BackwardFromOutput { op: *op }, io.into(), Some(y.view()), None, None)
    }

    /// Inference forward (the paper's equation 5): `y[i] = (1-p) x[i] + p σ(x[i])`; for ReLU the Leaky ReLU
    /// `x[i] <= 0 ? (1-p) x[i] : x[i]`.
    ///
    /// # Errors
    /// [`Error::Length`](crate::Error::Length) if y is not as long as x.
    pub fn infer<'a, T: Element>(
        &self,
        stream: &Arc<CudaStream>,
        op: &DropActivation,
        io: impl Into<InOut<'a, T>>,
    ) -> Result<()> {
        self.launch_reading(stream, Pass::Infer { op: *op }, io.into(), None, None, None)
    }

    /// Inference backward: `dx[i] = dy[i] ((1-p) + p σ'(x[i]))`; for ReLU `x[i] <= 0 ? (1-p) dy[i] : dy[i]`.
    ///
    /// # Errors
    /// [`Error::Length`](crate::Error::Length) if x or dx is not as long as dy.
    pub fn infer_backward<'a, T: Element>(
        &self,
        stream: &Arc<CudaStream>,
        op: &DropActivation,
        x: &dyn Saved<T>,
        io: impl Into<InOut<'a, T>>,
    ) -> Result<()> {
        self.launch_reading(stream, Pass::InferBackward { op: *op }, io.into(), Some(x.view()), None, None)
    }

    /// RReLU's training forward (the paper's equation 6): `y[i] = x[i] >= 0 ? x[i] : U[i] x[i]`, and the new
    /// mask, which holds the signs and remembers the key.
    ///
    /// # Errors
    /// Those of [`Kernels::forward`].
    pub fn rrelu_forward<'a, 'k, T: Element>(
        &self,
        stream: &Arc<CudaStream>,
        op: &RRelu,
        key: impl Into<Key<'k>>,
        io: impl Into<InOut<'a, T>>,
    ) -> Result<DeviceMask> {
        let key = key.into();
        let pass = Pass::RreluForward { op: *op, key: key.relative() };
        self.forward_with_new_mask(stream, pass, key.base(), io.into())
    }

    /// [`Kernels::rrelu_forward`] with a mask that is overwritten, as [`Kernels::forward_into`] does.
    ///
    /// # Errors
    /// Those of [`Kernels::forward`].
    pub fn rrelu_forward_into<'a, 'k, T: Element>(
        &self,
        stream: &Arc<CudaStream>,
        op: &RRelu,
        key: impl Into<Key<'k>>,
        io: impl Into<InOut<'a, T>>,
        mask: &mut DeviceMask,
    ) -> Result<()> {
        let key = key.into();
        let pass = Pass::RreluForward { op: *op, key: key.relative() };
        self.forward_with_mask(stream, pass, key.base(), io.into(), mask)
    }

    /// RReLU's training backward: `dx[i] = x[i] >= 0 ? dy[i] : U[i] dy[i]`, with the signs from the mask and U
    /// drawn again.
    ///
    /// # Errors
    /// [`Error::MaskOrigin`](crate::Error::MaskOrigin) and [`Error::MaskLength`](crate::Error::MaskLength) if the
    /// mask is not of this operation and of dy's length; [`Error::Length`](crate::Error::Length) if dx is not as
    /// long as dy.
    pub fn rrelu_backward<'a, T: Element>(
        &self,
        stream: &Arc<CudaStream>,
        op: &RRelu,
        mask: &DeviceMask,
        io: impl Into<InOut<'a, T>>,
    ) -> Result<()> {
        let key = mask.origin().slopes_key(op)?;
        self.launch_reading(stream, Pass::RreluBackward { op: *op, key }, io.into(), None, Some(mask), None)
    }

    /// RReLU at inference: `y[i] = x[i] >= 0 ? x[i] : (lower + upper)/2 x[i]`.
    ///
    /// # Errors
    /// [`Error::Length`](crate::Error::Length) if y is not as long as x.
    pub fn rrelu_infer<'a, T: Element>(
        &self,
        stream: &Arc<CudaStream>,
        op: &RRelu,
        io: impl Into<InOut<'a, T>>,
    ) -> Result<()> {
        self.launch_reading(stream, Pass::RreluInfer { op: *op }, io.into(), None, None, None)
    }

    /// RReLU's inference backward: `dx[i] = x[i] >= 0 ? dy[i] : (lower + upper)/2 dy[i]`.
    ///
    /// # Errors
    /// [`Error::Length`](crate::Error::Length) if x or dx is not as long as dy.
    pub fn rrelu_infer_backward<'a, T: Element>(
        &self,
        stream: &Arc<CudaStream>,
        op: &RRelu,
        x: &dyn Saved<T>,
        io: impl Into<InOut<'a, T>>,
    ) -> Result<()> {
        self.launch_reading(stream, Pass::RreluInferBackward { op: *op }, io.into(), Some(x.view()), None, None)
    }

    /// Plain ReLU: `y[i] = x[i] <= 0 ? +0 : x[i]`.
    ///
    /// # Errors
    /// [`Error::Length`](crate::Error::Length) if y is not as long as x.
    pub fn relu_forward<'a, T: Element>(&self, stream: &Arc<CudaStream>, io: impl Into<InOut<'a, T>>) -> Result<()> {
        self.launch_reading(stream, Pass::ReluForward, io.into(), None, None, None)
    }

    /// Plain ReLU's backward from its output: `dx[i] = y[i] <= 0 ? +0 : dy[i]`.
    ///
    /// # Errors
    /// [`Error::Length`](crate::Error::Length) if y or dx is not as long as dy.
    pub fn relu_backward<'a, T: Element>(
        &self,
        stream: &Arc<CudaStream>,
        y: &dyn Saved<T>,
        io: impl Into<InOut<'a, T>>,
    ) -> Result<()> {
        self.launch_reading(stream, Pass::ReluBackward, io.into(), Some(y.view()), None, None)
    }

    /// A pass that writes a mask, into new memory.
    fn forward_with_new_mask<T: Element>(
        &self,
        stream: &Arc<CudaStream>,
        pass: Pass,
        base: Option<&CudaSlice<u64>>,
        io: InOut<'_, T>,
    ) -> Result<DeviceMask> {
        let n = self.checked(stream, &pass, &io, None, MaskArgument::MadeAnew, base)?;
        let origin = origin(&pass, base, n)?;
        self.track(stream)?;
        let mut words = mask::alloc(stream, n)?;
        self.launch_writing_mask(stream, &pass, base, io, &mut words, true)?;
        Ok(DeviceMask::assemble(origin, n, words))
    }

    /// A pass that writes a mask, into the memory of an old one if that suffices.
    fn forward_with_mask<T: Element>(
        &self,
        stream: &Arc<CudaStream>,
        pass: Pass,
        base: Option<&CudaSlice<u64>>,
        io: InOut<'_, T>,
        mask: &mut DeviceMask,
    ) -> Result<()> {
        let n = self.checked(stream, &pass, &io, None, MaskArgument::MadeAnew, base)?;
        let origin = origin(&pass, base, n)?;
        let memory = mask.memory_mut();
        same_context(stream, "mask", memory)?;
        self.track(stream)?;
        let needed = match origin {
            Origin::Known(_) => crate::mask::words_for(n),
            Origin::OffsetInMemory(..) => mask::words_with_offset(n),
        };
        if memory.len() < needed {
            let mut words = mask::alloc(stream, n)?;
            self.launch_writing_mask(stream, &pass, base, io, &mut words, true)?;
            *mask = DeviceMask::assemble(origin, n, words);
        } else {
            self.launch_writing_mask(stream, &pass, base, io, memory, false)?;
            mask.renew(origin, n);
        }
        Ok(())
    }

    /// Launches a checked pass that writes a mask and, if RReLU draws at a base, its offset. Of new memory, the rest is
    /// cleared.
    fn launch_writing_mask<T: Element>(
        &self,
        stream: &CudaStream,
        pass: &Pass,
        base: Option<&CudaSlice<u64>>,
        io: InOut<'_, T>,
        words: &mut CudaSlice<u32>,
        new: bool,
    ) -> Result<()> {
        let n = io.len();
        if n == 0 {
            return Ok(());
        }
        let rest = if new { crate::mask::words_for(n)..words.len() } else { 0..0 };
        let (turn, waiting) = Turn::begin(stream)?;
        let (input, output, events) = io.take_turn(&turn);
        let (mask, mask_written) = turn.write(words.as_view_mut());
        let (base, base_read) = base.map(|base| turn.read(base.as_view())).unzip();
        turn.waited(waiting)?;
        let word = |i: usize| mask + (size_of::<u32>() * i) as u64;
        let offset_out = if base.is_some() { word(mask::offset_place(n)) } else { 0 };
        let offset_at = base.unwrap_or_default();
        let tensors = Addresses { input, output, mask, offset_at, offset_out, ..Addresses::default() };
        let at = FusedAddresses { tensors, ..FusedAddresses::default() };
        if !rest.is_empty() {
            stream.context().bind_to_thread().map_err(while_doing("entering the context, or in earlier work"))?;
            // SAFETY: words of the slice, of the stream's context, written by nobody else: the turn orders that.
            unsafe { result::memset_d8_async(word(rest.start), 0, size_of::<u32>() * rest.len(), stream.cu_stream()) }
                .map_err(while_doing("clearing the rest of a mask's memory"))?;
        }
        // SAFETY: 1: `checked` compared the stream's context with the kernels'. 2: both are addresses of slices of n
        // elements of T, in the stream's context. 3: callers give words for n elements. 4: cudarc's borrows keep the
        // slices apart, unless they are one, and the offset's place is after the mask's words. 5: the turn orders the
        // work. 6: the base is a word of a sequence of the stream's context, and callers give words for the offset
        // where RReLU has a base; other passes leave it out.
        unsafe { self.enqueue_pass(stream.context(), stream.cu_stream(), pass, T::DTYPE, n, &at) }?;
        turn.record(events.into_iter().chain([mask_written, base_read.flatten()]));
        Ok(())
    }

    /// A pass that writes its output only.
    fn launch_reading<T: Element>(
        &self,
        stream: &CudaStream,
        pass: Pass,
        io: InOut<'_, T>,
        saved: Option<CudaView<'_, T>>,
        mask: Option<&DeviceMask>,
        base: Option<&CudaSlice<u64>>,
    ) -> Result<()> {
        let made_by = mask.map_or(MaskArgument::None, |mask| MaskArgument::MadeBy(mask.origin(), mask.len()));
        let n = self.checked(stream, &pass, &io, saved.as_ref(), made_by, base)?;
        let saved = saved.filter(|_| pass.saved().is_some());
        if let Some(mask) = mask {
            same_context(stream, "mask", mask.memory())?;
        }
        if n == 0 {
            return Ok(());
        }
        self.track(stream)?;
        let (turn, waiting) = Turn::begin(stream)?;
        let (input, output, events) = io.take_turn(&turn);
        let (saved, saved_read) = saved.map(|saved| turn.read(saved)).unzip();
        let offset_in_mask = mask.and_then(DeviceMask::offset_at);
        let (mask, mask_read) = mask.map(|mask| turn.read(mask.memory().as_view())).unzip();
        let (base, base_read) = base.map(|base| turn.read(base.as_view())).unzip();
        turn.waited(waiting)?;
        let mask = mask.unwrap_or_default();
        let tensors = Addresses {
            input,
            saved: saved.unwrap_or_default(),
            output,
            mask,
            offset_at: base.or(offset_in_mask.map(|bytes| mask + bytes)).unwrap_or_default(),
            ..Addresses::default()
        };
        let at = FusedAddresses { tensors, ..FusedAddresses::default() };
        // SAFETY: 1: `checked` compared the stream's context with the kernels'. 2: all three are addresses of slices of
        // n elements of T, in the stream's context. 3: `checked` found the mask to be for n elements. 4: cudarc's
        // borrows keep the output apart from the others, unless it is the input. 5: the turn orders the work. 6: the
        // base is a word of a sequence of the stream's context, or two words of the mask's memory.
        unsafe { self.enqueue_pass(stream.context(), stream.cu_stream(), &pass, T::DTYPE, n, &at) }?;
        turn.record(events.into_iter().chain([saved_read, mask_read, base_read].map(Option::flatten)));
        Ok(())
    }

    /// The checks of every call: those of the pass, and everything of one context. Returns the length.
    fn checked<T: Element>(
        &self,
        stream: &CudaStream,
        pass: &Pass,
        io: &InOut<'_, T>,
        saved: Option<&CudaView<'_, T>>,
        mask: MaskArgument,
        base: Option<&CudaSlice<u64>>,
    ) -> Result<usize> {
        if *stream.context() != *self.context() {
            return Err(CudaError::Context { argument: "stream" }.into());
        }
        let (input, output) = (io.len(), io.output_len());
        let saved_len = saved.map(CudaView::len);
        let arguments = Arguments { output: Some(output), saved: saved_len, mask, ..Arguments::of_length(input) };
        let n = pass.check(&arguments)?;
        io.same_context(stream, pass.output(), pass.input())?;
        if let (Some(saved), Some(name)) = (saved, pass.saved()) {
            same_context(stream, name, saved)?;
        }
        if let Some(base) = base {
            same_context(stream, "key", base)?;
        }
        not_tracking_a_capture(stream)?;
        Ok(n)
    }
}

/// What the mask of a pass over `n` elements says it was made by. Without elements no kernel draws, and none stores an
/// offset.
fn origin(pass: &Pass, base: Option<&CudaSlice<u64>>, n: usize) -> Result<Origin> {
    match pass.mask_origin().ok_or(Error::Missing { argument: "mask" })? {
        MaskOrigin::RRelu(op, key) if base.is_some() && n != 0 => Ok(Origin::OffsetInMemory(op, key.at_offset(0))),
        known => Ok(Origin::Known(known)),
    }
}
