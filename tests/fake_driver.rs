//! The host side of the CUDA backend, on a stand-in for the driver (`fake_driver/libcuda.c`): what is refused,
//! what is enqueued in which order, what is allocated, loaded and given back. It needs a C compiler; where
//! there is none, or a real driver, the tests say so and are skipped.
#![cfg(all(feature = "cuda", target_os = "linux", target_env = "gnu"))]

#[path = "fake_driver/functions.rs"]
mod functions;
#[path = "fake_driver/fused.rs"]
mod fused;
#[path = "fake_driver/hostile.rs"]
mod hostile;
mod support;

use std::ffi::{CStr, CString, c_char, c_int, c_long};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use drop_activation::cuda::cudarc::driver::{CudaContext, CudaStream, DevicePtr, DriverError, sys};
use drop_activation::cuda::{self, Addresses, CudaError, DeviceKeySequence, DeviceMask, InOut, Kernels, Pass};
use drop_activation::{Activation, DropActivation, Dtype, Error, KeySequence, MaskKey, MaskOrigin, PackedMask, RRelu};

/// The stand-in, for one test at a time.
struct Fake(MutexGuard<'static, libloading::Library>);

fn fake() -> Option<Fake> {
    static LOADED: OnceLock<Option<Mutex<libloading::Library>>> = OnceLock::new();
    let loaded = LOADED.get_or_init(|| {
        load().map_err(|why| writeln!(std::io::stderr(), "SKIPPED: the CUDA backend on a stand-in driver: {why}")).ok()
    });
    loaded.as_ref().map(|library| Fake(library.lock().unwrap_or_else(PoisonError::into_inner)))
}

/// Once a library of the driver's name is loaded, the loader takes it whenever that name is asked for.
fn load() -> Result<Mutex<libloading::Library>, String> {
    for name in ["libcuda.so", "libcuda.so.1"] {
        // SAFETY: nothing is called, so this is the loading that the backend itself would do.
        if unsafe { libloading::Library::new(name) }.is_ok() {
            return Err("there is a real one".into());
        }
    }
    let library = compile()?;
    // SAFETY: the library has no initialisers.
    let loaded = unsafe { libloading::Library::new(&library) };
    let _ = std::fs::remove_file(library);
    loaded.map(Mutex::new).map_err(|e| e.to_string())
}

fn compile() -> Result<PathBuf, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut build = cc::Build::new();
    build.cargo_output(false).target(&triple).host(&triple).opt_level(1).pic(true).std("gnu11");
    build.out_dir(env!("CARGO_TARGET_TMPDIR")).include(root.join("kernels"));
    let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fake-libcuda-{}.so", std::process::id()));
    let mut command = build.try_get_compiler().map_err(|e| e.to_string())?.to_command();
    command.args(["-finstrument-functions", "-shared", "-Wl,-soname,libcuda.so.1", "-o"]).arg(&library);
    let output =
        command.arg(root.join("tests/fake_driver/libcuda.c")).output().map_err(|e| format!("no C compiler: {e}"))?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(library)
}

impl Fake {
    /// With another setting while `action` runs: `fake_set` in `libcuda.c` knows the names.
    fn with<R>(&self, name: &str, value: c_int, action: impl FnOnce() -> R) -> R {
        struct Reset<'a>(&'a Fake, &'a str);
        impl Drop for Reset<'_> {
            fn drop(&mut self) {
                let was = match self.1 {
                    "devices" => 2,
                    "capability" => 90,
                    _ => 0,
                };
                self.0.set(self.1, was);
            }
        }
        let _reset = Reset(self, name);
        self.set(name, value);
        action()
    }

    fn set(&self, name: &str, value: c_int) {
        let name = CString::new(name).unwrap();
        // SAFETY: the signature of `fake_set`, and a string that outlives the call.
        unsafe { self.0.get::<unsafe extern "C" fn(*const c_char, c_int)>("fake_set").unwrap()(name.as_ptr(), value) }
    }

    fn count(&self, name: &str) -> c_long {
        let name = CString::new(name).unwrap();
        // SAFETY: the signature of `fake_count`, and a string that outlives the call.
        unsafe { self.0.get::<unsafe extern "C" fn(*const c_char) -> c_long>("fake_count").unwrap()(name.as_ptr()) }
    }

    /// The lines that `action` makes the driver log.
    fn log<R>(&self, action: impl FnOnce() -> R) -> (R, Vec<String>) {
        let take = || {
            // SAFETY: the signature of `fake_log`, whose string is valid until its next call.
            let text = unsafe { CStr::from_ptr(self.0.get::<extern "C" fn() -> *const c_char>("fake_log").unwrap()()) };
            text.to_str().unwrap().lines().map(str::to_owned).collect()
        };
        let _: Vec<String> = take();
        let result = action();
        (result, take())
    }

    /// The entries of the driver that `action` calls, in order.
    fn calls<R>(&self, action: impl FnOnce() -> drop_activation::Result<R>) -> String {
        let switch = |on| {
            // SAFETY: the signature of `fake_log_calls`.
            unsafe { self.0.get::<extern "C" fn(c_int)>("fake_log_calls").unwrap()(on) }
        };
        switch(1);
        let (result, log) = self.log(action);
        switch(0);
        result.unwrap();
        log.iter().filter_map(|line| line.strip_prefix("call ")).collect::<Vec<_>>().join(" ")
    }

    /// What a successful pass does: how many waits, then which kernel, then how many events recorded.
    fn pass<R>(&self, action: impl FnOnce() -> drop_activation::Result<R>) -> (R, usize, String, usize) {
        let (result, log) = self.log(action);
        let waits = log.iter().take_while(|line| line.starts_with("wait")).count();
        let launch = log[waits].strip_prefix("launch ").expect("nothing but waits before the launch").to_owned();
        let records = log[waits + 1..].iter().take_while(|line| line.starts_with("record")).count();
        let rest: Vec<_> =
            log[waits + 1 + records..].iter().filter(|line| !line.starts_with("wait") && *line != "free").collect();
        assert!(rest.is_empty(), "after the events were recorded: {rest:?}");
        (result.unwrap(), waits, launch, records)
    }
}

fn on_two_streams() -> (Arc<CudaContext>, Arc<Kernels>, Arc<CudaStream>, Arc<CudaStream>) {
    let context = cuda::context(0).unwrap();
    let kernels = Kernels::get(&context).unwrap();
    let (one, two) = (context.new_stream().unwrap(), context.new_stream().unwrap());
    (context, kernels, one, two)
}

fn gelu() -> DropActivation {
    DropActivation::new(Activation::Gelu, 0.5).unwrap()
}

const KEY: MaskKey = MaskKey::new(1, 2);

fn of_context(argument: &'static str) -> Error {
    CudaError::Context { argument }.into()
}

#[test]
fn devices_that_are_not_there() {
    let Some(fake) = fake() else { return };
    assert_eq!(cuda::available(), Ok(()));
    assert_eq!(cuda::device_count(), Ok(2));
    for ordinal in [2, 1 << 32, usize::MAX] {
        assert_eq!(cuda::context(ordinal).unwrap_err(), CudaError::NoDevice { ordinal, count: 2 });
    }
    fake.with("devices", 0, || {
        assert_eq!(cuda::available(), Err(CudaError::NoDevice { ordinal: 0, count: 0 }));
        assert_eq!(cuda::context(0).unwrap_err(), CudaError::NoDevice { ordinal: 0, count: 0 });
    });
}

