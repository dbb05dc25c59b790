//! A hostile caller of the CPU backend: random sequences of calls over a few tensors, masks and operations,
//! with everything that safe code can get wrong. Lengths, masks of other calls, saved tensors, keys and
//! probabilities at their edges, stored masks that were damaged or forged.
//!
//! Each call must do exactly what the reference does and write nothing else, or give an error that is due and
//! write nothing at all.

use drop_activation::half::{bf16, f16};
use drop_activation::{
    Activation, DropActivation, Dtype, Error, InOut, KeySequence, MaskKey, MaskOrigin, PackedMask, RRelu, cpu,
    reference,
};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::backend::{Call, Reference, Run};
use crate::data::{Bits, Rng, assert_each, same_bits, same_or_nan};
use crate::support::calls::{Arguments, Kind, on_cpu, overrun};
use crate::support::property::{self, Tally};

/// Elements of a tensor that a call gets.
const LONGEST: usize = 5_000;
/// Elements that stay free before and after each, and how far one may be moved.
const MARGIN: usize = 128;
/// Elements of the memory that tensors lie in: enough for two.
const MEMORY: usize = 2 * (LONGEST + MARGIN) + MARGIN;
const MASKS: usize = 6;

#[derive(Clone, Copy, Debug)]
enum Place {
    Overwritten,
    Apart,
    /// The input ends where the output begins.
    Adjacent,
}

/// What does not fit the input's length.
#[derive(Clone, Copy, Debug)]
enum Odd {
    Nothing,
    Output(usize),
    Saved(usize),
    NoSaved,
}

#[derive(Clone, Copy, Debug)]
enum Key {
    Next,
    Given { seed: u64, offset: u64, first: u64 },
}

#[derive(Clone, Debug)]
struct Choice {
    kind: Kind,
    dtype: Dtype,
    place: Place,
    /// Offsets of input, output and saved tensor.
    at: [usize; 3],
    len: usize,
    /// The mask's length and operation in place of those drawn.
    fitting: [bool; 2],
    odd: Odd,
    op: Index,
    key: Key,
    mask: Index,
}

#[derive(Clone, Debug)]
enum Damage {
    None,
    Flip(Index),
    Truncate(Index),
    Extend(Vec<u8>),
    /// The other mask's bytes from there on.
    Splice(Index, Index),
    /// Eight bytes changed, and the checksum made right.
    Forge {
        field: Index,
        xor: u64,
    },
}

#[derive(Clone, Debug)]
enum Action {
    Call(Choice),
    Keep { op: Index, key: Key, len: usize },
    Store { mask: Index, damage: Damage },
    Words { mask: Index, key: Key, len: i64, words: i64, set: u32 },
    Operation { activation: Index, p: f64 },
    Slopes { lower: f32, upper: f32 },
}

fn lengths() -> impl Strategy<Value = usize> {
    let near_tiles = (0..4usize, 0..3usize).prop_map(|(k, d)| (1024 * k + d).saturating_sub(1));
    prop_oneof![2 => 0..70usize, 1 => near_tiles, 2 => 0..LONGEST]
}

fn keys() -> impl Strategy<Value = Key> {
    let edge = prop_oneof![Just(0), Just(1 << 32), Just(1 << 63), Just(u64::MAX), any::<u64>()];
    let near = |back: std::ops::Range<u64>| back.prop_map(|k| 0u64.wrapping_sub(32 * k));
    let first =
        prop_oneof![4 => Just(0), 2 => (0..1u64 << 59).prop_map(|k| 32 * k), 2 => near(0..200), 1 => any::<u64>()];
    let given = (edge.clone(), edge, first).prop_map(|(seed, offset, first)| Key::Given { seed, offset, first });
    prop_oneof![1 => Just(Key::Next), 3 => given]
}

