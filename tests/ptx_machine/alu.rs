//! What an instruction computes from the values of its operands, lane by lane. Each meaning is NVIDIA's: the section
//! of "Parallel Thread Execution ISA", chapter "Instruction Set", is named beside it. What is not here, down to the
//! last modifier, is unknown and refused.
//!
//! A value is carried in the low bits of a `u64`, the others zero; a predicate is 0 or 1. Where the text leaves the
//! bits of a NaN open, any NaN will do, and [`NAN32`] and [`NAN64`] are given.

use drop_activation::half::{bf16, f16};

pub const LANES: usize = 32;
pub type Lanes = [u64; LANES];

/// "NaN results are canonical NaN 0x7fffffff" (Floating Point Instructions, f32).
pub const NAN32: u32 = 0x7FFF_FFFF;
/// Of f64 the text promises no more than a NaN.
pub const NAN64: u64 = 0x7FF8_0000_0000_0000;

/// The widths of sources and result in bits, 1 for a predicate, and the computation.
pub struct Alu {
    pub sources: Vec<u32>,
    pub result: u32,
    pub compute: Compute,
}

type Fn1 = dyn Fn(&Lanes, &mut Lanes) + Send + Sync;
type Fn2 = dyn Fn(&Lanes, &Lanes, &mut Lanes) + Send + Sync;
type Fn3 = dyn Fn(&Lanes, &Lanes, &Lanes, &mut Lanes) + Send + Sync;
type Fn4 = dyn Fn([&Lanes; 4], &mut Lanes) + Send + Sync;
type CompareIntegers = fn(i128, i128) -> bool;
type Compare = dyn Fn(u64, u64) -> bool + Send + Sync;
type FnPartial = dyn Fn(u64, u64) -> Option<u64> + Send + Sync;
type FnCarry = dyn Fn([u64; 3], bool) -> (u64, Option<bool>) + Send + Sync;

pub enum Compute {
    One(Box<Fn1>),
    Two(Box<Fn2>),
    Three(Box<Fn3>),
    Four(Box<Fn4>),
    /// Of some operands the result is open, which `None` says.
    Partial(Box<FnPartial>),
    /// Three operands (the third 0 where there are two) and the carry flag to a result and, if it is written, the
    /// flag.
    Carry {
        reads: bool,
        compute: Box<FnCarry>,
    },
}

fn one(result: u32, source: u32, f: impl Fn(u64) -> u64 + Send + Sync + 'static) -> Option<Alu> {
    let compute = Compute::One(Box::new(move |a, d| {
        for i in 0..LANES {
            d[i] = f(a[i]);
        }
    }));
    Some(Alu { sources: vec![source], result, compute })
}

fn two(result: u32, sources: [u32; 2], f: impl Fn(u64, u64) -> u64 + Send + Sync + 'static) -> Option<Alu> {
    let compute = Compute::Two(Box::new(move |a, b, d| {
        for i in 0..LANES {
            d[i] = f(a[i], b[i]);
        }
    }));
    Some(Alu { sources: sources.to_vec(), result, compute })
}

fn three(result: u32, sources: [u32; 3], f: impl Fn(u64, u64, u64) -> u64 + Send + Sync + 'static) -> Option<Alu> {
    let compute = Compute::Three(Box::new(move |a, b, c, d| {
        for i in 0..LANES {
            d[i] = f(a[i], b[i], c[i]);
        }
    }));
    Some(Alu { sources: sources.to_vec(), result, compute })
}

fn four(result: u32, sources: [u32; 4], f: impl Fn([u64; 4]) -> u64 + Send + Sync + 'static) -> Option<Alu> {
    let compute = Compute::Four(Box::new(move |[a, b, c, e], d| {
        for i in 0..LANES {
            d[i] = f([a[i], b[i], c[i], e[i]]);
        }
    }));
    Some(Alu { sources: sources.to_vec(), result, compute })
}

fn partial(bits: u32, f: impl Fn(u64, u64) -> Option<u64> + Send + Sync + 'static) -> Option<Alu> {
    Some(Alu { sources: vec![bits; 2], result: bits, compute: Compute::Partial(Box::new(f)) })
}