#[test]
fn devices_and_drivers_that_are_too_old() {
    let Some(fake) = fake() else { return };
    let context = cuda::context(0).unwrap();
    let error = fake.with("capability", 72, || Kernels::get(&context).unwrap_err());
    let CudaError::Unsupported { device, capability, driver, code, reason } = error else { panic!("{error}") };
    assert_eq!((device.as_str(), capability, driver, code), ("Fake 0", (7, 2), (13, 0), cuda::device_code()));
    assert!(reason.contains("7.5"), "{reason}");

    let kernels = Kernels::get(&context).unwrap();
    let stream = context.default_stream();
    let mut x = stream.alloc_zeros::<f32>(1).unwrap();
    for code in [200, 209, 218, 221, 222, 223] {
        let error = fake.with("load", code, || kernels.relu_forward(&stream, &mut x).unwrap_err());
        let Error::Cuda(CudaError::Unsupported { capability: (9, 0), reason, .. }) = error else { panic!("{error}") };
        assert!(reason.contains("the driver's own words") && reason.contains("update the driver"), "{reason}");
    }
    let error = fake.with("load", 2, || kernels.preload().unwrap_err());
    assert!(matches!(error, CudaError::Driver { code: 2, .. }), "{error}");
    kernels.relu_forward(&stream, &mut x).unwrap(); // a failure is not remembered
}

#[test]
fn a_driver_that_refuses_the_fatbin_gets_ptx() {
    let Some(fake) = fake() else { return };
    // Who compiled the kernels has no other code.
    let has_ptx = cuda::device_code().starts_with("prebuilt ");
    let launch = || {
        let context = cuda::context(0).unwrap();
        let kernels = Kernels::get(&context).unwrap();
        let mut x = context.default_stream().alloc_zeros::<f32>(1).unwrap();
        let loads = (fake.count("loads"), fake.count("from_ptx"));
        let launched = kernels.relu_forward(&context.default_stream(), &mut x);
        let loads = (fake.count("loads") - loads.0, fake.count("from_ptx") - loads.1);
        assert_eq!(kernels.runs_ptx(), loads.1 != 0);
        (launched, loads)
    };
    assert_eq!(launch(), (Ok(()), (1, 0)));
    for code in [200, 209, 218, 221, 222, 223, 300] {
        let (launched, loads) = fake.with("fatbin", code, launch);
        assert_eq!((launched.is_ok(), loads), (has_ptx, if has_ptx { (1, 1) } else { (0, 0) }), "{code}");
    }
    let (launched, loads) = fake.with("fatbin", 209, || fake.with("ptx", 222, launch));
    let Err(Error::Cuda(CudaError::Unsupported { reason, .. })) = launched else { panic!("{launched:?}") };
    assert!(reason.contains("refuses the fatbin (CUDA_ERROR_NO_BINARY_FOR_GPU: the driver's own words)"), "{reason}");
    assert_eq!(reason.contains("and the PTX (CUDA_ERROR_UNSUPPORTED_PTX_VERSION: the driver's"), has_ptx, "{reason}");
    assert_eq!(loads, (0, 0));

    // Out of memory is no refusal.
    let out_of_memory = |(launched, loads)| {
        assert!(matches!(launched, Err(Error::Cuda(CudaError::Driver { code: 2, .. }))), "{launched:?}");
        assert_eq!(loads, (0, 0));
    };
    out_of_memory(fake.with("fatbin", 2, launch));
    if has_ptx {
        out_of_memory(fake.with("fatbin", 209, || fake.with("ptx", 2, launch)));
    }

    // A driver that loads lazily may refuse code only when a function of it is asked for.
    let modules = fake.count("modules");
    for code in [200, 209, 222] {
        let (launched, loads) = fake.with("lazy", 1, || fake.with("fatbin", code, launch));
        assert_eq!((launched.is_ok(), loads), (has_ptx, if has_ptx { (1, 1) } else { (0, 0) }), "{code}");
        let (launched, _) = fake.with("lazy", 1, || fake.with("load", code, launch));
        assert!(matches!(launched, Err(Error::Cuda(CudaError::Unsupported { .. }))), "{launched:?}");
        assert_eq!(fake.count("modules"), modules, "what was refused is still there");
    }
}

/// A function is looked up in the context that is the thread's current one, whoever has loaded its module.
#[test]
fn functions_are_found_by_threads_of_no_context_and_of_another() {
    let Some(_fake) = fake() else { return };
    let (context, kernels, stream, _) = on_two_streams();
    let mut x = stream.alloc_zeros::<f32>(10).unwrap();
    let at = x.device_ptr(&stream).0;
    kernels.relu_forward(&stream, &mut x).unwrap(); // loads the module
    let at = Addresses { input: at, saved: at, output: at, ..Addresses::default() };
    let launch = |pass: Pass| {
        // SAFETY: a slice of 10 elements of the kernels' context, in whose default stream nothing else works on it.
        unsafe { kernels.launch_raw(std::ptr::null_mut(), &pass, Dtype::F32, 10, at) }
    };
    let elsewhere = |action: &(dyn Fn() + Sync)| std::thread::scope(|scope| scope.spawn(action).join().unwrap());
    elsewhere(&|| launch(Pass::ReluBackward).unwrap());
    elsewhere(&|| {
        let _current = cuda::context(1).unwrap();
        launch(Pass::BackwardFromOutput { op: DropActivation::default() }).unwrap();
    });
    elsewhere(&|| kernels.preload().unwrap());
    assert_eq!(context.check_err(), Ok(()));
}

/// A capture forbids its own thread, and by default all others, to load code, and is lost if they do.
#[test]
fn code_is_loaded_while_a_stream_is_captured() {
    use sys::CUstreamCaptureMode::{CU_STREAM_CAPTURE_MODE_GLOBAL, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL};
    let Some(fake) = fake() else { return };
    let (context, kernels, stream, other) = on_two_streams();
    // SAFETY: here each slice is used on one stream.
    unsafe { context.disable_event_tracking() };
    let mut x = stream.alloc_zeros::<f32>(10).unwrap();
    let mut y = other.alloc_zeros::<f32>(10).unwrap();
    for (i, mode) in [CU_STREAM_CAPTURE_MODE_GLOBAL, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL].into_iter().enumerate() {
        let loads = fake.count("loads");
        stream.begin_capture(mode).unwrap();
        let here = if i == 0 { kernels.relu_forward(&stream, &mut x) } else { kernels.infer(&stream, &gelu(), &mut x) };
        let elsewhere = std::thread::scope(|scope| {
            scope.spawn(|| kernels.rrelu_infer(&other, &RRelu::default(), &mut y)).join().unwrap()
        });
        let graph = stream.end_capture(NO_FLAGS);
        assert_eq!((here, elsewhere), (Ok(()), Ok(())));
        assert!(graph.unwrap().is_some(), "the capture is lost");
        assert_eq!(fake.count("loads") - loads, 2 - i as c_long, "nothing was loaded while it was under way");

        let mut mode = CU_STREAM_CAPTURE_MODE_GLOBAL;
        // SAFETY: the address of a mode.
        unsafe { sys::cuThreadExchangeStreamCaptureMode(&mut mode) }.result().unwrap();
        assert_eq!(mode, CU_STREAM_CAPTURE_MODE_GLOBAL, "the thread is left in another mode");
    }
    // SAFETY: as above.
    unsafe { context.enable_event_tracking() };
}

