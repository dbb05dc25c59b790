//! Runs the lanes of a warp as what they are since compute capability 7.0: threads of their own.
//!
//! Lanes that stand at the same instruction are a group and go on together. A branch divides a group; a collective
//! holds its lanes until all that they name have come. Of the groups that can go on, one is chosen:
//!
//!     while there are groups
//!         the group that stands in the block of the lowest rank goes on, joined by all that stand where it does,
//!             until its block ends, its lanes part, or they wait
//!         if no group can go on
//!             every complete set of waiting lanes is let go; if there is none, they would wait for ever
//!
//! The rank of a block is its place in an order in which whatever lies before the point where lanes meet again comes
//! before that point, loops included ([`ranks`]), so they do meet. Which side of a branch comes first is the launch's
//! choice (`Order`); correct kernels can't tell.

use std::collections::HashMap;

use super::alu::{self, LANES, Lanes};
use super::memory::Memory;
use super::parse::Special;
use super::program::{self, Action, Collective, CollectiveKind, Instruction, Kernel, Path, Shuffle, Source, Vote};
use crate::emulator::Order;

/// Place and size of the launch, as special registers tell them.
#[derive(Clone, Copy)]
pub struct Position {
    pub grid: u32,
    pub block_threads: u32,
    pub block: u32,
    pub warp: u32,
}

/// Registers and lanes. Made once for a launch; warps take turns with it.
pub struct Warp<'k> {
    kernel: &'k Kernel,
    /// The bytes of the kernel's parameter.
    param: &'k [u8],
    /// Of each block.
    ranks: &'k [usize],
    registers: Vec<Lanes>,
    /// Of each register, the lanes in which something was written.
    defined: Vec<u32>,
    carry: Lanes,
    /// The lanes in which the carry flag was written.
    carry_defined: u32,
    groups: Vec<Group>,
    waiting: Vec<Waiting>,
    returned: u32,
    position: Position,
}

/// Lanes that stand at the same instruction and can go on.
struct Group {
    lanes: u32,
    at: usize,
}

/// Lanes that have come to a collective.
struct Waiting {
    lanes: u32,
    at: usize,
    members: u32,
}

/// A report and, where it is about one, the lane.
type Fault = (Option<u32>, String);

fn lanes_of(mut set: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lane = set.trailing_zeros();
        set &= set.wrapping_sub(1);
        (lane < 32).then_some(lane as usize)
    })
}

/// The place of each block in a topological order in which a loop, whole, is one step: its head, then the rest of it,
/// in such an order again. Where lanes leave it comes behind, so they meet there. (A reverse postorder may put the exit
/// before the body.) Which of two blocks comes first where nothing tells is up to the order.
pub fn ranks(kernel: &Kernel, order: Order) -> Vec<usize> {
    let mut random = match order {
        Order::Random(seed) => seed,
        _ => 0,
    };
    let successors = kernel.blocks.iter().map(|(_, successors)| {
        let mut successors = successors.clone();
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        if order == Order::Reversed || (matches!(order, Order::Random(_)) && random >> 63 == 1) {
            successors.reverse();
        }
        successors
    });
    let mut graph = Graph {
        successors: successors.collect(),
        within: vec![true; kernel.blocks.len()],
        ranks: vec![usize::MAX; kernel.blocks.len()],
        next: 0,
    };
    graph.number(&[0]);
    graph.ranks
}

/// Of a kernel's blocks.
struct Graph {
    successors: Vec<Vec<usize>>,
    /// What is being numbered: no way leads through the others.
    within: Vec<bool>,
    ranks: Vec<usize>,
    next: usize,
}

