//! The CUDA backend: the operations on [`cudarc`] slices, on the caller's stream.
//!
//! ```no_run
//! use drop_activation::{DropActivation, KeySequence, cuda};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let context = cuda::context(0)?; // or any CudaContext that the program has already
//! let kernels = cuda::Kernels::get(&context)?;
//! let stream = context.new_stream()?;
//!
//! let op = DropActivation::default();
//! let keys = KeySequence::new(42);
//! let x = stream.clone_htod(&vec![-1.0f32; 1 << 20])?;
//! let mut y = stream.alloc_zeros::<f32>(x.len())?;
//! let mask = kernels.forward(&stream, &op, keys.next_key(), (&x, &mut y))?;
//!
//! let mut dy = stream.clone_htod(&vec![1.0f32; y.len()])?;
//! kernels.backward(&stream, &op, &mask, None, &mut dy)?; // dx takes the place of dy
//! let dx = stream.clone_dtoh(&dy)?;
//! # Ok(())
//! # }
//! ```
//!
//! # Who needs what
//! Building needs neither a CUDA toolkit nor a driver: the device code is embedded ([`device_code`] says which),
//! and the driver is loaded when it is first asked for. Without a driver or a device [`available`] and [`context`]
//! return an error; cudarc itself panics in that place, so a program that must run without a GPU asks here before
//! its first call of cudarc.
//!
//! The driver must be of CUDA 11.2 (460) or newer: cudarc asks it for what older ones do not know. What is embedded
//! without an nvcc is machine code for compute capabilities 7.5 to 12.0, which takes a driver of CUDA 13.0 (580), and
//! PTX that all of these drivers compile. [`Kernels::runs_ptx`] tells whether the driver has refused the first. Graphs
//! take a driver of CUDA 11.4 (470). None of this has met an old driver yet: `tests/data/driver-functions.csv` has what
//! is called and since when it is there, and the PTX was shown to the assembler of CUDA 12.0.
//!
//! # Contexts
//! [`Kernels`] is loaded once for a CUDA context. The stream of a call must be of that context, and every slice and
//! mask of the call must come from the stream's own `CudaContext` object: a second object for the same device
//! is refused ([`CudaError::Context`]), because cudarc keeps track of slices within one object only.
//!
//! # Streams: what waits for what
//! A call checks its arguments, enqueues at most one kernel on its stream (passes that sum over channels: two) and
//! returns; the host waits for nothing. ([`DeviceMask::to_host`] waits for the stream. The first call of a kind also
//! loads device code, which [`Kernels::preload`] can do ahead of time.) For empty tensors no kernel is launched.
//!
//! Slices and masks may be used on several streams, since each call takes part in cudarc's event tracking: it makes its
//! stream wait for the last work that wrote what it reads, and for the last work that read or wrote what it writes.
//! A slice may be dropped at any time; cudarc frees it when the work that it knows of is done. The first call on slices
//! of a [`CudaContext`](cudarc::driver::CudaContext) object has it track events for as long as the [`Kernels`] live,
//! which takes a stream of its own and waits for the context once. Where the driver refuses to have the
//! stream wait, the call is refused; where it refuses an event, the call waits for its work.
//!
//! The limits are cudarc's:
//! - Of several streams that read a slice at the same time, a write and a free wait for the one that came last.
//! - When the driver refuses one of the waits of cudarc's own copies and frees, these go on all the same.
//! - Streams that are borrowed from elsewhere (`wrap_borrowed_stream`, `unsafe`) are for the caller to keep alive; and
//!   with tracking turned off (`disable_event_tracking`, `unsafe`), all streams are for the caller to order.
//!
//! Memory for a new mask is allocated on the stream of the call. [`Kernels::forward_into`] allocates only if the mask
//! it is given has too little memory.
//!
//! # CUDA graphs
//! A graph replays its calls with the arguments that they were captured with. A [`MaskKey`](crate::MaskKey) is one of
//! them, so its mask would come back at every replay; a key of a [`DeviceKeySequence`] counts its offset from a base in
//! device memory, which the step's last call advances. So each replay draws the masks that the next step without a
//! graph would draw (`examples/05_cuda_graph.rs`).
//!
//! - Before the capture, load everything ([`Kernels::preload`]) and turn cudarc's event tracking off
//!   (`CudaContext::disable_event_tracking`): events of work outside a capture spoil it. From then on streams are for
//!   the caller to order. With tracking on, calls on a captured stream are refused ([`CudaError::Capturing`]).
//! - During the capture no thread may wait for the context: that spoils it, whichever stream is captured. Those that
//!   wait are the first call on slices of a context object that tracks events, cudarc's first `new_stream` of one, and
//!   whoever drops the last handle of the [`Kernels`].
//! - That function is `unsafe`, and who calls it to capture calls of this module promises besides to keep what is named
//!   below: cudarc's safe interface replays a graph whatever has become of its memory.
//! - Capture [`Kernels::forward_into`] and its like, which use a mask's memory again: a capture cannot allocate.
//! - Keep the [`Kernels`], the sequence, the tensors and the masks for as long as the graph is replayed.
//! - RReLU's mask keeps the offset that its slopes were drawn with, so its backward pass may be in the same graph, in
//!   another or in none, before or after the advance. It is the gradient of the last forward pass into that mask.
//!
//! # Tensors
//! Input and output are given as one [`InOut`]: `(&x, &mut y)`, or `&mut x` to overwrite x. They and the saved
//! tensors of a backward pass are slices or views, of [`Element`](crate::Element)s: one-dimensional, contiguous. Each
//! may start at any element of its allocation, and nothing outside it is touched; those that start at a multiple of 16
//! bytes are faster.
//!
//! # Results
//! Masks are those of the other backends, bit for bit; so are the outputs of ReLU and RReLU. For the other
//! activations [`crate::activation`] states the bounds.
//!
//! # Raw pointers
//! [`Kernels::launch_raw`] takes device addresses and a `CUstream`, for programs whose tensors are not cudarc's.

pub use cudarc;

mod addresses;
mod channels;
mod driver;
mod entry;
mod error;
mod fused;
mod geometry;
mod io;
mod key;
#[doc(hidden)]
pub mod launch;
#[doc(hidden)]
mod layout;
mod loader;
mod mask;
mod modules;
mod order;
mod parameters;
mod planned;
mod raw;
mod slices;
mod stream_checks;
#[cfg(test)]
mod test_passes;

pub use crate::pass::Pass;
pub use addresses::Addresses;
pub use channels::{FusedAddresses, workspace_bytes};
pub use driver::{available, context, device_count};
pub use error::CudaError;
pub use fused::{DyAndDr, FusedSlices, Workspace};
pub use io::{InOut, Saved};
pub use key::{DeviceKey, DeviceKeySequence, Key};
pub use loader::Kernels;
pub use mask::DeviceMask;

/// The device code that is embedded in this library: who compiled it, for which devices.
pub const fn device_code() -> &'static str {
    modules::ORIGIN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_can_be_shared_between_threads() {
        fn shared<T: Send + Sync>() {}
        shared::<Kernels>();
        shared::<DeviceMask>();
        shared::<CudaError>();
    }

    #[test]
    fn the_device_code_says_where_it_is_from() {
        assert!(device_code().contains("nvcc"), "{}", device_code());
    }
}
