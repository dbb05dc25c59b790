//! Instructions that ptxas does not fold, told apart in another way: it turns them into the very machine code that it
//! makes of other instructions, which it does fold. Constants in these give what the instruction gives.

use std::collections::HashMap;

use crate::table::Case;

/// PTX from `s0`, `s1` and so on to `d0` and `d1`, each of which may be the same machine code as the instruction. It
/// may use `t0` to `t7`, `h0` to `h3` of 16 bits, and `l0` to `l3` of 64.
pub fn of(case: &Case) -> Vec<String> {
    match (case.instruction, &case.sources[..]) {
        ("lop3.b32", [.., table]) => (0..3).map(|chooser| choice(table.bits, chooser)).collect(),
        ("prmt.b32", [_, second, selector]) => {
            bytes(selector.bits, second.bits == 0).map(Into::into).into_iter().collect()
        }
        ("mad.hi.u32" | "mad.hi.s32", _) => {
            let multiply = case.instruction.replace("mad", "mul");
            vec![format!("{multiply} t0, s0, s1;\nadd.u32 d0, t0, s2;\n")]
        }
        ("add.cc.u32; addc.u32", _) => vec![long("add", ["s0", "s2"], ["s1", "s3"])],
        ("sub.cc.u32; subc.u32", _) => vec![long("sub", ["s0", "s2"], ["s1", "s3"])],
        ("mad.lo.cc.u32; addc.u32", _) => {
            vec!["mul.lo.u32 t0, s0, s1;\n".to_owned() + &long("add", ["t0", "s3"], ["s2", "s4"])]
        }
        ("mad.hi.cc.u32; addc.u32", _) => {
            vec!["mul.hi.u32 t0, s0, s1;\n".to_owned() + &long("add", ["t0", "s3"], ["s2", "s4"])]
        }
        ("mad.lo.cc.u32; madc.hi.u32", _) => {
            let products = "mul.lo.u32 t0, s0, s1;\nmul.hi.u32 t1, s3, s4;\n".to_owned();
            vec![products + &long("add", ["t0", "t1"], ["s2", "s5"])]
        }
        ("cvt.rn.bf16x2.f32", _) => {
            vec!["cvt.rn.bf16.f32 h0, s0;\ncvt.rn.bf16.f32 h1, s1;\nmov.b32 d0, {h1, h0};\n".into()]
        }
        _ => Vec::new(),
    }
}

/// Whether the last source is one that instruction and paraphrase have as an immediate.
pub fn has_immediate(case: &Case) -> bool {
    matches!(case.instruction, "lop3.b32" | "prmt.b32")
}

/// A sum or difference of 64-bit numbers, of which there are the lower and the upper halves.
fn long(operation: &str, first: [&str; 2], second: [&str; 2]) -> String {
    format!(
        "mov.b64 l0, {{{}, {}}};\nmov.b64 l1, {{{}, {}}};\n{operation}.u64 l2, l0, l1;\nmov.b64 {{d0, d1}}, l2;\n",
        first[0], first[1], second[0], second[1]
    )
}

/// Of a truth table: one source chooses between two functions of the others, as it is 1 or 0.
fn choice(table: u64, chooser: usize) -> String {
    let (first, second) = [(1, 2), (0, 2), (0, 1)][chooser];
    let bit = |source: usize| 4 >> source;
    let function = |chosen: u64| {
        (0..4).fold(0, |function, row: u64| {
            let place = chosen * bit(chooser) + (row >> 1) * bit(first) + (row & 1) * bit(second);
            function | (table >> place & 1) << row
        })
    };
    let (ones, zeros) = (function(1), function(0));
    let chosen = match (ones, zeros) {
        _ if ones == zeros => "mov.b32 d0, t0;\n",
        _ if ones == zeros ^ 15 => "xor.b32 d0, CHOOSER, t1;\n",
        (_, 0) => "and.b32 d0, CHOOSER, t0;\n",
        (15, _) => "or.b32 d0, CHOOSER, t1;\n",
        (0, _) => "not.b32 t2, CHOOSER;\nand.b32 d0, t2, t1;\n",
        (_, 15) => "not.b32 t2, CHOOSER;\nor.b32 d0, t2, t0;\n",
        _ => "not.b32 t2, CHOOSER;\nand.b32 t3, CHOOSER, t0;\nand.b32 t4, t2, t1;\nor.b32 d0, t3, t4;\n",
    };
    let [first, second] = [first, second].map(|source| format!("s{source}"));
    let functions = of_two("t0", ones, &first, &second) + &of_two("t1", zeros, &first, &second);
    functions + &chosen.replace("CHOOSER", &format!("s{chooser}"))
}

