//! The kernels as one context has them loaded, and the door for cudarc's slices: the methods check their
//! arguments and hand a pass to the launch that raw pointers take too.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, CudaSlice, CudaStream, CudaView, DriverError, result, sys,
};
use cudarc::nvrtc::Ptx;

use super::driver;
use super::error::{CudaError, Result as CudaResult, driver_text, while_doing};
use super::images::{self, Image};
use super::io::{InOut, Saved, not_tracking_a_capture, same_context};
use super::key::Key;
use super::launch::Entry;
use super::mask::{self, DeviceMask, Origin};
use super::order::{Anchors, Turn};
use super::raw::Addresses;
use crate::check;
use crate::element::Element;
use crate::error::Result;
use crate::mask::MaskOrigin;
use crate::operation::{DropActivation, RRelu};
use crate::pass::Pass;

/// The least compute capability that the kernels are compiled for.
const OLDEST_CAPABILITY: (u32, u32) = (7, 5);

/// The kernels of one CUDA context: all operations of this crate on that context's tensors.
///
/// A module is loaded when a pass first needs it and stays loaded while a handle lives; so get one with
/// [`Kernels::get`] and keep it for as long as passes are made, or graphs of them replayed. Dropping the last
/// one waits for the context's work. Handles can be used by any number of threads at once.
///
/// The methods only enqueue work on the stream that they are given: the [module's documentation](super) says
/// what waits for what. Each of them also fails with
/// - [`CudaError::Context`] if the stream is of another context than the kernels, or a slice's
///   [`CudaContext`] object is another one than the stream's;
/// - [`CudaError::Unsupported`] if the driver cannot load the embedded device code, which the first call of a
///   kind shows;
/// - [`CudaError::Capturing`] if the stream is being captured into a graph while cudarc's event tracking is on, or
///   a mask would need memory then;
/// - [`CudaError::Driver`] if the driver refuses the launch, or an earlier error is pending in the context.
///
/// None of them panics. When a method fails, nothing was launched and no tensor or mask was changed.
#[derive(Debug)]
pub struct Kernels {
    context: Arc<CudaContext>,
    modules: [OnceLock<Arc<CudaModule>>; Image::ALL.len()],
    functions: [OnceLock<CudaFunction>; Entry::COUNT],
    /// Held while something is loaded, so that nothing is loaded twice.
    loading: Mutex<()>,
    /// For the context objects whose slices passes were made on.
    anchors: Anchors,
}

/// The handles that are alive, at most one for each context. The entries are weak: whoever uses a handle keeps
/// it, and a handle keeps its context, so that a live entry never speaks of a context that is gone.
static LIVE: Mutex<Vec<Weak<Kernels>>> = Mutex::new(Vec::new());

