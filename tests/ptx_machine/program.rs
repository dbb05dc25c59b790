//! From statements to what the machine executes: operands by kind, widths compared with the registers', the flow of
//! control as basic blocks.

use std::collections::{HashMap, HashSet};

use super::alu::{self, Alu, LANES, Lanes};
use super::parse::{self, Operand, Special, Statement};

/// A kernel, ready to be run.
pub struct Kernel {
    pub name: String,
    pub param_bytes: usize,
    pub most_threads: u32,
    /// Names, for reports.
    pub registers: Vec<String>,
    pub code: Vec<Instruction>,
    /// Of each instruction the number of its block; blocks are numbered as they stand.
    pub block_of: Vec<usize>,
    /// Of each block: where it begins, and the blocks that may follow.
    pub blocks: Vec<(usize, Vec<usize>)>,
}

pub struct Instruction {
    pub line: usize,
    pub opcode: String,
    /// The lanes whose predicate is as it says; all if `None`.
    pub guard: Option<(usize, bool)>,
    pub action: Action,
}

/// What an operand gives.
#[derive(Clone)]
pub enum Source {
    Register(usize),
    /// A predicate, negated.
    Not(usize),
    Constant(Box<Lanes>),
    Special(Special),
}

pub enum Action {
    Compute {
        alu: Alu,
        sources: Vec<Source>,
        to: usize,
    },
    /// Parts of a register, from the lowest, to one that is as wide as all of them; and the other way.
    Join {
        parts: Vec<Source>,
        bits: u32,
        to: usize,
    },
    Split {
        from: Source,
        bits: u32,
        parts: Vec<Option<usize>>,
    },
    /// Values of `bytes` each, one after the other.
    LoadParam {
        at: usize,
        bytes: usize,
        to: Vec<usize>,
    },
    LoadParamBy {
        address: usize,
        offset: i64,
        bytes: usize,
        to: Vec<usize>,
    },
    Load {
        address: usize,
        offset: i64,
        bytes: usize,
        to: Vec<usize>,
        path: Path,
    },
    Store {
        address: usize,
        offset: i64,
        bytes: usize,
        from: Vec<Source>,
        path: Path,
    },
    Collective(Collective),
    Branch(usize),
    Return,
}

/// How an access goes. The kernels say it of each, so one that does not has gone round their rules.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Path {
    /// With a cache operator.
    Cached,
    /// `ld.global.nc`: for memory that nothing writes while the kernel runs.
    ReadOnly,
    /// Neither.
    Plain,
}

/// What lanes do together. Those that `members` names in each lane have to come.
pub struct Collective {
    pub kind: CollectiveKind,
    pub members: Source,
}