fn carry(
    sources: Vec<u32>,
    reads: bool,
    f: impl Fn([u64; 3], bool) -> (u64, Option<bool>) + Send + Sync + 'static,
) -> Option<Alu> {
    Some(Alu { sources, result: 32, compute: Compute::Carry { reads, compute: Box::new(f) } })
}

// ---------------------------------------------------------------------------------------------------
// Types

/// The low bits.
fn low(value: u64, bits: u32) -> u64 {
    if bits == 64 { value } else { value & ((1 << bits) - 1) }
}

/// As a number of two's complement.
fn signed(value: u64, bits: u32) -> i64 {
    (value << (64 - bits)) as i64 >> (64 - bits)
}

/// Bits and sign of .u16 .. .s64.
fn integer(name: &str) -> Option<(u32, bool)> {
    Some(match name {
        "u16" => (16, false),
        "s16" => (16, true),
        "u32" => (32, false),
        "s32" => (32, true),
        "u64" => (64, false),
        "s64" => (64, true),
        _ => return None,
    })
}

/// Bits of .pred and .b16 .. .b64.
fn untyped(name: &str) -> Option<u32> {
    Some(match name {
        "pred" => 1,
        "b16" => 16,
        "b32" => 32,
        "b64" => 64,
        _ => return None,
    })
}

/// Bits of every type that moves.
pub fn width(name: &str) -> Option<u32> {
    untyped(name).or_else(|| integer(name).map(|(bits, _)| bits)).or(match name {
        "f32" => Some(32),
        "f64" => Some(64),
        _ => None,
    })
}

fn f32_of(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}
fn of_f32(value: f32) -> u64 {
    if value.is_nan() { NAN32.into() } else { value.to_bits().into() }
}
fn f64_of(bits: u64) -> f64 {
    f64::from_bits(bits)
}
fn of_f64(value: f64) -> u64 {
    if value.is_nan() { NAN64 } else { value.to_bits() }
}

/// Converting a NaN gives the canonical one: 0x7fff in 16 bits.
fn to_f16(value: f32) -> u64 {
    if value.is_nan() { 0x7FFF } else { f16::from_f32(value).to_bits().into() }
}
fn to_bf16(value: f32) -> u64 {
    if value.is_nan() { 0x7FFF } else { bf16::from_f32(value).to_bits().into() }
}

// ---------------------------------------------------------------------------------------------------
// Comparisons

/// Comparison and Selection Instructions: set, setp. Ordered comparisons are false where an operand is NaN, those
/// that end in `u` true; `num` holds where neither is, `nan` where one is.
#[allow(clippy::neg_cmp_op_on_partial_ord, clippy::double_comparisons)] // what is false of a NaN, and its negation
fn compare_floats(name: &str) -> Option<fn(f64, f64) -> bool> {
    Some(match name {
        "eq" => |a, b| a == b,
        "ne" => |a, b| a < b || a > b,
        "lt" => |a, b| a < b,
        "le" => |a, b| a <= b,
        "gt" => |a, b| a > b,
        "ge" => |a, b| a >= b,
        "equ" => |a, b| !(a < b || a > b),
        "neu" => |a, b| a != b,
        "ltu" => |a, b| !(a >= b),
        "leu" => |a, b| !(a > b),
        "gtu" => |a, b| !(a <= b),
        "geu" => |a, b| !(a < b),
        "num" => |a, b| !a.is_nan() && !b.is_nan(),
        "nan" => |a, b| a.is_nan() || b.is_nan(),
        _ => return None,
    })
}

/// By value for integers; `lo`, `ls`, `hi`, `hs` are of unsigned types alone, and bits are equal or not.
fn compare_integers(name: &str, kind: &str) -> Option<(u32, CompareIntegers)> {
    let (bits, is_signed, is_untyped) = match (integer(kind), untyped(kind)) {
        (Some((bits, is_signed)), _) => (bits, is_signed, false),
        (None, Some(bits)) if bits > 1 => (bits, false, true),
        _ => return None,
    };
    let compare: CompareIntegers = match name {
        "eq" => |a, b| a == b,
        "ne" => |a, b| a != b,
        _ if is_untyped => return None,
        "lt" => |a, b| a < b,
        "le" => |a, b| a <= b,
        "gt" => |a, b| a > b,
        "ge" => |a, b| a >= b,
        _ if is_signed => return None,
        "lo" => |a, b| a < b,
        "ls" => |a, b| a <= b,
        "hi" => |a, b| a > b,
        "hs" => |a, b| a >= b,
        _ => return None,
    };
    Some((bits, compare))
}