#[test]
fn the_drivers_own_words_are_kept() {
    let Some(fake) = fake() else { return };
    let (_context, kernels, stream, _) = on_two_streams();
    let mut x = stream.alloc_zeros::<f32>(10).unwrap();
    let error = fake.with("launch", 719, || kernels.relu_forward(&stream, &mut x).unwrap_err());
    let message = "CUDA_ERROR_LAUNCH_FAILED: the driver's own words".to_owned();
    assert_eq!(error, CudaError::Driver { doing: "da_relu_forward_f32", code: 719, message }.into());
    let error = fake.with("alloc", 2, || kernels.forward(&stream, &gelu(), KEY, &mut x).unwrap_err());
    let message = "CUDA_ERROR_OUT_OF_MEMORY: out of memory".to_owned();
    assert_eq!(error, CudaError::Driver { doing: "allocating a mask", code: 2, message }.into());
    // cudarc keeps an error of ordering streams for later; it must show before anything is launched.
    let (error, log) = fake.log(|| fake.with("wait", 700, || kernels.relu_forward(&stream, &mut x).unwrap_err()));
    assert!(matches!(error, Error::Cuda(CudaError::Driver { code: 700, .. })), "{error}");
    assert!(!log.iter().any(|line| line.starts_with("launch")), "{log:?}");
}

#[test]
fn what_waits_for_what() {
    let Some(fake) = fake() else { return };
    let (_context, kernels, one, two) = on_two_streams();
    let op = DropActivation::default();
    let new = |n| one.alloc_zeros::<f32>(n).unwrap();
    let (x, mut y) = (new(3000), new(3000));
    let on = |stream: &CudaStream| format!("n 3000 grid 1 block 256 on {:p}", stream.cu_stream());

    // A tensor that is read: wait for its writer, record a reader. One that is written: wait for both,
    // record a writer.
    let (mask, waits, launch, records) = fake.pass(|| kernels.forward(&one, &op, KEY, (&x, &mut y)));
    assert_eq!((waits, records), (1 + 2 + 2, 3), "x read, y written, mask written");
    assert_eq!(launch, format!("da_train_forward_relu_f32 {}", on(&one)));

    let ((), waits, launch, records) = fake.pass(|| kernels.backward(&two, &op, &mask, None, &mut y));
    assert_eq!((waits, records), (2 + 1, 2), "dy written in place, mask read");
    assert_eq!(launch, format!("da_train_backward_relu_f32 {}", on(&two)));

    let mask = kernels.forward(&one, &gelu(), KEY, (&x, &mut y)).unwrap();
    let mut dx = new(3000);
    let ((), waits, _, records) = fake.pass(|| kernels.backward(&two, &gelu(), &mask, Some(&x), (&y, &mut dx)));
    assert_eq!((waits, records), (1 + 2 + 1 + 1, 4), "dy read, dx written, x read, mask read");
}

/// No allocation, no synchronisation, one launch; and what else the driver is asked, which is all there is.
#[test]
fn a_pass_is_one_launch() {
    let Some(fake) = fake() else { return };
    let (context, kernels, stream, _) = on_two_streams();
    let op = DropActivation::default();
    let x = stream.alloc_zeros::<f32>(1024).unwrap();
    let mut y = stream.alloc_zeros::<f32>(1024).unwrap();
    kernels.preload().unwrap();
    let mut mask = kernels.forward(&stream, &op, KEY, (&x, &mut y)).unwrap();

    let (launch, wait, record) = ("cuLaunchKernel", "cuStreamWaitEvent", "cuEventRecord");
    // Before each call cudarc looks whether the thread's current context is still its own.
    let each_looks =
        |calls: Vec<&str>| calls.into_iter().flat_map(|call| ["cuCtxGetCurrent", call]).collect::<Vec<_>>().join(" ");
    let mut step = || {
        let forward = fake.calls(|| kernels.forward_into(&stream, &op, KEY, (&x, &mut y), &mut mask));
        let backward = fake.calls(|| kernels.backward(&stream, &op, &mask, None, &mut y));
        [forward, backward]
    };
    let [forward, backward] = step();
    // cudarc orders the streams that use a slice by events, which are there already: a slice that is read waits for its
    // writer, one that is written for its readers as well.
    // Whether the stream is being captured is asked once more after the waits, which may have taken it into a capture.
    let is_capturing = "cuStreamIsCapturing";
    let expected = |waits, records| {
        let looked = each_looks([vec![is_capturing], vec![wait; waits], vec![is_capturing, launch]].concat());
        [vec![looked.as_str()], vec![record; records]].concat().join(" ")
    };
    assert_eq!(forward, expected(1 + 2 + 2, 3), "x read, y and the mask written");
    assert_eq!(backward, expected(2 + 1, 2), "dy written in place, the mask read");

    // SAFETY: everything here is on one stream.
    unsafe { context.disable_event_tracking() };
    let [forward, backward] = step();
    // SAFETY: as before.
    unsafe { context.enable_event_tracking() };
    assert_eq!([forward, backward], [each_looks(vec![launch]), each_looks(vec![launch])]);

    let at = Addresses { input: x.device_ptr(&stream).0, output: y.device_ptr(&stream).0, ..Addresses::default() };
    // SAFETY: both are slices of 1024 elements in the stream's context that nothing else uses meanwhile.
    let raw =
        fake.calls(|| unsafe { kernels.launch_raw(stream.cu_stream(), &Pass::ReluForward, Dtype::F32, 1024, at) });
    assert_eq!(raw, each_looks(vec![launch]));
}

/// The host's work for a call, the stand-in's own included.
#[test]
#[ignore = "prints times, and proves nothing"]
fn cpu_time_of_a_call() {
    let Some(_fake) = fake() else { return };
    let (context, kernels, stream, _) = on_two_streams();
    let op = DropActivation::default();
    // So few that what the stand-in does with them does not count.
    let x = stream.alloc_zeros::<f32>(32).unwrap();
    let mut y = stream.alloc_zeros::<f32>(32).unwrap();
    let mut mask = kernels.forward(&stream, &op, KEY, (&x, &mut y)).unwrap();
    let least = |call: &mut dyn FnMut()| {
        let calls = 10_000;
        let times = (0..50).map(|_| {
            let start = Instant::now();
            (0..calls).for_each(|_| call());
            start.elapsed() / calls
        });
        times.min().unwrap().as_nanos()
    };
    let mut times = |what: &str| {
        let forward = least(&mut || kernels.forward_into(&stream, &op, KEY, (&x, &mut y), &mut mask).unwrap());
        let backward = least(&mut || kernels.backward(&stream, &op, &mask, None, &mut y).unwrap());
        println!("{what}: forward {forward} ns, backward {backward} ns");
    };
    times("slices, event tracking on");
    // SAFETY: everything here is on one stream.
    unsafe { context.disable_event_tracking() };
    times("slices, event tracking off");
    let at = Addresses { input: x.device_ptr(&stream).0, output: y.device_ptr(&stream).0, ..Addresses::default() };
    let pass = Pass::ForwardWithoutMask { op, key: KEY };
    // SAFETY: both are slices of 32 elements in the stream's context that nothing else uses meanwhile.
    let raw = least(&mut || unsafe { kernels.launch_raw(stream.cu_stream(), &pass, Dtype::F32, 32, at) }.unwrap());
    println!("raw pointers: forward {raw} ns");
    // SAFETY: as before.
    unsafe { context.enable_event_tracking() };
}