impl Graph {
    /// Numbers what can be reached from these blocks.
    fn number(&mut self, from: &[usize]) {
        let mut search = Search { seen: HashMap::new(), path: Vec::new(), loops: Vec::new() };
        for &block in from {
            if self.within[block] && !search.seen.contains_key(&block) {
                search.visit(block, self);
            }
        }
        // The last that was found leads to none of the others.
        let all: Vec<usize> = search.loops.iter().flatten().copied().collect();
        all.iter().for_each(|&block| self.within[block] = false);
        for whole in search.loops.into_iter().rev() {
            let head = whole[0];
            self.ranks[head] = self.next;
            self.next += 1;
            if whole.len() > 1 {
                whole[1..].iter().for_each(|&block| self.within[block] = true);
                self.number(&self.successors[head].clone());
            }
        }
    }
}

/// Tarjan's search for strongly connected components, which are loops and single blocks.
struct Search {
    /// The number of each block in the order of visits, and `true` while its component is open.
    seen: HashMap<usize, (usize, bool)>,
    path: Vec<usize>,
    /// Each from the block through which it was entered.
    loops: Vec<Vec<usize>>,
}

impl Search {
    /// The lowest number of an open component that can be reached.
    fn visit(&mut self, block: usize, graph: &Graph) -> usize {
        let (own, start) = (self.seen.len(), self.path.len());
        self.seen.insert(block, (own, true));
        self.path.push(block);
        let mut lowest = own;
        for &to in graph.successors[block].iter().filter(|&&to| graph.within[to]) {
            match self.seen.get(&to) {
                None => lowest = lowest.min(self.visit(to, graph)),
                Some(&(number, true)) => lowest = lowest.min(number),
                Some((_, false)) => {}
            }
        }
        if lowest == own {
            let whole = self.path.split_off(start);
            for block in &whole {
                self.seen.entry(*block).and_modify(|(_, open)| *open = false);
            }
            self.loops.push(whole);
        }
        lowest
    }
}

impl<'k> Warp<'k> {
    pub fn new(kernel: &'k Kernel, param: &'k [u8], ranks: &'k [usize]) -> Self {
        Self {
            kernel,
            param,
            ranks,
            registers: vec![[0; LANES]; kernel.registers.len()],
            defined: vec![0; kernel.registers.len()],
            carry: [0; LANES],
            carry_defined: 0,
            groups: Vec::new(),
            waiting: Vec::new(),
            returned: 0,
            position: Position { grid: 0, block_threads: 0, block: 0, warp: 0 },
        }
    }

    /// From the first instruction until every lane has returned. `budget`: instructions that may still be executed.
    pub fn run(&mut self, position: Position, memory: &mut Memory, budget: &mut u64) -> Result<(), String> {
        self.position = position;
        self.defined.fill(0);
        self.carry_defined = 0;
        self.returned = 0;
        self.groups.clear();
        self.waiting.clear();
        let threads = position.block_threads - 32 * position.warp;
        self.groups.push(Group { lanes: if threads >= 32 { u32::MAX } else { (1 << threads) - 1 }, at: 0 });
        loop {
            let Some(group) = self.choose() else {
                if self.waiting.is_empty() {
                    return Ok(());
                }
                self.release().map_err(|fault| self.report(fault))?;
                continue;
            };
            self.go_on(group, memory, budget).map_err(|fault| self.report(fault))?;
        }
    }

    fn report(&self, (lane, what): Fault) -> String {
        let Position { block, warp, .. } = self.position;
        match lane {
            Some(lane) => format!("block {block}, thread {} (warp {warp}, lane {lane}) {what}", 32 * warp + lane),
            None => format!("block {block}, warp {warp}: {what}"),
        }
    }

    fn choose(&mut self) -> Option<Group> {
        let place = |group: &Group| (self.ranks[self.kernel.block_of[group.at]], group.at);
        let first = self.groups.iter().enumerate().min_by_key(|(_, group)| place(group)).map(|(i, _)| i)?;
        let mut group = self.groups.swap_remove(first);
        self.groups.retain(|other| {
            let joins = other.at == group.at;
            group.lanes |= if joins { other.lanes } else { 0 };
            !joins
        });
        Some(group)
    }