fn probabilities() -> impl Strategy<Value = f64> {
    let tiny = 2f64.powi(-33);
    let edges = [0.0, -0.0, 1.0, 0.5, tiny, 1.0 - tiny, 1.0 - f64::EPSILON, 1.0 + f64::EPSILON, 5e-324, -5e-324, 95.0];
    prop_oneof![prop::sample::select(edges.to_vec()), 0.0..=1.0f64, any::<u64>().prop_map(f64::from_bits)]
}

fn calls() -> impl Strategy<Value = Action> {
    let types = [Dtype::F32, Dtype::F64, Dtype::F16, Dtype::Bf16];
    let places = [Place::Overwritten, Place::Apart, Place::Adjacent];
    let odd = prop_oneof![
        6 => Just(Odd::Nothing),
        1 => lengths().prop_map(Odd::Output),
        1 => lengths().prop_map(Odd::Saved),
        1 => Just(Odd::NoSaved),
    ];
    let what = (prop::sample::select(Kind::ALL.to_vec()), prop::sample::select(types.to_vec()), any::<Index>(), keys());
    let at = [0..MARGIN, 0..MARGIN, 0..MARGIN];
    let how = (prop::sample::select(places.to_vec()), at, lengths(), odd);
    let mask = (any::<Index>(), [prop::bool::weighted(0.85), prop::bool::weighted(0.85)]);
    (what, how, mask).prop_map(|((kind, dtype, op, key), (place, at, len, odd), (mask, fitting))| {
        Action::Call(Choice { kind, dtype, place, at, len, fitting, odd, op, key, mask })
    })
}

fn damages() -> impl Strategy<Value = Damage> {
    let xor = prop_oneof![2 => (0..64u32).prop_map(|bit| 1 << bit), 3 => 0..64u64, 2 => Just(!31), 1 => any::<u64>()];
    prop_oneof![
        2 => Just(Damage::None),
        4 => any::<Index>().prop_map(Damage::Flip),
        2 => any::<Index>().prop_map(Damage::Truncate),
        1 => prop::collection::vec(any::<u8>(), 1..20).prop_map(Damage::Extend),
        2 => any::<(Index, Index)>().prop_map(|(other, from)| Damage::Splice(other, from)),
        6 => (any::<Index>(), xor).prop_map(|(field, xor)| Damage::Forge { field, xor }),
    ]
}

fn actions() -> impl Strategy<Value = Action> {
    let keep = (any::<Index>(), keys(), lengths()).prop_map(|(op, key, len)| Action::Keep { op, key, len });
    let store = (any::<Index>(), damages()).prop_map(|(mask, damage)| Action::Store { mask, damage });
    let more = prop_oneof![2 => Just(0), 1 => -2..3i64];
    let words = (any::<Index>(), keys(), prop_oneof![3 => -40..40i64, 1 => any::<i64>()], more, 0..40u32);
    let words = words.prop_map(|(mask, key, len, words, set)| Action::Words { mask, key, len, words, set });
    let operation = (any::<Index>(), probabilities());
    let slope = || prop_oneof![2 => 0.0..=1.0f32, 1 => any::<u32>().prop_map(f32::from_bits)];
    prop_oneof![
        12 => calls(),
        1 => keep,
        3 => store,
        2 => words,
        1 => operation.prop_map(|(activation, p)| Action::Operation { activation, p }),
        1 => (slope(), slope()).prop_map(|(lower, upper)| Action::Slopes { lower, upper }),
    ]
}

/// Two pieces of memory. Calls write to the second, and mostly read from the first; then they change places.
type Memory<T> = [Vec<T>; 2];

#[derive(Clone, Debug)]
struct World {
    f32: Memory<f32>,
    f64: Memory<f64>,
    f16: Memory<f16>,
    bf16: Memory<bf16>,
    ops: Vec<DropActivation>,
    rrelus: Vec<RRelu>,
    masks: Vec<PackedMask>,
    keys: KeySequence,
    next_offset: u64,
}

/// The error's name.
fn name(error: &Error) -> String {
    format!("{error:?}").split(' ').next().unwrap().to_owned()
}

