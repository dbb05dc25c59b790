//! Random numbers that depend on a run's seed, what they are for and the epoch alone, so that a run that
//! goes on after an interruption draws what it would have drawn.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// Which part of a data set is used.
pub const SAMPLE: u32 = 0;
/// Initial parameters.
pub const PARAMETERS: u32 = 1;
/// The order of the training images.
pub const ORDER: u32 = 2;
/// Data augmentation.
pub const AUGMENTATION: u32 = 3;
/// Synthetic data and its noise.
pub const NOISE: u32 = 4;
/// Dropout's masks.
pub const DROPOUT: u32 = 5;

/// A generator of its own for each seed, purpose and step.
pub fn generator(seed: u64, purpose: u32, step: u32) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(u64::from(purpose) << 32 | u64::from(step));
    rng
}
