//! From PTX text to statements: directives and instructions with their operands, each with its line.
//!
//! The grammar is that of the PTX ISA's chapter "Syntax", as far as compilers write it: a statement ends with a
//! semicolon, braces where a statement could begin open a scope of register names, braces within one are a vector.
//! What is not known here is an error that names the line.

use std::collections::HashMap;

/// An error that names its line.
pub type Result<T> = std::result::Result<T, String>;

/// One kernel, with its registers numbered from 0.
#[derive(Debug)]
pub struct Kernel {
    pub name: String,
    /// The name and the bytes of its one parameter.
    pub param: (String, usize),
    /// The most threads of a block that it may be launched with (`.maxntid`), 0 where it does not say.
    pub most_threads: u32,
    pub registers: Vec<Register>,
    pub instructions: Vec<Statement>,
    /// Where each label stands: the index of the instruction that follows it.
    pub labels: HashMap<String, usize>,
}

#[derive(Debug)]
pub struct Register {
    pub name: String,
    /// 1 for a predicate.
    pub bits: u32,
}

/// An instruction as it is written.
#[derive(Debug)]
pub struct Statement {
    pub line: usize,
    /// The predicate of `@%p` and whether it is negated.
    pub guard: Option<(usize, bool)>,
    pub opcode: String,
    pub operands: Vec<Operand>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    Register(usize),
    /// `!%p`
    NotRegister(usize),
    /// Within what 64 bits hold, with or without a sign.
    Immediate(i128),
    Float {
        bits: u64,
        width: u32,
    },
    Special(Special),
    /// `{a, b}`
    Vector(Vec<Operand>),
    /// `d|p`
    Pair(Box<Operand>, Box<Operand>),
    /// `[register + bytes]`
    Address(usize, i64),
    /// `[parameter + bytes]`
    Param(i64),
    /// The parameter's name, which stands for its address.
    ParamAddress,
    /// `_`: a result that nobody wants.
    Sink,
    Label(String),
}

/// Special registers (the PTX ISA's chapter of that name).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Special {
    TidX,
    NtidX,
    CtaidX,
    NctaidX,
    LaneId,
}

/// All kernels of a module.
pub fn module(text: &str) -> Result<Vec<Kernel>> {
    let mut reader = Reader { text: text.as_bytes(), at: 0, line: 1 };
    let mut kernels = Vec::new();
    while let Some(piece) = reader.next_piece()? {
        let line = piece.line;
        let Kind::Directive(words) = piece.kind else {
            return Err(format!("line {line}: not expected outside a function: {:?}", piece.kind));
        };
        match words.split_whitespace().next().unwrap_or_default() {
            ".version" | ".target" | ".address_size" | ".file" => {}
            ".visible" | ".entry" => kernels.push(kernel(&words, line, &mut reader)?),
            _ => return Err(format!("line {line}: unknown directive: {words}")),
        }
    }
    Ok(kernels)
}

// ---------------------------------------------------------------------------------------------------
// Pieces of text

#[derive(Debug)]
struct Piece {
    line: usize,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Open,
    Close,
    Label(String),
    /// Begins with a dot.
    Directive(String),
    Instruction(String),
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    line: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn skip_blanks(&mut self) {
        while let Some(c) = self.peek() {
            if self.text[self.at..].starts_with(b"//") {
                while self.peek().is_some_and(|c| c != b'\n') {
                    self.at += 1;
                }
            } else if c.is_ascii_whitespace() {
                self.line += usize::from(c == b'\n');
                self.at += 1;
            } else {
                break;
            }
        }
    }