/// The host's work from a new context to its first launch, the driver's own work left out: the stand-in does nothing
/// with what it is given.
#[test]
#[ignore = "prints times, and proves nothing"]
fn time_to_the_first_launch() {
    let Some(fake) = fake() else { return };
    let first_launch = || {
        let times = (0..20).map(|_| {
            let context = cuda::context(0).unwrap();
            let stream = context.default_stream();
            let mut x = stream.alloc_zeros::<f32>(1).unwrap();
            let start = Instant::now();
            let kernels = Kernels::get(&context).unwrap();
            let relu = kernels.relu_forward(&stream, &mut x).map(|()| start.elapsed());
            let both = relu.is_ok().then(|| kernels.infer(&stream, &gelu(), &mut x).map(|()| start.elapsed()));
            (relu.ok(), both.and_then(Result::ok))
        });
        let (relu, both): (Vec<_>, Vec<_>) = times.unzip();
        (relu.into_iter().min().unwrap(), both.into_iter().min().unwrap())
    };
    println!("{}", cuda::device_code());
    println!("fatbin: first launch of ReLU, and of GELU besides: {:?}", first_launch());
    println!("PTX: the same: {:?}", fake.with("fatbin", 209, first_launch));
}

#[test]
fn everything_of_a_call_is_of_one_context() {
    let Some(_fake) = fake() else { return };
    let (context, kernels, stream, _) = on_two_streams();
    let other = cuda::context(1).unwrap();
    let other_stream = other.new_stream().unwrap();
    let op = DropActivation::default();
    let mut here = stream.alloc_zeros::<f32>(100).unwrap();
    let mut there = other_stream.alloc_zeros::<f32>(100).unwrap();

    assert_eq!(kernels.relu_forward(&other_stream, &mut there), Err(of_context("stream")));
    assert_eq!(kernels.relu_forward(&stream, &mut there), Err(of_context("x")));
    assert_eq!(kernels.relu_forward(&stream, (&there, &mut here)), Err(of_context("x")));
    assert_eq!(kernels.relu_forward(&stream, (&here, &mut there)), Err(of_context("y")));
    assert_eq!(kernels.relu_backward(&stream, &there, &mut here), Err(of_context("y")));
    assert_eq!(kernels.infer_backward(&stream, &op, &here, (&here, &mut there)), Err(of_context("dx")));
    let mut mask = Kernels::get(&other).unwrap().forward(&other_stream, &op, KEY, &mut there).unwrap();
    assert_eq!(kernels.backward(&stream, &op, &mask, None, &mut here), Err(of_context("mask")));
    assert_eq!(kernels.forward_into(&stream, &op, KEY, &mut here, &mut mask), Err(of_context("mask")));
    assert_eq!(mask.to_host(&stream), Err(of_context("mask")));

    // Another object for the same context keeps its own record of streams, so its slices are refused.
    let twin = cuda::context(0).unwrap();
    assert_eq!(twin, context);
    let twin_stream = twin.new_stream().unwrap();
    assert_eq!(kernels.relu_forward(&twin_stream, &mut here), Err(of_context("x")));
    let mut of_twin = twin_stream.alloc_zeros::<f32>(100).unwrap();
    kernels.relu_forward(&twin_stream, &mut of_twin).unwrap();
}

#[test]
fn what_does_not_fit_is_refused_before_anything_happens() {
    let Some(fake) = fake() else { return };
    let (_context, kernels, stream, _) = on_two_streams();
    let (op, rrelu) = (DropActivation::default(), RRelu::default());
    let x = stream.alloc_zeros::<f64>(100).unwrap();
    let mut y = stream.alloc_zeros::<f64>(100).unwrap();
    let mask = kernels.forward(&stream, &op, KEY, (&x, &mut y)).unwrap();
    let keep = kernels.forward(&stream, &gelu(), KEY, (&x, &mut y)).unwrap();
    let last = MaskKey::new(0, 0).shard(u64::MAX - 31).unwrap();
    let allocations = fake.count("allocations");

    let ((), log) = fake.log(|| {
        let mut short = y.slice_mut(1..);
        let length = |argument, given, other, expected| Err(Error::Length { argument, given, other, expected });
        assert_eq!(kernels.relu_forward(&stream, (&x, &mut short)), length("y", 99, "x", 100));
        assert_eq!(kernels.relu_backward(&stream, &x, &mut short), length("y", 100, "dy", 99));
        assert_eq!(kernels.backward(&stream, &op, &mask, Some(&x.slice(2..)), &mut y), length("x", 98, "dy", 100));
        let mut short = y.slice_mut(1..);
        let of_mask = Error::MaskLength { given: 100, other: "dy", expected: 99 };
        assert_eq!(kernels.backward(&stream, &op, &mask, None, &mut short), Err(of_mask));
        let missing = Error::MissingInput { activation: Activation::Gelu };
        assert_eq!(kernels.backward(&stream, &gelu(), &keep, None, &mut y), Err(missing));
        let origin = |result| matches!(result, Err(Error::MaskOrigin { .. }));
        assert!(origin(kernels.backward(&stream, &op, &keep, Some(&x), &mut y)));
        assert!(origin(kernels.rrelu_backward(&stream, &rrelu, &mask, &mut y)));
        let needs = Err(Error::NeedsMask { activation: Activation::Gelu });
        assert_eq!(kernels.forward_without_mask(&stream, &gelu(), KEY, &mut y), needs);
        assert_eq!(kernels.backward_from_output(&stream, &gelu(), &x, &mut y), needs);
        let range = Error::IndexRange { first: last.first(), len: 100 };
        assert_eq!(kernels.forward(&stream, &op, last, &mut y).map(drop), Err(range.clone()));
        assert_eq!(kernels.rrelu_forward(&stream, &rrelu, last, &mut y).map(drop), Err(range));
    });
    assert!(log.is_empty(), "{log:?}");
    assert_eq!(fake.count("allocations"), allocations);
}