fn memory<T: Bits>(rng: &mut Rng) -> Memory<T> {
    [rng.values(MEMORY), rng.values(MEMORY)]
}

impl World {
    fn new() -> Self {
        let mut rng = Rng::new(7);
        let mut ops = vec![DropActivation::default()];
        ops.extend(Activation::ALL.map(|a| DropActivation::new(a, 0.5).unwrap()));
        let rrelus = vec![RRelu::default(), RRelu::new(0.25, 0.25).unwrap()];
        let (key, x) = (MaskKey::new(1, 1), rng.values::<f32>(LONGEST));
        let drop = |i: usize, len| reference::forward(&ops[i], key, &x[..len]).unwrap().1;
        let rrelu = |i: usize, len| reference::rrelu_forward(&rrelus[i], key, &x[..len]).unwrap().1;
        let masks: [_; MASKS] = [drop(0, 0), drop(1, 33), drop(4, 4000), drop(0, 64), rrelu(0, 1), rrelu(1, 999)];
        let next_offset = u64::MAX - 1;
        Self {
            f32: memory(&mut rng),
            f64: memory(&mut rng),
            f16: memory(&mut rng),
            bf16: memory(&mut rng),
            ops,
            rrelus,
            masks: masks.into(),
            keys: KeySequence::resume(3, next_offset),
            next_offset,
        }
    }

    fn apply(&mut self, action: &Action, tally: &Tally) {
        match action {
            Action::Call(choice) => match choice.dtype {
                Dtype::F32 => self.call(choice, |world| &mut world.f32, tally),
                Dtype::F64 => self.call(choice, |world| &mut world.f64, tally),
                Dtype::F16 => self.call(choice, |world| &mut world.f16, tally),
                Dtype::Bf16 => self.call(choice, |world| &mut world.bf16, tally),
            },
            Action::Keep { op, key, len } => {
                let (op, key) = (*op.get(&self.ops), self.key(*key, tally));
                let drawn = cpu::keep_mask(&op, key, *len);
                assert_eq!(drawn, reference::keep_mask(&op, key, *len), "{op} {key:?} {len}");
                assert_eq!(drawn.err(), overrun(key, *len));
            }
            Action::Store { mask, damage } => self.store(*mask, damage, tally),
            Action::Words { mask, key, len, words, set } => {
                let mask = mask.get(&self.masks).clone();
                let origin = match mask.origin() {
                    MaskOrigin::RRelu(op, _) => MaskOrigin::RRelu(op, self.key(*key, tally)),
                    origin => origin,
                };
                let len = (mask.len() as i64).wrapping_add(*len) as usize;
                self.words(mask, origin, len, *words, *set, tally);
            }
            Action::Operation { activation, p } => {
                let activation = *activation.get(&Activation::ALL);
                match DropActivation::new(activation, *p) {
                    Ok(op) => {
                        assert!(*p >= 0.0 && *p <= 1.0 && op.activation() == activation && op.p() == *p);
                        assert!(op.threshold() <= 1 << 32 && (op.threshold() as f64 - p * 2f64.powi(32)).abs() <= 0.5);
                        self.ops.truncate(12);
                        self.ops.push(op);
                    }
                    Err(Error::Probability { p: given }) => {
                        assert!(!(*p >= 0.0 && *p <= 1.0) && given.to_bits() == p.to_bits());
                    }
                    Err(other) => panic!("{other:?}"),
                }
            }
            Action::Slopes { lower, upper } => {
                let allowed = *lower > 0.0 && lower <= upper && *upper <= 1.0;
                match RRelu::new(*lower, *upper) {
                    Ok(op) => {
                        assert!(allowed && op.lower() == *lower && op.upper() == *upper);
                        self.rrelus.truncate(6);
                        self.rrelus.push(op);
                    }
                    Err(Error::Slopes { .. }) => assert!(!allowed),
                    Err(other) => panic!("{other:?}"),
                }
            }
        }
    }

