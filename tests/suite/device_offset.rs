//! An offset counted from a base in device memory draws the numbers of base + offset, in every kernel that draws; and
//! a generator's seed there draws the offset in turn; and the base advances correctly. On a CPU: the kernels' sources, and the PTX that is shipped.

use drop_activation::cuda::launch::{plan, plan_advance};
use drop_activation::cuda::{Addresses, Pass};
use drop_activation::{Activation, DropActivation, Dtype, MaskKey, RRelu, reference};

use crate::emulator::{self, Buffer, Emulator, Machine, Order, device_address};
use crate::ptx_machine;

/// One full tile and a rest.
const N: usize = 1100;
const SEED: u64 = 0x0123_4567_89AB_CDEF;

/// Base and relative offset: the plain case, a carry into the upper half, and one out of 64 bits.
const SPLITS: [(u64, u64); 4] = [(1000, 7), (0xFFFF_FFFF, 1), (0x1_FFFF_FFFE, 0x7_0000_0003), (u64::MAX, 3)];

fn passes(key: MaskKey) -> Vec<Pass> {
    let rrelu = RRelu::default();
    let of = |activation| DropActivation::new(activation, 0.7).unwrap();
    let mut passes: Vec<_> = Activation::ALL.into_iter().map(|a| Pass::Forward { op: of(a), key }).collect();
    passes.push(Pass::ForwardWithoutMask { op: of(Activation::Relu), key });
    passes.extend([Pass::RreluForward { op: rrelu, key }, Pass::RreluBackward { op: rrelu, key }]);
    passes
}

/// What a launch leaves behind: the output's bytes, the mask, and the offset that it stored.
#[derive(PartialEq)]
struct Left {
    output: Vec<u64>,
    mask: Vec<u32>,
    stored: u64,
}

/// What a launch finds in device memory.
#[derive(Clone, Copy)]
struct Base {
    offset: u64,
    seed: Option<u64>,
}

/// A pass over numbers of both signs, with the base in device memory if there is one, and its offset stored if asked.
fn run(machine: &impl Machine, pass: &Pass, dtype: Dtype, base: Option<u64>, store: bool) -> Left {
    run_at(machine, pass, dtype, base.map(|offset| Base { offset, seed: None }), store)
}

fn run_at(machine: &impl Machine, pass: &Pass, dtype: Dtype, base: Option<Base>, store: bool) -> Left {
    let backward = matches!(pass, Pass::RreluBackward { .. });
    let mut state = 1u64;
    let mut numbers = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state & 0xBFFF_BFFF_BFFF_BFFF // no NaN and no infinity, whatever the type
    };
    let bytes = N * dtype.size();
    let input: Vec<u64> = (0..bytes.div_ceil(8)).map(&mut numbers).collect();
    let mut left = Left { output: vec![0; bytes.div_ceil(8)], mask: vec![0xA5A5_A5A5; N.div_ceil(32)], stored: 0 };
    let seed = base.and_then(|base| base.seed).map(|seed| [seed]);
    let base = base.map(|base| [base.offset]);
    let at = Addresses {
        input: device_address(input.as_ptr()),
        output: device_address(left.output.as_ptr()),
        mask: device_address(left.mask.as_ptr()),
        offset_at: base.as_ref().map_or(0, |base| device_address(base.as_ptr())),
        seed_at: seed.as_ref().map_or(0, |seed| device_address(seed.as_ptr())),
        offset_out: if store { device_address(&raw const left.stored) } else { 0 },
        saved: 0,
    };
    let launch = plan(pass, dtype, N, at).unwrap().unwrap();
    // SAFETY: the tensors are at least as long, and nothing else touches them while the launch runs.
    let mut buffers = unsafe {
        vec![
            Buffer::raw("input", input.as_ptr().cast_mut().cast(), bytes, emulator::Access::Input),
            Buffer::raw("output", left.output.as_mut_ptr().cast(), bytes, emulator::Access::Output),
        ]
    };
    if backward {
        buffers.push(Buffer::input("mask", &left.mask));
    } else if !matches!(pass, Pass::ForwardWithoutMask { .. }) {
        buffers.push(Buffer::output("mask", &mut left.mask));
    }
    buffers.extend(base.as_ref().map(|base| Buffer::input("base", base)));
    buffers.extend(seed.as_ref().map(|seed| Buffer::input("seed", seed)));
    if store {
        buffers.push(Buffer::output("offset", std::slice::from_mut(&mut left.stored)));
    }
    let done = machine.launch(launch.entry.name(), launch.grid, launch.block, &launch.args, &buffers, Order::Reversed);
    done.unwrap_or_else(|report| panic!("{report}\n({pass:?})"));
    drop(buffers);
    left
}