/// `compare` of two values of a type: their width, and whether it holds.
fn comparison(name: &str, kind: &str) -> Option<(u32, Box<Compare>)> {
    Some(match kind {
        "f32" => {
            let holds = compare_floats(name)?;
            (32, Box::new(move |a, b| holds(f32_of(a).into(), f32_of(b).into())))
        }
        "f64" => {
            let holds = compare_floats(name)?;
            (64, Box::new(move |a, b| holds(f64_of(a), f64_of(b))))
        }
        _ => {
            let (bits, holds) = compare_integers(name, kind)?;
            let is_signed = integer(kind).is_some_and(|(_, is_signed)| is_signed);
            let value = move |v| if is_signed { signed(v, bits).into() } else { i128::from(v) };
            (bits, Box::new(move |a, b| holds(value(a), value(b))))
        }
    })
}

// ---------------------------------------------------------------------------------------------------
// Instructions

/// What `opcode` means, `None` where it is not known.
pub fn decode(opcode: &str) -> Option<Alu> {
    let mut words = opcode.split('.');
    let base = words.next()?;
    let modifiers: Vec<&str> = words.collect();
    match base {
        "add" | "sub" | "mul" | "mad" | "neg" | "abs" | "min" | "max" | "fma" | "rcp" | "sqrt" | "div" | "rem" => {
            arithmetic(base, &modifiers)
        }
        "addc" | "subc" | "madc" => extended(base, &modifiers),
        "copysign" | "popc" | "clz" | "brev" | "bfind" | "bfe" | "bfi" => bits(base, &modifiers),
        "set" | "setp" | "selp" => selection(base, &modifiers),
        "and" | "or" | "xor" | "not" | "lop3" | "shl" | "shr" | "shf" => logic(base, &modifiers),
        "mov" => match modifiers[..] {
            // Data Movement and Conversion Instructions: mov.
            [kind] => width(kind).and_then(|bits| one(bits, bits, |a| a)),
            _ => None,
        },
        // Data Movement and Conversion Instructions: cvta. Generic addresses of global memory are its own (Generic
        // Addressing).
        "cvta" => match modifiers[..] {
            ["global", "u64"] | ["to", "global", "u64"] => one(64, 64, |a| a),
            _ => None,
        },
        "prmt" => permute(&modifiers),
        "cvt" => convert(&modifiers),
        _ => None,
    }
}

