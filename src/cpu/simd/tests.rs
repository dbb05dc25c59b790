//! Every instruction set that the machine has, not only the one that it would choose: the operations on their own
//! or in the keep stream and the passes, and these against the reference.

use std::cell::Cell;
use std::io::Write;
use std::sync::Once;

use half::{bf16, f16};

pub(crate) use super::set::Set;
use super::{CacheLines, LINE, Simd, Task};
use crate::cpu::engine::{DrawTask, KeepStream};
use crate::real::Real;
use crate::{Activation, DropActivation, Element, InOut, MaskKey, RRelu, cpu, reference};

thread_local! {
    /// What `dispatch` takes on this thread in place of the best.
    pub(super) static FORCED: Cell<Option<Set>> = const { Cell::new(None) };
}

impl Set {
    /// With this instruction set behind every call of the backend.
    pub(crate) fn force(self, action: impl FnOnce()) {
        FORCED.set(Some(self));
        action();
        FORCED.set(None);
    }
}

/// Those of the machine. What it lacks is said once.
pub(crate) fn sets() -> impl Iterator<Item = Set> {
    static SAY: Once = Once::new();
    SAY.call_once(|| {
        for set in Set::ALL.iter().filter(|set| !set.available()) {
            // Not by eprintln!, whose output is shown for failing tests only.
            let _ = writeln!(std::io::stderr(), "SKIPPED: {set:?}, which this machine does not have");
        }
    });
    Set::ALL.iter().copied().filter(|set| set.available())
}

/// An element type with its bits in sight.
trait Bits: Element {
    fn bits(self) -> u64;
    fn of_bits(bits: u64) -> Self;
}

macro_rules! bits {
    ($($type:ty: $bits:ty),*) => {$(
        impl Bits for $type {
            fn bits(self) -> u64 {
                self.to_bits().into()
            }

            fn of_bits(bits: u64) -> Self {
                Self::from_bits(bits as $bits)
            }
        }
    )*};
}

bits!(f32: u32, f64: u64, f16: u16, bf16: u16);

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct Rng(u64);

impl Rng {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Arbitrary bits, small numbers, and the neighbourhood of both zeros and both infinities.
    fn value<T: Bits>(&mut self) -> T {
        let sign = (self.bits() & 1) << (8 * size_of::<T>() - 1);
        let near = self.bits() % 4;
        match self.bits() % 8 {
            0 => T::of_bits(sign | near),
            1 => T::of_bits((T::NEGATIVE_INFINITY - 2 + near) & !(1 << (8 * size_of::<T>() - 1)) | sign),
            2 => T::of_bits(self.bits()),
            _ => T::from_real(T::Real::from_f64((self.bits() as i64 >> 32) as f64 / f64::from(1 << 29))),
        }
    }

    fn values<T: Bits>(&mut self, len: usize) -> Vec<T> {
        (0..len).map(|_| self.value()).collect()
    }

    fn block<T: Bits>(&mut self) -> [T; 32] {
        std::array::from_fn(|_| self.value())
    }
}

/// Runs a closure that is generic over the instruction set: closures cannot be, so each is a type.
macro_rules! task {
    ($name:ident<$($generic:ident)?>($($field:ident: $type:ty),*), |$simd:ident| $body:expr) => {
        struct $name<'a $(, $generic)?> { $($field: &'a $type,)* out: &'a mut Vec<u64> }

        impl<$($generic: Bits)?> Task for $name<'_ $(, $generic)?> {
            #[inline(always)]
            fn run<S: Simd>(self, $simd: S) {
                let Self { $($field,)* out } = self;
                out.extend($body);
            }
        }
    };
}