    fn key(&mut self, key: Key, tally: &Tally) -> MaskKey {
        match key {
            Key::Next => {
                let key = self.keys.next_key();
                assert_eq!((key.seed(), key.offset(), key.first()), (3, self.next_offset, 0));
                self.next_offset = self.next_offset.wrapping_add(1);
                assert_eq!(self.keys.next_offset(), self.next_offset);
                key
            }
            Key::Given { seed, offset, first } => {
                let key = MaskKey::new(seed, offset);
                match key.shard(first) {
                    Ok(key) => {
                        assert_eq!((key.seed(), key.offset(), key.first(), first % 32), (seed, offset, first, 0));
                        key
                    }
                    Err(error) => {
                        assert!(first % 32 != 0 && error == Error::First { first }, "{error:?}");
                        tally.count(name(&error));
                        key
                    }
                }
            }
        }
    }

    fn call<T: Bits>(&mut self, choice: &Choice, memory: impl Fn(&mut Self) -> &mut Memory<T>, tally: &Tally) {
        let Choice { kind, place, at, odd, .. } = *choice;
        let key = self.key(choice.key, tally);
        let mask = choice.mask.get(&self.masks).clone();
        let [fitting_len, fitting_op] = choice.fitting;
        let (mut op, mut rrelu) = (*choice.op.get(&self.ops), *choice.op.get(&self.rrelus));
        if fitting_op {
            match mask.origin() {
                MaskOrigin::DropActivation(made_by) if kind == Kind::Backward => op = made_by,
                MaskOrigin::RRelu(made_by, _) if kind == Kind::RreluBackward => rrelu = made_by,
                _ => {}
            }
        }
        let len = if kind.reads_mask() && fitting_len { mask.len().min(LONGEST) } else { choice.len };
        let out_len = match (odd, place) {
            (_, Place::Overwritten) => len,
            (Odd::Output(len), _) => len,
            _ => len,
        };
        let saved_len = if let Odd::Saved(len) = odd { len } else { len };

        // The places, each at least a margin from the ends, and the call.
        let [a, b] = memory(self);
        let before = [a.clone(), b.clone()];
        let saved = &a[MARGIN + at[2]..][..saved_len];
        let out_at = match place {
            Place::Adjacent => MARGIN + at[0] + len,
            _ => MARGIN + at[1],
        };
        let input = match place {
            Place::Overwritten => before[1][out_at..][..len].to_vec(),
            Place::Apart => a[MARGIN + at[0]..][..len].to_vec(),
            Place::Adjacent => b[MARGIN + at[0]..][..len].to_vec(),
        };
        let (head, tail) = b.split_at_mut(out_at);
        let out = &mut tail[..out_len];
        let io = match place {
            Place::Overwritten => InOut::InPlace(out),
            Place::Apart => InOut::OutOfPlace(&a[MARGIN + at[0]..][..len], out),
            Place::Adjacent => InOut::OutOfPlace(&head[MARGIN + at[0]..], out),
        };
        let with_saved = !matches!(odd, Odd::NoSaved);
        let call = Call::new(kind, Arguments { op, rrelu, key, mask: &mask, saved, with_saved });
        let mut refilled = mask.clone();
        let given = on_cpu(&call, io, &mut refilled);
        let due = call.due(len, out_len, saved_len, (mask.origin(), mask.len()));
        let mut y = input.clone();
        let expected = Reference.run_call(&call, (&input, &mut y).into());

        let what = || format!("{op} {rrelu} {key:?} {choice:?}, {len} elements and a mask for {}", mask.len());
        let mut after = before.clone();
        match (given, expected) {
            (Ok(made), Ok(made_by_reference)) => {
                assert!(due.is_empty(), "{} succeeded, but {due:?}", what());
                let made = if kind.refills_mask() { Some(refilled.clone()) } else { made };
                assert_eq!(made, made_by_reference, "{}", what());
                after[1][out_at..][..len].copy_from_slice(&y);
                tally.count(format!("{kind:?}"));
                if let Some(made) = made {
                    assert_eq!((made.bit(len), made.bit(usize::MAX)), (None, None));
                    let place = choice.mask.index(MASKS);
                    self.masks[place] = made;
                }
            }
            (Err(error), expected) => {
                assert!(due.contains(&error), "{}: {error}; expected {due:?}", what());
                if let Err(other) = expected {
                    assert!(due.contains(&other), "reference, {}: {other}; expected {due:?}", what());
                }
                assert_eq!(refilled, mask, "{} changed the mask", what());
                tally.count(name(&error));
            }
            (Ok(_), Err(error)) => panic!("{} succeeded, but the reference says {error}", what()),
        }
        assert!(kind.refills_mask() || refilled == mask);
        let exact = op.activation() == Activation::Relu
            || !matches!(kind, Kind::Forward | Kind::ForwardInto | Kind::Backward | Kind::Infer | Kind::InferBackward);
        let memory = memory(self);
        for (now, then) in memory.iter().zip(&after) {
            assert_each(&what, now, then, if exact { same_bits } else { same_or_nan });
        }
        memory.swap(0, 1);
    }