    /// A brace, a label, or what stands before a semicolon or, for a directive of its own line, before its end.
    fn next_piece(&mut self) -> Result<Option<Piece>> {
        self.skip_blanks();
        let line = self.line;
        let Some(first) = self.peek() else { return Ok(None) };
        if first == b'{' || first == b'}' {
            self.at += 1;
            let kind = if first == b'{' { Kind::Open } else { Kind::Close };
            return Ok(Some(Piece { line, kind }));
        }
        let start = self.at;
        let directive = first == b'.';
        let mut words = String::new();
        loop {
            let blank_at = self.at;
            self.skip_blanks();
            if self.at != blank_at {
                // Directives that end with their line: .version 9.0, .maxntid 256, 1, 1.
                if directive && self.line != line && !words.contains('(') {
                    break;
                }
                words.push(' ');
                continue;
            }
            let Some(c) = self.peek() else { break };
            match c {
                b';' => {
                    self.at += 1;
                    break;
                }
                b':' if is_identifier(&words) => {
                    self.at += 1;
                    return Ok(Some(Piece { line, kind: Kind::Label(words) }));
                }
                b'{' if directive && words.ends_with(") ") => break,
                _ => {
                    words.push(c as char);
                    self.at += 1;
                    if directive && c == b')' {
                        break;
                    }
                }
            }
        }
        debug_assert!(self.at > start);
        let words = words.trim().to_owned();
        let kind = if directive { Kind::Directive(words) } else { Kind::Instruction(words) };
        Ok(Some(Piece { line, kind }))
    }
}

// ---------------------------------------------------------------------------------------------------
// A kernel

/// Names of registers, the innermost scope last.
struct Names {
    scopes: Vec<HashMap<String, usize>>,
    registers: Vec<Register>,
    param: String,
}

impl Names {
    /// `None` where no scope is open, or the scope has such a name.
    fn declare(&mut self, name: String, bits: u32) -> Option<()> {
        let twice = self.scopes.last_mut()?.insert(name.clone(), self.registers.len());
        self.registers.push(Register { name, bits });
        twice.is_none().then_some(())
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.scopes.iter().rev().find_map(|scope| scope.get(name)).copied()
    }
}

fn kernel(head: &str, line: usize, reader: &mut Reader) -> Result<Kernel> {
    let strange = || format!("line {line}: not a kernel of one parameter: {head}");
    let (before, inside) = head.split_once('(').ok_or_else(strange)?;
    let words: Vec<_> = before.split_whitespace().collect();
    let ([".visible", ".entry", name] | [".entry", name]) = words[..] else { return Err(strange()) };
    if !is_identifier(name) {
        return Err(strange());
    }
    // .param .align 8 .b8 name[128]
    let words: Vec<_> = inside.strip_suffix(')').ok_or_else(strange)?.split_whitespace().collect();
    let [".param", ".align", "8", ".b8", array] = words[..] else { return Err(strange()) };
    let (param, bytes) = array.strip_suffix(']').and_then(|array| array.split_once('[')).ok_or_else(strange)?;
    let bytes = bytes.parse().map_err(|_| strange())?;

    let mut names = Names { scopes: Vec::new(), registers: Vec::new(), param: param.to_owned() };
    let (mut most_threads, mut instructions, mut labels) = (0, Vec::new(), HashMap::new());
    loop {
        let piece = reader.next_piece()?.ok_or(format!("line {line}: {name} has no end"))?;
        let line = piece.line;
        if names.scopes.is_empty() && matches!(piece.kind, Kind::Close | Kind::Label(_) | Kind::Instruction(_)) {
            return Err(format!("line {line}: not expected before the body: {:?}", piece.kind));
        }
        match piece.kind {
            Kind::Open => names.scopes.push(HashMap::new()),
            Kind::Close => {
                names.scopes.pop();
                if names.scopes.is_empty() {
                    break;
                }
            }
            Kind::Label(label) => {
                if labels.insert(label.clone(), instructions.len()).is_some() {
                    return Err(format!("line {line}: a second label {label}"));
                }
            }
            Kind::Directive(words) => {
                let unknown = || format!("line {line}: unknown directive: {words}");
                let (directive, rest) = words.split_once(' ').unwrap_or((&words, ""));
                match directive {
                    ".maxntid" => {
                        let of_each: Option<Vec<u32>> = rest.split(',').map(|n| n.trim().parse().ok()).collect();
                        let of_each = of_each.filter(|of_each| of_each.len() <= 3).ok_or_else(unknown)?;
                        let all = of_each.iter().try_fold(1, |all: u32, &n| all.checked_mul(n));
                        most_threads = all.filter(|&all| all > 0).ok_or_else(unknown)?;
                    }
                    ".minnctapersm" | ".pragma" | ".loc" => {}
                    ".reg" => registers(rest, &mut names).ok_or_else(unknown)?,
                    _ => return Err(unknown()),
                }
            }
            Kind::Instruction(text) => {
                instructions.push(statement(&text, line, &names).map_err(|why| format!("line {line}: {why}: {text}"))?);
            }
        }
    }
    let Names { registers, param, .. } = names;
    Ok(Kernel { name: name.to_owned(), param: (param, bytes), most_threads, registers, instructions, labels })
}