/// A function of two sources, whose bit `2 * first + second` is the result.
fn of_two(to: &str, table: u64, first: &str, second: &str) -> String {
    let (operation, one, other) = match table {
        0x0 => return format!("mov.b32 {to}, 0;\n"),
        0xf => return format!("mov.b32 {to}, 0xffffffff;\n"),
        0xc => return format!("mov.b32 {to}, {first};\n"),
        0xa => return format!("mov.b32 {to}, {second};\n"),
        0x3 => return format!("not.b32 {to}, {first};\n"),
        0x5 => return format!("not.b32 {to}, {second};\n"),
        0x1 => ("and", "t5", "t6"),
        0x2 => ("and", "t5", second),
        0x4 => ("and", first, "t6"),
        0x8 => ("and", first, second),
        0xe => ("or", first, second),
        0xb => ("or", "t5", second),
        0xd => ("or", first, "t6"),
        0x7 => ("or", "t5", "t6"),
        0x6 => ("xor", first, second),
        _ => ("xor", "t5", second),
    };
    format!("not.b32 t5, {first};\nnot.b32 t6, {second};\n{operation}.b32 {to}, {one}, {other};\n")
}

/// Of a selector, some of them with a second source of zero.
fn bytes(selector: u64, second_is_zero: bool) -> Option<&'static str> {
    let one_source = match selector {
        0x8880 => Some("cvt.s32.s8 d0, s0;\n"),
        0x9910 => Some("cvt.s32.s16 d0, s0;\n"),
        0x7771 => Some("bfe.u32 d0, s0, 8, 8;\n"),
        0x7772 => Some("bfe.u32 d0, s0, 16, 8;\n"),
        0x7773 => Some("bfe.u32 d0, s0, 24, 8;\n"),
        _ => None,
    };
    match selector {
        _ if second_is_zero => one_source,
        0x7604 => Some("bfi.b32 d0, s0, s1, 8, 8;\n"),
        0x7650 => Some("bfi.b32 d0, s0, s1, 0, 8;\n"),
        0x7054 => Some("bfi.b32 d0, s0, s1, 16, 8;\n"),
        0x0654 => Some("bfi.b32 d0, s0, s1, 24, 8;\n"),
        0x7610 => Some("bfi.b32 d0, s0, s1, 0, 16;\n"),
        0x5410 => Some("bfi.b32 d0, s1, s0, 16, 16;\n"),
        0x5432 => Some("mov.b32 {h0, h1}, s0;\nmov.b32 {h2, h3}, s1;\nmov.b32 d0, {h1, h2};\n"),
        0x7632 => Some("mov.b32 {h0, h1}, s0;\nmov.b32 {h2, h3}, s1;\nmov.b32 d0, {h1, h3};\n"),
        _ => None,
    }
}

/// Machine code in which two ways to write the same are the same text: registers are numbered as they come up, and a
/// LOP3 is a truth table over the operands that it depends on, in the order of their names.
pub fn normal(code: &[&str]) -> Vec<String> {
    let mut numbers = HashMap::new();
    let renamed = code.iter().map(|instruction| {
        let mut text = String::new();
        let mut rest = *instruction;
        while let Some(at) = rest.find('R') {
            let (before, name) = rest.split_at(at);
            let digits = name[1..].len() - name[1..].trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let (name, after) = name.split_at(1 + digits);
            let ours = digits > 0 && !before.ends_with(|c: char| c.is_ascii_alphanumeric());
            text += before;
            match ours {
                true => {
                    let count = numbers.len();
                    text += &format!("R{}", numbers.entry(name).or_insert(count));
                }
                false => text += name,
            }
            rest = after;
        }
        text + rest
    });
    renamed.map(|instruction| logic(&instruction).unwrap_or(instruction)).collect()
}

/// `LOP3.LUT R5, R0, R4.reuse, RZ, 0x3c, !PT ;`
fn logic(instruction: &str) -> Option<String> {
    let operands = instruction.strip_prefix("LOP3.LUT ")?.trim_end_matches([';', ' ']);
    let [to, a, b, c, table, "!PT"] = operands.split(", ").collect::<Vec<_>>()[..] else { return None };
    let table = u8::from_str_radix(table.strip_prefix("0x")?, 16).ok()?;
    let sources = [(a, 4), (b, 2), (c, 1)].map(|(name, bit)| (name.trim_end_matches(".reuse"), bit));
    let at = |row: u8| table >> row & 1 == 1;
    let zeros: u8 = sources.iter().filter(|(name, _)| *name == "RZ").map(|(_, bit)| bit).sum();
    let rows = || (0..8).filter(|row| row & zeros == 0);
    let mut used: Vec<_> = sources.into_iter().filter(|(_, bit)| rows().any(|row| at(row) != at(row & !bit))).collect();
    used.sort();
    let names: Vec<_> = used.iter().map(|(name, _)| *name).collect();
    let ones = (0..1u8 << used.len()).map(|row| {
        let chosen = used.iter().enumerate().filter(|(i, _)| row >> i & 1 == 1);
        if at(chosen.map(|(_, (_, bit))| bit).sum()) { '1' } else { '0' }
    });
    Some(format!("{to} = {} of {}", ones.collect::<String>(), names.join(" ")))
}
