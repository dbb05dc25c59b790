//! A training step captured into a CUDA graph: each replay draws fresh masks, those that the steps would draw without
//! a graph.
//!
//!     cargo run --release --example 05_cuda_graph

#[cfg(not(feature = "cuda"))]
fn main() {
    println!("this build is without the feature `cuda`");
}

#[cfg(feature = "cuda")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    use drop_activation::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
    use drop_activation::{DropActivation, KeySequence, cpu, cuda};

    let context = match cuda::context(0) {
        Ok(context) => context,
        Err(reason) => {
            println!("nothing to run on: {reason}");
            return Ok(());
        }
    };
    let kernels = cuda::Kernels::get(&context)?;
    let stream = context.new_stream()?;
    // SAFETY: this program has one stream, so nothing is left for cudarc's events to order; in a capture they do harm.
    unsafe { context.disable_event_tracking() };

    let op = DropActivation::default();
    let x: Vec<f32> = (0..1 << 20).map(|i| (i % 7) as f32 - 3.0).collect();
    let device_x = stream.clone_htod(&x)?;
    let (mut hidden, mut y) = (stream.alloc_zeros::<f32>(x.len())?, stream.alloc_zeros::<f32>(x.len())?);
    let mut gradient = stream.clone_htod(&vec![1.0f32; x.len()])?;

    // Two layers, their backward passes, and the end of the step, which moves the sequence on by its two keys. What
    // must not happen in a capture happens before: kernels are loaded, the masks get their memory.
    let mut keys = cuda::DeviceKeySequence::new(&kernels, &stream, 42)?;
    let mut first = kernels.forward(&stream, &op, keys.next_key(), (&device_x, &mut hidden))?;
    let mut second = kernels.forward(&stream, &op, keys.next_key(), (&hidden, &mut y))?;
    keys.advance(&stream)?;
    kernels.preload()?;

    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
    kernels.forward_into(&stream, &op, keys.next_key(), (&device_x, &mut hidden), &mut first)?;
    kernels.forward_into(&stream, &op, keys.next_key(), (&hidden, &mut y), &mut second)?;
    kernels.backward(&stream, &op, &second, None, &mut gradient)?;
    kernels.backward(&stream, &op, &first, None, &mut gradient)?;
    keys.advance(&stream)?;
    let graph = stream.end_capture(CUgraphInstantiate_flags(0))?.ok_or("an empty graph")?;

    // The same sequence on the host, behind the two keys of the step before the capture.
    let plain = KeySequence::resume(42, 2);
    for step in 0..5 {
        graph.launch()?;
        let (mut host_hidden, mut host_y) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        assert_eq!(first.to_host(&stream)?, cpu::forward(&op, plain.next_key(), (&x, &mut host_hidden))?);
        assert_eq!(second.to_host(&stream)?, cpu::forward(&op, plain.next_key(), (&host_hidden, &mut host_y))?);
        println!("replay {step}: the masks are those of a step without a graph");
    }
    // For a checkpoint: this and the seed.
    assert_eq!(keys.read(&stream)?, plain.next_offset());
    Ok(())
}
