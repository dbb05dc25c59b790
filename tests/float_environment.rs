//! Results are those of the default floating-point environment in whatever environment a call is made, on every thread
//! and with every instruction set; and the caller's is left as it was.
#![cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]

mod support;

use std::arch::asm;

use drop_activation::half::{bf16, f16};
use drop_activation::{Activation, DropActivation, Element, MaskKey, MaskOrigin, PackedMask, RRelu, cpu, reference};

use support::calls::{self, HostCall, on_cpu};
use support::own_process;

/// The control register's value in the default environment and in others.
#[cfg(target_arch = "x86_64")]
mod register {
    use super::asm;

    pub const DEFAULT: u64 = 0x1F80;
    pub const OTHERS: [(&str, u64); 5] = [
        ("subnormal numbers are zero", DEFAULT | 0x8040),
        ("rounding upwards", DEFAULT | 0x4000),
        ("rounding downwards", DEFAULT | 0x2000),
        ("rounding towards zero", DEFAULT | 0x6000),
        ("all exceptions are trapped", 0),
    ];
    /// What is not a record of exceptions that there were.
    pub const CONTROL: u64 = !0x3F;

    pub fn read() -> u64 {
        let mut register = 0u32;
        // SAFETY: stores 4 bytes at the address of as many.
        unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut register) };
        register.into()
    }

    pub fn write(register: u64) {
        let register = register as u32;
        // SAFETY: loads 4 bytes from the address of as many; the tests compute nothing themselves meanwhile.
        unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const register) };
    }
}
#[cfg(target_arch = "aarch64")]
mod register {
    use super::asm;

    pub const DEFAULT: u64 = 0;
    /// Exceptions are not trapped on most of these machines, so that is not tried.
    pub const OTHERS: [(&str, u64); 4] = [
        ("subnormal numbers are zero", 1 << 24 | 1 << 19),
        ("rounding upwards", 1 << 22),
        ("rounding downwards", 2 << 22),
        ("rounding towards zero", 3 << 22),
    ];
    pub const CONTROL: u64 = !0;

    pub fn read() -> u64 {
        let register;
        // SAFETY: reads a register.
        unsafe { asm!("mrs {}, fpcr", out(reg) register) };
        register
    }

    pub fn write(register: u64) {
        // SAFETY: writes a register; the tests compute nothing themselves meanwhile.
        unsafe { asm!("msr fpcr, {}", in(reg) register) };
    }
}

/// Enough for several tasks.
const LEN: usize = (2 << 16) + 77;

/// Subnormal numbers, tiny ones whose products are, and all other kinds.
fn inputs<T: Element>(of_bits: impl Fn(u32) -> T) -> Vec<T> {
    let mut state = 12345u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state
    };
    (0..LEN).map(|_| of_bits(next())).collect()
}

struct Inputs {
    f32: [Vec<f32>; 2],
    f64: [Vec<f64>; 2],
    f16: [Vec<f16>; 2],
    bf16: [Vec<bf16>; 2],
}

impl Inputs {
    fn new() -> Self {
        // A quarter of either half is subnormal.
        let f32 = |bits: u32| f32::from_bits(if bits & 3 == 0 { bits & 0x807F_FFFF } else { bits.rotate_left(7) });
        let f64 = |bits: u32| {
            let wide = u64::from(bits) << 32 | u64::from(bits.rotate_left(11));
            f64::from_bits(if bits & 3 == 0 { wide & 0x800F_FFFF_FFFF_FFFF } else { wide })
        };
        let f16 = |bits: u32| f16::from_bits((bits >> 16) as u16);
        let bf16 = |bits: u32| bf16::from_bits((bits >> 16) as u16 & if bits >> 4 & 3 == 0 { 0x807F } else { 0xFFFF });
        // The gradients are others than the inputs.
        Self {
            f32: [inputs(f32), inputs(|bits| f32(bits.rotate_left(13)))],
            f64: [inputs(f64), inputs(|bits| f64(bits.rotate_left(13)))],
            f16: [inputs(f16), inputs(|bits| f16(bits.rotate_left(13)))],
            bf16: [inputs(bf16), inputs(|bits| bf16(bits.rotate_left(13)))],
        }
    }
}

const KEY: MaskKey = MaskKey::new(7, 8);

/// What every pass makes of the beginning of a tensor in one task, and some of them of all of it, by several threads: a
/// hash of each.
fn results<T: Element>([x, dy]: &[Vec<T>; 2], bits: impl Fn(T) -> u64 + Copy) -> Vec<u64> {
    let hash = |y: &[T]| y.iter().fold(0u64, |hash, y| (hash ^ bits(*y)).wrapping_mul(0x100_0000_01B3).rotate_left(23));
    let mut all = Vec::new();
    let mut refilled =
        PackedMask::from_words(MaskOrigin::DropActivation(DropActivation::default()), 0, vec![]).unwrap();
    for (len, activations, probabilities) in
        [(LEN, &[Activation::Relu, Activation::Gelu][..], &[0.95][..]), (1000, &Activation::ALL, &[0.95, 0.3])]
    {
        let tensors = (&x[..len], &dy[..len]);
        let mut keep = |call: &HostCall<T>, input: &[T]| {
            let mut y = vec![T::default(); len];
            on_cpu(call, (input, &mut y).into(), &mut refilled).unwrap();
            all.push(hash(&y));
        };
        for &activation in activations {
            for &p in probabilities {
                let op = DropActivation::new(activation, p).unwrap();
                calls::each_of_drop_activation(op, KEY, tensors, &mut keep);
            }
        }
        calls::each_of_the_others(RRelu::default(), KEY, tensors, &mut keep);
    }
    let (x, dy) = (&x[..1000], &dy[..1000]);
    let op = DropActivation::new(Activation::Silu, 0.95).unwrap();
    all.push(hash(&reference::infer(&op, x)));
    all.push(hash(&reference::infer_backward(&op, x, dy).unwrap()));
    let (y, mask) = reference::forward(&op, KEY, x).unwrap();
    all.push(hash(&y));
    all.push(hash(&reference::backward(&op, &mask, Some(x), dy).unwrap()));
    let (y, _) = reference::rrelu_forward(&RRelu::default(), KEY, x).unwrap();
    all.push(hash(&y));
    all
}

