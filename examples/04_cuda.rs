//! The same on a GPU, on the caller's stream, with the mask's memory used again for each step.
//!
//!     cargo run --release --example 04_cuda

#[cfg(not(feature = "cuda"))]
fn main() {
    println!("this build is without the feature `cuda`");
}

#[cfg(feature = "cuda")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    use drop_activation::{DropActivation, KeySequence, cpu, cuda};

    println!("embedded: {}", cuda::device_code());
    // Asks whether there is a driver and a device; never panics.
    let context = match cuda::context(0) {
        Ok(context) => context,
        Err(reason) => {
            println!("nothing to run on: {reason}");
            return Ok(());
        }
    };
    let kernels = cuda::Kernels::get(&context)?;
    let stream = context.new_stream()?;

    let op = DropActivation::default();
    let keys = KeySequence::new(42);
    let x: Vec<f32> = (0..1 << 20).map(|i| (i % 7) as f32 - 3.0).collect();
    let device_x = stream.clone_htod(&x)?;
    let mut y = stream.alloc_zeros::<f32>(x.len())?;
    let mut gradient = stream.alloc_zeros::<f32>(x.len())?;

    // Each call enqueues one kernel and returns; forward_into allocates only when a mask must grow.
    let key = keys.next_key();
    let mut mask = kernels.forward(&stream, &op, key, (&device_x, &mut y))?;
    for _ in 0..10 {
        kernels.backward(&stream, &op, &mask, None, &mut gradient)?;
        kernels.forward_into(&stream, &op, keys.next_key(), (&device_x, &mut y), &mut mask)?;
    }

    // The mask of a key is the same everywhere.
    kernels.forward_into(&stream, &op, key, (&device_x, &mut y), &mut mask)?;
    let mut host_y = vec![0.0; x.len()];
    let host_mask = cpu::forward(&op, key, (&x, &mut host_y))?;
    assert_eq!(mask.to_host(&stream)?, host_mask);
    assert_eq!(stream.clone_dtoh(&y)?, host_y);
    println!("the GPU's mask and output are the CPU's, bit for bit");
    Ok(())
}