/// Integer Arithmetic Instructions, Floating Point Instructions. Sums and products of floating-point numbers have
/// to be rounded by name: without `.rn` the assembler may contract them into one `fma`, and the result is open.
fn arithmetic(base: &str, modifiers: &[&str]) -> Option<Alu> {
    if modifiers.contains(&"cc") {
        return extended(base, modifiers);
    }
    match (base, modifiers) {
        // Integer add, sub: modulo 2^bits.
        ("add", [kind]) if integer(kind).is_some() => {
            let (bits, _) = integer(kind)?;
            two(bits, [bits; 2], move |a, b| low(a.wrapping_add(b), bits))
        }
        ("sub", [kind]) if integer(kind).is_some() => {
            let (bits, _) = integer(kind)?;
            two(bits, [bits; 2], move |a, b| low(a.wrapping_sub(b), bits))
        }
        // Integer mul: the lower or upper half of the product of twice the width, or with .wide all of it.
        ("mul", [part, kind]) if integer(kind).is_some() => {
            let (bits, is_signed) = integer(kind)?;
            let result = product(part, bits, is_signed)?;
            two(if *part == "wide" { 2 * bits } else { bits }, [bits; 2], result)
        }
        // Integer mad: that product plus c.
        ("mad", [part, kind]) if integer(kind).is_some() => {
            let (bits, is_signed) = integer(kind)?;
            let product = product(part, bits, is_signed)?;
            let of = if *part == "wide" { 2 * bits } else { bits };
            three(of, [bits, bits, of], move |a, b, c| low(product(a, b).wrapping_add(c), of))
        }
        // Integer div, rem: "Division by zero yields an unspecified, machine-specific value."
        ("div", [kind]) if matches!(integer(kind), Some((_, false))) => {
            let (bits, _) = integer(kind)?;
            partial(bits, |a, b| a.checked_div(b))
        }
        ("rem", [kind]) if matches!(integer(kind), Some((_, false))) => {
            let (bits, _) = integer(kind)?;
            partial(bits, |a, b| a.checked_rem(b))
        }
        ("neg", [kind]) if matches!(integer(kind), Some((_, true))) => {
            let (bits, _) = integer(kind)?;
            one(bits, bits, move |a| low(a.wrapping_neg(), bits))
        }
        ("abs", [kind]) if matches!(integer(kind), Some((_, true))) => {
            let (bits, _) = integer(kind)?;
            one(bits, bits, move |a| low(signed(a, bits).unsigned_abs(), bits))
        }
        ("min" | "max", [kind]) if integer(kind).is_some() => {
            let (bits, is_signed) = integer(kind)?;
            let first = base == "min";
            two(bits, [bits; 2], move |a, b| {
                let less = if is_signed { signed(a, bits) < signed(b, bits) } else { a < b };
                if less == first { a } else { b }
            })
        }

        // Floating point. Subnormal numbers stay what they are: there is no .ftz.
        ("add", ["rn", "f32"]) => two(32, [32; 2], |a, b| of_f32(f32_of(a) + f32_of(b))),
        ("sub", ["rn", "f32"]) => two(32, [32; 2], |a, b| of_f32(f32_of(a) - f32_of(b))),
        ("mul", ["rn", "f32"]) => two(32, [32; 2], |a, b| of_f32(f32_of(a) * f32_of(b))),
        ("div", ["rn", "f32"]) => two(32, [32; 2], |a, b| of_f32(f32_of(a) / f32_of(b))),
        ("fma", ["rn", "f32"]) => three(32, [32; 3], |a, b, c| of_f32(f32_of(a).mul_add(f32_of(b), f32_of(c)))),
        ("rcp", ["rn", "f32"]) => one(32, 32, |a| of_f32(1.0 / f32_of(a))),
        ("sqrt", ["rn", "f32"]) => one(32, 32, |a| of_f32(f32_of(a).sqrt())),
        ("add", ["rn", "f64"]) => two(64, [64; 2], |a, b| of_f64(f64_of(a) + f64_of(b))),
        ("sub", ["rn", "f64"]) => two(64, [64; 2], |a, b| of_f64(f64_of(a) - f64_of(b))),
        ("mul", ["rn", "f64"]) => two(64, [64; 2], |a, b| of_f64(f64_of(a) * f64_of(b))),
        ("div", ["rn", "f64"]) => two(64, [64; 2], |a, b| of_f64(f64_of(a) / f64_of(b))),
        ("fma", ["rn", "f64"]) => three(64, [64; 3], |a, b, c| of_f64(f64_of(a).mul_add(f64_of(b), f64_of(c)))),
        ("rcp", ["rn", "f64"]) => one(64, 64, |a| of_f64(1.0 / f64_of(a))),
        ("sqrt", ["rn", "f64"]) => one(64, 64, |a| of_f64(f64_of(a).sqrt())),
        ("neg", ["f32"]) => one(32, 32, |a| of_f32(-f32_of(a))),
        ("neg", ["f64"]) => one(64, 64, |a| of_f64(-f64_of(a))),
        ("abs", ["f32"]) => one(32, 32, |a| of_f32(f32_of(a).abs())),
        ("abs", ["f64"]) => one(64, 64, |a| of_f64(f64_of(a).abs())),
        // min, max: of a NaN and a number the number, of +0.0 and -0.0 as if +0.0 > -0.0; with .NaN a NaN of a NaN.
        ("min" | "max", [rest @ .., kind @ ("f32" | "f64")]) => {
            let through = match rest {
                [] => false,
                ["NaN"] if *kind == "f32" => true,
                _ => return None,
            };
            let first = base == "min";
            let bits = width(kind)?;
            let value = move |v| if bits == 32 { f32_of(v).into() } else { f64_of(v) };
            two(bits, [bits; 2], move |a, b| {
                let (x, y): (f64, f64) = (value(a), value(b));
                let nan = if bits == 32 { NAN32.into() } else { NAN64 };
                let takes_a = if x == y { x.is_sign_negative() == first } else { (x < y) == first };
                match (x.is_nan(), y.is_nan()) {
                    (true, true) => nan,
                    (true, false) | (false, true) if through => nan,
                    (true, false) => b,
                    (false, true) => a,
                    _ if takes_a => a,
                    _ => b,
                }
            })
        }
        _ => None,
    }
}