#[test]
fn masks_keep_their_memory() {
    let Some(fake) = fake() else { return };
    let (_context, kernels, one, two) = on_two_streams();
    let op = DropActivation::default();
    let (mut small, mut large) = (one.alloc_zeros::<f32>(96).unwrap(), one.alloc_zeros::<f32>(1000).unwrap());
    let mut mask = kernels.forward(&one, &op, KEY, &mut large.slice_mut(..100)).unwrap();
    let (address, allocations) = (mask.words().device_ptr(&one).0, fake.count("allocations"));

    kernels.rrelu_forward_into(&two, &RRelu::default(), KEY, &mut small, &mut mask).unwrap();
    assert_eq!((mask.len(), mask.words().len(), mask.words().device_ptr(&one).0), (96, 3, address));
    assert_eq!(mask.origin(), MaskOrigin::RRelu(RRelu::default(), KEY));
    assert_eq!(fake.count("allocations"), allocations);

    // A call that fails leaves it as it was, whether it needs more memory or not.
    for (setting, code) in [("alloc", 2), ("launch", 719)] {
        fake.with(setting, code, || kernels.forward_into(&two, &op, KEY, &mut large, &mut mask).unwrap_err());
        assert_eq!((mask.len(), mask.words().device_ptr(&one).0), (96, address));
    }
    fake.with("launch", 719, || kernels.forward_into(&two, &op, KEY, &mut small, &mut mask).unwrap_err());
    assert_eq!(mask.origin(), MaskOrigin::RRelu(RRelu::default(), KEY));

    kernels.forward_into(&two, &op, KEY, &mut large, &mut mask).unwrap();
    assert_eq!((mask.len(), mask.words().len(), mask.origin()), (1000, 32, MaskOrigin::DropActivation(op)));
    assert_eq!(fake.count("allocations"), allocations, "the old memory went back");
}

#[test]
fn masks_go_to_the_host_and_back() {
    let Some(fake) = fake() else { return };
    let (_context, kernels, stream, _) = on_two_streams();
    let (op, origin) = (DropActivation::default(), MaskOrigin::DropActivation(DropActivation::default()));
    for n in [0, 1, 31, 32, 33, 1025] {
        let mut x = stream.alloc_zeros::<f32>(n + 3).unwrap();
        let (mask, log) = fake.log(|| kernels.forward(&stream, &op, KEY, &mut x.slice_mut(3..)).unwrap());
        let launched = log.iter().any(|entry| entry.starts_with("launch"));
        assert_eq!(n != 0, launched, "no kernel is launched for nothing: {log:?}");
        let host = mask.to_host(&stream).unwrap();
        assert_eq!((host.len(), host.origin()), (n, origin));
        assert_eq!(host.words().iter().map(|word| word.count_ones() as usize).sum::<usize>(), n, "all bits arrived");
        let back = DeviceMask::from_host(&stream, &host).unwrap();
        assert_eq!(back.to_host(&stream).unwrap(), host);
        kernels.backward(&stream, &op, &back, None, &mut x.slice_mut(3..)).unwrap();
    }

    let words = || stream.clone_htod(&[!0u32; 4]).unwrap();
    assert!(matches!(DeviceMask::from_words(origin, 129, words()), Err(Error::MaskWords { len: 129, .. })));
    let key = KEY.shard(u64::MAX - 31).unwrap();
    let overrun = DeviceMask::from_words(MaskOrigin::RRelu(RRelu::default(), key), 33, words());
    assert!(matches!(overrun, Err(Error::IndexRange { .. })));
    let mask = DeviceMask::from_words(origin, 33, words()).unwrap();
    assert_eq!((mask.words().len(), mask.kind()), (2, drop_activation::MaskKind::Pass));
    assert!(matches!(mask.to_host(&stream), Err(Error::MaskWords { len: 33, .. })), "an unused bit is set");
    let mask = DeviceMask::from_words(origin, 64, words()).unwrap();
    assert_eq!(mask.to_host(&stream), PackedMask::from_words(origin, 64, vec![!0; 2]));
}

#[test]
fn tensors_arrive_in_all_their_forms() {
    let Some(_fake) = fake() else { return };
    let (_context, kernels, stream, _) = on_two_streams();
    let values: Vec<f32> = (0..10).map(|i| i as f32).collect();
    let x = stream.clone_htod(&values).unwrap();
    let mut y = stream.alloc_zeros::<f32>(10).unwrap();
    // The stand-in's kernels copy.
    kernels.relu_forward(&stream, (&x, &mut y)).unwrap();
    assert_eq!(stream.clone_dtoh(&y).unwrap(), values);
    kernels.relu_forward(&stream, (&x.slice(5..), &mut y.slice_mut(..5))).unwrap();
    kernels.relu_forward(&stream, (&x, &mut y.slice_mut(..))).unwrap();
    kernels.relu_forward(&stream, (&x.slice(3..), &mut y.slice_mut(1..8))).unwrap();
    assert_eq!(stream.clone_dtoh(&y).unwrap(), [0., 3., 4., 5., 6., 7., 8., 9., 8., 9.]);
    kernels.relu_forward(&stream, &mut y).unwrap();
    kernels.relu_forward(&stream, &mut y.slice_mut(1..)).unwrap();
    kernels.relu_forward(&stream, InOut::OutOfPlace(x.as_view(), y.as_view_mut())).unwrap();
    let saved = stream.clone_htod(&values).unwrap();
    let mut dx = stream.alloc_zeros::<f32>(10).unwrap();
    kernels.relu_backward(&stream, &saved, (&x, &mut dx)).unwrap();
    assert_eq!(stream.clone_dtoh(&dx).unwrap(), values);
    kernels.relu_backward(&stream, &saved.slice(1..), &mut dx.slice_mut(..9)).unwrap();
    kernels.relu_backward(&stream, &y.slice_mut(1..), &mut dx.slice_mut(..9)).unwrap();
}

#[test]
fn raw_pointers() {
    let Some(fake) = fake() else { return };
    let (_context, kernels, stream, _) = on_two_streams();
    let x = stream.clone_htod(&[1.0f64, 2.0, 3.0]).unwrap();
    let y = stream.alloc_zeros::<f64>(3).unwrap();
    let at = |x: u64, y: u64| Addresses { input: x, output: y, ..Addresses::default() };
    let (x_at, y_at) = (x.device_ptr(&stream).0, y.device_ptr(&stream).0);
    let launch = |n, at| {
        // SAFETY: on the kernels' own context, with memory for 3 elements; the bad addresses are refused.
        unsafe { kernels.launch_raw(stream.cu_stream(), &Pass::ReluForward, Dtype::F64, n, at) }
    };
    let ((), waits, _, records) = fake.pass(|| launch(2, at(x_at + 8, y_at)));
    assert_eq!((waits, records), (0, 0), "no event tracking");
    assert_eq!(stream.clone_dtoh(&y).unwrap(), [2.0, 3.0, 0.0]);
    assert_eq!(launch(3, at(x_at, 0)), Err(CudaError::NullPointer { argument: "y" }.into()));
    let misaligned = CudaError::Misaligned { argument: "x", address: x_at + 4, alignment: 8 };
    assert_eq!(launch(2, at(x_at + 4, y_at)), Err(misaligned.into()));
    assert_eq!(launch(0, Addresses::default()), Ok(()));
}