pub enum CollectiveKind {
    /// Each lane's `value` to others. `lane` and `clamp` are the operands b and c of `shfl.sync`.
    Shuffle {
        mode: Shuffle,
        value: Source,
        lane: Source,
        clamp: Source,
        to: usize,
        inside: Option<usize>,
    },
    Vote {
        mode: Vote,
        value: Source,
        to: usize,
    },
    /// `bar.warp.sync`
    Wait,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Vote {
    All,
    Any,
    Uniform,
    Ballot,
}

pub fn kernel(parsed: parse::Kernel) -> parse::Result<Kernel> {
    let mut code = Vec::with_capacity(parsed.instructions.len());
    for statement in &parsed.instructions {
        let Statement { line, opcode, guard, .. } = statement;
        let context = Context {
            statement,
            registers: &parsed.registers,
            labels: &parsed.labels,
            param: parsed.param.1,
            count: parsed.instructions.len(),
        };
        let action = context.action().map_err(|why| format!("{}, line {line}: {opcode}: {why}", parsed.name))?;
        if let Some((predicate, _)) = guard
            && parsed.registers[*predicate].bits != 1
        {
            return Err(format!("{}, line {line}: {opcode}: the guard is no predicate", parsed.name));
        }
        code.push(Instruction { line: *line, opcode: opcode.clone(), guard: *guard, action });
    }
    if !matches!(code.last(), Some(Instruction { guard: None, action: Action::Return | Action::Branch(_), .. })) {
        return Err(format!("{} ends without ret", parsed.name));
    }
    let (block_of, blocks) = blocks(&code);
    let registers = parsed.registers.into_iter().map(|register| register.name).collect();
    let (name, most_threads, param_bytes) = (parsed.name, parsed.most_threads, parsed.param.1);
    Ok(Kernel { name, param_bytes, most_threads, registers, code, block_of, blocks })
}

/// A block begins where a branch leads and after one.
fn blocks(code: &[Instruction]) -> (Vec<usize>, Vec<(usize, Vec<usize>)>) {
    let mut begins = vec![false; code.len() + 1];
    begins[0] = true;
    for (i, instruction) in code.iter().enumerate() {
        match instruction.action {
            Action::Branch(to) => {
                begins[to] = true;
                begins[i + 1] = true;
            }
            Action::Return => begins[i + 1] = true,
            _ => {}
        }
    }
    let (mut block_of, mut starts) = (Vec::with_capacity(code.len()), Vec::new());
    for (i, &begins) in begins[..code.len()].iter().enumerate() {
        if begins {
            starts.push(i);
        }
        block_of.push(starts.len() - 1);
    }
    let successors = |block: usize| {
        let last = starts.get(block + 1).map_or(code.len(), |&next| next) - 1;
        let Instruction { guard, action, .. } = &code[last];
        let falls_through = guard.is_some() || !matches!(action, Action::Return | Action::Branch(_));
        let mut to: Vec<usize> = falls_through.then_some(block + 1).into_iter().collect();
        if let Action::Branch(target) = action {
            to.push(block_of[*target]);
        }
        to
    };
    let blocks = starts.iter().enumerate().map(|(block, &start)| (start, successors(block))).collect();
    (block_of, blocks)
}

/// One statement and what its names stand for.
struct Context<'a> {
    statement: &'a Statement,
    registers: &'a [parse::Register],
    labels: &'a HashMap<String, usize>,
    param: usize,
    /// Of the kernel's instructions.
    count: usize,
}