fn product(part: &str, bits: u32, is_signed: bool) -> Option<Box<dyn Fn(u64, u64) -> u64 + Send + Sync>> {
    let whole = move |a, b| match is_signed {
        true => i128::from(signed(a, bits)) * i128::from(signed(b, bits)),
        false => (u128::from(a) * u128::from(b)) as i128,
    };
    Some(match part {
        // Both signs have the same lower half.
        "lo" => Box::new(move |a, b| low(a.wrapping_mul(b), bits)),
        "hi" => Box::new(move |a, b| low((whole(a, b) >> bits) as u64, bits)),
        "wide" if bits < 64 => Box::new(move |a, b| low(whole(a, b) as u64, 2 * bits)),
        _ => return None,
    })
}

/// Extended-Precision Integer Arithmetic Instructions, of 32 bits: .cc writes the carry flag (of a subtraction the
/// borrow), a `c` in the name reads it.
fn extended(base: &str, modifiers: &[&str]) -> Option<Alu> {
    let (operation, reads) = match base.strip_suffix('c').filter(|_| base != "c") {
        Some(operation) => (operation, true),
        None => (base, false),
    };
    let (rest, kind) = modifiers.split_last().map(|(kind, rest)| (rest, *kind))?;
    let (rest, writes) = match rest.split_last() {
        Some((&"cc", rest)) => (rest, true),
        _ => (rest, false),
    };
    let is_signed = match kind {
        "u32" => false,
        "s32" => true,
        _ => return None,
    };
    match (operation, rest) {
        ("add", []) => carry(vec![32; 2], reads, move |[a, b, _], flag| {
            let sum = a + b + u64::from(reads && flag);
            (low(sum, 32), writes.then_some(sum >> 32 != 0))
        }),
        ("sub", []) => carry(vec![32; 2], reads, move |[a, b, _], flag| {
            let subtrahend = b + u64::from(reads && flag);
            (low(a.wrapping_sub(subtrahend), 32), writes.then_some(a < subtrahend))
        }),
        ("mad", [part @ ("lo" | "hi")]) => {
            let product = product(part, 32, is_signed)?;
            carry(vec![32; 3], reads, move |[a, b, c], flag| {
                let sum = product(a, b) + c + u64::from(reads && flag);
                (low(sum, 32), writes.then_some(sum >> 32 != 0))
            })
        }
        _ => None,
    }
}

