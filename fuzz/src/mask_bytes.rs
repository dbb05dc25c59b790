//! Any bytes are a stored mask, which stores itself as these bytes, or an error.
#![no_main]

use drop_activation::PackedMask;
use libfuzzer_sys::fuzz_target;

fn check(bytes: &[u8]) {
    let Ok(mask) = PackedMask::from_bytes(bytes) else { return };
    assert_eq!(mask.words().len(), mask.len().div_ceil(32));
    if let (Some(last), used @ 1..) = (mask.words().last(), mask.len() % 32) {
        assert_eq!(last >> used, 0);
    }
    // Zero may have a sign in the bytes, and be none of them any more.
    let again = mask.to_bytes().expect("there is memory");
    assert!(again == bytes || PackedMask::from_bytes(&again) == Ok(mask));
}

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    // The same with the checksum that they should have, behind which nobody gets by chance.
    if let Some(stored) = bytes.len().checked_sub(8) {
        let mut bytes = bytes.to_owned();
        let sum = bytes[..stored]
            .iter()
            .fold(0xCBF2_9CE4_8422_2325u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01B3));
        bytes[stored..].copy_from_slice(&sum.to_le_bytes());
        check(&bytes);
    }
});
