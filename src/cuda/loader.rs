//! The kernels as one context has them loaded: each module when it is first needed, and nothing twice.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use cudarc::driver::{CudaContext, CudaFunction, CudaModule, CudaStream, DriverError, result, sys};
use cudarc::nvrtc::Ptx;

use super::driver;
use super::entry::Entry;
use super::error::{CudaError, Result as CudaResult, driver_text, while_doing};
use super::modules::{self, Module};
use super::order::Anchors;

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
/// None of them panics. When a method fails, nothing was launched and no tensor or mask was changed; but where the
/// driver refuses the second launch of a pass of sums, the first has written dr.
#[derive(Debug)]
pub struct Kernels {
    context: Arc<CudaContext>,
    modules: [OnceLock<Arc<CudaModule>>; Module::ALL.len()],
    functions: [OnceLock<CudaFunction>; Entry::COUNT],
    /// Held while something is loaded, so that nothing is loaded twice.
    loading: Mutex<()>,
    runs_ptx: AtomicBool,
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
            modules: [const { OnceLock::new() }; Module::ALL.len()],
            functions: [const { OnceLock::new() }; Entry::COUNT],
            loading: Mutex::new(()),
            runs_ptx: AtomicBool::new(false),
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
        // The driver looks for functions in the thread's current context, which cudarc leaves to the caller here. Not by
        // `bind_to_thread`, which returns an error that is pending in the context and changes nothing then.
        // SAFETY: the handle of a context that is alive.
        unsafe { result::ctx::set_current(self.context.cu_ctx()) }.map_err(while_doing("entering the context"))?;
        let _during_captures = Relaxed::begin().map_err(while_doing("loading device code"))?;
        let module = &self.modules[entry.module() as usize];
        let function = match module.get() {
            Some(module) => module.load_function(entry.name()).map_err(while_doing(entry.name()))?,
            None => {
                let (loaded, function) = self.load(entry)?;
                module.get_or_init(|| loaded);
                function
            }
        };
        Ok(place.get_or_init(|| function))
    }

    /// Loads the module of an entry point from what the driver accepts: the fatbin, else the PTX. A driver that loads
    /// lazily need not look at a module's code before a function of it is asked for, and may refuse it only then.
    fn load(&self, entry: Entry) -> CudaResult<(Arc<CudaModule>, CudaFunction)> {
        let module = entry.module();
        let load = |code: Vec<u8>| {
            let loaded = self.context.load_module(Ptx::from_binary(code))?;
            let function = loaded.load_function(entry.name())?;
            Ok((loaded, function))
        };
        let failed = while_doing("loading device code");
        let refused = match load(module.fatbin().to_vec()) {
            Ok(loaded) => return Ok(loaded),
            Err(error) if is_refusal(error) => error,
            Err(error) => return Err(failed(error)),
        };
        let mut reason = format!("the driver refuses the fatbin ({})", driver_text(refused));
        if let Some(ptx) = module.ptx() {
            match load(ptx) {
                Ok(loaded) => {
                    self.runs_ptx.store(true, Ordering::Relaxed);
                    return Ok(loaded);
                }
                Err(error) if is_refusal(error) => reason += &format!(" and the PTX ({})", driver_text(error)),
                Err(error) => return Err(failed(error)),
            }
        }
        reason += "; update the driver, or build this library with the nvcc of a CUDA version that the driver knows and \
                   without CUDA_COMPUTE_CAP set for another device";
        Err(unsupported(&self.context, reason))
    }

    /// Whether the driver has refused the machine code that is embedded, for one of the modules loaded so far, and
    /// compiled PTX instead. The results are the same. Loading takes longer, and some kernels for f16 and bf16 run
    /// slower: the PTX is for the oldest supported GPU. A newer driver, or a build with an nvcc that the driver knows,
    /// helps.
    pub fn runs_ptx(&self) -> bool {
        self.runs_ptx.load(Ordering::Relaxed)
    }

    /// Has cudarc track events for as long as there are these kernels, unless that was turned off. For a stream that
    /// was checked and is not being captured then.
    pub(super) fn track(&self, stream: &CudaStream) -> CudaResult<()> {
        self.anchors.hold(stream.context())
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

/// For as long as it lives, this thread may load device code though a stream is being captured, by this thread or by
/// another. By default the driver refuses that, and what was captured is lost. No work of a graph depends on when its
/// code was loaded.
struct Relaxed(sys::CUstreamCaptureMode);

impl Relaxed {
    fn begin() -> Result<Self, DriverError> {
        let mut mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the driver reads a mode at the address given, and writes there the one that it replaces.
        unsafe { sys::cuThreadExchangeStreamCaptureMode(&mut mode) }.result()?;
        Ok(Self(mode))
    }
}

impl Drop for Relaxed {
    fn drop(&mut self) {
        // SAFETY: as above.
        let _ = unsafe { sys::cuThreadExchangeStreamCaptureMode(&mut self.0) };
    }
}

/// Tells device code that does not suit this machine from other failures.
fn is_refusal(error: DriverError) -> bool {
    use sys::CUresult as Code;
    matches!(
        error.0,
        Code::CUDA_ERROR_INVALID_IMAGE
            | Code::CUDA_ERROR_INVALID_SOURCE
            | Code::CUDA_ERROR_NO_BINARY_FOR_GPU
            | Code::CUDA_ERROR_INVALID_PTX
            | Code::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
            | Code::CUDA_ERROR_JIT_COMPILER_NOT_FOUND
            | Code::CUDA_ERROR_JIT_COMPILATION_DISABLED
    )
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
        code: modules::ORIGIN,
        reason,
    }
}
