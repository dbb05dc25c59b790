//! The known answers: Philox's own, and keep words that an independent program computed from the text
//! of the mask stream.

use drop_activation::{DropActivation, MaskKey, reference};
use serde_json::Value;

use crate::backend::Backend;

fn vectors() -> Value {
    serde_json::from_str(include_str!("../data/mask-vectors.json")).expect("the vectors are JSON")
}

fn integer(value: &Value) -> u64 {
    value.as_str().expect("a decimal string").parse().expect("a decimal integer")
}

fn words(value: &Value) -> Vec<u32> {
    let word = |v: &Value| u32::from_str_radix(v.as_str().expect("a string"), 16).expect("a hexadecimal word");
    value.as_array().expect("a list").iter().map(word).collect()
}

#[test]
fn philox() {
    let vectors = vectors();
    let cases = vectors["philox4x32_10"].as_array().unwrap();
    assert_eq!(cases.len(), 3);
    for case in cases {
        let counter = words(&case["counter"]).try_into().unwrap();
        let key = words(&case["key"]).try_into().unwrap();
        assert_eq!(reference::philox4x32_10(counter, key).to_vec(), words(&case["out"]));
    }
}

#[test]
fn thresholds() {
    let vectors = vectors();
    for case in vectors["keep"].as_array().unwrap() {
        let op = DropActivation::relu(case["p"].as_f64().unwrap()).unwrap();
        assert_eq!(op.threshold(), integer(&case["threshold"]), "p = {}", op.p());
    }
}

pub fn keep_words(backend: &dyn Backend) {
    let vectors = vectors();
    let cases = vectors["keep"].as_array().unwrap();
    assert_eq!(cases.len(), 10);
    for case in cases {
        let key = MaskKey::new(integer(&case["seed"]), integer(&case["offset"]));
        let key = key.shard(integer(&case["first"])).unwrap();
        let p = case["p"].as_f64().unwrap();
        let expected = words(&case["keep_words"]);
        let len = 32 * expected.len();
        assert_eq!(backend.keep_words(p, key, len).unwrap(), expected, "p = {p}, {key:?}");

        // ReLU shows them too: below zero, what is kept does not pass.
        let op = DropActivation::relu(p).unwrap();
        let mut y = vec![-1.0f32; len];
        let mask = backend.run(&crate::backend::Call::Forward(op, key), (&mut y).into()).unwrap().unwrap();
        assert!(mask.words().iter().zip(&expected).all(|(pass, keep)| *pass == !keep), "p = {p}, {key:?}");
        let kept = |i: usize| expected[i / 32] >> (i % 32) & 1 == 1;
        assert!((0..len).all(|i| (y[i] == 0.0) == kept(i)), "p = {p}, {key:?}");
    }
}

/// Philox's first known answer (counter and key zero), read out of the masks themselves: an element's
/// uniform integer U has as its top four bits the number of thresholds j / 16 that it is not below, and
/// these four bits, over the 32 elements of a word, are the generator's four output words.
pub fn philox_in_masks(backend: &dyn Backend) {
    let below: Vec<u32> =
        (1..16).map(|j| backend.keep_words(f64::from(j) / 16.0, MaskKey::new(0, 0), 32).unwrap()[0]).collect();
    let mut out = [0u32; 4];
    for i in 0..32 {
        let top = below.iter().filter(|keep| **keep >> i & 1 == 0).count();
        for (k, word) in out.iter_mut().enumerate() {
            *word |= (top as u32 >> (3 - k) & 1) << i;
        }
    }
    assert_eq!(out.to_vec(), words(&vectors()["philox4x32_10"][0]["out"]), "{}", backend.name());
}
