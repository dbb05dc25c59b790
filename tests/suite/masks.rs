//! Masks as data: to words and bytes and back, what damage is noticed, and the keys that name them.

use std::collections::HashSet;
use std::thread;

use drop_activation::{
    Activation, DropActivation, Error, KeySequence, MaskKey, MaskKind, MaskOrigin, PackedMask, RRelu, cpu,
};

use crate::data::Rng;

fn origins() -> Vec<MaskOrigin> {
    let operations = Activation::ALL.map(|a| MaskOrigin::DropActivation(DropActivation::new(a, 0.6).unwrap()));
    let key = MaskKey::new(u64::MAX - 1, 1 << 63).shard(1 << 40).unwrap();
    let rrelu = MaskOrigin::RRelu(RRelu::new(0.25, 0.5).unwrap(), key);
    operations.into_iter().chain([rrelu]).collect()
}

/// A mask with arbitrary bits.
fn mask(origin: MaskOrigin, len: usize, rng: &mut Rng) -> PackedMask {
    let mut words: Vec<u32> = (0..len.div_ceil(32)).map(|_| rng.bits() as u32).collect();
    if let (Some(last), used @ 1..) = (words.last_mut(), len % 32) {
        *last &= (1 << used) - 1;
    }
    PackedMask::from_words(origin, len, words).unwrap()
}

#[test]
fn words_round_trip() {
    let mut rng = Rng::new(51);
    for origin in origins() {
        for len in [0, 1, 31, 32, 33, 1000, 1024] {
            let mask = mask(origin, len, &mut rng);
            assert_eq!((mask.origin(), mask.len(), mask.is_empty()), (origin, len, len == 0));
            assert_eq!(mask.words().len(), len.div_ceil(32));
            assert_eq!(PackedMask::from_words(origin, len, mask.words().to_vec()).unwrap(), mask);
            for i in 0..len {
                assert_eq!(mask.bit(i), Some(mask.words()[i / 32] & 1 << (i % 32) != 0));
            }
            assert_eq!((mask.bit(len), mask.bit(usize::MAX)), (None, None));
            assert_eq!(mask.clone().into_words(), mask.words());
        }
    }
}

#[test]
fn kinds() {
    let kinds: Vec<MaskKind> = origins().iter().map(MaskOrigin::kind).collect();
    let of = |activation| if activation == Activation::Relu { MaskKind::Pass } else { MaskKind::Keep };
    assert_eq!(kinds, [&Activation::ALL.map(of)[..], &[MaskKind::Sign]].concat());
}

#[test]
fn invalid_words() {
    for origin in origins() {
        for (len, count) in [(0, 1), (1, 0), (1, 2), (32, 2), (33, 1), (33, 3), (usize::MAX, 0)] {
            let error = PackedMask::from_words(origin, len, vec![0; count]).unwrap_err();
            assert!(matches!(error, Error::MaskWords { len: l, .. } if l == len), "{error:?}");
            let text = error.to_string();
            assert!(text.contains(&format!("{len} elements")) && text.ends_with(&format!("got {count}")), "{text}");
        }
        for len in [1usize, 17, 31, 33, 63] {
            for unused in len % 32..32 {
                let mut words = vec![0; len.div_ceil(32)];
                *words.last_mut().unwrap() = 1 << unused;
                let error = PackedMask::from_words(origin, len, words).unwrap_err();
                assert!(matches!(error, Error::MaskWords { .. }), "{error:?}");
                assert!(error.to_string().contains(&format!("{} bits", len % 32)), "{error}");
            }
        }
    }
    // The slopes would be drawn at indices that do not exist.
    let first = u64::MAX - 31;
    let origin = MaskOrigin::RRelu(RRelu::default(), MaskKey::new(0, 0).shard(first).unwrap());
    assert!(PackedMask::from_words(origin, 32, vec![0]).is_ok());
    let error = PackedMask::from_words(origin, 33, vec![0, 0]).unwrap_err();
    assert_eq!(error, Error::IndexRange { first, len: 33 });
}

#[test]
fn bytes_round_trip() {
    let mut rng = Rng::new(52);
    for origin in origins() {
        for len in [0, 1, 32, 33, 1000] {
            let mask = mask(origin, len, &mut rng);
            assert_eq!(PackedMask::from_bytes(&mask.to_bytes().unwrap()).unwrap(), mask);
        }
    }
}