#[test]
fn one_handle_for_each_context_and_nothing_left_behind() {
    let Some(fake) = fake() else { return };
    let context = cuda::context(0).unwrap();
    let kernels = Kernels::get(&context).unwrap();
    assert!(Arc::ptr_eq(&kernels, &Kernels::get(&context).unwrap()));
    assert!(Arc::ptr_eq(&kernels, &Kernels::get(&cuda::context(0).unwrap()).unwrap()));
    assert!(!Arc::ptr_eq(&kernels, &Kernels::get(&cuda::context(1).unwrap()).unwrap()));

    // Four modules, each loaded once, whoever comes first.
    let (loads, modules) = (fake.count("loads"), fake.count("modules"));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let stream = kernels.context().default_stream();
                let mut x = stream.alloc_zeros::<f32>(10).unwrap();
                kernels.relu_forward(&stream, &mut x).unwrap();
                kernels.infer(&stream, &gelu(), &mut x).unwrap();
            });
        }
    });
    assert_eq!(fake.count("loads") - loads, 2);
    kernels.preload().unwrap();
    assert_eq!(fake.count("loads") - loads, 6);

    // The handle keeps its context; with it go the modules, after the work, and then the context.
    let ((), log) = fake.log(|| drop(context));
    assert!(log.is_empty(), "{log:?}");
    let ((), log) = fake.log(|| drop(kernels));
    let at = |what: &str| log.iter().position(|line| line == what).unwrap_or_else(|| panic!("no {what} in {log:?}"));
    assert!(at("synchronize context") < at("unload") && at("unload") < at("release context of 0"), "{log:?}");
    assert_eq!(fake.count("modules"), modules);

    // A new context, wherever it lies, has a handle of its own.
    let context = cuda::context(0).unwrap();
    let kernels = Kernels::get(&context).unwrap();
    let mut x = context.default_stream().alloc_zeros::<f32>(10).unwrap();
    kernels.relu_forward(&context.default_stream(), &mut x).unwrap();
    assert_eq!(fake.count("loads") - loads, 7);
}

/// A mask and a tensor that outlive every handle of their context keep what they need of it. A later context of
/// the same device takes neither.
#[test]
fn what_outlives_its_context() {
    let Some(fake) = fake() else { return };
    let (allocations, modules) = (fake.count("allocations"), fake.count("modules"));
    let op = DropActivation::default();
    let (mut mask, mut x) = {
        let (_context, kernels, stream, _) = on_two_streams();
        let mut x = stream.alloc_zeros::<f32>(100).unwrap();
        (kernels.forward(&stream, &op, KEY, &mut x).unwrap(), x)
    };
    assert_eq!(fake.count("modules"), modules, "nobody can launch any more");

    let (context, kernels, stream, other) = on_two_streams();
    let mut dy = stream.alloc_zeros::<f32>(100).unwrap();
    let ((), log) = fake.log(|| {
        assert_eq!(kernels.backward(&stream, &op, &mask, None, &mut x), Err(of_context("dy")));
        assert_eq!(kernels.backward(&stream, &op, &mask, None, &mut dy), Err(of_context("mask")));
        assert_eq!(kernels.forward_into(&stream, &op, KEY, &mut dy, &mut mask), Err(of_context("mask")));
        assert_eq!(mask.to_host(&stream), Err(of_context("mask")));
    });
    assert!(log.is_empty(), "{log:?}");
    // Nor does it help to give the words another name.
    let mask = DeviceMask::from_words(mask.origin(), mask.len(), mask.into_words()).unwrap();
    assert_eq!(kernels.backward(&stream, &op, &mask, None, &mut dy), Err(of_context("mask")));

    // Their own stream lives as long as they do, and the new kernels are its device's.
    let own = x.stream().clone();
    kernels.backward(&own, &op, &mask, None, &mut x).unwrap();
    assert_eq!(mask.to_host(&own).unwrap().words(), [!0, !0, !0, 0b1111]);
    drop((kernels, stream, other, context, dy, own));
    let ((), log) = fake.log(|| drop((mask, x)));
    assert_eq!(log.iter().filter(|line| *line == "free").count(), 2, "{log:?}");
    assert_eq!(log.last().map(String::as_str), Some("release context of 0"));
    assert_eq!((fake.count("allocations"), fake.count("modules")), (allocations, modules));
}

/// An error of earlier work is pending when the last handle goes.
#[test]
fn modules_are_unloaded_after_the_work_whatever_is_pending() {
    let Some(fake) = fake() else { return };
    let modules = fake.count("modules");
    let run = || {
        let (context, kernels, stream, other) = on_two_streams();
        let mut x = stream.alloc_zeros::<f32>(10).unwrap();
        kernels.relu_forward(&stream, &mut x).unwrap();
        drop((x, stream, other));
        context.record_err(Err::<(), _>(DriverError(sys::CUresult::CUDA_ERROR_ASSERT)));
        (context, kernels)
    };
    let (context, kernels) = run();
    let ((), log) = fake.log(|| drop(kernels));
    let at = |what: &str| log.iter().position(|line| line == what).unwrap_or_else(|| panic!("no {what} in {log:?}"));
    assert!(at("synchronize context") < at("unload"), "{log:?}");
    assert_eq!(fake.count("modules"), modules);
    drop(context);

    // A driver that does not wait: work may go on, so its code stays.
    let (context, kernels) = run();
    let ((), log) = fake.log(|| fake.with("synchronize", 719, || drop(kernels)));
    assert!(!log.iter().any(|line| line == "unload"), "{log:?}");
    assert_eq!(fake.count("modules"), modules + 1);
    assert!(context.is_managing_stream_synchronization(), "what is freed later has to wait");
}

/// cudarc tracks events while a context has streams of its own.
#[test]
fn tracking_goes_on_without_the_streams_that_work_was_on() {
    let Some(fake) = fake() else { return };
    let context = cuda::context(0).unwrap();
    let kernels = Kernels::get(&context).unwrap();
    let default = context.default_stream();
    let (x, mut y) = (default.alloc_zeros::<f32>(100).unwrap(), default.alloc_zeros::<f32>(100).unwrap());
    let stream = context.new_stream().unwrap();
    kernels.relu_forward(&stream, (&x, &mut y)).unwrap();
    drop(stream);
    let (_, log) = fake.log(|| default.clone_dtoh(&y).unwrap());
    assert!(log[0].starts_with("wait"), "the output is read before it is written: {log:?}");
    let ((), log) = fake.log(|| drop(x));
    assert!(log[0].starts_with("wait") && log.last().unwrap() == "free", "x is freed while it is read: {log:?}");

    // A context that has had no stream yet, and another object of it.
    for context in [context, cuda::context(0).unwrap()] {
        let one = context.per_thread_stream();
        let mut x = one.alloc_zeros::<f32>(100).unwrap();
        kernels.relu_forward(&one, &mut x).unwrap();
        let ((), waits, _, records) = fake.pass(|| kernels.relu_forward(&one, &mut x));
        assert_eq!((waits, records), (2, 1));
        let ((), log) = fake.log(|| std::thread::scope(|scope| scope.spawn(|| drop(x)).join().unwrap()));
        assert!(log[0].starts_with("wait"), "another thread's stream is another one: {log:?}");
    }
}

/// Every wait is refused, and other threads take what errors are pending in the context.
#[test]
fn a_refused_wait_is_the_error_of_its_own_call() {
    let Some(fake) = fake() else { return };
    let (context, kernels, one, two) = on_two_streams();
    kernels.preload().unwrap();
    let launched = fake.count("launches");
    let stop = std::sync::atomic::AtomicBool::new(false);
    fake.with("wait", 400, || {
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        let _ = context.check_err();
                    }
                });
            }
            let callers = [&one, &two].map(|stream| {
                let kernels = &kernels;
                scope.spawn(move || {
                    let mut x = stream.alloc_zeros::<f32>(10);
                    while x.is_err() {
                        x = stream.alloc_zeros::<f32>(10); // another's error
                    }
                    let mut x = x.unwrap();
                    (0..20_000).filter(|_| kernels.relu_forward(stream, &mut x).is_ok()).count()
                })
            });
            let succeeded = callers.map(|caller| caller.join().unwrap());
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            assert_eq!(succeeded, [0, 0]);
        });
    });
    assert_eq!(fake.count("launches"), launched, "a kernel was launched that waited for nothing");
}