fn a_base_in_device_memory_counts_like_the_whole_offset(machine: &impl Machine) {
    for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::F64] {
        for (base, relative) in SPLITS {
            let whole = passes(MaskKey::new(SEED, base.wrapping_add(relative)));
            for (whole, split) in whole.iter().zip(passes(MaskKey::new(SEED, relative))) {
                let expected = run(machine, whole, dtype, None, false);
                let given = run(machine, &split, dtype, Some(base), false);
                assert!(expected == given, "{} with base {base:#x}: {split:?}", dtype.name());
                let without = run(machine, &split, dtype, None, false);
                assert!(without != given, "{} draws the same without its base: {split:?}", dtype.name());
            }
        }
    }
}

fn rrelu_stores_the_offset_that_its_backward_needs(machine: &impl Machine) {
    let op = RRelu::default();
    for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::F64] {
        for (base, relative) in SPLITS {
            let key = MaskKey::new(SEED, relative);
            let forward = run(machine, &Pass::RreluForward { op, key }, dtype, Some(base), true);
            assert_eq!(forward.stored, base.wrapping_add(relative), "{}", dtype.name());
            let from = |key, base| run(machine, &Pass::RreluBackward { op, key }, dtype, base, false);
            let again = from(MaskKey::new(SEED, 0), Some(forward.stored));
            assert!(again == from(MaskKey::new(SEED, forward.stored), None), "{}", dtype.name());
        }
        let without = run(machine, &Pass::RreluForward { op, key: MaskKey::new(SEED, 5) }, dtype, None, true);
        assert_eq!(without.stored, 5, "without a base the offset is the key's");
    }
}

/// Seed, and the offset of each that is drawn for the place base + relative: with and without the top bit, which counts
/// as 1 below the bound 2^63 - 1. The first is published (Random123's known answers for key 0 and counter 0).
const DRAWN: [(u64, (u64, u64), u64); 3] = [
    (0, (0, 3), 0x6627_E8D5_E169_C58D),
    (SEED, SPLITS[1], 0x1904_558F_6D2E_843E),
    (u64::MAX - 5, SPLITS[2], 0x3828_21D9_E2B8_23A8),
];

fn a_seed_in_device_memory_draws_the_offset(machine: &impl Machine) {
    for (seed, (base, relative), drawn) in DRAWN {
        assert_eq!(reference::drawn_offset(seed, base.wrapping_add(relative)), drawn);
        let at = Some(Base { offset: base, seed: Some(seed) });
        for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::F64] {
            let whole = passes(MaskKey::new(SEED, drawn));
            for (whole, split) in whole.iter().zip(passes(MaskKey::new(SEED, relative))) {
                let expected = run(machine, whole, dtype, None, false);
                assert!(expected == run_at(machine, &split, dtype, at, false), "{}: {split:?}", dtype.name());
            }
            let forward = Pass::RreluForward { op: RRelu::default(), key: MaskKey::new(SEED, relative) };
            assert_eq!(run_at(machine, &forward, dtype, at, true).stored, drawn, "{}", dtype.name());
        }
    }
}

fn a_base_advances_with_carry_and_round_the_end_or_is_set(machine: &impl Machine) {
    let after = |base: u64, value, on_top| {
        let mut word = [base];
        let launch = plan_advance(device_address(word.as_ptr()), value, on_top).unwrap();
        let buffer = match on_top {
            true => Buffer::in_place("base", &mut word),
            false => Buffer::output("base", &mut word),
        };
        machine.launch("da_advance", launch.grid, launch.block, &launch.args, &[buffer], Order::Forward).unwrap();
        word[0]
    };
    for (base, count) in SPLITS {
        assert_eq!(after(base, count, true), base.wrapping_add(count));
        assert_eq!(after(base, count, false), count);
    }
}

macro_rules! on_each_machine {
    ($($test:ident)+) => {$(
        mod $test {
            use super::*;

            #[test]
            fn as_source() {
                Emulator::load_or_tell().into_iter().for_each(super::$test);
            }

            #[test]
            fn as_shipped() {
                super::$test(ptx_machine::compile::shipped());
            }
        }
    )+};
}

on_each_machine! {
    a_base_in_device_memory_counts_like_the_whole_offset
    rrelu_stores_the_offset_that_its_backward_needs
    a_seed_in_device_memory_draws_the_offset
    a_base_advances_with_carry_and_round_the_end_or_is_set
}