/// Integer Arithmetic Instructions: popc, clz, brev, bfind, bfe, bfi. Floating Point Instructions: copysign.
fn bits(base: &str, modifiers: &[&str]) -> Option<Alu> {
    match (base, modifiers) {
        // The magnitude of b with the sign of a.
        ("copysign", ["f32"]) => two(32, [32; 2], |a, b| (a & 1 << 31) | (b & (u64::from(u32::MAX) >> 1))),
        ("copysign", ["f64"]) => two(64, [64; 2], |a, b| (a & 1 << 63) | (b & (u64::MAX >> 1))),
        ("popc", [kind @ ("b32" | "b64")]) => one(32, width(kind)?, |a| a.count_ones().into()),
        ("clz", [kind @ ("b32" | "b64")]) => {
            let bits = width(kind)?;
            one(32, bits, move |a| (a.leading_zeros() - (64 - bits)).into())
        }
        ("brev", [kind @ ("b32" | "b64")]) => {
            let bits = width(kind)?;
            one(bits, bits, move |a| a.reverse_bits() >> (64 - bits))
        }
        // The place of the highest 1, or of the highest bit that is not the sign; all ones where there is none.
        ("bfind", [kind @ ("u32" | "s32" | "u64" | "s64")]) => {
            let (bits, is_signed) = integer(kind)?;
            one(32, bits, move |a| {
                let a = if is_signed && signed(a, bits) < 0 { low(!a, bits) } else { a };
                if a == 0 { u32::MAX.into() } else { (63 - a.leading_zeros()).into() }
            })
        }
        // `length` bits from `position` on (both of 8 bits), zeros or, where signed, the sign beyond: that of the
        // field's last bit, or of a's where the field ends past it. A field of no bits is 0.
        ("bfe", [kind @ ("u32" | "s32" | "u64" | "s64")]) => {
            let (bits, is_signed) = integer(kind)?;
            three(bits, [bits, 32, 32], move |a, position, length| {
                let (position, length) = (position & 0xFF, length & 0xFF);
                if length == 0 {
                    return 0;
                }
                let sign = is_signed && a >> (position + length - 1).min(u64::from(bits) - 1) & 1 == 1;
                let taken = length.min(u64::from(bits).saturating_sub(position));
                let field = if taken == 0 { 0 } else { low(a >> position, taken as u32) };
                let above = if taken >= 64 { 0 } else { u64::MAX << taken };
                low(field | if sign { above } else { 0 }, bits)
            })
        }
        // b with a's low bits put at `position`, as many as `length` says and b has room for.
        ("bfi", [kind @ ("b32" | "b64")]) => {
            let bits = width(kind)?;
            four(bits, [bits, bits, 32, 32], move |[a, b, position, length]| {
                let (position, length) = (position & 0xFF, length & 0xFF);
                let taken = length.min(u64::from(bits).saturating_sub(position));
                if taken == 0 {
                    return b;
                }
                let mask = low(u64::MAX, taken as u32) << position;
                (b & !mask) | (a << position & mask)
            })
        }
        _ => None,
    }
}

/// Comparison and Selection Instructions, Half Precision Comparison Instructions.
fn selection(base: &str, modifiers: &[&str]) -> Option<Alu> {
    match (base, modifiers) {
        ("setp", [name, kind]) => {
            let (bits, holds) = comparison(name, kind)?;
            two(1, [bits; 2], move |a, b| holds(a, b).into())
        }
        // All ones or 1.0 where it holds, else zero.
        ("set", [name, to @ ("u32" | "s32" | "f32"), kind @ ("f32" | "f64" | "u32" | "s32" | "u64" | "s64")]) => {
            let (bits, holds) = comparison(name, kind)?;
            let yes = if *to == "f32" { 1.0f32.to_bits() } else { u32::MAX };
            two(32, [bits; 2], move |a, b| if holds(a, b) { yes.into() } else { 0 })
        }
        // Half Precision Comparison Instructions: set. Of pairs, each half for itself: into a pair of 1.0 and 0.0, or
        // into 16 bits of ones and zeros each.
        ("set", [name, to @ ("f16x2" | "bf16x2" | "u32" | "s32"), kind @ ("f16x2" | "bf16x2")]) => {
            let yes = match (*to, *kind) {
                ("f16x2", "f16x2") => 0x3C00,
                ("bf16x2", "bf16x2") => 0x3F80,
                ("u32" | "s32", _) => 0xFFFF,
                _ => return None,
            };
            let holds = compare_floats(name)?;
            let is_f16 = *kind == "f16x2";
            let value = move |half: u64| match is_f16 {
                true => f16::from_bits(half as u16).to_f64(),
                false => bf16::from_bits(half as u16).to_f64(),
            };
            two(32, [32; 2], move |a, b| {
                let half = |at: u32| {
                    let both = (value(a >> at & 0xFFFF), value(b >> at & 0xFFFF));
                    if holds(both.0, both.1) { yes << at } else { 0 }
                };
                half(0) | half(16)
            })
        }
        ("selp", [kind]) if *kind != "pred" => {
            let bits = width(kind)?;
            three(bits, [bits, bits, 1], |a, b, p| if p == 1 { a } else { b })
        }
        _ => None,
    }
}