task!(AtMostZero<T>(among: u32, block: [T; 32]), |simd| [u64::from(simd.at_most_zero(*among, block))]);
task!(ClearAmongAtMostZero<T>(among: u32, block: [T; 32]), |simd| {
    let (cleared, others) = simd.clear_among_at_most_zero(*among, block);
    cleared.into_iter().map(T::bits).chain([others.into()])
});
task!(ClearAtMostZero<T>(block: [T; 32]), |simd| simd.clear_at_most_zero(block).map(T::bits));
task!(ClearWhereAtMostZero<T>(saved: [T; 32], block: [T; 32]), |simd| {
    simd.clear_where_at_most_zero(saved, block).map(T::bits)
});
task!(ClearWhereZero<T>(saved: [T; 32], block: [T; 32]), |simd| simd.clear_where_zero(saved, block).map(T::bits));
task!(Blend<T>(bits: u32, set: [T; 32], clear: [T; 32]), |simd| simd.blend(*bits, set, clear).map(T::bits));
task!(Widen<>(block: [f16; 32]), |simd| simd.widen(block).map(f32::bits));
task!(Narrow<>(block: [f32; 32]), |simd| simd.narrow(block).map(f16::bits));
task!(WidenBf16<>(block: [bf16; 32]), |simd| simd.widen_bf16(block).map(f32::bits));
task!(NarrowBf16<>(block: [f32; 32]), |simd| simd.narrow_bf16(block).map(bf16::bits));
task!(Compress<>(words: [u32; 16], others: [u32; 16]), |simd| {
    let (mut to, mut others_to) = ([u32::MAX; 16], [u32::MAX; 16]);
    let count = simd.compress(words, others, &mut to, &mut others_to);
    let moved = to[..count].iter().chain(&others_to[..count]);
    [2 * S::LANES as u64].into_iter().chain(moved.map(|v| u64::from(*v))).collect::<Vec<_>>()
});
fn out_of(set: Set, run: impl FnOnce(Set, &mut Vec<u64>)) -> Vec<u64> {
    let mut out = Vec::new();
    run(set, &mut out);
    out
}

/// Wherever the zeros are.
#[test]
fn what_is_not_zero_moves_to_the_front() {
    let others = std::array::from_fn(|i| 100 + i as u32);
    for set in sets() {
        for bits in 0..=u16::MAX {
            // Any bit alone makes a word that is not zero.
            let words = std::array::from_fn(|i| u32::from(bits >> i & 1) << ((usize::from(bits) + i) % 32));
            let given = out_of(set, |set, out| set.run(Compress { words: &words, others: &others, out }));
            let places = (0..given[0] as usize).filter(|i| bits >> i & 1 == 1);
            let expected: Vec<u64> =
                places.clone().map(|i| words[i].into()).chain(places.map(|i| others[i].into())).collect();
            assert_eq!(given[1..], expected, "{set:?} {bits:#x}");
        }
    }
}

