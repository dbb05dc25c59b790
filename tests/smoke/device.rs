//! One launch on the GPU: of the device code that the library embeds, through its own way in, or of the prebuilt PTX.

use std::ffi::c_void;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use drop_activation::cuda::cudarc::driver::{
    CudaContext, CudaModule, CudaSlice, CudaStream, DevicePtr, DriverError, result,
};
use drop_activation::cuda::cudarc::nvrtc::Ptx;
use drop_activation::cuda::{self, Addresses, Kernels, launch};

use crate::cases::{Case, N};
use crate::shipped;

/// Which device code.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Image {
    Embedded,
    Prebuilt,
}

impl Image {
    pub const ALL: [Self; 2] = [Self::Embedded, Self::Prebuilt];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Prebuilt => "prebuilt",
        }
    }
}

/// Why a launch did not do what it should.
pub enum Failure {
    /// The others can go on.
    Here(String),
    /// Nothing more can be done in this process: an access has failed, or the kernel does not end.
    Dead(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Here(why) | Self::Dead(why) => f.write_str(why),
        }
    }
}

type Outcome<T> = Result<T, Failure>;

/// Bytes before and after each tensor that no launch may touch, and what they hold. So does the output before it.
const GUARD: usize = 512;
const SENTINEL: u8 = 0xA5;

pub struct Device {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    kernels: Arc<Kernels>,
    /// In the order of [`shipped::ptx`], each once it was asked for.
    prebuilt: [Option<Arc<CudaModule>>; 6],
    patience: Duration,
}

impl Device {
    pub fn open() -> Result<Self, Box<dyn std::error::Error>> {
        let context = cuda::context(0)?;
        let (stream, kernels) = (context.new_stream()?, Kernels::get(&context)?);
        let patience = std::env::var("SMOKE_PATIENCE").ok().map_or(Ok(20), |seconds| seconds.parse())?;
        let patience = Duration::from_secs(patience);
        Ok(Self { context, stream, kernels, prebuilt: Default::default(), patience })
    }

    /// The GPU, and who compiled the embedded code for which.
    pub fn name(&self) -> String {
        let name = self.context.name().unwrap_or_else(|_| "a CUDA device".to_owned());
        format!("{name}; embedded: {}", cuda::device_code())
    }

    /// Launches, and looks at all that was written.
    pub fn check(&mut self, image: Image, case: &Case) -> Outcome<()> {
        let input = self.upload(&case.input)?;
        let saved = self.upload(&case.saved)?;
        let output = self.upload(&vec![SENTINEL; case.expected.len()])?;
        let poison = vec![SENTINEL; 4 * case.mask.len()];
        let words: Vec<u8> = case.mask.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mask = self.upload(if case.pass.writes_mask() { &poison } else { &words })?;
        let at = Addresses {
            input: self.address(&input),
            saved: self.address(&saved),
            output: self.address(&output),
            mask: self.address(&mask),
            ..Addresses::default()
        };
        match image {
            Image::Embedded => {
                // SAFETY: `launch_raw`'s lines in order: the stream is of the kernels' context; the tensors have N
                // elements of that type; the mask has a bit for each; they are apart; nothing else runs; no offsets.
                unsafe { self.kernels.launch_raw(self.stream.cu_stream(), &case.pass, case.dtype, N, at) }
                    .map_err(|e| self.failure(e))?;
            }
            Image::Prebuilt => {
                let planned = launch::plan(&case.pass, case.dtype, N, at).map_err(|e| self.failure(e))?;
                self.launch_prebuilt(planned.ok_or_else(|| Failure::Here("nothing is planned".into()))?)?;
            }
        }
        self.wait()?;
        self.download("saved tensor", &saved)?;
        self.download("input", &input)?;
        let (output, mask) = (self.download("output", &output)?, self.download("mask", &mask)?);
        let words: Vec<u32> = mask.as_chunks::<4>().0.iter().map(|bytes| u32::from_ne_bytes(*bytes)).collect();
        case.fault(&output, &words).map_or(Ok(()), |why| Err(Failure::Here(why)))
    }