/// Logic and Shift Instructions.
fn logic(base: &str, modifiers: &[&str]) -> Option<Alu> {
    match (base, modifiers) {
        ("and", [kind]) => untyped(kind).and_then(|bits| two(bits, [bits; 2], |a, b| a & b)),
        ("or", [kind]) => untyped(kind).and_then(|bits| two(bits, [bits; 2], |a, b| a | b)),
        ("xor", [kind]) => untyped(kind).and_then(|bits| two(bits, [bits; 2], |a, b| a ^ b)),
        ("not", [kind]) => untyped(kind).and_then(|bits| one(bits, bits, move |a| low(!a, bits))),
        // Bit 4a + 2b + c of the table, for each place.
        ("lop3", ["b32"]) => four(32, [32, 32, 32, 32], |[a, b, c, table]| {
            (0..8).filter(|i| table >> i & 1 == 1).fold(0, |result, i| {
                let of = |v: u64, bit: u64| if i >> bit & 1 == 1 { v } else { low(!v, 32) };
                result | (of(a, 2) & of(b, 1) & of(c, 0))
            })
        }),
        // Amounts, unsigned and of 32 bits, beyond the width count as the width.
        ("shl", [kind]) => {
            let bits = untyped(kind).filter(|&bits| bits > 1)?;
            two(bits, [bits, 32], move |a, b| if b >= bits.into() { 0 } else { low(a << b, bits) })
        }
        ("shr", [kind]) => {
            let (bits, is_signed) = integer(kind).or(untyped(kind).filter(|&bits| bits > 1).map(|b| (b, false)))?;
            two(bits, [bits, 32], move |a, b| match is_signed {
                true => low((signed(a, bits) >> b.min(63)) as u64, bits),
                false if b >= bits.into() => 0,
                false => a >> b,
            })
        }
        // Funnel shift of b:a, the first operand below the second. .l gives the upper word of the shift to the left,
        // .r the lower of that to the right; the amount modulo 32 or at most 32.
        ("shf", [direction, mode, "b32"]) => {
            let clamp = match *mode {
                "clamp" => true,
                "wrap" => false,
                _ => return None,
            };
            let left = match *direction {
                "l" => true,
                "r" => false,
                _ => return None,
            };
            three(32, [32; 3], move |a, b, amount| {
                let amount = if clamp { amount.min(32) } else { amount & 31 };
                let both = b << 32 | a;
                if left { low((u128::from(both) << amount >> 32) as u64, 32) } else { low(both >> amount, 32) }
            })
        }
        _ => None,
    }
}

/// Data Movement and Conversion Instructions: prmt. The bytes of b:a are numbered from 0 to 7, a's first.
fn permute(modifiers: &[&str]) -> Option<Alu> {
    // The byte of each place, from the lowest.
    let places: Option<fn(u64) -> [u64; 4]> = match modifiers {
        ["b32"] => None,
        // Four forward, and four backward, from the byte that the selector names.
        ["b32", "f4e"] => Some(|s| [s, s + 1, s + 2, s + 3]),
        ["b32", "b4e"] => Some(|s| [s, s + 7, s + 6, s + 5]),
        // One byte four times.
        ["b32", "rc8"] => Some(|s| [s; 4]),
        // Each place its own byte, but none to the left or to the right of that which the selector names.
        ["b32", "ecl"] => Some(|s| [0, 1, 2, 3].map(|place| place.max(s))),
        ["b32", "ecr"] => Some(|s| [0, 1, 2, 3].map(|place| place.min(s))),
        // One half twice.
        ["b32", "rc16"] => Some(|s| [2 * (s & 1), 2 * (s & 1) + 1, 2 * (s & 1), 2 * (s & 1) + 1]),
        _ => return None,
    };
    let circles = matches!(modifiers, ["b32", "f4e" | "b4e"]);
    three(32, [32; 3], move |a, b, selector| {
        let both = b << 32 | a;
        let byte = |number: u64| both >> (8 * (number & 7)) & 0xFF;
        let bytes = match places {
            // A selector of four bits for each place: the byte, and in the highest whether its sign fills the place.
            None => [0, 1, 2, 3].map(|place| {
                let of_it = selector >> (4 * place) & 0xF;
                let value = byte(of_it);
                match (of_it & 8, value & 0x80) {
                    (0, _) => value,
                    (_, 0) => 0,
                    _ => 0xFF,
                }
            }),
            Some(places) => places(selector & 3).map(|number| byte(if circles { number & 7 } else { number })),
        };
        bytes[0] | bytes[1] << 8 | bytes[2] << 16 | bytes[3] << 24
    })
}