/// What parameters become.
fn parameters() -> Vec<u64> {
    let relu = DropActivation::relu;
    let slopes = RRelu::new(0.1, 0.7).unwrap();
    // 2^32 p + 1/2 is half-way between two numbers.
    let half_way = f64::from_bits((0.5_f64.to_bits() - 1) - (32 << 52));
    let subnormal = f64::from_bits(1);
    vec![
        relu(half_way).unwrap().threshold(),
        relu(0.95).unwrap().threshold(),
        slopes.inference_slope().to_bits(),
        reference::rrelu_slope(&slopes, KEY, 5).to_bits().into(),
        relu(-subnormal).is_ok().into(),
        relu(f64::from_bits(0x7FF0_0000_0000_0001)).is_ok().into(),
        RRelu::new(f32::from_bits(1), 0.5).is_ok().into(),
        (relu(subnormal).unwrap() == relu(0.0).unwrap()).into(),
    ]
}

/// What they become for kernels.
#[cfg(feature = "cuda")]
fn arguments() -> Vec<u64> {
    use drop_activation::{Dtype, Pass, cuda};
    let at = cuda::Addresses { input: 0x1000, saved: 0x2000, output: 0x3000, mask: 0x4000, ..Default::default() };
    let passes = [
        Pass::Infer { op: DropActivation::relu(0.95).unwrap() },
        Pass::Infer { op: DropActivation::relu(1e-40).unwrap() },
        Pass::Infer { op: DropActivation::relu(1e-46).unwrap() },
        Pass::RreluInfer { op: RRelu::new(0.1, 0.7).unwrap() },
    ];
    let of = |pass: &Pass| {
        let args = cuda::launch::plan(pass, Dtype::F32, 5, at).unwrap().unwrap().args;
        [args.p_f32.to_bits().into(), args.slope_f32.to_bits().into(), args.slope.to_bits(), args.mixture.into()]
    };
    passes.iter().flat_map(of).collect()
}

#[cfg(not(feature = "cuda"))]
fn arguments() -> Vec<u64> {
    Vec::new()
}

fn everything(inputs: &Inputs) -> Vec<u64> {
    [
        parameters(),
        arguments(),
        results(&inputs.f32, |x| x.to_bits().into()),
        results(&inputs.f64, f64::to_bits),
        results(&inputs.f16, |x| x.to_bits().into()),
        results(&inputs.bf16, |x| x.to_bits().into()),
    ]
    .concat()
}

/// [`everything`] in another environment, which has to be the thread's afterwards.
fn everything_in(environment: u64, inputs: &Inputs) -> Vec<u64> {
    register::write(environment);
    let results = everything(inputs);
    let after = register::read();
    register::write(register::DEFAULT);
    assert_eq!(after & register::CONTROL, environment & register::CONTROL, "the caller's environment");
    results
}

/// By the environment variables, which instruction set and which environment.
#[test]
#[ignore = "run by the tests below in a process of its own"]
fn in_a_process() {
    let inputs = Inputs::new();
    println!("instructions: {}", cpu::instruction_set());
    if let Ok(which) = std::env::var("BEFORE_THE_POOL") {
        // The pool's threads are born with this environment.
        let (name, environment) = register::OTHERS[which.parse::<usize>().unwrap()];
        let given = everything_in(environment, &inputs);
        assert!(given == everything(&inputs), "{name}, before the pool began");
        return;
    }
    let expected = everything(&inputs);
    for (name, environment) in register::OTHERS {
        assert!(everything_in(environment, &inputs) == expected, "{name}");
    }
}

fn on_every_instruction_set(before_the_pool: Option<usize>) {
    for set in ["portable", "avx2", "avx512"] {
        let mut command = own_process::command("in_a_process");
        command.env("DROP_ACTIVATION_CPU", set).env("RAYON_NUM_THREADS", "3").env_remove("BEFORE_THE_POOL");
        if let Some(which) = before_the_pool {
            command.env("BEFORE_THE_POOL", which.to_string());
        }
        let text = own_process::passes(command);
        if !text.contains(&format!("instructions: {set}")) {
            return; // the machine has no better one
        }
    }
}

#[test]
fn environments_set_after_the_pool_began() {
    on_every_instruction_set(None);
}

#[test]
fn environments_set_before_the_pool_began() {
    for which in 0..register::OTHERS.len() {
        on_every_instruction_set(Some(which));
    }
}