    /// Executes instructions until the group's block ends, its lanes part, or they wait.
    fn go_on(&mut self, Group { lanes, mut at }: Group, memory: &mut Memory, budget: &mut u64) -> Result<(), Fault> {
        let kernel = self.kernel;
        let block = kernel.block_of[at];
        loop {
            *budget = budget
                .checked_sub(1)
                .ok_or_else(|| (None, "runs on far longer than its buffers explain: an endless loop?".to_owned()))?;
            let instruction = &kernel.code[at];
            let active = self.guarded(instruction, lanes).map_err(|fault| located(instruction, fault))?;
            match &instruction.action {
                Action::Branch(to) => {
                    // Control Flow Instructions: bra. With .uni the lanes that execute it have the same guard.
                    if instruction.opcode == "bra.uni" && active != lanes && active != 0 {
                        let what = format!("of the lanes {lanes:08X} only {active:08X} branch");
                        return Err(located(instruction, (None, what)));
                    }
                    self.part(active, *to);
                    self.part(lanes & !active, at + 1);
                    return Ok(());
                }
                Action::Return => {
                    self.returned |= active;
                    self.part(lanes & !active, at + 1);
                    return Ok(());
                }
                Action::Collective(collective) => {
                    self.wait(collective, active, at).map_err(|fault| located(instruction, fault))?;
                    self.part(lanes & !active, at + 1);
                    return Ok(());
                }
                action if active != 0 => {
                    self.execute(action, active, memory).map_err(|fault| located(instruction, fault))?;
                }
                _ => {}
            }
            at += 1;
            if kernel.block_of[at] != block && !self.groups.is_empty() {
                self.part(lanes, at);
                return Ok(());
            }
        }
    }

    fn part(&mut self, lanes: u32, at: usize) {
        if lanes != 0 {
            self.groups.push(Group { lanes, at });
        }
    }

    fn guarded(&self, instruction: &Instruction, lanes: u32) -> Result<u32, Fault> {
        let Some((predicate, negated)) = instruction.guard else { return Ok(lanes) };
        self.check_defined(predicate, lanes)?;
        let holds = set_of(&self.registers[predicate]);
        Ok(lanes & if negated { !holds } else { holds })
    }

    // -----------------------------------------------------------------------------------------------
    // Registers

    fn check_defined(&self, register: usize, lanes: u32) -> Result<(), Fault> {
        let missing = lanes & !self.defined[register];
        if missing == 0 {
            return Ok(());
        }
        let name = &self.kernel.registers[register];
        Err((Some(missing.trailing_zeros()), format!("reads register {name}, which nobody has written")))
    }

