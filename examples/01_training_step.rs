//! One layer's activation in a training step: forward, backward, and the same in place.
//!
//!     cargo run --example 01_training_step

use drop_activation::{Activation, DropActivation, KeySequence, Result, cpu};

fn main() -> Result<()> {
    // The paper's setting: keep ReLU with probability 0.95, else let the element through unchanged.
    let op = DropActivation::relu(0.95)?;
    // One fresh key for each call: another key, another mask.
    let keys = KeySequence::new(42);

    let x: Vec<f32> = (0..100).map(|i| i as f32 / 10.0 - 5.0).collect();
    let dy = vec![1.0; x.len()];

    // Out of place. ReLU's backward pass needs the mask alone: x may be gone by then.
    let (mut y, mut dx) = (vec![0.0; x.len()], vec![0.0; x.len()]);
    let mask = cpu::forward(&op, keys.next_key(), (&x, &mut y))?;
    cpu::backward(&op, &mask, None, (&dy, &mut dx))?;
    let through = y.iter().filter(|y| **y < 0.0).count();
    println!("{through} of 50 negative elements passed through a dropped ReLU");
    println!("kept for the backward pass: {} bytes for {} elements", 4 * mask.words().len(), x.len());

    // In place: y over x, dx over dy.
    let (mut activations, mut gradients) = (x.clone(), dy.clone());
    let mask = cpu::forward(&op, keys.next_key(), &mut activations)?;
    cpu::backward(&op, &mask, None, &mut gradients)?;

    // The other nonlinearities keep a bit, too, and take x again.
    let silu = DropActivation::new(Activation::Silu, 0.95)?;
    let mask = cpu::forward(&silu, keys.next_key(), (&x, &mut y))?;
    cpu::backward(&silu, &mask, Some(&x), (&dy, &mut dx))?;

    // At inference nothing is random: the mean of the training outputs.
    cpu::infer(&op, (&x, &mut y))?;
    println!("inference: relu_p({}) = {}", x[0], y[0]);
    Ok(())
}
