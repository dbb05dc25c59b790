//! Which constants machine code stores. Only what moves constants is understood, and nothing computes: a register that
//! anything else writes holds no constant from there on.

use std::collections::HashMap;

/// Of each kernel the words that it stores, by byte offset; `None` is a word that is no constant.
pub type Stores = HashMap<u64, Option<u32>>;

/// All kernels in what nvdisasm prints.
pub fn stores(code: &str) -> HashMap<String, Stores> {
    let mut kernels = HashMap::<String, Stores>::new();
    let mut machine = Machine::default();
    let mut name = None;
    for line in code.lines() {
        if let Some(text) = line.strip_prefix(".text.").and_then(|rest| rest.strip_suffix(':')) {
            name = Some(text.to_owned());
            machine = Machine::default();
        } else if line.starts_with(".L_x_") {
            // Something may jump here, with other registers.
            machine.registers.clear();
        } else if let Some((_, text)) = line.trim_start().strip_prefix("/*").and_then(|rest| rest.split_once("*/")) {
            let Some(name) = &name else { continue };
            machine.step(text.trim().trim_end_matches([';', ' ']), kernels.entry(name.clone()).or_default());
        }
    }
    kernels
}

/// The instructions of all kernels up to where they end, without addresses.
pub fn instructions(code: &str) -> HashMap<String, Vec<&str>> {
    let mut kernels = HashMap::<String, Vec<&str>>::new();
    let mut name = None;
    for line in code.lines() {
        if let Some(text) = line.strip_prefix(".text.").and_then(|rest| rest.strip_suffix(':')) {
            name = Some(text.to_owned());
        } else if let Some((_, text)) = line.trim_start().strip_prefix("/*").and_then(|rest| rest.split_once("*/")) {
            let Some(name) = &name else { continue };
            let code = kernels.entry(name.clone()).or_default();
            // What follows is a branch to itself, to a label of its own, and padding.
            if code.last().is_none_or(|last| !last.starts_with("EXIT")) {
                code.push(text.trim());
            }
        }
    }
    kernels
}

#[derive(Default)]
struct Machine {
    /// Constants by register: `R5`, `UR4`.
    registers: HashMap<String, u32>,
}

impl Machine {
    fn step(&mut self, text: &str, stores: &mut Stores) {
        let (guarded, text) = match text.strip_prefix('@') {
            Some(rest) => (true, rest.split_once(' ').map_or("", |(_, rest)| rest.trim_start())),
            None => (false, text),
        };
        let (opcode, operands) = text.split_once(' ').unwrap_or((text, ""));
        let operands: Vec<_> = operands.split(',').map(str::trim).filter(|operand| !operand.is_empty()).collect();
        let base = opcode.split('.').next().unwrap_or_default();
        if base == "STG" {
            return self.store(opcode, &operands, guarded, stores);
        }
        if matches!(base, "CALL" | "BRA" | "BRX" | "RET") {
            return self.registers.clear();
        }
        let moved = if guarded { None } else { self.moved(opcode, &operands) };
        let Some(&to) = operands.iter().find(|operand| !is_predicate(operand)) else { return };
        match moved {
            Some(words) => {
                for (i, word) in words.into_iter().enumerate() {
                    self.registers.insert(after(to, i), word);
                }
            }
            // As many registers as an instruction may write; pairs begin at even ones.
            None => {
                let count = if opcode.contains("128") { 4 } else { 2 - number(to).unwrap_or(0) % 2 };
                (0..count).for_each(|i| _ = self.registers.remove(&after(to, i)));
            }
        }
    }

    /// The words that an instruction writes, where it moves constants and nothing else.
    fn moved(&self, opcode: &str, operands: &[&str]) -> Option<Vec<u32>> {
        match (opcode, operands) {
            ("MOV" | "UMOV" | "IMAD.MOV.U32" | "IMAD.U32", [_, zeros @ .., from]) => {
                let zero = zeros.iter().all(|operand| matches!(*operand, "RZ" | "URZ"));
                Some(vec![self.word(from).filter(|_| zero)?])
            }
            // CS2R writes two registers, of a "special register" that is zero.
            ("CS2R", [_, "SRZ"]) => Some(vec![0, 0]),
            ("CS2R.32", [_, "SRZ"]) => Some(vec![0]),
            // -0 * 0 + {high, low}, of halves: ptxas spreads moves over the units with this.
            ("HFMA2.MMA" | "HFMA2", [_, "-RZ", "RZ", high, low]) => {
                Some(vec![u32::from(half(high)?) << 16 | u32::from(half(low)?)])
            }
            _ => None,
        }
    }

    fn word(&self, operand: &str) -> Option<u32> {
        let operand = operand.trim_end_matches(".reuse");
        match operand {
            "RZ" | "URZ" => Some(0),
            _ if operand.starts_with(['R', 'U']) => self.registers.get(operand).copied(),
            _ => literal(operand),
        }
    }

    /// `STG.E.64 desc[UR4][R2.64+0x8], R10`
    fn store(&self, opcode: &str, operands: &[&str], guarded: bool, stores: &mut Stores) {
        let [address, from] = operands[..] else { panic!("a store of another form: {opcode} {operands:?}") };
        let inside = address.rsplit_once('[').expect("an address in brackets").1.trim_end_matches(']');
        let offset = inside.rsplit_once('+').map_or(0, |(_, offset)| u64::from(literal(offset).expect("an offset")));
        let words = match opcode.split('.').find_map(|part| part.parse::<usize>().ok()) {
            Some(bits) => bits / 32,
            None => 1,
        };
        for i in 0..words {
            let register = if from == "RZ" { "RZ".into() } else { after(from, i) };
            let word = if guarded { None } else { self.word(&register) };
            assert!(stores.insert(offset + 4 * i as u64, word).is_none(), "{offset:#x} is stored to twice");
        }
    }
}

fn is_predicate(operand: &str) -> bool {
    operand.trim_start_matches('U').starts_with('P')
}

/// 5 of `R5` and of `UR5`.
fn number(register: &str) -> Option<usize> {
    register.trim_start_matches(['U', 'R']).parse().ok()
}

/// The register so many after this one.
fn after(register: &str, count: usize) -> String {
    match number(register) {
        Some(number) => format!("{}{}", register.trim_end_matches(|c: char| c.is_ascii_digit()), number + count),
        None => register.into(),
    }
}

/// `0x3f800003`, `-0x1`, `1.0000003576278686523`: an integer as its bits, a float as those of f32.
fn literal(text: &str) -> Option<u32> {
    if let Some(digits) = text.strip_prefix("-0x") {
        return Some(u32::from_str_radix(digits, 16).ok()?.wrapping_neg());
    }
    u32::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

/// The bits of a half that nvdisasm prints as a decimal, exactly.
fn half(text: &str) -> Option<u16> {
    let sign = if text.starts_with('-') { 0x8000 } else { 0 };
    match text.trim_start_matches(['-', '+']) {
        "INF" => Some(sign | 0x7c00),
        "QNAN" | "SNAN" => None,
        digits => {
            let value: f64 = digits.parse().ok()?;
            let found = half::f16::from_f64(value);
            (found.to_f64() == value).then_some(sign | found.to_bits())
        }
    }
}