fn comparisons_and_selections<T: Bits>() {
    for set in sets() {
        let mut rng = Rng(1);
        for round in 0..500 {
            let (block, other) = (rng.block::<T>(), rng.block::<T>());
            let bits = match round {
                0..32 => 1 << round,
                32 => 0,
                33 => u32::MAX,
                _ => rng.bits() as u32,
            };
            let given = out_of(set, |set, out| set.run(AtMostZero { among: &bits, block: &block, out }));
            let expected: u64 = (0..32).map(|i| u64::from(block[i].at_most_zero()) << i).sum();
            assert_eq!(given, [expected & u64::from(bits)], "{set:?} at_most_zero {bits:#x} {block:?}");

            let given = out_of(set, |set, out| set.run(ClearAmongAtMostZero { among: &bits, block: &block, out }));
            let passes = |i: usize| !(block[i].at_most_zero() && bits >> i & 1 == 1);
            let elements = (0..32).map(|i| if passes(i) { block[i].bits() } else { 0 });
            let others = (0..32).map(|i| u64::from(passes(i)) << i).sum();
            let expected: Vec<u64> = elements.chain([others]).collect();
            assert_eq!(given, expected, "{set:?} clear_among_at_most_zero {bits:#x} {block:?}");

            let is_zero = |v: T| v.bits() << (64 - 8 * size_of::<T>()) << 1 == 0;
            let clear = |cleared: bool, v: T| if cleared { 0 } else { v.bits() };
            let given = out_of(set, |set, out| set.run(ClearAtMostZero { block: &block, out }));
            assert_eq!(given, block.map(|v| clear(v.at_most_zero(), v)), "{set:?} clear_at_most_zero {block:?}");
            let given = out_of(set, |set, out| set.run(ClearWhereAtMostZero { saved: &block, block: &other, out }));
            let expected: [u64; 32] = std::array::from_fn(|i| clear(block[i].at_most_zero(), other[i]));
            assert_eq!(given, expected, "{set:?} clear_where_at_most_zero {block:?} {other:?}");
            let given = out_of(set, |set, out| set.run(ClearWhereZero { saved: &block, block: &other, out }));
            let expected: [u64; 32] = std::array::from_fn(|i| clear(is_zero(block[i]), other[i]));
            assert_eq!(given, expected, "{set:?} clear_where_zero {block:?} {other:?}");

            let given = out_of(set, |set, out| set.run(Blend { bits: &bits, set: &block, clear: &other, out }));
            let chosen = |i: usize| if bits >> i & 1 == 1 { block[i] } else { other[i] };
            let expected: Vec<u64> = (0..32).map(|i| chosen(i).bits()).collect();
            assert_eq!(given, expected, "{set:?} blend {bits:#x}");
        }
    }
}

#[test]
fn comparisons_and_selections_of_all_types() {
    comparisons_and_selections::<f32>();
    comparisons_and_selections::<f64>();
    comparisons_and_selections::<f16>();
    comparisons_and_selections::<bf16>();
}

#[test]
fn every_half_is_widened() {
    for set in sets() {
        for first in (0..=u16::MAX).step_by(32) {
            let block = std::array::from_fn(|i| f16::from_bits(first + i as u16));
            let given = out_of(set, |set, out| set.run(Widen { block: &block, out }));
            assert_eq!(given, block.map(|x| x.to_f32().bits()), "{set:?} from {first:#x}");
        }
    }
}

#[test]
fn every_bf16_is_widened() {
    for set in sets() {
        for first in (0..=u16::MAX).step_by(32) {
            let block = std::array::from_fn(|i| bf16::from_bits(first + i as u16));
            let given = out_of(set, |set, out| set.run(WidenBf16 { block: &block, out }));
            assert_eq!(given, block.map(|x| x.to_f32().bits()), "{set:?} from {first:#x}");
        }
    }
}

/// Around every bf16: itself, the middle to the next one, and the neighbours of both.
#[test]
fn narrowing_to_bf16_rounds_to_even() {
    let mut values: Vec<u32> = Vec::new();
    for bits in 0..=u32::from(u16::MAX) {
        for low in [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF] {
            values.push(bits << 16 | low);
        }
    }
    for set in sets() {
        for chunk in values.as_chunks::<32>().0 {
            let block = chunk.map(f32::from_bits);
            let given = out_of(set, |set, out| set.run(NarrowBf16 { block: &block, out }));
            assert_eq!(given, block.map(|x| bf16::from_f32(x).bits()), "{set:?} {block:?}");
        }
    }
}

