//! How many instructions a warp issues for a full tile of aligned tensors.
//!
//! Counting all of an entry's instructions would count much that such a tile never meets: the way by
//! elements, and code for warps that have diverged. So the paths through the code are followed, and those
//! are of a full tile that load and store each pack once by 16 bytes, access the mask as often as the entry
//! does, and draw the random numbers as often as said; a warp's lanes stay together (`BRA.DIV` is never taken).
//! Whatever such a path issues is counted, with predicates that are false too. Where there are several such paths,
//! because a lane may or may not skip some lines, or since what is impossible is not known to be, the longest
//! one counts. No path is one that draws an offset, as in a captured graph of PyTorch's: some 150 instructions more.

use std::{
    collections::{HashMap, HashSet},
    ops::RangeInclusive,
};

use crate::sass::{Instruction, Kernel};

/// What a path meets that tells which path it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Marks {
    /// Loads and stores of 16 bytes: packs. Loads that hang on a predicate, by which a loop's first turn omits
    /// what is loaded already, are counted apart.
    pub wide_loads: u32,
    pub maybe_wide_loads: u32,
    pub wide_stores: u32,
    /// Of less: mask words, and elements where there are no packs. The offset's base and where RReLU's forward
    /// stores its offset do not count: whether they are accessed is the caller's choice, of which the longer counts.
    pub narrow_loads: u32,
    pub narrow_stores: u32,
    /// The vote that ends the keep stream.
    pub votes: u32,
    /// Multiplications by Philox' two constants.
    pub products: u32,
    /// Loads of vectors, which alone may be kept in the first-level cache: of 16 bytes and of one value. Those that hang
    /// on a predicate count in straight tiles alone, where it says whether the vector is there.
    pub wide_vectors: u32,
    pub narrow_vectors: u32,
    /// Byte permutes that copy signs, one for each word of the packs that a straight tile selects by its mask.
    pub spreads: u32,
    /// Sums of two f32.
    pub additions: u32,
    /// Packs loaded before the first is stored.
    pub loads_ahead: u32,
}

/// Whether the selector is given, and some byte of the result is a sign.
fn copies_signs(instruction: &Instruction) -> bool {
    let selector = instruction.operands.split(", ").nth(2).and_then(|operand| operand.strip_prefix("0x"));
    selector.is_some_and(|digits| digits.chars().any(|digit| digit >= '8'))
}

impl Marks {
    fn add(&mut self, instruction: &Instruction, wanted: &Wanted) {
        let (base, wide) = (instruction.base(), instruction.has("128"));
        match base {
            "PRMT" if copies_signs(instruction) => self.spreads += u32::from(wanted.spreads.is_some()),
            "FADD" => self.additions += u32::from(wanted.additions.is_some()),
            "LDG" if instruction.has("SM") => {
                let counts = instruction.guard.is_none() || wanted.spreads.is_some();
                self.wide_vectors += u32::from(counts && wide);
                self.narrow_vectors += u32::from(counts && !wide);
            }
            "LDG" if wide && instruction.guard.is_some() => self.maybe_wide_loads += 1,
            "LDG" if wide => {
                self.wide_loads += 1;
                self.loads_ahead += u32::from(self.wide_stores == 0);
            }
            "LDG" if instruction.is_offset() => {}
            "LDG" => self.narrow_loads += 1,
            "STG" if instruction.is_offset() => {}
            "STG" if wide => self.wide_stores += 1,
            "STG" => self.narrow_stores += 1,
            "VOTE" => self.votes += 1,
            // Of a product's two halves, where they are made apart, the upper one counts.
            "IMAD" if instruction.has("WIDE") || instruction.has("HI") => {
                let by_philox = ["-0x2daee0ad", "-0x326172a9"].iter().any(|c| instruction.operands.contains(c));
                self.products += u32::from(by_philox);
            }
            _ => {}
        }
    }

    /// Whether a path that has met these may still come to meet those that are wanted.
    fn can_become(&self, wanted: &Wanted) -> bool {
        self.wide_loads <= wanted.marks.wide_loads
            && self.wide_stores <= wanted.marks.wide_stores
            && self.narrow_loads <= wanted.marks.narrow_loads
            && self.narrow_stores <= wanted.marks.narrow_stores
            && self.votes <= wanted.marks.votes
            && self.wide_vectors <= wanted.marks.wide_vectors
            && self.narrow_vectors <= wanted.marks.narrow_vectors
            && wanted.guarded.is_none_or(|guarded| self.maybe_wide_loads <= guarded)
            && wanted.spreads.is_none_or(|spreads| self.spreads <= spreads)
            && wanted.additions.is_none_or(|additions| self.additions <= additions)
            && self.products <= *wanted.products.end()
    }

