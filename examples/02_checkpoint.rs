//! What a checkpoint stores: the state of the key sequence, and, between a forward pass and its backward
//! pass, the mask.
//!
//!     cargo run --example 02_checkpoint

use drop_activation::{DropActivation, KeySequence, PackedMask, Result, cpu};

fn main() -> Result<()> {
    let op = DropActivation::default();
    let keys = KeySequence::new(7);
    let x = vec![-1.0f32; 1000];
    let mut y = vec![0.0; x.len()];
    let mask = cpu::forward(&op, keys.next_key(), (&x, &mut y))?;

    // Two numbers restore the sequence; bytes restore the mask, with what it was made by.
    let state = (keys.seed(), keys.next_offset());
    let bytes = mask.to_bytes()?;

    let resumed = KeySequence::resume(state.0, state.1);
    let restored = PackedMask::from_bytes(&bytes)?;
    assert_eq!(restored, mask);
    assert_eq!(resumed.next_key(), keys.next_key());
    println!("{} bytes hold the mask of {} elements, made by {}", bytes.len(), restored.len(), restored.origin());

    // Damage is found, and a mask of another operation is refused.
    let mut damaged = bytes;
    damaged[70] ^= 1;
    println!("a damaged mask: {}", PackedMask::from_bytes(&damaged).unwrap_err());
    let other = DropActivation::relu(0.9)?;
    println!("another operation: {}", cpu::backward(&other, &mask, None, &mut y).unwrap_err());
    Ok(())
}