/// The stored form never changes: checkpoints outlive versions.
#[test]
fn stored_bytes() {
    let gelu = MaskOrigin::DropActivation(DropActivation::new(Activation::Gelu, 0.5).unwrap());
    let key = MaskKey::new(0x0102_0304_0506_0708, 0x1112_1314_1516_1718).shard(64).unwrap();
    let rrelu = MaskOrigin::RRelu(RRelu::new(0.125, 0.5).unwrap(), key);
    let stored = |origin, len, words: &[u32]| {
        let bytes = PackedMask::from_words(origin, len, words.to_vec()).unwrap().to_bytes().unwrap();
        bytes.iter().map(|b| format!("{b:02x}")).collect::<String>()
    };
    let zero = "0".repeat(16);
    let gelu_header = ["44726f704d736b31", "0000000003000000", "000000000000e03f", &zero, &zero, &zero].concat();
    assert_eq!(
        stored(gelu, 40, &[0xDEAD_BEEF, 0x7F]),
        [&gelu_header, "2800000000000000", &zero, "efbeadde", "7f000000", "7b1a26896c00062a"].concat()
    );
    let rrelu_header = ["44726f704d736b31", "0100000000000000", "0000003e0000003f", "0807060504030201"].concat();
    let rrelu_header = [&rrelu_header, "1817161514131211", "4000000000000000"].concat();
    assert_eq!(stored(rrelu, 0, &[]), [&rrelu_header, &zero, &zero, "2e8c369b2be5d874"].concat());
}

/// One flipped bit, one byte less, one byte more: each is noticed.
#[test]
fn damaged_bytes() {
    let mut rng = Rng::new(53);
    for origin in origins() {
        for len in [0, 5, 100] {
            let bytes = mask(origin, len, &mut rng).to_bytes().unwrap();
            let refused = |bytes: &[u8], what: &str| {
                let error = PackedMask::from_bytes(bytes).expect_err(what);
                assert!(matches!(error, Error::MaskBytes { .. }), "{what}: {error:?}");
                assert!(error.to_string().starts_with("bytes must be a stored mask, "), "{error}");
            };
            for bit in 0..8 * bytes.len() {
                let mut damaged = bytes.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                refused(&damaged, &format!("bit {bit} flipped"));
            }
            for kept in 0..bytes.len() {
                refused(&bytes[..kept], &format!("cut to {kept} bytes"));
                refused(&bytes[bytes.len() - kept..], &format!("its last {kept} bytes"));
            }
            refused(&[&bytes[..], &[0]].concat(), "a byte too many");
            refused(&[&bytes[..], &bytes[..]].concat(), "twice");
        }
    }
}

/// With a checksum that fits, so that what is behind it is reached.
#[test]
fn forged_bytes() {
    let forge = |change: &dyn Fn(&mut Vec<u8>)| {
        let origin = MaskOrigin::RRelu(RRelu::default(), MaskKey::new(1, 2));
        let mut bytes = PackedMask::from_words(origin, 40, vec![1, 2]).unwrap().to_bytes().unwrap();
        bytes.truncate(bytes.len() - 8);
        change(&mut bytes);
        let fnv = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01B3);
        let sum = bytes.iter().fold(0xCBF2_9CE4_8422_2325, fnv);
        bytes.extend(sum.to_le_bytes());
        PackedMask::from_bytes(&bytes)
    };
    let put = |at: usize, field: u64| {
        forge(&move |bytes: &mut Vec<u8>| bytes[8 * at..8 * at + 8].copy_from_slice(&field.to_le_bytes()))
    };
    assert!(forge(&|_| ()).is_ok(), "the forger knows the format");
    let is_bytes = |result: drop_activation::Result<PackedMask>| matches!(result, Err(Error::MaskBytes { .. }));

    assert!(is_bytes(put(0, 0)), "another format");
    // The codes count the operations and, in the upper half, the activations.
    let no_activation = (Activation::ALL.len() as u64) << 32;
    for codes in [2, u64::MAX, 1 | 1 << 32, no_activation, u64::from(u32::MAX) << 32] {
        assert!(is_bytes(put(1, codes)), "operation codes {codes:#x}");
    }
    assert!(is_bytes(put(7, 1)), "a reserved field");
    // Lengths that have nothing to do with the words at hand; nothing may be allocated for them.
    for len in [0, 32, 65, 1 << 32, 1 << 61, u64::MAX - 31, u64::MAX] {
        assert!(is_bytes(put(6, len)), "{len} elements");
    }
    let slopes = |lower: f32, upper: f32| put(2, u64::from(lower.to_bits()) | u64::from(upper.to_bits()) << 32);
    assert!(matches!(slopes(0.5, 0.25), Err(Error::Slopes { .. })));
    assert!(matches!(slopes(f32::NAN, 0.25), Err(Error::Slopes { .. })));
    assert!(matches!(put(5, 7), Err(Error::First { first: 7 })));
    assert!(matches!(put(5, u64::MAX - 31), Err(Error::IndexRange { .. })));
    let unused = forge(&|bytes| *bytes.last_mut().unwrap() = 0x80);
    assert!(matches!(unused, Err(Error::MaskWords { .. })));
    for p in [f64::NAN, -0.5, 1.5, f64::INFINITY] {
        let forged = forge(&|bytes| {
            bytes[8..16].fill(0);
            bytes[16..24].copy_from_slice(&p.to_le_bytes());
        });
        assert!(matches!(forged, Err(Error::Probability { .. })), "p = {p}");
    }
}