/// Nobody can wait for the work by an event that was not recorded, so the call does.
#[test]
fn after_a_refused_event_the_work_is_waited_for() {
    let Some(fake) = fake() else { return };
    let (context, kernels, stream, _) = on_two_streams();
    let mut x = stream.alloc_zeros::<f32>(10).unwrap();
    kernels.relu_forward(&stream, &mut x).unwrap();
    let (result, log) = fake.log(|| fake.with("record", 400, || kernels.relu_forward(&stream, &mut x)));
    assert_eq!(result, Ok(()), "it was launched");
    assert_eq!(log.last(), Some(&format!("synchronize {:p}", stream.cu_stream())), "{log:?}");
    assert_eq!(context.check_err(), Err(DriverError(sys::CUresult::CUDA_ERROR_INVALID_HANDLE)));
}

/// Nothing keeps a graph from being replayed over memory that was freed, but the promise that turning event tracking
/// off takes.
#[test]
fn no_capture_without_a_promise() {
    let Some(fake) = fake() else { return };
    let capturing = |result| matches!(result, Err(Error::Cuda(CudaError::Capturing { .. })));
    let context = cuda::context(0).unwrap();
    let kernels = Kernels::get(&context).unwrap();
    let stream = context.per_thread_stream();
    let mut x = stream.alloc_zeros::<f32>(10).unwrap();
    stream.begin_capture(CAPTURE).unwrap();
    let (result, log) = fake.log(|| kernels.relu_forward(&stream, &mut x));
    drop(stream.end_capture(NO_FLAGS).unwrap());
    assert!(capturing(result) && log.is_empty(), "{log:?}");

    // An event of cudarc's that was recorded in a capture takes whoever waits for it along.
    let (_context, kernels, stream, other) = on_two_streams();
    let mut x = stream.alloc_zeros::<f32>(10).unwrap();
    kernels.relu_forward(&other, &mut x).unwrap();
    stream.begin_capture(CAPTURE).unwrap();
    stream.memset_zeros(&mut x).unwrap();
    let (result, log) = fake.log(|| kernels.relu_forward(&other, &mut x));
    drop(stream.end_capture(NO_FLAGS).unwrap());
    assert!(capturing(result) && !log.iter().any(|line| line.starts_with("launch")), "{log:?}");
}

/// What the stand-in allocates holds 0xA5 in every byte.
#[test]
fn all_words_of_a_mask_are_written() {
    let Some(fake) = fake() else { return };
    let (_context, kernels, stream, _) = on_two_streams();
    let (op, rrelu) = (DropActivation::default(), RRelu::default());
    let keys = DeviceKeySequence::new(&kernels, &stream, 3).unwrap();
    for n in [0, 1, 32, 33, 64, 65, 1000] {
        let mut x = stream.alloc_zeros::<f32>(n + 1).unwrap();
        let mut x = x.slice_mut(..n);
        let mut small = stream.alloc_zeros::<f32>(1).unwrap();
        let host = PackedMask::from_words(MaskOrigin::DropActivation(op), n, vec![0; n.div_ceil(32)]).unwrap();
        let mut grown = kernels.forward(&stream, &op, KEY, &mut small).unwrap();
        kernels.forward_into(&stream, &op, KEY, &mut x, &mut grown).unwrap();
        let masks = [
            kernels.forward(&stream, &op, KEY, &mut x).unwrap(),
            kernels.rrelu_forward(&stream, &rrelu, keys.next_key(), &mut x).unwrap(),
            DeviceMask::from_host(&stream, &host).unwrap(),
            grown,
        ];
        for (i, mask) in masks.into_iter().enumerate() {
            let words = stream.clone_dtoh(&mask.into_words()).unwrap();
            assert!(!words.contains(&0xA5A5_A5A5), "mask {i} of {n} elements: {words:x?}");
        }
        if n != 0 {
            let error = fake.with("memset", 2, || kernels.forward(&stream, &op, KEY, &mut x).unwrap_err());
            assert!(matches!(error, Error::Cuda(CudaError::Driver { code: 2, .. })), "{error}");
        }
    }
}

/// The offsets that kernels drew at, and what the base became, in order.
fn draws(log: &[String]) -> Vec<u64> {
    let of = |line: &String| line.split_once(" draws at ").map(|(_, offset)| offset.parse().unwrap());
    log.iter().filter_map(of).collect()
}

const CAPTURE: sys::CUstreamCaptureMode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
const NO_FLAGS: sys::CUgraphInstantiate_flags = sys::CUgraphInstantiate_flags(0);

#[test]
fn a_captured_step_draws_on_as_one_without_a_graph() {
    let Some(fake) = fake() else { return };
    let (context, kernels, stream, _) = on_two_streams();
    // SAFETY: this test uses one stream.
    unsafe { context.disable_event_tracking() };
    let (op, rrelu) = (DropActivation::default(), RRelu::default());
    let mut x = stream.alloc_zeros::<f32>(1000).unwrap();
    let start = u64::MAX - 4; // the sequence goes round the end
    let plain = KeySequence::resume(7, start);
    let mut keys = DeviceKeySequence::resume(&kernels, &stream, 7, start).unwrap();
    let mut relu_mask = kernels.forward(&stream, &op, keys.next_key(), &mut x).unwrap();
    let mut rrelu_mask = kernels.rrelu_forward(&stream, &rrelu, keys.next_key(), &mut x).unwrap();
    keys.advance(&stream).unwrap();
    let _ = (plain.next_key(), plain.next_key());
    assert_eq!(keys.read(&stream).unwrap(), plain.next_offset());
    kernels.preload().unwrap();

    let allocations = fake.count("allocations");
    stream.begin_capture(CAPTURE).unwrap();
    let ((), log) = fake.log(|| {
        kernels.forward_into(&stream, &op, keys.next_key(), &mut x, &mut relu_mask).unwrap();
        kernels.rrelu_forward_into(&stream, &rrelu, keys.next_key(), &mut x, &mut rrelu_mask).unwrap();
        kernels.rrelu_backward(&stream, &rrelu, &rrelu_mask, &mut x).unwrap();
        kernels.backward(&stream, &op, &relu_mask, None, &mut x).unwrap();
        keys.advance(&stream).unwrap();
    });
    let launched: Vec<_> = log.iter().map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect();
    let expected = [
        "launch da_train_forward_relu_f32",
        "launch da_rrelu_train_forward_f32",
        "launch da_rrelu_train_backward_f32",
        "launch da_train_backward_relu_f32",
        "launch da_advance",
    ];
    assert_eq!(launched, expected, "one launch for each pass, nothing drawn and nothing else enqueued");
    assert_eq!(fake.count("allocations"), allocations);
    let graph = stream.end_capture(NO_FLAGS).unwrap().unwrap();

    for _ in 0..5 {
        let ((), log) = fake.log(|| graph.launch().unwrap());
        let (relu, slopes) = (plain.next_key().offset(), plain.next_key().offset());
        assert_eq!(draws(&log), [relu, slopes, slopes], "ReLU, RReLU, RReLU's backward: {log:?}");
        assert_eq!(keys.read(&stream).unwrap(), plain.next_offset());
        // The mask knows its slopes' offset after the advance too, here and on the host.
        let ((), log) = fake.log(|| kernels.rrelu_backward(&stream, &rrelu, &rrelu_mask, &mut x).unwrap());
        assert_eq!(draws(&log), [slopes]);
        assert!(rrelu_mask.offset_is_on_device());
        let host = rrelu_mask.to_host(&stream).unwrap();
        assert_eq!(host.origin(), MaskOrigin::RRelu(rrelu, MaskKey::new(7, slopes)));
    }
    // SAFETY: as above.
    unsafe { context.enable_event_tracking() };
}