// A panic while one of the locks of this file is held leaves nothing half-done behind.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Kernels {
    /// The kernels of a context: the same handle for each call, while one lives.
    ///
    /// # Errors
    /// [`CudaError::Unsupported`] if the device's compute capability is below 7.5; [`CudaError::Driver`].
    pub fn get(context: &Arc<CudaContext>) -> CudaResult<Arc<Self>> {
        let mut live = lock(&LIVE);
        live.retain(|kernels| kernels.strong_count() != 0);
        let known = live.iter().filter_map(Weak::upgrade).find(|kernels| kernels.context == *context);
        if let Some(kernels) = known {
            return Ok(kernels);
        }
        let capability = capability(context)?;
        if capability < OLDEST_CAPABILITY {
            let (major, minor) = OLDEST_CAPABILITY;
            return Err(unsupported(context, format!("a device of capability {major}.{minor} or newer is needed")));
        }
        let kernels = Arc::new(Self {
            context: context.clone(),
            modules: [const { OnceLock::new() }; Image::ALL.len()],
            functions: [const { OnceLock::new() }; Entry::COUNT],
            loading: Mutex::new(()),
            anchors: Anchors::default(),
        });
        live.push(Arc::downgrade(&kernels));
        Ok(kernels)
    }

    /// The context that the kernels are loaded in.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// Loads all kernels now, so that no later call has to: for measurements, and before a graph is captured,
    /// while which nothing may be loaded.
    ///
    /// # Errors
    /// [`CudaError::Unsupported`], [`CudaError::Driver`].
    pub fn preload(&self) -> CudaResult<()> {
        Entry::ALL.into_iter().try_for_each(|entry| self.function(entry).map(|_| ()))
    }

    /// The loaded kernel of an entry point.
    pub(super) fn function(&self, entry: Entry) -> CudaResult<&CudaFunction> {
        let place = &self.functions[entry.index()];
        if let Some(function) = place.get() {
            return Ok(function);
        }
        let _alone = lock(&self.loading);
        if let Some(function) = place.get() {
            return Ok(function);
        }
        let module = self.module(entry.image())?;
        let function = module.load_function(entry.name()).map_err(while_doing(entry.name()))?;
        Ok(place.get_or_init(|| function))
    }

    /// The loaded module of an image. For callers who hold `loading`.
    fn module(&self, image: Image) -> CudaResult<&Arc<CudaModule>> {
        let place = &self.modules[image as usize];
        if let Some(module) = place.get() {
            return Ok(module);
        }
        let code = Ptx::from_binary(image.bytes().to_vec());
        let module = self.context.load_module(code).map_err(|error| self.cannot_load(error))?;
        Ok(place.get_or_init(|| module))
    }

    /// Tells device code that does not suit this machine from other failures.
    fn cannot_load(&self, error: DriverError) -> CudaError {
        use sys::CUresult as Code;
        match error.0 {
            Code::CUDA_ERROR_INVALID_IMAGE
            | Code::CUDA_ERROR_NO_BINARY_FOR_GPU
            | Code::CUDA_ERROR_INVALID_PTX
            | Code::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
            | Code::CUDA_ERROR_JIT_COMPILER_NOT_FOUND
            | Code::CUDA_ERROR_JIT_COMPILATION_DISABLED => unsupported(
                &self.context,
                format!(
                    "{}; update the driver, or build this library with the nvcc of a CUDA version that the driver \
                     knows and without CUDA_COMPUTE_CAP set for another device",
                    driver_text(error)
                ),
            ),
            _ => while_doing("loading device code")(error),
        }
    }

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
        self.with_new_mask(stream, Making::DropActivation(*op), key.into(), io.into())
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
        self.with_mask(stream, Making::DropActivation(*op), key.into(), io.into(), mask)
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
        self.read(stream, pass, io.into(), None, None, key.base())
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
        let io = io.into();
        check::mask_fits(op, mask.origin(), mask.len(), io.len())?;
        let x = check::saved_input(op, x.map(|x| x.view()), CudaView::len, io.len())?;
        self.read(stream, Pass::Backward { op: *op }, io, x, Some(mask), None)
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
        self.read(stream, Pass::BackwardFromOutput { op: *op }, io.into(), Some(y.view()), None, None)
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
        self.read(stream, Pass::Infer { op: *op }, io.into(), None, None, None)
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
        self.read(stream, Pass::InferBackward { op: *op }, io.into(), Some(x.view()), None, None)
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
        self.with_new_mask(stream, Making::RRelu(*op), key.into(), io.into())
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
        self.with_mask(stream, Making::RRelu(*op), key.into(), io.into(), mask)
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
        let io = io.into();
        let key = check::rrelu_mask_fits(op, mask.origin(), mask.len(), io.len())?;
        self.read(stream, Pass::RreluBackward { op: *op, key }, io, None, Some(mask), None)
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
        self.read(stream, Pass::RreluInfer { op: *op }, io.into(), None, None, None)
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
        self.read(stream, Pass::RreluInferBackward { op: *op }, io.into(), Some(x.view()), None, None)
    }

    /// Plain ReLU: `y[i] = x[i] <= 0 ? +0 : x[i]`.
    ///
    /// # Errors
    /// [`Error::Length`](crate::Error::Length) if y is not as long as x.
    pub fn relu_forward<'a, T: Element>(&self, stream: &Arc<CudaStream>, io: impl Into<InOut<'a, T>>) -> Result<()> {
        self.read(stream, Pass::ReluForward, io.into(), None, None, None)
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
        self.read(stream, Pass::ReluBackward, io.into(), Some(y.view()), None, None)
    }

    /// A pass that writes a mask, into new memory.
    fn with_new_mask<T: Element>(
        &self,
        stream: &Arc<CudaStream>,
        making: Making,
        key: Key<'_>,
        io: InOut<'_, T>,
    ) -> Result<DeviceMask> {
        let pass = making.pass(&key);
        let n = self.checked(stream, &pass, &io, None, key.base())?;
        self.track(stream)?;
        let mut words = mask::alloc(stream, n)?;
        self.fill(stream, &pass, key.base(), io, &mut words, true)?;
        Ok(DeviceMask::assemble(making.origin(&key, n), n, words))
    }

    /// A pass that writes a mask, into the memory of an old one if that suffices.
    fn with_mask<T: Element>(
        &self,
        stream: &Arc<CudaStream>,
        making: Making,
        key: Key<'_>,
        io: InOut<'_, T>,
        mask: &mut DeviceMask,
    ) -> Result<()> {
        let pass = making.pass(&key);
        let n = self.checked(stream, &pass, &io, None, key.base())?;
        let memory = mask.memory_mut();
        same_context(stream, "mask", memory)?;
        self.track(stream)?;
        let origin = making.origin(&key, n);
        let needed = match origin {
            Origin::Known(_) => crate::mask::words_for(n),
            Origin::OffsetInMemory(..) => mask::words_with_offset(n),
        };
        if memory.len() < needed {
            let mut words = mask::alloc(stream, n)?;
            self.fill(stream, &pass, key.base(), io, &mut words, true)?;
            *mask = DeviceMask::assemble(origin, n, words);
        } else {
            self.fill(stream, &pass, key.base(), io, memory, false)?;
            mask.renew(origin, n);
        }
        Ok(())
    }

    /// Has cudarc track events for as long as there are these kernels, unless that was turned off. For a stream that
    /// was checked and is not being captured then.
    pub(super) fn track(&self, stream: &CudaStream) -> CudaResult<()> {
        self.anchors.hold(stream.context())
    }

    /// Launches a checked pass that writes a mask and, if RReLU draws at a base, its offset. Of new memory, the rest is
    /// cleared.
    fn fill<T: Element>(
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
        let at = Addresses { input, saved: 0, output, mask, offset_at: base.unwrap_or_default(), offset_out };
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
        unsafe { self.enqueue(stream.context(), stream.cu_stream(), pass, T::DTYPE, n, at) }?;
        turn.record(events.into_iter().chain([mask_written, base_read.flatten()]));
        Ok(())
    }

    /// A pass that writes its output only. A mask must be for as many elements as the input has, which callers
    /// have checked.
    fn read<T: Element>(
        &self,
        stream: &CudaStream,
        pass: Pass,
        io: InOut<'_, T>,
        saved: Option<CudaView<'_, T>>,
        mask: Option<&DeviceMask>,
        base: Option<&CudaSlice<u64>>,
    ) -> Result<()> {
        let n = self.checked(stream, &pass, &io, saved.as_ref(), base)?;
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
        let at = Addresses {
            input,
            saved: saved.unwrap_or_default(),
            output,
            mask,
            offset_at: base.or(offset_in_mask.map(|bytes| mask + bytes)).unwrap_or_default(),
            offset_out: 0,
        };
        // SAFETY: 1: `checked` compared the stream's context with the kernels'. 2: all three are addresses of slices of
        // n elements of T, in the stream's context. 3: a mask that comes here is for n elements. 4: cudarc's borrows
        // keep the output apart from the others, unless it is the input. 5: the turn orders the work. 6: the base is a
        // word of a sequence of the stream's context, or two words of the mask's memory.
        unsafe { self.enqueue(stream.context(), stream.cu_stream(), &pass, T::DTYPE, n, at) }?;
        turn.record(events.into_iter().chain([saved_read, mask_read, base_read].map(Option::flatten)));
        Ok(())
    }

    /// The checks at the door: everything of one context, everything of one length, and a pass that can be made.
    /// Gives the length.
    fn checked<T: Element>(
        &self,
        stream: &CudaStream,
        pass: &Pass,
        io: &InOut<'_, T>,
        saved: Option<&CudaView<'_, T>>,
        base: Option<&CudaSlice<u64>>,
    ) -> Result<usize> {
        if *stream.context() != self.context {
            return Err(CudaError::Context { argument: "stream" }.into());
        }
        let n = io.checked_len(stream, pass.output(), pass.input())?;
        if let (Some(saved), Some(name)) = (saved, pass.saved()) {
            check::same_length(name, saved.len(), pass.input(), n)?;
            same_context(stream, name, saved)?;
        }
        if let Some(base) = base {
            same_context(stream, "key", base)?;
        }
        pass.check(n)?;
        not_tracking_a_capture(stream)?;
        Ok(n)
    }
}

