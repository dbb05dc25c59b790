//! A tensor in two shards: each gets its part of the whole tensor's mask.
//!
//!     cargo run --example 03_shards

use drop_activation::{DropActivation, MaskKey, Result, cpu};

fn main() -> Result<()> {
    let op = DropActivation::default();
    let key = MaskKey::new(42, 0);
    let x: Vec<f32> = (0..1000).map(|i| if i % 3 == 0 { 1.0 } else { -1.0 }).collect();

    let mut whole = vec![0.0; x.len()];
    cpu::forward(&op, key, (&x, &mut whole))?;

    // A shard says where it begins: at a multiple of 32, so that mask words are not split.
    let (left, right) = x.split_at(640);
    let mut sharded = vec![0.0; x.len()];
    let (left_y, right_y) = sharded.split_at_mut(640);
    cpu::forward(&op, key.shard(0)?, (left, left_y))?;
    cpu::forward(&op, key.shard(640)?, (right, right_y))?;

    assert_eq!(sharded, whole);
    println!("two shards give what the whole tensor gives");
    println!("a shard that begins in the middle of a word: {}", key.shard(641).unwrap_err());
    Ok(())
}