/// A mask whose bits are not those of the forward pass is a wrong mask and nothing worse.
#[test]
fn a_wrong_mask_gives_a_wrong_gradient_and_nothing_else() {
    let mut rng = Rng::new(54);
    let op = DropActivation::default();
    let dy: Vec<f32> = (0..1000).map(|_| rng.normal() as f32).collect();
    let wrong = mask(MaskOrigin::DropActivation(op), dy.len(), &mut rng);
    let mut dx = dy.clone();
    cpu::backward(&op, &wrong, None, &mut dx).unwrap();
    for i in 0..dy.len() {
        assert_eq!(dx[i], if wrong.bit(i).unwrap() { dy[i] } else { 0.0 });
    }
}

#[test]
fn key_sequences_count_up() {
    let keys = KeySequence::new(7);
    for offset in 0..100 {
        assert_eq!(keys.next_offset(), offset);
        assert_eq!(keys.next_key(), MaskKey::new(7, offset));
    }
    assert_eq!((keys.seed(), keys.next_offset()), (7, 100));
}

/// Stored and resumed, a sequence hands out what it would have handed out.
#[test]
fn key_sequences_resume() {
    let keys = KeySequence::resume(9, u64::MAX - 2);
    let _ = keys.next_key();
    let resumed = KeySequence::resume(keys.seed(), keys.next_offset());
    let copied = keys.clone();
    let next = |keys: &KeySequence| (0..5).map(|_| keys.next_key()).collect::<Vec<_>>();
    let expected = [u64::MAX - 1, u64::MAX, 0, 1, 2].map(|offset| MaskKey::new(9, offset));
    assert_eq!(next(&keys), expected);
    assert_eq!(next(&resumed), expected);
    assert_eq!(next(&copied), expected);
}

#[test]
fn threads_get_keys_of_their_own() {
    let keys = KeySequence::new(11);
    let all: Vec<MaskKey> = thread::scope(|scope| {
        let threads: Vec<_> =
            (0..8).map(|_| scope.spawn(|| (0..5000).map(|_| keys.next_key()).collect::<Vec<_>>())).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let distinct: HashSet<MaskKey> = all.iter().copied().collect();
    assert_eq!((all.len(), distinct.len()), (40_000, 40_000));
    assert_eq!(keys.next_offset(), 40_000);
}

/// A matrix of rows with a multiple of 128 elements has the ReLU bit mask that cuBLASLt makes and takes: bit
/// `row * ld + col`, least significant first, with `ld` = the row's length, is set where the element passes.
#[test]
fn the_mask_of_a_matrix_is_cublaslt_s() {
    let (rows, ld) = (5, 256);
    let mut rng = Rng::new(57);
    let x: Vec<f32> = (0..rows * ld).map(|_| if rng.below(9) == 0 { 0.0 } else { rng.normal() as f32 }).collect();
    for p in [1.0, 0.6] {
        let op = DropActivation::relu(p).unwrap();
        let mut y = x.clone();
        let mask = cpu::forward(&op, MaskKey::new(1, 2), &mut y).unwrap();
        let bytes: Vec<u8> = mask.words().iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(bytes.len(), rows * ld / 8, "rows follow each other without a gap");
        for row in 0..rows {
            for col in 0..ld {
                let i = row * ld + col;
                let bit = bytes[i / 8] >> (i % 8) & 1 == 1;
                // A negative element that is dropped passes; without dropping, the bit is ReLU's.
                let passes = x[i] > 0.0 || (y[i] < 0.0) || (p != 1.0 && x[i] == 0.0 && bit);
                assert_eq!(bit, passes, "[{row}, {col}] of {}", x[i]);
            }
        }
    }
}