    /// Stored, damaged and read back.
    fn store(&mut self, mask: Index, damage: &Damage, tally: &Tally) {
        let stored = mask.get(&self.masks).to_bytes().unwrap();
        let mut bytes = stored.clone();
        match damage {
            Damage::None => {}
            Damage::Flip(bit) => {
                let bit = bit.index(8 * bytes.len());
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            Damage::Truncate(len) => bytes.truncate(len.index(bytes.len())),
            Damage::Extend(more) => bytes.extend(more),
            Damage::Splice(other, from) => {
                let other = other.get(&self.masks).to_bytes().unwrap();
                let from = from.index(bytes.len().min(other.len()));
                bytes.truncate(from);
                bytes.extend(&other[from..]);
            }
            Damage::Forge { field, xor } => {
                // Mostly the header: eight fields of eight bytes.
                let at = if field.index(4) == 0 { field.index(bytes.len() - 15) } else { 8 * field.index(8) };
                let value = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) ^ xor;
                bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
                let end = bytes.len() - 8;
                let fnv = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01B3);
                let sum = bytes[..end].iter().fold(0xCBF2_9CE4_8422_2325, fnv);
                bytes[end..].copy_from_slice(&sum.to_le_bytes());
            }
        }
        let forged = matches!(damage, Damage::Forge { .. });
        match PackedMask::from_bytes(&bytes) {
            Ok(read) => {
                tally.count(if forged { "forged mask" } else { "stored mask" });
                // Nobody can tell a forged mask from a true one, but a mask it must be.
                let again = read.to_bytes().unwrap();
                assert!(forged || again == bytes, "{damage:?}: read what was not stored");
                assert_eq!(PackedMask::from_bytes(&again).as_ref(), Ok(&read));
                is_a_mask(&read);
                self.masks[mask.index(MASKS)] = read;
            }
            Err(error) => {
                assert_ne!(bytes, stored, "{error}");
                tally.count(format!("{} in stored bytes", name(&error)));
                assert!(forged || matches!(error, Error::MaskBytes { .. }), "{damage:?}: {error:?}");
                use Error::{First, IndexRange, MaskBytes, MaskWords, Probability, Slopes};
                let due = matches!(
                    error,
                    MaskBytes { .. }
                        | MaskWords { .. }
                        | IndexRange { .. }
                        | First { .. }
                        | Probability { .. }
                        | Slopes { .. }
                );
                assert!(due, "{error:?}");
            }
        }
    }

    /// A mask's words as another one's: so many more or fewer, and with one bit set.
    fn words(&mut self, mask: PackedMask, origin: MaskOrigin, len: usize, more: i64, set: u32, tally: &Tally) {
        let place = mask.len() % MASKS;
        let mut words = mask.into_words();
        let needed = len.div_ceil(32);
        // Where the length asks for few enough words, those and `more`; else as many as there were.
        let count_of_words = if needed <= LONGEST { needed } else { words.len() } as i64;
        words.resize((count_of_words + more).max(0) as usize, 0);
        if let Some(last) = words.last_mut() {
            *last |= 1u32.checked_shl(set).unwrap_or(0);
        }
        let used = len % 32;
        let tail = if used == 0 { 0 } else { words.last().map_or(0, |last| last >> used) };
        let wrong_words = words.len() != needed || tail != 0;
        let wrong_key = match origin {
            MaskOrigin::RRelu(_, key) => overrun(key, len),
            MaskOrigin::DropActivation(_) => None,
        };
        match PackedMask::from_words(origin, len, words.clone()) {
            Ok(made) => {
                assert!(!wrong_words && wrong_key.is_none(), "{origin:?} {len} {words:x?}");
                assert_eq!((made.origin(), made.len(), made.words()), (origin, len, &words[..]));
                is_a_mask(&made);
                tally.count("mask from words");
                if len <= LONGEST {
                    self.masks[place] = made;
                }
            }
            Err(error) => {
                tally.count(name(&error));
                match &error {
                    Error::MaskWords { len: of, .. } => assert!(wrong_words && *of == len, "{error}"),
                    other => assert_eq!(Some(other), wrong_key.as_ref()),
                }
            }
        }
    }
}

