//! Keys whose offset lives in device memory, so that a captured graph draws fresh numbers at each replay.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cudarc::driver::{CudaSlice, CudaStream};

use super::error::{CudaError, Result as CudaResult, while_doing};
use super::launch;
use super::loader::Kernels;
use super::order::{self, Turn};
use super::stream_checks::{not_capturing, not_tracking_a_capture, same_context};
use crate::error::Result;
use crate::key::MaskKey;

/// What names the random numbers of one call on a GPU: a [`MaskKey`], or a [`DeviceKey`]. The methods of [`Kernels`]
/// take either.
#[derive(Clone, Copy, Debug)]
pub enum Key<'a> {
    /// The offset is known here.
    Host(MaskKey),
    /// The offset is counted from a base in device memory.
    Device(DeviceKey<'a>),
}

impl<'a> Key<'a> {
    /// The key with the offset that is known here, relative to the base if there is one.
    pub(super) const fn relative(&self) -> MaskKey {
        match self {
            Self::Host(key) => *key,
            Self::Device(key) => key.relative,
        }
    }

    /// The base of the offset.
    pub(super) const fn base(&self) -> Option<&'a CudaSlice<u64>> {
        match self {
            Self::Host(_) => None,
            Self::Device(key) => Some(key.base),
        }
    }
}

impl From<MaskKey> for Key<'_> {
    fn from(key: MaskKey) -> Self {
        Self::Host(key)
    }
}

impl<'a> From<DeviceKey<'a>> for Key<'a> {
    fn from(key: DeviceKey<'a>) -> Self {
        Self::Device(key)
    }
}

/// A key of a [`DeviceKeySequence`]. It borrows the sequence, so none outlives an
/// [`advance`](DeviceKeySequence::advance), after which its numbers would be another call's.
#[derive(Clone, Copy, Debug)]
pub struct DeviceKey<'a> {
    relative: MaskKey,
    base: &'a CudaSlice<u64>,
}

impl DeviceKey<'_> {
    /// The same stream for a shard whose element 0 is element `first` of the whole tensor.
    ///
    /// # Errors
    /// [`Error::First`](crate::Error::First) unless `first` is a multiple of 32.
    pub fn shard(self, first: u64) -> Result<Self> {
        Ok(Self { relative: self.relative.shard(first)?, ..self })
    }
}

/// A [`KeySequence`](crate::KeySequence) for CUDA graphs: it hands out the same keys, but the offset that they are
/// counted from is in device memory and moves on the stream.
///
/// In each step take a key for each call, and [`advance`](Self::advance) once at the end. Captured into a graph, the
/// step draws fresh numbers at every replay, those that the steps would draw without a graph: key j of step i, of k
/// keys each, has the offset `start + i k + j`.
///
/// Keep the sequence, which keeps its [`Kernels`], for as long as the graph is replayed: the graph reads and writes its
/// memory.
#[derive(Debug)]
pub struct DeviceKeySequence {
    kernels: Arc<Kernels>,
    seed: u64,
    /// One word: the offset of the first key since the last advance.
    base: CudaSlice<u64>,
    /// Keys handed out since then.
    handed_out: AtomicU64,
}

impl DeviceKeySequence {
    /// Starts at offset 0. Allocates 8 bytes on `stream`.
    ///
    /// # Errors
    /// Those of [`DeviceKeySequence::resume`].
    pub fn new(kernels: &Arc<Kernels>, stream: &Arc<CudaStream>, seed: u64) -> CudaResult<Self> {
        Self::resume(kernels, stream, seed, 0)
    }

    /// Goes on where a stored sequence stood, one of either kind.
    ///
    /// # Errors
    /// [`CudaError::Context`] if the stream is of another context than the kernels; [`CudaError::Capturing`] if it is
    /// being captured; [`CudaError::Unsupported`], [`CudaError::Driver`].
    pub fn resume(kernels: &Arc<Kernels>, stream: &Arc<CudaStream>, seed: u64, next_offset: u64) -> CudaResult<Self> {
        if *stream.context() != *kernels.context() {
            return Err(CudaError::Context { argument: "stream" });
        }
        not_capturing(stream, "so no memory for keys can be allocated: make the sequence before")?;
        // SAFETY: any bits are a valid u64, and it becomes part of a sequence only after it was set.
        let base = unsafe { stream.alloc(1) }.map_err(while_doing("allocating a sequence of keys"))?;
        let mut keys = Self { kernels: kernels.clone(), seed, base, handed_out: AtomicU64::new(0) };
        keys.set(stream, next_offset)?;
        Ok(keys)
    }

    /// The key for one call of this step.
    pub fn next_key(&self) -> DeviceKey<'_> {
        let offset = self.handed_out.fetch_add(1, Ordering::Relaxed);
        DeviceKey { relative: MaskKey::new(self.seed, offset), base: &self.base }
    }

    /// Ends a step: enqueues on `stream` what moves the base on by the keys that were handed out since the last time.
    /// Into a graph it is to be captured after the calls that use those keys.
    ///
    /// # Errors
    /// [`CudaError::Context`] if the stream is of another context object than the sequence's memory;
    /// [`CudaError::Capturing`] if it is being captured while cudarc's event tracking is on;
    /// [`CudaError::Unsupported`], [`CudaError::Driver`]. In each case nothing was enqueued and the step has not ended.
    pub fn advance(&mut self, stream: &CudaStream) -> CudaResult<()> {
        let handed_out = *self.handed_out.get_mut();
        if handed_out == 0 {
            return Ok(());
        }
        self.store(stream, handed_out, true)
    }

    /// Enqueues on `stream` what makes `next_offset` the offset of the next key.
    ///
    /// # Errors
    /// Those of [`DeviceKeySequence::advance`].
    pub fn set(&mut self, stream: &CudaStream, next_offset: u64) -> CudaResult<()> {
        self.store(stream, next_offset, false)
    }

    /// The base becomes `value`, counted from what it was if `on_top`.
    fn store(&mut self, stream: &CudaStream, value: u64, on_top: bool) -> CudaResult<()> {
        same_context(stream, "keys", &self.base)?;
        not_tracking_a_capture(stream)?;
        self.kernels.track(stream)?;
        let (turn, waiting) = Turn::begin(stream)?;
        let (address, written) = turn.write(self.base.as_view_mut());
        turn.waited(waiting)?;
        let launch = launch::plan_advance(address, value, on_top)?;
        // SAFETY: 1: the base is of the kernels' context, and the stream of the base's. 2: it is one word, borrowed
        // mutably. 3: the turn orders the work.
        unsafe { self.kernels.enqueue_kernel(stream.context(), stream.cu_stream(), launch) }?;
        turn.record([written]);
        self.handed_out = AtomicU64::new(0);
        Ok(())
    }

    /// The offset of the next key: with the seed, all there is to store. Waits for all work on the stream.
    ///
    /// # Errors
    /// [`CudaError::Context`] if the stream is of another context object than the sequence's memory;
    /// [`CudaError::Capturing`] if it is being captured; [`CudaError::Driver`].
    pub fn read(&self, stream: &Arc<CudaStream>) -> CudaResult<u64> {
        same_context(stream, "keys", &self.base)?;
        not_capturing(stream, "so nothing can be waited for: read it outside the capture")?;
        let base = order::to_host(stream, self.base.as_view(), vec![0], "copying an offset to the host")?;
        Ok(base[0].wrapping_add(self.handed_out.load(Ordering::Relaxed)))
    }

    /// The seed of all its keys.
    pub const fn seed(&self) -> u64 {
        self.seed
    }
}