    /// The one entry point that is of no pass: it moves a base in device memory on.
    pub fn check_advance(&mut self, image: Image) -> Outcome<()> {
        let (start, count) = (u64::MAX - 4, 7);
        let base = self.upload(&start.to_ne_bytes())?;
        let at = self.address(&base);
        match image {
            Image::Embedded => {
                // SAFETY: a stream of the kernels' context, and a word that nothing else uses.
                unsafe { self.kernels.advance_raw(self.stream.cu_stream(), at, count) }.map_err(|e| self.failure(e))?;
            }
            Image::Prebuilt => {
                let planned = launch::plan_advance(at, count, true).map_err(|e| self.failure(e))?;
                self.launch_prebuilt(planned)?;
            }
        }
        self.wait()?;
        let given = self.download("base", &base)?;
        let expected = start.wrapping_add(count).to_ne_bytes();
        if given == expected {
            Ok(())
        } else {
            Err(Failure::Here(format!("the base is {given:?}, expected {expected:?}")))
        }
    }

    fn launch_prebuilt(&mut self, mut planned: launch::Launch) -> Outcome<()> {
        let entry = format!(".entry {}(", planned.entry.name());
        let Some(place) = shipped::ptx().iter().position(|(_, text)| text.contains(&entry)) else {
            return Err(Failure::Here("no prebuilt PTX has it".into()));
        };
        let module = match &self.prebuilt[place] {
            Some(module) => module.clone(),
            None => {
                let module = self
                    .context
                    .load_module(Ptx::from_src(shipped::ptx()[place].1.as_str()))
                    .map_err(|e| self.refused(e))?;
                self.prebuilt[place].insert(module).clone()
            }
        };
        let function = module.load_function(planned.entry.name()).map_err(|e| self.refused(e))?;
        let mut arguments = [(&raw mut planned.args).cast::<c_void>()];
        let (grid, block, stream) = ((planned.grid, 1, 1), (planned.block, 1, 1), self.stream.cu_stream());
        // SAFETY: a kernel of ours with its one argument, in a geometry that it accepts, over the caller's buffers.
        unsafe { result::launch_kernel(function.cu_function(), grid, block, 0, stream, &mut arguments) }
            .map_err(|e| self.refused(e))
    }

    /// Until the stream's work is done. Not by the driver's own waiting, which a kernel that does not end would hold up
    /// for ever.
    pub fn wait(&self) -> Outcome<()> {
        let done = self.stream.record_event(None).map_err(|e| self.refused(e))?;
        let start = Instant::now();
        loop {
            match done.try_is_complete() {
                Ok(true) => return Ok(()),
                Ok(false) if start.elapsed() > self.patience => {
                    return Err(Failure::Dead(format!("not done after {:?}", self.patience)));
                }
                Ok(false) => std::thread::sleep(Duration::from_micros(50)),
                Err(why) => return Err(self.refused(why)),
            }
        }
    }

    pub fn upload(&self, bytes: &[u8]) -> Outcome<CudaSlice<u8>> {
        let mut image = vec![SENTINEL; GUARD + bytes.len() + GUARD];
        image[GUARD..GUARD + bytes.len()].copy_from_slice(bytes);
        self.stream.clone_htod(&image).map_err(|e| self.refused(e))
    }

    pub fn download(&self, name: &str, memory: &CudaSlice<u8>) -> Outcome<Vec<u8>> {
        let image = self.stream.clone_dtoh(memory).map_err(|e| self.refused(e))?;
        self.stream.synchronize().map_err(|e| self.refused(e))?;
        let (before, after) = (&image[..GUARD], &image[image.len() - GUARD..]);
        match before.iter().chain(after).all(|&byte| byte == SENTINEL) {
            true => Ok(image[GUARD..image.len() - GUARD].to_vec()),
            false => Err(Failure::Here(format!("bytes beside the {name} were written"))),
        }
    }

    pub fn address(&self, memory: &CudaSlice<u8>) -> u64 {
        memory.device_ptr(&self.stream).0 + GUARD as u64
    }

    pub fn load(&self, code: Ptx) -> Outcome<Arc<CudaModule>> {
        self.context.load_module(code).map_err(|e| self.refused(e))
    }

    pub fn stream(&self) -> &CudaStream {
        &self.stream
    }

    pub fn refused(&self, why: DriverError) -> Failure {
        self.failure(why)
    }

    /// An error that every later call gives again is the end of the context.
    fn failure(&self, why: impl fmt::Display) -> Failure {
        match result::ctx::synchronize() {
            Ok(()) => Failure::Here(why.to_string()),
            Err(_) => Failure::Dead(why.to_string()),
        }
    }
}