fn is_a_mask(mask: &PackedMask) {
    assert_eq!(mask.words().len(), mask.len().div_ceil(32));
    assert!((mask.len()..32 * mask.words().len()).all(|i| mask.words()[i / 32] >> (i % 32) & 1 == 0));
    match mask.origin() {
        MaskOrigin::DropActivation(op) => assert!((0.0..=1.0).contains(&op.p()) && op.p().is_sign_positive()),
        MaskOrigin::RRelu(op, key) => {
            assert!(0.0 < op.lower() && op.lower() <= op.upper() && op.upper() <= 1.0);
            assert!(key.first() % 32 == 0 && overrun(key, mask.len()).is_none());
        }
    }
}

#[test]
fn random_calls() {
    let (world, tally) = (World::new(), Tally::default());
    property::check(1000, 103, &prop::collection::vec(actions(), 1..60), |actions| {
        let mut world = world.clone();
        for action in &actions {
            world.apply(action, &tally);
        }
    });
    let kinds = Kind::ALL.map(|kind| format!("{kind:?}"));
    let others = [
        "Length",
        "MaskLength",
        "MaskOrigin",
        "MissingInput",
        "NeedsMask",
        "IndexRange",
        "First",
        "MaskWords",
        "MaskBytes in stored bytes",
        "MaskWords in stored bytes",
        "Probability in stored bytes",
        "Slopes in stored bytes",
        "First in stored bytes",
        "IndexRange in stored bytes",
        "stored mask",
        "forged mask",
        "mask from words",
    ];
    tally.assert_happened(kinds.iter().map(String::as_str).chain(others));
}

/// A tensor whose `as_ref` returns a shorter slice at each call.
#[test]
fn slices_that_change_between_calls() {
    struct Shrinking<'a>(std::cell::Cell<usize>, &'a [f32]);

    impl AsRef<[f32]> for Shrinking<'_> {
        fn as_ref(&self) -> &[f32] {
            let calls = self.0.replace(self.0.get() + 1);
            &self.1[..self.1.len() >> calls]
        }
    }

    let x = [-1.0; 64];
    let mut y = [7.0f32; 65];
    let mask = cpu::forward(&DropActivation::default(), MaskKey::new(1, 2), (&Shrinking(0.into(), &x), &mut y[..64]));
    assert_eq!(mask.unwrap().len(), 64);
    assert_eq!(y[64], 7.0);
    let error = cpu::relu_forward((&Shrinking(1.into(), &x), &mut y[..64])).unwrap_err();
    assert_eq!(error, Error::Length { argument: "y", given: 64, other: "x", expected: 32 });
}
