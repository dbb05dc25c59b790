//! `tests/data/ptx-instructions.txt`: its header explains the format.

const TABLE: &str = include_str!("../data/ptx-instructions.txt");

/// An operand: its bits, and how many there are. 1 is a predicate, 8 an immediate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Value {
    pub bits: u64,
    pub width: u32,
}

/// What an instruction yields: bits, or any NaN of a width.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Expected {
    Bits(Value),
    Nan(Format),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Format {
    F16,
    Bf16,
    F32,
    F64,
}

impl Expected {
    pub fn width(self) -> u32 {
        match self {
            Self::Bits(value) => value.width,
            Self::Nan(Format::F16 | Format::Bf16) => 16,
            Self::Nan(Format::F32) => 32,
            Self::Nan(Format::F64) => 64,
        }
    }

    pub fn admits(self, bits: u64) -> bool {
        let above = |infinity: u64, sign: u64| bits & !sign > infinity && bits < sign << 1;
        match self {
            Self::Bits(value) => value.bits == bits,
            Self::Nan(Format::F16) => above(0x7c00, 0x8000),
            Self::Nan(Format::Bf16) => above(0x7f80, 0x8000),
            Self::Nan(Format::F32) => above(0x7f80_0000, 0x8000_0000),
            Self::Nan(Format::F64) => bits & (u64::MAX >> 1) > 0x7ff0_0000_0000_0000,
        }
    }
}

/// One line.
#[derive(Clone, Debug)]
pub struct Case {
    pub line: &'static str,
    /// One instruction, or several with `; ` between them.
    pub instruction: &'static str,
    pub sources: Vec<Value>,
    pub results: Vec<Expected>,
}

/// All of them, in order.
pub fn cases() -> Vec<Case> {
    let lines = TABLE.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| parse(line).unwrap_or_else(|| panic!("a line that is no case: {line}"))).collect()
}

fn parse(line: &'static str) -> Option<Case> {
    let (instruction, operands) = line.split_once(" | ")?;
    let (sources, results) = operands.split_once(" => ")?;
    let result = |text| match text {
        "nan" => format_of(instruction).map(Expected::Nan),
        _ => value(text).map(Expected::Bits),
    };
    let sources = sources.split(' ').map(value).collect::<Option<_>>()?;
    Some(Case { line, instruction, sources, results: results.split(' ').map(result).collect::<Option<_>>()? })
}

fn value(text: &str) -> Option<Value> {
    let (digits, width) = match text.strip_prefix("0x") {
        Some(digits) => (digits, 4 * digits.len() as u32),
        None => (text, 1),
    };
    let bits = u64::from_str_radix(digits, 16).ok()?;
    (matches!(width, 8 | 16 | 32 | 64) || bits < 2).then_some(Value { bits, width })
}

/// The format of what an instruction yields: the first that it names.
fn format_of(instruction: &str) -> Option<Format> {
    instruction.split('.').find_map(|part| match part {
        "f16" => Some(Format::F16),
        "bf16" => Some(Format::Bf16),
        "f32" => Some(Format::F32),
        "f64" => Some(Format::F64),
        _ => None,
    })
}