#[test]
fn a_sequence_on_the_device_is_read_set_and_resumed() {
    let Some(fake) = fake() else { return };
    let (_context, kernels, stream, _) = on_two_streams();
    let op = DropActivation::default();
    let mut x = stream.alloc_zeros::<f32>(100).unwrap();
    let mut keys = DeviceKeySequence::new(&kernels, &stream, 3).unwrap();
    assert_eq!((keys.seed(), keys.read(&stream).unwrap()), (3, 0));
    let ((), log) = fake.log(|| keys.advance(&stream).unwrap());
    assert!(log.is_empty(), "no key, no step: {log:?}");

    let shard = keys.next_key().shard(64).unwrap();
    assert_eq!(keys.next_key().shard(1).unwrap_err(), Error::First { first: 1 });
    let (mask, log) = fake.log(|| kernels.forward(&stream, &op, shard, &mut x).unwrap());
    assert_eq!(draws(&log), [0]);
    assert_eq!((mask.origin(), mask.offset_is_on_device()), (MaskOrigin::DropActivation(op), false));
    assert_eq!(keys.read(&stream).unwrap(), 2, "two keys are out");
    // A step that could not be ended has not ended.
    let error = fake.with("launch", 719, || keys.advance(&stream).unwrap_err());
    assert!(matches!(error, CudaError::Driver { doing: "da_advance", code: 719, .. }), "{error}");
    assert_eq!(keys.read(&stream).unwrap(), 2);
    keys.advance(&stream).unwrap();
    keys.next_key();
    keys.set(&stream, 40).unwrap();
    assert_eq!(keys.read(&stream).unwrap(), 40);
    let ((), log) = fake.log(|| kernels.forward_without_mask(&stream, &op, keys.next_key(), &mut x).unwrap());
    assert_eq!(draws(&log), [40]);
    let resumed = DeviceKeySequence::resume(&kernels, &stream, 3, keys.read(&stream).unwrap()).unwrap();
    assert_eq!(resumed.read(&stream).unwrap(), 41);

    // An empty mask has no slopes, and no offset that anybody stored.
    let mut nothing = x.slice_mut(..0);
    let empty = kernels.rrelu_forward(&stream, &RRelu::default(), keys.next_key(), &mut nothing).unwrap();
    assert!(!empty.offset_is_on_device() && empty.to_host(&stream).unwrap().is_empty());

    let other = cuda::context(1).unwrap();
    let there = other.new_stream().unwrap();
    assert_eq!(DeviceKeySequence::new(&kernels, &there, 3).unwrap_err(), CudaError::Context { argument: "stream" });
    assert_eq!(keys.advance(&there).unwrap_err(), CudaError::Context { argument: "keys" });
    assert_eq!(keys.read(&there).unwrap_err(), CudaError::Context { argument: "keys" });
    let of_others = Kernels::get(&other).unwrap();
    let mut x_there = there.alloc_zeros::<f32>(100).unwrap();
    let error = of_others.forward(&there, &op, keys.next_key(), &mut x_there).unwrap_err();
    assert_eq!(error, of_context("key"));

    // By raw pointers.
    let base = stream.clone_htod(&[u64::MAX]).unwrap();
    let at = base.device_ptr(&stream).0;
    // SAFETY: a word of the kernels' context, on a stream of it.
    unsafe { kernels.advance_raw(stream.cu_stream(), at, 5).unwrap() };
    assert_eq!(stream.clone_dtoh(&base).unwrap(), [4]);
    // SAFETY: refused.
    let refused = |at| unsafe { kernels.advance_raw(stream.cu_stream(), at, 5) };
    assert_eq!(refused(0), Err(CudaError::NullPointer { argument: "base" }.into()));
    assert_eq!(refused(at + 4), Err(CudaError::Misaligned { argument: "base", address: at + 4, alignment: 8 }.into()));
}

#[test]
fn what_a_capture_cannot_hold_is_refused_before_it_is_spoiled() {
    let Some(fake) = fake() else { return };
    let (context, kernels, stream, other) = on_two_streams();
    let op = DropActivation::default();
    let mut x = stream.alloc_zeros::<f32>(100).unwrap();
    let mut mask = kernels.forward(&stream, &op, KEY, &mut x).unwrap();
    let mut keys = DeviceKeySequence::new(&kernels, &stream, 3).unwrap();
    let _ = keys.next_key();
    let capturing = |result: Error| matches!(result, Error::Cuda(CudaError::Capturing { .. }));

    stream.begin_capture(CAPTURE).unwrap();
    let ((), log) = fake.log(|| {
        // cudarc's events would be waited for.
        assert!(capturing(kernels.forward_into(&stream, &op, KEY, &mut x, &mut mask).unwrap_err()));
        assert!(capturing(kernels.relu_forward(&stream, &mut x).unwrap_err()));
        assert!(matches!(keys.advance(&stream), Err(CudaError::Capturing { .. })));
    });
    assert!(log.is_empty(), "{log:?}");
    let ((), log) = fake.log(|| kernels.relu_forward(&other, &mut x).unwrap());
    assert!(log.iter().any(|line| line.starts_with("launch")), "another stream is not captured: {log:?}");

    // SAFETY: from here on one stream is used.
    unsafe { context.disable_event_tracking() };
    let ((), log) = fake.log(|| {
        assert!(capturing(kernels.forward(&stream, &op, KEY, &mut x).unwrap_err()), "no memory in a capture");
        assert!(capturing(mask.to_host(&stream).unwrap_err()));
        let host = PackedMask::from_words(MaskOrigin::DropActivation(op), 32, vec![0]).unwrap();
        assert!(capturing(DeviceMask::from_host(&stream, &host).unwrap_err()));
        assert!(matches!(keys.read(&stream), Err(CudaError::Capturing { .. })));
        assert!(matches!(DeviceKeySequence::new(&kernels, &stream, 3), Err(CudaError::Capturing { .. })));
    });
    assert!(log.is_empty(), "{log:?}");
    kernels.forward_into(&stream, &op, KEY, &mut x, &mut mask).unwrap();
    drop(stream.end_capture(NO_FLAGS).unwrap());
    // SAFETY: as above.
    unsafe { context.enable_event_tracking() };
}