/// `.b32 %r<208>` or `.b32 low, high`
fn registers(text: &str, names: &mut Names) -> Option<()> {
    let (kind, list) = text.trim().split_once(|c: char| c.is_whitespace())?;
    let bits = match kind {
        ".pred" => 1,
        ".b16" | ".u16" | ".s16" | ".f16" => 16,
        ".b32" | ".u32" | ".s32" | ".f32" => 32,
        ".b64" | ".u64" | ".s64" | ".f64" => 64,
        _ => return None,
    };
    for name in list.split(',').map(str::trim) {
        let (name, count) = match name.split_once('<') {
            Some((stem, count)) => (stem, Some(count.strip_suffix('>')?.parse::<usize>().ok()?)),
            None => (name, None),
        };
        if !is_identifier(name) {
            return None;
        }
        match count {
            Some(count) => (0..count).try_for_each(|i| names.declare(format!("{name}{i}"), bits))?,
            None => names.declare(name.to_owned(), bits)?,
        }
    }
    Some(())
}

/// The PTX ISA's "Identifiers".
fn is_identifier(name: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphabetic();
    let follows = |c: char| letter(c) || c.is_ascii_digit() || c == '_' || c == '$';
    match name.strip_prefix(['_', '$', '%']) {
        Some(rest) => !rest.is_empty() && rest.chars().all(follows),
        None => name.starts_with(letter) && name.chars().all(follows),
    }
}

fn statement(text: &str, line: usize, names: &Names) -> Result<Statement> {
    let (guard, rest) = match text.strip_prefix('@') {
        Some(rest) => {
            let (predicate, rest) = rest.split_once(' ').ok_or("a guard alone")?;
            let (negated, name) = predicate.strip_prefix('!').map_or((false, predicate), |name| (true, name));
            let register = names.find(name).ok_or(format!("no register {name}"))?;
            (Some((register, negated)), rest.trim())
        }
        None => (None, text),
    };
    let (opcode, list) = rest.split_once(' ').unwrap_or((rest, ""));
    let operands = split(list)?.into_iter().map(|operand| parse_operand(operand, names)).collect::<Result<_>>()?;
    Ok(Statement { line, guard, opcode: opcode.to_owned(), operands })
}

/// At the commas that stand outside of braces and brackets, which go in pairs.
fn split(list: &str) -> Result<Vec<&str>> {
    let (mut parts, mut open, mut start) = (Vec::new(), Vec::new(), 0);
    for (i, c) in list.char_indices() {
        match c {
            '{' | '[' => open.push(c),
            '}' | ']' if open.pop() != Some(if c == '}' { '{' } else { '[' }) => return Err(format!("a lone {c}")),
            ',' if open.is_empty() => {
                parts.push(list[start..i].trim());
                start = i + 1;
            }
            _ => {}
        }
    }
    if !parts.is_empty() || !list.trim().is_empty() {
        parts.push(list[start..].trim());
    }
    match open.last() {
        Some(c) => Err(format!("a lone {c}")),
        None if parts.contains(&"") => Err("a comma too many".into()),
        None => Ok(parts),
    }
}