impl Context<'_> {
    fn action(&self) -> parse::Result<Action> {
        let operands = &self.statement.operands[..];
        let words: Vec<&str> = self.statement.opcode.split('.').collect();
        match (&words[..], operands) {
            (["bra", ..], [Operand::Label(label)]) if matches!(words[1..], [] | ["uni"]) => {
                let target = *self.labels.get(label).ok_or(format!("there is no label {label}"))?;
                let within = target < self.count;
                within.then_some(Action::Branch(target)).ok_or(format!("{label} leads behind the end"))
            }
            (["ret"], []) => Ok(Action::Return),
            (["mov", kind], [Operand::Register(to), Operand::Vector(parts)]) => {
                let bits = self.part_bits(kind, parts.len())?;
                let sources = parts.iter().map(|part| self.source(part, bits)).collect::<Result<_, _>>()?;
                Ok(Action::Join { bits, to: self.of_width(*to, bits * parts.len() as u32, kind)?, parts: sources })
            }
            (["mov", kind], [Operand::Vector(parts), from]) => {
                let bits = self.part_bits(kind, parts.len())?;
                let to = |part: &Operand| match part {
                    Operand::Sink => Ok(None),
                    Operand::Register(to) if self.registers[*to].bits == bits => Ok(Some(*to)),
                    _ => Err(format!("{part:?} is no register of {bits} bits")),
                };
                let from = self.source(from, bits * parts.len() as u32)?;
                let parts = parts.iter().map(to).collect::<Result<Vec<_>, _>>()?;
                self.distinct(parts.iter().flatten())?;
                Ok(Action::Split { from, bits, parts })
            }
            (["mov", "u64" | "b64"], [to, Operand::ParamAddress]) => {
                let alu = alu::decode(&self.statement.opcode).ok_or(UNKNOWN)?;
                let sources = vec![Source::Constant([PARAM; LANES].into())];
                Ok(Action::Compute { alu, sources, to: self.register(to, 64)? })
            }
            (["ld", "param", kind @ ..], [to, Operand::Address(address, offset)]) => {
                let (bytes, to) = self.of_param(kind, to)?;
                let address = self.of_width(*address, 64, "address")?;
                Ok(Action::LoadParamBy { address, offset: *offset, bytes, to })
            }
            (["ld", "param", kind @ ..], [to, Operand::Param(at)]) => {
                let (bytes, to) = self.of_param(kind, to)?;
                let at = usize::try_from(*at).map_err(|_| "before the parameter")?;
                if at + bytes * to.len() > self.param || !at.is_multiple_of(bytes * to.len()) {
                    return Err(format!("{} bytes at {at} of a parameter of {}", bytes * to.len(), self.param));
                }
                Ok(Action::LoadParam { at, bytes, to })
            }
            (["ld", "global", kind @ ..], [to, Operand::Address(address, offset)]) => {
                // Data Movement and Conversion Instructions: ld, ld.global.nc, Cache Operators.
                let (path, kind) = match kind {
                    ["nc", kind @ ..] => (Path::ReadOnly, kind),
                    ["ca" | "cg" | "cs" | "lu" | "cv", kind @ ..] => (Path::Cached, kind),
                    kind => (Path::Plain, kind),
                };
                let (bytes, to) = self.transferred(kind, to)?;
                Ok(Action::Load { address: self.of_width(*address, 64, "address")?, offset: *offset, bytes, to, path })
            }
            (["st", "global", kind @ ..], [Operand::Address(address, offset), from]) => {
                let (path, kind) = match kind {
                    ["wb" | "cg" | "cs" | "wt", kind @ ..] => (Path::Cached, kind),
                    kind => (Path::Plain, kind),
                };
                let (bytes, count) = self.transfer(kind)?;
                let parts = self.parts(from, count)?;
                let from = parts.iter().map(|part| self.source(part, 8 * bytes as u32)).collect::<Result<_, _>>()?;
                Ok(Action::Store {
                    address: self.of_width(*address, 64, "address")?,
                    offset: *offset,
                    bytes,
                    from,
                    path,
                })
            }
            // Parallel Synchronization and Communication Instructions.
            (["shfl", "sync", mode, "b32"], [to, value, lane, clamp, members]) => {
                let mode = match *mode {
                    "up" => Shuffle::Up,
                    "down" => Shuffle::Down,
                    "bfly" => Shuffle::Butterfly,
                    "idx" => Shuffle::Index,
                    _ => return Err(UNKNOWN.into()),
                };
                let (to, inside) = match to {
                    Operand::Pair(to, inside) => (&**to, Some(self.register(inside, 1)?)),
                    to => (to, None),
                };
                let [value, lane, clamp] = [self.source(value, 32)?, self.source(lane, 32)?, self.source(clamp, 32)?];
                let kind = CollectiveKind::Shuffle { mode, value, lane, clamp, to: self.register(to, 32)?, inside };
                Ok(Action::Collective(Collective { kind, members: self.source(members, 32)? }))
            }
            (["vote", "sync", mode, kind], [to, value, members]) => {
                let (mode, bits) = match (*mode, *kind) {
                    ("all", "pred") => (Vote::All, 1),
                    ("any", "pred") => (Vote::Any, 1),
                    ("uni", "pred") => (Vote::Uniform, 1),
                    ("ballot", "b32") => (Vote::Ballot, 32),
                    _ => return Err(UNKNOWN.into()),
                };
                // The one source that may be negated, of those that are known here.
                let value = match value {
                    Operand::NotRegister(register) => Source::Not(self.of_width(*register, 1, "operand")?),
                    value => self.source(value, 1)?,
                };
                let kind = CollectiveKind::Vote { mode, value, to: self.register(to, bits)? };
                Ok(Action::Collective(Collective { kind, members: self.source(members, 32)? }))
            }
            (["bar", "warp", "sync"], [members]) => {
                Ok(Action::Collective(Collective { kind: CollectiveKind::Wait, members: self.source(members, 32)? }))
            }
            (_, [to, from @ ..]) => {
                let alu = alu::decode(&self.statement.opcode).ok_or(UNKNOWN)?;
                if from.len() != alu.sources.len() {
                    return Err(format!("{} operands, not {}", from.len(), alu.sources.len()));
                }
                let sources = from.iter().zip(&alu.sources).map(|(operand, &bits)| self.source(operand, bits));
                let sources = sources.collect::<Result<_, _>>()?;
                Ok(Action::Compute { to: self.register(to, alu.result)?, sources, alu })
            }
            _ => Err(UNKNOWN.into()),
        }
    }

    fn part_bits(&self, kind: &str, parts: usize) -> parse::Result<u32> {
        let bits = alu::width(kind).ok_or(UNKNOWN)?;
        let known = matches!((kind, bits / parts.max(1) as u32, parts), ("b32", 16, 2) | ("b64", 32 | 16, 2 | 4));
        known.then_some(bits / parts as u32).ok_or(UNKNOWN.into())
    }

    fn register(&self, operand: &Operand, bits: u32) -> parse::Result<usize> {
        match operand {
            Operand::Register(register) => self.of_width(*register, bits, "result"),
            other => Err(format!("{other:?} is no register")),
        }
    }

    fn of_width(&self, register: usize, bits: u32, what: &str) -> parse::Result<usize> {
        let found = &self.registers[register];
        let fits = found.bits == bits;
        fits.then_some(register).ok_or(format!("{what}: {} has {} bits, not {bits}", found.name, found.bits))
    }

    fn source(&self, operand: &Operand, bits: u32) -> parse::Result<Source> {
        // Where there are two types, the last is that of the sources.
        let kind = self.statement.opcode.rsplit('.').next().unwrap_or_default();
        match operand {
            Operand::Register(register) => self.of_width(*register, bits, "operand").map(Source::Register),
            Operand::Immediate(value) if !kind.starts_with('f') => {
                let value = match bits {
                    1 => u64::from(*value != 0),
                    64 => *value as u64,
                    _ => *value as u64 & ((1 << bits) - 1),
                };
                Ok(Source::Constant([value; LANES].into()))
            }
            Operand::Float { bits: value, width } if *width == bits && kind.starts_with(['f', 'b']) => {
                Ok(Source::Constant([*value; LANES].into()))
            }
            Operand::Special(special) if bits == 32 => Ok(Source::Special(*special)),
            other => Err(format!("{other:?} is no operand of {bits} bits")),
        }
    }

    /// Bytes of a value and the number of values of ".v4.u32" or ".u16".
    fn transfer(&self, kind: &[&str]) -> parse::Result<(usize, usize)> {
        let (count, kind) = match kind {
            ["v2", kind] => (2, kind),
            ["v4", kind] => (4, kind),
            [kind] => (1, kind),
            _ => return Err(UNKNOWN.into()),
        };
        // 32 bytes are for GPUs since compute capability 10.0.
        let bits = alu::width(kind).filter(|&bits| bits > 1 && bits * count <= 128).ok_or(UNKNOWN)?;
        Ok((bits as usize / 8, count as usize))
    }

    /// Those of a vector where there is more than one.
    fn parts<'o>(&self, operand: &'o Operand, count: usize) -> parse::Result<&'o [Operand]> {
        let (parts, fits) = match operand {
            Operand::Vector(parts) => (&parts[..], count > 1 && parts.len() == count),
            single => (std::slice::from_ref(single), count == 1),
        };
        fits.then_some(parts).ok_or(format!("{operand:?} is not of {count}"))
    }

    /// What a register holds that one instruction writes twice is open.
    fn distinct<'r>(&self, registers: impl Iterator<Item = &'r usize>) -> parse::Result<()> {
        let mut seen = HashSet::new();
        let mut twice = registers.filter(|register| !seen.insert(**register));
        twice.next().map_or(Ok(()), |&twice| Err(format!("{} is written twice", self.registers[twice].name)))
    }

    /// As `transferred`. A byte goes to a register of 16 bits, and 32 bits may go to one of 64, with zeros in front
    /// ("Operand Size Exceeding Instruction-Type Size").
    fn of_param(&self, kind: &[&str], to: &Operand) -> parse::Result<(usize, Vec<usize>)> {
        match kind {
            ["u8" | "b8"] => Ok((1, vec![self.register(to, 16)?])),
            ["u32" | "b32"] if self.register(to, 64).is_ok() => Ok((4, vec![self.register(to, 64)?])),
            kind => self.transferred(kind, to),
        }
    }

    /// The same, and the registers that the values go to.
    fn transferred(&self, kind: &[&str], to: &Operand) -> parse::Result<(usize, Vec<usize>)> {
        let (bytes, count) = self.transfer(kind)?;
        let parts = self.parts(to, count)?.iter();
        let to = parts.map(|part| self.register(part, 8 * bytes as u32)).collect::<Result<Vec<_>, _>>()?;
        self.distinct(to.iter())?;
        Ok((bytes, to))
    }
}

/// Where the parameter is among the addresses of its own space. No buffer is there.
pub const PARAM: u64 = 0x5041_5241_4D00_0000;

const UNKNOWN: &str = "an instruction, type or modifier that is not known here";