    fn are(&self, wanted: &Wanted) -> bool {
        let exact =
            |m: &Marks| (m.wide_stores, m.narrow_loads, m.narrow_stores, m.votes, m.wide_vectors, m.narrow_vectors);
        exact(self) == exact(&wanted.marks)
            && wanted.guarded.is_none_or(|guarded| self.maybe_wide_loads == guarded)
            && wanted.spreads.is_none_or(|spreads| self.spreads == spreads)
            && wanted.additions.is_none_or(|additions| self.additions == additions)
            && (self.wide_loads..=self.wide_loads + self.maybe_wide_loads).contains(&wanted.marks.wide_loads)
            && wanted.products.contains(&self.products)
    }
}

/// The marks of the path that is meant.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Exact numbers, but for `products` and `loads_ahead`, which do not count.
    pub marks: Marks,
    /// A range, since part of a Philox call may be shared with the call before.
    pub products: RangeInclusive<u32>,
    /// How many loads of 16 bytes there are that hang on a predicate, where that is known.
    pub guarded: Option<u32>,
    /// How many words are selected by masks, where the tile is a straight one of kernels/channel_tile.cuh.
    pub spreads: Option<u32>,
    /// How many sums of two f32 there are, where that tells the path: a tile without a residual has none.
    pub additions: Option<u32>,
    /// Whether a jump may leave out loads of 16 bytes, as the last turn of a loop does that loads for the next.
    pub leaves_out_loads: bool,
}

/// Where control goes.
enum Flow {
    Next,
    Jump(usize),
    Either(usize),
    Exit,
    MayExit,
    /// To code for diverged warps, from which this analysis does not return.
    Away,
}

fn flow(kernel: &Kernel, at: usize) -> Flow {
    let instruction = &kernel.code[at];
    let conditional = instruction.guard.is_some();
    match instruction.base() {
        "EXIT" if conditional => Flow::MayExit,
        "EXIT" => Flow::Exit,
        "BRA" if instruction.has("DIV") => Flow::Next,
        // sm_80 writes some plain jumps as calls, which nothing returns from.
        "BRA" | "CALL" => match instruction.target().map(|(before, label)| (before, kernel.labels.get(label))) {
            Some((before, Some(&to))) if conditional || !before.is_empty() => Flow::Either(to),
            Some((_, Some(&to))) => Flow::Jump(to),
            _ => Flow::Away,
        },
        "RET" | "BRX" | "JMP" | "KILL" => Flow::Away,
        _ => Flow::Next,
    }
}

/// The jump that begins the next tile: of those that a warp in step can reach, the longest one backwards.
fn tile_loop(kernel: &Kernel) -> (usize, usize) {
    let mut seen = HashSet::new();
    let mut pending = vec![0];
    let mut back = Vec::new();
    while let Some(at) = pending.pop() {
        if !seen.insert(at) {
            continue;
        }
        let mut go = |to: usize| {
            pending.push(to);
            if to <= at {
                back.push((at, to));
            }
        };
        match flow(kernel, at) {
            Flow::Next | Flow::MayExit => go(at + 1),
            Flow::Jump(to) => go(to),
            Flow::Either(to) => {
                go(to);
                go(at + 1);
            }
            Flow::Exit | Flow::Away => {}
        }
    }
    let longest = back.into_iter().max_by_key(|(at, to)| at - to);
    longest.unwrap_or_else(|| panic!("{} for sm_{} has no loop", kernel.name, kernel.capability))
}

/// A full tile, as a warp executes it: the most instructions of any path, and the fewest packs loaded ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    pub instructions: u32,
    /// Of these, on the longest path, those of each pipe.
    pub pipes: Pipes,
    /// Packs loaded before the first is stored.
    pub loads_ahead: u32,
}

/// The path of a warp that does one tile, from the entry to the end; and from one tile to the next, for a
/// warp that has several.
pub fn of_full_tile(kernel: &Kernel, wanted: &Wanted) -> Option<(Path, Path)> {
    let back = tile_loop(kernel);
    Some((path(kernel, wanted, 0, back, false)?, path(kernel, wanted, back.1, back, true)?))
}

/// The first of these alone, in a kernel with several such loops: those in which something other than packs is stored.
pub fn of_first_tile(kernel: &Kernel, wanted: &Wanted) -> Option<Path> {
    path(kernel, wanted, 0, (usize::MAX, usize::MAX), false)
}

/// Whether the jump back begins another tile.
fn begins_a_tile(kernel: &Kernel, at: usize, to: usize) -> bool {
    kernel.code[to..at].iter().any(|i| i.base() == "STG" && !i.has("128"))
}