/// Data Movement and Conversion Instructions: cvt.
fn convert(modifiers: &[&str]) -> Option<Alu> {
    match modifiers {
        // Between integers: the sign or zeros are put in front, or the low bits taken.
        [to, from] if integer(to).is_some() && integer(from).is_some() => {
            let ((to, _), (from, is_signed)) = (integer(to)?, integer(from)?);
            one(to, from, move |a| low(if is_signed { signed(a, from) as u64 } else { a }, to))
        }
        ["f32", "f16"] => one(32, 16, |a| of_f32(f16::from_bits(a as u16).to_f32())),
        ["f32", "bf16"] => one(32, 16, |a| of_f32(bf16::from_bits(a as u16).to_f32())),
        ["f64", "f32"] => one(64, 32, |a| of_f64(f32_of(a).into())),
        ["rn", "f32", "f64"] => one(32, 64, |a| of_f32(f64_of(a) as f32)),
        ["rn", "f16", "f32"] => one(16, 32, |a| to_f16(f32_of(a))),
        ["rn", "bf16", "f32"] => one(16, 32, |a| to_bf16(f32_of(a))),
        // The first operand into the upper half.
        ["rn", "f16x2", "f32"] => two(32, [32; 2], |a, b| to_f16(f32_of(a)) << 16 | to_f16(f32_of(b))),
        ["rn", "bf16x2", "f32"] => two(32, [32; 2], |a, b| to_bf16(f32_of(a)) << 16 | to_bf16(f32_of(b))),
        ["rn", to @ ("f32" | "f64"), from] if integer(from).is_some() => {
            let (bits, is_signed) = integer(from)?;
            match (*to, is_signed) {
                ("f32", false) => one(32, bits, |a| of_f32(a as f32)),
                ("f32", true) => one(32, bits, move |a| of_f32(signed(a, bits) as f32)),
                (_, false) => one(64, bits, |a| of_f64(a as f64)),
                (_, true) => one(64, bits, move |a| of_f64(signed(a, bits) as f64)),
            }
        }
        // To an integer, rounded as .rni (nearest, even), .rzi (to zero), .rmi (down) or .rpi (up) says, clamped to the
        // type's range; a NaN gives 0 (0x80000000 and its kin in 64 bits, which is not here).
        [rounding @ ("rni" | "rzi" | "rmi" | "rpi"), to @ ("s32" | "u32"), "f32"] => {
            let (_, is_signed) = integer(to)?;
            let round = rounding_to_integer(rounding)?;
            one(32, 32, move |a| {
                let value = round(f32_of(a).into());
                if is_signed { low(value as i32 as u64, 32) } else { (value as u32).into() }
            })
        }
        // To a number that is whole.
        [rounding @ ("rni" | "rzi" | "rmi" | "rpi"), "f32", "f32"] => {
            let round = rounding_to_integer(rounding)?;
            one(32, 32, move |a| of_f32(round(f32_of(a).into()) as f32))
        }
        _ => None,
    }
}

fn rounding_to_integer(name: &str) -> Option<fn(f64) -> f64> {
    Some(match name {
        "rni" => f64::round_ties_even,
        "rzi" => f64::trunc,
        "rmi" => f64::floor,
        "rpi" => f64::ceil,
        _ => return None,
    })
}