/// A pass that makes a mask, but for its key.
#[derive(Clone, Copy)]
enum Making {
    DropActivation(DropActivation),
    RRelu(RRelu),
}

impl Making {
    fn pass(self, key: &Key<'_>) -> Pass {
        let key = key.relative();
        match self {
            Self::DropActivation(op) => Pass::Forward { op, key },
            Self::RRelu(op) => Pass::RreluForward { op, key },
        }
    }

    /// What the mask for `n` elements says it was made by. Without elements no kernel draws, and none stores an offset.
    fn origin(self, key: &Key<'_>, n: usize) -> Origin {
        let key_alone = key.relative();
        match self {
            Self::DropActivation(op) => Origin::Known(MaskOrigin::DropActivation(op)),
            Self::RRelu(op) if key.base().is_some() && n != 0 => Origin::OffsetInMemory(op, key_alone.at_offset(0)),
            Self::RRelu(op) => Origin::Known(MaskOrigin::RRelu(op, key_alone)),
        }
    }
}

impl Drop for Kernels {
    /// Waits for what was launched, because the modules are unloaded next and the driver's text does not say
    /// that unloading waits; and event tracking may end with the anchors.
    fn drop(&mut self) {
        if self.modules.iter().all(|module| module.get().is_none()) {
            return;
        }
        // Not by `CudaContext::synchronize`, which returns an error that is pending and does not wait then.
        // SAFETY: the handle of a context that is alive.
        let entered = unsafe { result::ctx::set_current(self.context.cu_ctx()) };
        let waited = entered.and_then(|()| result::ctx::synchronize());
        if waited.is_err() {
            // Kernels may still be running: their code and the order of what comes after them have to stay.
            self.modules.iter().filter_map(OnceLock::get).cloned().for_each(std::mem::forget);
            self.anchors.leak();
        }
        self.context.record_err(waited);
    }
}

/// The compute capability of a context's device, major and minor.
fn capability(context: &CudaContext) -> CudaResult<(u32, u32)> {
    let (major, minor) = context.compute_capability().map_err(while_doing("asking for the compute capability"))?;
    Ok((major as u32, minor as u32))
}

fn unsupported(context: &CudaContext, reason: String) -> CudaError {
    CudaError::Unsupported {
        device: context.name().unwrap_or_else(|_| format!("device {}", context.ordinal())),
        capability: capability(context).unwrap_or_default(),
        driver: driver::version().unwrap_or_default(),
        code: images::ORIGIN,
        reason,
    }
}