    fn get<'a>(&'a self, source: &'a Source, lanes: u32, made: &'a mut Lanes) -> Result<&'a Lanes, Fault> {
        match source {
            Source::Register(register) => {
                self.check_defined(*register, lanes)?;
                return Ok(&self.registers[*register]);
            }
            Source::Constant(value) => return Ok(value),
            Source::Not(register) => {
                self.check_defined(*register, lanes)?;
                *made = self.registers[*register].map(|p| p ^ 1);
            }
            Source::Special(special) => {
                let Position { grid, block_threads, block, warp } = self.position;
                *made = std::array::from_fn(|lane| match special {
                    Special::TidX => u64::from(32 * warp) + lane as u64,
                    Special::NtidX => block_threads.into(),
                    Special::CtaidX => block.into(),
                    Special::NctaidX => grid.into(),
                    Special::LaneId => lane as u64,
                });
            }
        }
        Ok(made)
    }

    fn set(&mut self, register: usize, lanes: u32, values: &Lanes) {
        self.defined[register] |= lanes;
        let to = &mut self.registers[register];
        if lanes == u32::MAX {
            *to = *values;
        } else {
            lanes_of(lanes).for_each(|lane| to[lane] = values[lane]);
        }
    }

    fn execute(&mut self, action: &Action, lanes: u32, memory: &mut Memory) -> Result<(), Fault> {
        let mut values = [0; LANES];
        match action {
            Action::Compute { alu, sources, to } => {
                let mut made = [[0; LANES]; 4];
                let [m0, m1, m2, m3] = &mut made;
                match &alu.compute {
                    alu::Compute::One(f) => f(self.get(&sources[0], lanes, m0)?, &mut values),
                    alu::Compute::Two(f) => {
                        f(self.get(&sources[0], lanes, m0)?, self.get(&sources[1], lanes, m1)?, &mut values);
                    }
                    alu::Compute::Three(f) => {
                        let (a, b) = (self.get(&sources[0], lanes, m0)?, self.get(&sources[1], lanes, m1)?);
                        f(a, b, self.get(&sources[2], lanes, m2)?, &mut values);
                    }
                    alu::Compute::Four(f) => {
                        let (a, b) = (self.get(&sources[0], lanes, m0)?, self.get(&sources[1], lanes, m1)?);
                        f([a, b, self.get(&sources[2], lanes, m2)?, self.get(&sources[3], lanes, m3)?], &mut values);
                    }
                    alu::Compute::Partial(f) => {
                        let (a, b) = (self.get(&sources[0], lanes, m0)?, self.get(&sources[1], lanes, m1)?);
                        for lane in lanes_of(lanes) {
                            let open = || (Some(lane as u32), "divides by zero, of which the result is open".into());
                            values[lane] = f(a[lane], b[lane]).ok_or_else(open)?;
                        }
                    }
                    alu::Compute::Carry { reads, compute } => {
                        let missing = if *reads { lanes & !self.carry_defined } else { 0 };
                        if missing != 0 {
                            let what = "reads the carry flag, which nobody has written".into();
                            return Err((Some(missing.trailing_zeros()), what));
                        }
                        let (a, b) = (*self.get(&sources[0], lanes, m0)?, *self.get(&sources[1], lanes, m1)?);
                        let c = sources.get(2).map_or(Ok([0; LANES]), |c| self.get(c, lanes, m2).copied())?;
                        for lane in lanes_of(lanes) {
                            let (value, flag) = compute([a[lane], b[lane], c[lane]], self.carry[lane] == 1);
                            values[lane] = value;
                            if let Some(flag) = flag {
                                self.carry[lane] = flag.into();
                                self.carry_defined |= 1 << lane;
                            }
                        }
                    }
                }
                self.set(*to, lanes, &values);
            }
            Action::Join { parts, bits, to } => {
                let mut made = [0; LANES];
                for (i, part) in parts.iter().enumerate() {
                    let part = self.get(part, lanes, &mut made)?;
                    (0..LANES).for_each(|lane| values[lane] |= part[lane] << (*bits * i as u32));
                }
                self.set(*to, lanes, &values);
            }
            Action::Split { from, bits, parts } => {
                let mut made = [0; LANES];
                let from = *self.get(from, lanes, &mut made)?;
                for (i, to) in parts.iter().enumerate() {
                    let part = from.map(|value| value >> (*bits * i as u32) & ((1 << *bits) - 1));
                    to.iter().for_each(|&to| self.set(to, lanes, &part));
                }
            }
            Action::LoadParam { at, bytes, to } => {
                for (i, &to) in to.iter().enumerate() {
                    let value = from_bytes(&self.param[at + i * bytes..][..*bytes]);
                    self.set(to, lanes, &[value; LANES]);
                }
            }
            Action::LoadParamBy { address, offset, bytes, to } => {
                self.check_defined(*address, lanes)?;
                let mut loaded = [[0; LANES]; 4];
                for lane in lanes_of(lanes) {
                    let count = bytes * to.len();
                    let at = self.registers[*address][lane].wrapping_add_signed(*offset).wrapping_sub(program::PARAM);
                    let whole = usize::try_from(at).ok().filter(|at| at.is_multiple_of(count));
                    let whole = whole.and_then(|at| self.param.get(at..)?.get(..count)).ok_or_else(|| {
                        let (at, all) = (at as i64, self.param.len());
                        (Some(lane as u32), format!("reads {count} bytes at {at} of a parameter of {all}"))
                    })?;
                    for (i, value) in whole.chunks(*bytes).enumerate() {
                        loaded[i][lane] = from_bytes(value);
                    }
                }
                to.iter().zip(&loaded).for_each(|(&to, values)| self.set(to, lanes, values));
            }
            Action::Load { address, offset, bytes, to, path } => {
                self.check_defined(*address, lanes)?;
                let mut loaded = [[0; LANES]; 4];
                for lane in lanes_of(lanes) {
                    let fault = |what| (Some(lane as u32), what);
                    if *path == Path::Plain {
                        return Err(fault(BY_ITSELF.into()));
                    }
                    let at = self.registers[*address][lane].wrapping_add_signed(*offset);
                    let mut memory_at = [0; 32];
                    let whole = &mut memory_at[..bytes * to.len()];
                    memory.read(at, whole, *path == Path::ReadOnly).map_err(fault)?;
                    for (i, value) in whole.chunks(*bytes).enumerate() {
                        loaded[i][lane] = from_bytes(value);
                    }
                }
                to.iter().zip(&loaded).for_each(|(&to, values)| self.set(to, lanes, values));
            }
            Action::Store { address, offset, bytes, from, path } => {
                self.check_defined(*address, lanes)?;
                let mut stored = [[0; LANES]; 4];
                for (source, stored) in from.iter().zip(&mut stored) {
                    *stored = *self.get(source, lanes, &mut values)?;
                }
                for lane in lanes_of(lanes) {
                    let fault = |what| (Some(lane as u32), what);
                    if *path == Path::Plain {
                        return Err(fault(BY_ITSELF.into()));
                    }
                    let at = self.registers[*address][lane].wrapping_add_signed(*offset);
                    let mut whole = [0; 32];
                    for (i, value) in stored[..from.len()].iter().enumerate() {
                        whole[i * bytes..][..*bytes].copy_from_slice(&value[lane].to_le_bytes()[..*bytes]);
                    }
                    memory.write(at, &whole[..bytes * from.len()]).map_err(fault)?;
                }
            }
            Action::Collective(_) | Action::Branch(_) | Action::Return => unreachable!("these steer the group"),
        }
        Ok(())
    }

    // -----------------------------------------------------------------------------------------------
    // Collectives

    fn wait(&mut self, collective: &Collective, lanes: u32, at: usize) -> Result<(), Fault> {
        let mut made = [0; LANES];
        let members = *self.get(&collective.members, lanes, &mut made)?;
        for lane in lanes_of(lanes) {
            let (own, members) = (1 << lane, members[lane] as u32);
            if members & own == 0 {
                return Err((Some(lane as u32), format!("gives the lanes {members:08X}, which does not name it")));
            }
            match self.waiting.iter_mut().find(|w| w.at == at && w.members == members) {
                Some(set) => set.lanes |= own,
                None => self.waiting.push(Waiting { lanes: own, at, members }),
            }
        }
        Ok(())
    }

    /// Lets every complete set of lanes go on.
    fn release(&mut self) -> Result<(), Fault> {
        let (complete, waiting) = std::mem::take(&mut self.waiting).into_iter().partition(|w| w.lanes == w.members);
        self.waiting = waiting;
        let complete: Vec<Waiting> = complete;
        if complete.is_empty() {
            return Err((None, self.deadlock()));
        }
        let kernel = self.kernel;
        for Waiting { lanes, at, .. } in complete {
            let instruction = &kernel.code[at];
            let Action::Collective(collective) = &instruction.action else { unreachable!("lanes wait at collectives") };
            self.complete(&collective.kind, lanes).map_err(|fault| located(instruction, fault))?;
            self.part(lanes, at + 1);
        }
        Ok(())
    }

    /// Which lane waits for which other, and where that one is.
    fn deadlock(&self) -> String {
        let first = &self.waiting[0];
        let lane = first.lanes.trailing_zeros();
        let other = (first.members & !first.lanes).trailing_zeros();
        let place = |at: usize| {
            let Instruction { opcode, line, .. } = &self.kernel.code[at];
            format!("{opcode} (line {line})")
        };
        let why = match self.waiting.iter().find(|w| w.lanes >> other & 1 == 1) {
            Some(elsewhere) => format!("waits at {} with the lanes {:08X}", place(elsewhere.at), elsewhere.members),
            None if self.returned >> other & 1 == 1 => "has returned".into(),
            None => format!("does not exist: the block has {} threads", self.position.block_threads),
        };
        let (at, members) = (place(first.at), first.members);
        format!("deadlock: lane {lane} waits at {at} with the lanes {members:08X} for lane {other}, which {why}")
    }

    /// What a collective gives to each of its lanes.
    fn complete(&mut self, kind: &CollectiveKind, lanes: u32) -> Result<(), Fault> {
        let mut made = [[0; LANES]; 3];
        let [m0, m1, m2] = &mut made;
        match kind {
            CollectiveKind::Wait => {}
            // vote.sync. Lanes that are not named count as if their predicate were false.
            CollectiveKind::Vote { mode, value, to } => {
                let holds = set_of(self.get(value, lanes, m0)?) & lanes;
                let result = match mode {
                    Vote::All => u64::from(holds == lanes),
                    Vote::Any => u64::from(holds != 0),
                    Vote::Uniform => u64::from(holds == lanes || holds == 0),
                    Vote::Ballot => holds.into(),
                };
                self.set(*to, lanes, &[result; LANES]);
            }
            // shfl.sync: its pseudo code, with the operands b and c as the text calls them.
            CollectiveKind::Shuffle { mode, value, lane, clamp, to, inside } => {
                let value = *self.get(value, lanes, m0)?;
                let (b, c) = (*self.get(lane, lanes, m1)?, *self.get(clamp, lanes, m2)?);
                let (mut results, mut predicates) = ([0; LANES], [0; LANES]);
                for lane in lanes_of(lanes) {
                    let own = lane as i64;
                    let (b, clamp, segment) =
                        ((b[lane] & 31) as i64, (c[lane] & 31) as i64, (c[lane] >> 8 & 31) as i64);
                    let (most, least) = ((own & segment) | (clamp & !segment), own & segment);
                    let (from, within) = match mode {
                        Shuffle::Up => (own - b, own - b >= most),
                        Shuffle::Down => (own + b, own + b <= most),
                        Shuffle::Butterfly => (own ^ b, own ^ b <= most),
                        Shuffle::Index => (least | (b & !segment), (least | (b & !segment)) <= most),
                    };
                    let from = if within { from } else { own };
                    if lanes >> from & 1 == 0 {
                        let what = format!("takes the value of lane {from}, which takes no part");
                        return Err((Some(lane as u32), what));
                    }
                    results[lane] = value[from as usize];
                    predicates[lane] = within.into();
                }
                self.set(*to, lanes, &results);
                inside.iter().for_each(|&inside| self.set(inside, lanes, &predicates));
            }
        }
        Ok(())
    }
}

const BY_ITSELF: &str = "reads or writes by itself: global memory is touched with a cache operator only";

fn located(instruction: &Instruction, (lane, what): Fault) -> Fault {
    (lane, format!("{what}; {} in line {}", instruction.opcode, instruction.line))
}

/// The lanes whose predicate holds.
fn set_of(predicates: &Lanes) -> u32 {
    predicates.iter().enumerate().fold(0, |set, (lane, &p)| set | (p as u32) << lane)
}

fn from_bytes(bytes: &[u8]) -> u64 {
    let mut whole = [0; 8];
    whole[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(whole)
}