/// Each half, the middle between it and the next one, which goes to the even of them, and what lies
/// next to the two; then arbitrary bits.
#[test]
fn narrowing_rounds_to_even() {
    let mut values = Vec::new();
    for bits in 0..0x7C00 {
        let (low, high) = (f16::from_bits(bits).to_f32(), f16::from_bits(bits + 1).to_f32());
        // Beyond the largest half, the middle is where the next one would be.
        let middle = if high.is_finite() { (low + high) / 2.0 } else { 65520.0 };
        let even = bits + (bits & 1);
        let expected = [(low, bits), (middle, even), (middle.next_down(), bits), (middle.next_up(), bits + 1)];
        values.extend(expected.map(|(v, bits)| (v, Some(bits))));
    }
    values.extend([f32::INFINITY, f32::MAX].map(|v| (v, Some(0x7C00))));
    let mut rng = Rng(2);
    values.extend((0..1 << 14).map(|_| (f32::from_bits(rng.bits() as u32), None)));
    values.resize(values.len().next_multiple_of(32), (0.0, None));
    for set in sets() {
        for chunk in values.as_chunks::<32>().0 {
            for sign in [1.0, -1.0] {
                let block = chunk.map(|(v, _)| v * sign);
                let given = out_of(set, |set, out| set.run(Narrow { block: &block, out }));
                assert_eq!(given, block.map(|x| f16::from_f32(x).bits()), "{set:?} {block:?}");
                for (given, (v, known)) in given.iter().zip(chunk) {
                    assert!(known.is_none_or(|bits| u64::from(bits) == given & 0x7FFF), "{set:?} {v}");
                }
            }
        }
    }
}

/// Copies the block and touches nothing else.
fn non_temporal_stores<T: Bits>() {
    struct Stream<'a, T>(&'a [T; 32], CacheLines<'a, T>);

    impl<T: Element> Task for Stream<'_, T> {
        #[inline(always)]
        fn run<S: Simd>(mut self, simd: S) {
            simd.store_non_temporal(self.0, &mut self.1, 1);
            simd.fence();
        }
    }

    let mut rng = Rng(3);
    let source: Vec<T> = rng.values(64);
    let blank: Vec<T> = rng.values(200);
    for set in sets() {
        for from in [0, 5] {
            let from: &[T; 32] = source[from..].first_chunk().unwrap();
            let mut target = blank.clone();
            let at = target.as_ptr().align_offset(LINE);
            let blocks = &mut target[at..].as_chunks_mut().0[..2];
            set.run(Stream(from, CacheLines::new(blocks).expect("blocks on lines")));
            let expected = blank[..at + 32].iter().chain(from).chain(&blank[at + 64..]);
            assert!(target.iter().zip(expected).all(|(a, b)| a.bits() == b.bits()), "{set:?} {}", T::DTYPE.name());
            assert!(CacheLines::new(target[at + 1..].as_chunks_mut().0).is_err());
        }
    }
}

#[test]
fn non_temporal_stores_of_all_types() {
    non_temporal_stores::<f32>();
    non_temporal_stores::<f64>();
    non_temporal_stores::<f16>();
    non_temporal_stores::<bf16>();
}

#[test]
fn the_keep_stream_is_the_reference_s() {
    // The third crosses into words whose index has another upper half.
    let firsts = [0, 1 << 20, (1 << 37) - 32 * 50, u64::MAX - 31 - 32 * 1199];
    for set in sets() {
        for p in [0.0, 1e-12, 2f64.powi(-32), 0.25, 0.5, 0.95, 1.0 - 2f64.powi(-32), 1.0] {
            let op = DropActivation::relu(p).unwrap();
            for (i, first) in firsts.into_iter().enumerate() {
                let key = MaskKey::new(7 << (16 * i), u64::MAX - i as u64).shard(first).unwrap();
                for (skip, len) in [(0, 1200), (0, 100), (0, 16), (3, 17), (5, 31), (0, 0), (99, 1)] {
                    let stream = KeepStream::new(&op, key);
                    let mut given = vec![0; len];
                    set.run(DrawTask { stream: &stream, first: skip, words: &mut given });
                    let word = |w: u64| reference::keep_word(op.threshold(), key, key.first_word() + skip + w);
                    let expected: Vec<u32> = (0..len as u64).map(word).collect();
                    assert_eq!(given, expected, "{set:?} p = {p}, {key:?}, {len} words from {skip}");
                }
            }
        }
    }
}

