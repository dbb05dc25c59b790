//! More elements than 32 bits can count, on the CPU. (`tests/gpu.rs` does it on a GPU, and the kernels
//! run on windows of such tensors in `tests/mutants.rs`.)

use drop_activation::half::bf16;
use drop_activation::{DropActivation, MaskKey, cpu, reference};

use crate::data::{Rng, assert_each, same_bits};

#[test]
#[ignore = "takes 10 GB of memory; run with --release"]
fn beyond_2_to_the_32_elements() {
    const LEN: usize = (1 << 32) + 1500;
    let mut rng = Rng::new(111);
    let pattern: Vec<bf16> = rng.values(1_000_003);
    let original = |i: usize| pattern[i % pattern.len()];
    let mut x = Vec::with_capacity(LEN);
    x.extend((0..LEN).map(original));
    let (op, key) = (DropActivation::relu(0.6).unwrap(), MaskKey::new(112, 113));
    let mask = cpu::forward(&op, key, &mut x).unwrap();
    let windows = [0, (1 << 31) - 2048, (1 << 32) - 2048, LEN / 32 * 32 - 2048].map(|from| from..LEN.min(from + 4096));
    let expected = windows.each_ref().map(|window| {
        let shard = key.shard(window.start as u64).unwrap();
        let part: Vec<bf16> = window.clone().map(original).collect();
        let (y, part_mask) = reference::forward(&op, shard, &part).unwrap();
        assert_each(&|| format!("y {window:?}"), &x[window.clone()], &y, same_bits);
        assert_eq!(mask.words()[window.start / 32..window.end.div_ceil(32)], *part_mask.words(), "{window:?}");
        reference::backward(&op, &part_mask, None, &y).unwrap()
    });
    cpu::backward(&op, &mask, None, &mut x).unwrap();
    for (window, expected) in windows.iter().zip(expected) {
        assert_each(&|| format!("dx {window:?}"), &x[window.clone()], &expected, same_bits);
    }
}