fn parse_operand(text: &str, names: &Names) -> Result<Operand> {
    if let Some((value, predicate)) = text.split_once('|') {
        let pair = (parse_operand(value.trim(), names)?, parse_operand(predicate.trim(), names)?);
        return Ok(Operand::Pair(pair.0.into(), pair.1.into()));
    }
    if let Some(inner) = text.strip_prefix('{') {
        let parts = split(inner.strip_suffix('}').ok_or("something behind the braces")?)?;
        return parts.into_iter().map(|p| parse_operand(p, names)).collect::<Result<_>>().map(Operand::Vector);
    }
    if let Some(inner) = text.strip_prefix('[') {
        let inner = inner.strip_suffix(']').ok_or("something behind the brackets")?;
        // 16 or -16 behind a plus sign.
        let (base, offset) = inner.split_once('+').map_or((inner, "0"), |(base, offset)| (base, offset.trim()));
        let base = base.trim();
        let offset: i64 =
            offset.parse().ok().filter(|_| !offset.starts_with('+')).ok_or_else(|| format!("no offset: {offset}"))?;
        if base == names.param {
            return Ok(Operand::Param(offset));
        }
        let register = names.find(base).ok_or(format!("no register {base}"))?;
        return Ok(Operand::Address(register, offset));
    }
    if let Some(name) = text.strip_prefix('!') {
        return names.find(name).map(Operand::NotRegister).ok_or(format!("no register {name}"));
    }
    if let Some(register) = names.find(text) {
        return Ok(Operand::Register(register));
    }
    match text {
        param if param == names.param => return Ok(Operand::ParamAddress),
        "_" => return Ok(Operand::Sink),
        "%tid.x" => return Ok(Operand::Special(Special::TidX)),
        "%ntid.x" => return Ok(Operand::Special(Special::NtidX)),
        "%ctaid.x" => return Ok(Operand::Special(Special::CtaidX)),
        "%nctaid.x" => return Ok(Operand::Special(Special::NctaidX)),
        "%laneid" => return Ok(Operand::Special(Special::LaneId)),
        _ => {}
    }
    if let Some(value) = float(text).or_else(|| integer(text)) {
        return Ok(value);
    }
    let is_label = is_identifier(text) && !text.starts_with('%');
    if is_label { Ok(Operand::Label(text.to_owned())) } else { Err(format!("no operand: {text}")) }
}

/// By the bits: 0f and 8 digits, 0d and 16 (the PTX ISA's "Floating-Point Constants").
fn float(text: &str) -> Option<Operand> {
    let of = |prefix: char, width: u32| {
        let digits = text.strip_prefix('0')?.strip_prefix([prefix, prefix.to_ascii_uppercase()])?;
        let complete = digits.len() == width as usize / 4 && digits.bytes().all(|c| c.is_ascii_hexdigit());
        let bits = complete.then(|| u64::from_str_radix(digits, 16).ok()).flatten()?;
        Some(Operand::Float { bits, width })
    };
    of('f', 32).or_else(|| of('d', 64))
}

/// Decimal, hexadecimal or binary, of 64 bits at most ("Integer Constants"). There are octal ones too, which begin with
/// a zero; no compiler writes them.
fn integer(text: &str) -> Option<Operand> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
    let digits = digits.strip_suffix('U').unwrap_or(digits);
    let (digits, base) = match digits.get(..2) {
        Some("0x" | "0X") => (&digits[2..], 16),
        Some("0b" | "0B") => (&digits[2..], 2),
        Some(octal) if octal.starts_with('0') => return None,
        _ => (digits, 10),
    };
    if !digits.bytes().all(|c| c.is_ascii_hexdigit()) {
        return None;
    }
    let value = u64::from_str_radix(digits, base).ok().map(i128::from)?;
    let value = if negative { -value } else { value };
    (value >= i64::MIN.into()).then_some(Operand::Immediate(value))
}