/// Both ways round, out of place and in place. `expected` is compared bit by bit, but for NaN where arithmetic
/// makes them: hardware differs in which it makes.
fn check<T: Bits>(what: &str, exact: bool, input: &[T], expected: &[T], pass: &dyn Fn(InOut<T>)) {
    let mut out = vec![T::of_bits(0xAAAA); input.len()];
    pass(InOut::OutOfPlace(input, &mut out));
    let mut both = input.to_vec();
    pass(InOut::InPlace(&mut both));
    for y in [out, both] {
        for (i, (y, e)) in y.iter().zip(expected).enumerate() {
            let nan = |v: &T| v.to_real().is_nan();
            let same = y.bits() == e.bits() || !exact && nan(y) && nan(e);
            assert!(same, "{:?} {what} {}: element {i} is {y:?}, not {e:?}", FORCED.get(), T::DTYPE.name());
        }
    }
}

fn passes<T: Bits>() {
    let mut rng = Rng(4);
    let key = MaskKey::new(5, 6).shard(1 << 40).unwrap();
    for len in [0, 1, 31, 32, 33, 100, 2048 + 65] {
        let (x, dy): (Vec<T>, Vec<T>) = (rng.values(len), rng.values(len));
        for activation in Activation::ALL {
            let exact = activation == Activation::Relu;
            for p in [0.0, 0.7, 1.0] {
                let op = &DropActivation::new(activation, p).unwrap();
                let (y, mask) = reference::forward(op, key, &x).unwrap();
                check(&format!("{op} forward"), exact, &x, &y, &|io| {
                    assert_eq!(cpu::forward(op, key, io).as_ref(), Ok(&mask));
                });
                let dx = reference::backward(op, &mask, Some(&x), &dy).unwrap();
                check(&format!("{op} backward"), exact, &dy, &dx, &|io| {
                    cpu::backward(op, &mask, Some(&x), io).unwrap();
                });
                check(&format!("{op} infer"), exact, &x, &reference::infer(op, &x), &|io| cpu::infer(op, io).unwrap());
                let dx = reference::infer_backward(op, &x, &dy).unwrap();
                check(&format!("{op} infer_backward"), exact, &dy, &dx, &|io| {
                    cpu::infer_backward(op, &x, io).unwrap();
                });
                if exact {
                    let dx = reference::backward_from_output(op, &y, &dy).unwrap();
                    check(&format!("{op} backward_from_output"), true, &dy, &dx, &|io| {
                        cpu::backward_from_output(op, &y, io).unwrap();
                    });
                    check(&format!("{op} forward_without_mask"), true, &x, &y, &|io| {
                        cpu::forward_without_mask(op, key, io).unwrap();
                    });
                }
                assert_eq!(cpu::keep_mask(op, key, len), reference::keep_mask(op, key, len));
            }
        }
        let op = &RRelu::default();
        let (y, mask) = reference::rrelu_forward(op, key, &x).unwrap();
        check("RReLU forward", true, &x, &y, &|io| assert_eq!(cpu::rrelu_forward(op, key, io).as_ref(), Ok(&mask)));
        let dx = reference::rrelu_backward(op, &mask, &dy).unwrap();
        check("RReLU backward", true, &dy, &dx, &|io| cpu::rrelu_backward(op, &mask, io).unwrap());
        check("RReLU infer", true, &x, &reference::rrelu_infer(op, &x), &|io| cpu::rrelu_infer(op, io).unwrap());
        let dx = reference::rrelu_infer_backward(op, &x, &dy).unwrap();
        check("RReLU infer_backward", true, &dy, &dx, &|io| cpu::rrelu_infer_backward(op, &x, io).unwrap());
        check("ReLU", true, &x, &reference::relu_forward(&x), &|io| cpu::relu_forward(io).unwrap());
        let dx = reference::relu_backward(&x, &dy).unwrap();
        check("ReLU backward", true, &dy, &dx, &|io| cpu::relu_backward(&x, io).unwrap());
    }
}

#[test]
fn passes_on_every_instruction_set() {
    for set in sets() {
        set.force(|| {
            passes::<f32>();
            passes::<f64>();
            passes::<f16>();
            passes::<bf16>();
        });
    }
}