/// How many instructions pipes execute that have a rate of their own. What else is issued goes to the uniform datapath,
/// the units for branches and constants, or the f64 pipe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pipes {
    pub alu: u32,
    /// f32 and products of integers, and moves that the compiler makes of these: as many as are issued.
    pub fma: u32,
    /// Transcendental functions, and most conversions: 16 results a clock.
    pub mufu: u32,
    /// Accesses to memory and exchanges between lanes: 32 lanes a clock.
    pub lsu: u32,
}

impl Pipes {
    fn add(&mut self, instruction: &Instruction) {
        match instruction.base() {
            _ if is_of_alu(instruction) => self.alu += 1,
            "FADD" | "FMUL" | "FFMA" | "IMAD" | "HADD2" | "HMUL2" | "HFMA2" => self.fma += 1,
            "MUFU" | "I2F" | "I2FP" | "F2I" | "F2F" | "FRND" | "POPC" | "FLO" => self.mufu += 1,
            "LDG" | "STG" | "LDL" | "STL" | "SHFL" => self.lsu += 1,
            _ => {}
        }
    }
}

/// Whether the ALU pipe executes it: logic, shifts, byte permutes, integer additions, comparisons, selections and
/// votes, 64 results a clock for a multiprocessor of 9.0, half of what is issued (CUDA C++ Programming Guide,
/// "Arithmetic Instructions"). Multiplications, also of integers, go to another.
fn is_of_alu(instruction: &Instruction) -> bool {
    const ALU: [&str; 16] = [
        "FMNMX", "FSET", "FSETP", "IADD3", "IMNMX", "ISETP", "LEA", "LOP3", "PLOP3", "PRMT", "SEL", "SHF", "VIADD",
        "VIMNMX", "VOTE", "FSEL",
    ];
    ALU.contains(&instruction.base())
}

/// Over all paths with the wanted marks from `start` to the end of the program, or to the jump `back`; the
/// latter ends every path.
fn path(kernel: &Kernel, wanted: &Wanted, start: usize, back: (usize, usize), to_back: bool) -> Option<Path> {
    // Far more than any tile takes, to be done with loops that have no marks.
    const TOO_LONG: u32 = 20_000;

    let mut found = None;
    let mut longest = HashMap::new();
    // The last: what had been met at the last jump backwards, since another turn that meets nothing leads nowhere.
    let mut pending = vec![(start, Marks::default(), 0, Pipes::default(), None)];
    while let Some((mut at, mut marks, mut length, mut pipes, mut back_at)) = pending.pop() {
        loop {
            length += 1;
            pipes.add(&kernel.code[at]);
            marks.add(&kernel.code[at], wanted);
            let is_of_a_graph = kernel.code[at].makes_round_key();
            if is_of_a_graph || !marks.can_become(wanted) || length > TOO_LONG {
                break;
            }
            let mut record = |ends: bool| {
                if ends && marks.are(wanted) {
                    let none = Path { instructions: 0, pipes: Pipes::default(), loads_ahead: u32::MAX };
                    let path = found.get_or_insert(none);
                    if length > path.instructions {
                        (path.instructions, path.pipes) = (length, pipes);
                    }
                    path.loads_ahead = path.loads_ahead.min(marks.loads_ahead);
                }
            };
            let goes_on = match flow(kernel, at) {
                Flow::Next => Some(at + 1),
                Flow::MayExit => {
                    record(!to_back);
                    Some(at + 1)
                }
                Flow::Jump(to) | Flow::Either(to) if (at, to) == back => {
                    record(to_back);
                    matches!(flow(kernel, at), Flow::Either(_)).then_some(at + 1)
                }
                Flow::Jump(to) if to <= at && back_at == Some(marks) => None,
                Flow::Jump(to) => {
                    back_at = if to <= at { Some(marks) } else { back_at };
                    Some(to)
                }
                Flow::Either(to) => {
                    let left_out = kernel.code.get(at + 1..to).unwrap_or_default();
                    let loads = left_out.iter().any(|i| i.base() == "LDG" && i.has("EF") && i.has("128"));
                    let goes_on = wanted.leaves_out_loads || !loads || left_out.iter().any(|i| i.base() == "EXIT");
                    let in_vain =
                        to <= at && (back_at == Some(marks) || back.0 == usize::MAX && begins_a_tile(kernel, at, to));
                    // Of paths that have met the same, the longest is looked for.
                    let before = longest.entry((to, marks)).or_insert(0);
                    if goes_on && !in_vain && length > *before {
                        *before = length;
                        pending.push((to, marks, length, pipes, if to <= at { Some(marks) } else { back_at }));
                    }
                    Some(at + 1)
                }
                Flow::Exit => {
                    record(!to_back);
                    None
                }
                Flow::Away => None,
            };
            match goes_on {
                Some(next) => at = next,
                None => break,
            }
        }
    }
    found
}
