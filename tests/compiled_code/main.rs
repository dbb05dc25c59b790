//! The compiled code says what the source meant. What is looked at is the device code that the library embeds:
//! machine code where there was an nvcc to make it, and PTX always.
//!
//! `cargo test --test compiled_code -- --nocapture` prints registers and instruction counts.
//! `BLESS=1` rewrites `tests/data/instruction-counts.csv` and `compiled-passes.csv`, after a change of the kernels that
//! is meant; `scripts/report` then makes the tables of `docs/gpu-prediction.md` anew.
#![cfg(feature = "cuda")]

mod fused;
#[path = "../../build/nvcc.rs"]
#[allow(dead_code)]
mod nvcc;
mod path;
mod prediction;
mod sass;
mod shape;
#[path = "../shipped/mod.rs"]
mod shipped;
mod tools;

use std::{
    collections::BTreeSet,
    env, fs,
    io::{self, Write},
    sync::OnceLock,
};

use drop_activation::{
    Activation,
    cuda::{device_code, launch::Entry},
};
use sass::Kernel;
use shape::{FIRST_VOTE, Kind, Shape, mean_calls};

const IMAGES: [(&str, &[u8]); 6] = [
    ("relu.fatbin", include_bytes!(concat!(env!("OUT_DIR"), "/relu.fatbin"))),
    ("smooth.fatbin", include_bytes!(concat!(env!("OUT_DIR"), "/smooth.fatbin"))),
    ("rrelu.fatbin", include_bytes!(concat!(env!("OUT_DIR"), "/rrelu.fatbin"))),
    ("fused.fatbin", include_bytes!(concat!(env!("OUT_DIR"), "/fused.fatbin"))),
    ("fused_smooth.fatbin", include_bytes!(concat!(env!("OUT_DIR"), "/fused_smooth.fatbin"))),
    ("advance.fatbin", include_bytes!(concat!(env!("OUT_DIR"), "/advance.fatbin"))),
];

/// Instruction counts, and the nvcc that they are of.
const RECORD: &str = include_str!("../data/instruction-counts.csv");

/// "13.0.88" of "fatbin by nvcc 13.0.88 for sm_75, ...".
fn nvcc_version(text: &str) -> &str {
    let mut words = text.split_whitespace().skip_while(|word| *word != "nvcc").skip(1);
    words.next().unwrap_or_default().trim_end_matches('.')
}

/// Whether the machine code is by the very nvcc of the record.
fn is_recorded() -> bool {
    nvcc_version(device_code()) == nvcc_version(RECORD)
}

/// The embedded machine code, or `None` after telling once why there is none to look at.
fn kernels() -> Option<&'static [Kernel]> {
    static FOUND: OnceLock<Option<Vec<Kernel>>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let found = match device_code().contains("fatbin by nvcc") {
            true => sass::kernels(&IMAGES),
            false => Err(format!("the library embeds {}", device_code())),
        };
        found.map_err(|why| tell(&format!("SKIPPED: the machine code of the kernels: {why}\n"))).ok()
    });
    found.as_deref()
}

/// Those that passes begin with.
fn of_passes() -> Option<impl Iterator<Item = &'static Kernel> + Clone> {
    Some(kernels()?.iter().filter(|kernel| Entry::PASSES.iter().any(|entry| entry.name() == kernel.name)))
}

/// Past the capture of the test harness, which shows the output of failing tests only.
fn tell(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Fails with these complaints, if there are any.
fn none_of(mut complaints: Vec<String>) {
    complaints.dedup();
    let first = complaints[..complaints.len().min(40)].join("\n");
    assert!(complaints.is_empty(), "{} complaints:\n{first}", complaints.len());
}

fn is_of_fused_smooth(name: &str) -> bool {
    name.starts_with("da_fused_") && Activation::ALL[1..].iter().any(|activation| name.contains(activation.name()))
}

/// Whether there is, for a capability, no machine code of passes that are fused with a smooth activation.
fn is_rare(capability: u32) -> bool {
    device_code().starts_with("prebuilt ") && ![80, 90].contains(&capability)
}

#[test]
fn every_entry_is_there() {
    let Some(kernels) = kernels() else { return };
    let capabilities: BTreeSet<u32> = kernels.iter().map(|kernel| kernel.capability).collect();
    let expected: BTreeSet<&str> = Entry::ALL.iter().map(|entry| entry.name()).collect();
    for capability in &capabilities {
        let of_it = kernels.iter().filter(|kernel| kernel.capability == *capability);
        let mut found: BTreeSet<_> = of_it.map(|kernel| kernel.name).collect();
        // What is prebuilt of this module is for few.
        if is_rare(*capability) {
            found.extend(expected.iter().filter(|name| is_of_fused_smooth(name)));
        }
        assert_eq!(found, expected, "sm_{capability}");
    }
    assert!(kernels.iter().all(|kernel| kernel.code.len() > 15), "an entry without code");
    for capability in capabilities {
        assert!(device_code().contains(&format!("sm_{capability}")), "{}", device_code());
    }
}

// ---------------------------------------------------------------------------------------------------
// Registers and memory

/// As the kernels are launched.
const WARPS_OF_A_BLOCK: u32 = 8;

/// Registers of a thread, at most.
///
/// What only moves tensors needs bytes in flight to keep the memory busy, 48 KiB for each multiprocessor of an
/// H200: so many warps, with the packs that each loads ahead, must find room in 65536 registers. RReLU in training
/// and the smooth activations are bound by arithmetic, whose latency 24 and 32 warps hide; in f64 by the number of
/// double-precision units, which 16 warps keep busy.
///
/// Sums over channels have a lane's accumulators in registers, and what is fused with a nonlinearity the vectors'
/// values for a pack: so that 16 warps find room.
fn most_registers(shape: &Shape) -> u32 {
    if shape.fused {
        return 65536 / 32 / 16;
    }
    let in_flight = 32 * 16 * shape.packs_ahead();
    let warps = match shape.kind {
        Kind::Moves => (48 * 1024u32).div_ceil(in_flight),
        Kind::Draws => 24,
        Kind::Computes if shape.size == 8 => 16,
        Kind::Computes | Kind::Sums => 32,
    };
    65536 / 32 / warps.next_multiple_of(WARPS_OF_A_BLOCK) / 8 * 8
}

#[test]
fn no_spills_and_few_registers() {
    let Some(kernels) = of_passes() else { return };
    let mut complaints = Vec::new();
    for kernel in kernels.clone() {
        let (name, capability, resources) = (kernel.name, kernel.capability, kernel.resources);
        // A division of 64 bits is a subroutine, for which there may be a frame of 8 bytes.
        let frame = if Shape::of(name).fused { 8 } else { 0 };
        if resources.stack > frame || resources.local != 0 || resources.shared != 0 {
            complaints.push(format!("{name} for sm_{capability}: {resources:?}"));
        }
        let most = most_registers(&Shape::of(name));
        if resources.registers > most {
            complaints.push(format!("{name} for sm_{capability}: {} registers of {most}", resources.registers));
        }
    }
    none_of(complaints);

    println!("{:45} most  used, by capability", "registers");
    for entry in Entry::PASSES {
        let of_it = kernels.clone().filter(|kernel| kernel.name == entry.name());
        let used: String = of_it.map(|kernel| format!("{:5}", kernel.resources.registers)).collect();
        println!("{:45} {:4} {used}", entry.name(), most_registers(&Shape::of(entry.name())));
    }
}

#[test]
fn memory_is_accessed_as_meant() {
    let Some(kernels) = of_passes() else { return };
    let mut complaints = Vec::new();
    for kernel in kernels {
        let shape = Shape::of(kernel.name);
        let (mut wide_loads, mut wide_stores) = (0, 0);
        for instruction in &kernel.code {
            let width = ["128", "64", "U16"].into_iter().find(|width| instruction.has(width));
            let bytes = match width {
                Some("128") => 16,
                Some("64") => 8,
                Some(_) => 2,
                None => 4,
            };
            let fine = match instruction.base() {
                // The read-only path would be wrong where the output takes the input's place.
                "LDG" if instruction.has("CONSTANT") => false,
                // Packs; by elements; words of the mask.
                "LDG" | "STG" if instruction.is_offset() && shape.draws() => true,
                // Vectors, and sums of chunks.
                "LDG" | "STG" if shape.fused && bytes == shape.size.max(4) => true,
                "LDG" | "STG" => [16, shape.size, 4].contains(&bytes),
                // One word that is kept over such a subroutine.
                "LDL" | "STL" if shape.fused && kernel.resources.stack <= 8 => true,
                "LDL" | "STL" | "LD" | "ST" | "LDS" | "STS" | "ATOM" | "ATOMG" | "ATOMS" | "RED" | "BAR" => false,
                _ => true,
            };
            wide_loads += u32::from(instruction.base() == "LDG" && bytes == 16);
            wide_stores += u32::from(instruction.base() == "STG" && bytes == 16);
            if !fine {
                complaints.push(format!("{} for sm_{}: {}", kernel.name, kernel.capability, instruction.opcode));
            }
        }
        // Once for each pack ahead; the loop over the rest of the tile may repeat them.
        // In a loop over steps, whose first loads come before it.
        if shape.fused && wide_loads >= 1 && (shape.kind == Kind::Sums || wide_stores >= 1) {
            continue;
        }
        if wide_loads < shape.packs_ahead() || wide_stores < shape.packs_ahead() / shape.inputs {
            let found = format!("{wide_loads} loads and {wide_stores} stores of 16 bytes");
            complaints.push(format!("{} for sm_{}: {found}", kernel.name, kernel.capability));
        }
    }
    none_of(complaints);
}

#[test]
fn double_precision_is_for_f64() {
    let Some(kernels) = of_passes() else { return };
    let doubles = |kernel: &Kernel| {
        let mut opcodes = kernel.code.iter().map(|instruction| instruction.opcode);
        opcodes.find(|opcode| {
            let mut parts = opcode.split('.');
            let base = parts.next().unwrap_or_default();
            ["DADD", "DMUL", "DFMA", "DSETP", "DSET", "DMNMX"].contains(&base)
                || parts.any(|part| part.contains("64H") || part == "F64")
        })
    };
    let (wide, others): (Vec<_>, Vec<_>) = kernels.partition(|kernel| Shape::of(kernel.name).size == 8);
    let complaint =
        |kernel: &&Kernel| Some(format!("{} for sm_{}: {}", kernel.name, kernel.capability, doubles(kernel)?));
    none_of(others.iter().filter_map(complaint).collect());
    // That these are the words for it: f64 arithmetic is found where it must be.
    let silent = wide.iter().filter(|kernel| Shape::of(kernel.name).kind != Kind::Moves && doubles(kernel).is_none());
    none_of(silent.map(|kernel| format!("{} has no f64 arithmetic", kernel.name)).collect());
}

// ---------------------------------------------------------------------------------------------------
// Instructions

/// The capabilities that are counted: the code for others is like one of these.
const COUNTED: [u32; 3] = [80, 90, 100];

/// Lane slots that an H200 has for each byte that it moves: 132 multiprocessors with 4 schedulers issue 33.4 10^12 in a
/// second at 1.98 GHz, while it moves 4.3 10^12 bytes.
const SLOTS_PER_BYTE: f64 = 33.4 / 4.3;

/// A full tile of 1024 elements, 32 of each lane.
struct Count {
    capability: u32,
    entry: &'static str,
    /// By a warp that does nothing else, with [`FIRST_VOTE`] calls of Philox for its keep bits.
    one_tile: u32,
    /// For each tile more.
    next_tile: u32,
    /// For each call more.
    call: u32,
    /// Of `one_tile`, those of the ALU pipe.
    alu: u32,
}

impl Count {
    fn of(kernel: &Kernel) -> Result<Self, String> {
        let shape = Shape::of(kernel.name);
        let with = |calls| {
            let missing = || format!("{} for sm_{}: no path of a full tile", kernel.name, kernel.capability);
            path::of_full_tile(kernel, &shape.full_tile(calls)).ok_or_else(missing)
        };
        let (one, next) = with(FIRST_VOTE)?;
        let call = if shape.draws_keep_bits { with(FIRST_VOTE + 1)?.0.instructions - one.instructions } else { 0 };
        if one.loads_ahead != shape.packs_ahead() {
            let ahead = (one.loads_ahead, shape.packs_ahead());
            return Err(format!(
                "{} for sm_{}: (packs loaded ahead, expected) = {ahead:?}",
                kernel.name, kernel.capability
            ));
        }
        let (one_tile, next_tile) = (one.instructions, next.instructions);
        Ok(Self { capability: kernel.capability, entry: kernel.name, one_tile, next_tile, call, alu: one.pipes.alu })
    }

    /// Lane slots for each element of a warp's one tile whose keep bits take this many calls of Philox, 0 to 2.
    fn of_few_calls(kernel: &Kernel, calls: u32) -> Result<f64, String> {
        let path = path::of_full_tile(kernel, &Shape::of(kernel.name).full_tile(calls));
        let (one, _) = path.ok_or_else(|| format!("{}: no path of {calls} calls", kernel.name))?;
        Ok(f64::from(one.instructions) / 32.0)
    }

    /// Lane slots for each element, for a warp with one tile, which is how they are launched, and the mean
    /// number of calls.
    fn per_element(&self) -> f64 {
        self.with_calls(self.one_tile)
    }

    /// The same for each tile more of a warp that has several.
    fn next_per_element(&self) -> f64 {
        self.with_calls(self.next_tile)
    }

    fn with_calls(&self, instructions: u32) -> f64 {
        (f64::from(instructions) + f64::from(self.call) * (mean_calls() - f64::from(FIRST_VOTE))) / 32.0
    }

    fn line(&self) -> String {
        let Self { capability, entry, one_tile, next_tile, call, .. } = self;
        format!("{capability},{entry},{one_tile},{next_tile},{call},{:.2}", self.per_element())
    }
}

/// Counts are the recorded ones where the compiler is the record's; within their bounds in any case.
#[test]
fn instructions_of_a_full_tile() {
    let Some(kernels) = of_passes() else { return };
    let wanted = |capability, entry: &Entry| {
        let found = kernels.clone().find(|kernel| (kernel.capability, kernel.name) == (capability, entry.name()));
        found.filter(|kernel| !Shape::of(kernel.name).fused && Shape::of(kernel.name).kind != Kind::Computes)
    };
    let chosen =
        COUNTED.iter().flat_map(|capability| Entry::PASSES.iter().filter_map(|entry| wanted(*capability, entry)));
    let (counts, missing): (Vec<_>, Vec<_>) = chosen.map(Count::of).partition(Result::is_ok);
    none_of(missing.into_iter().filter_map(Result::err).collect());
    let counts: Vec<_> = counts.into_iter().flatten().collect();

    println!("{:45} instructions for each element on sm_90 (next tile), of those there is time for", "");
    let mut complaints = Vec::new();
    for count in counts.iter().filter(|count| count.capability == 90) {
        let shape = Shape::of(count.entry);
        let slots = SLOTS_PER_BYTE * shape.bytes();
        let next = f64::from(count.next_tile) / 32.0;
        println!("{:45} {:6.1} ({next:5.1}) of {slots:5.1}", count.entry, count.per_element());
        // Half of them, so that the memory stays the bound. RReLU's draws cost more.
        if shape.kind == Kind::Moves && count.per_element() > slots / 2.0 {
            complaints.push(format!("{}: {:.2} of {slots:.2} slots", count.entry, count.per_element()));
        }
    }
    none_of(complaints);

    let version = nvcc_version(device_code());
    let lines: Vec<_> = counts.iter().map(Count::line).collect();
    if env::var_os("BLESS").is_some() {
        let counted: BTreeSet<u32> = counts.iter().map(|count| count.capability).collect();
        assert_eq!(counted, BTreeSet::from(COUNTED), "a record needs code for all of them");
        let head = format!(
            "# Instructions that a warp issues for a full tile (tests/compiled_code), from code by nvcc {version}.\n\
             # BLESS=1 cargo test --test compiled_code writes this file.\n\
             capability,entry,one_tile,next_tile,call,per_element\n"
        );
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/instruction-counts.csv");
        fs::write(path, head + &lines.join("\n") + "\n").unwrap();
        return;
    }
    if !is_recorded() {
        let made_by = nvcc_version(RECORD);
        return tell(&format!("SKIPPED: the instruction counts are of nvcc {made_by}, this is {version}\n"));
    }
    let here = |line: &&str| counts.iter().any(|count| line.starts_with(&format!("{},", count.capability)));
    let recorded: Vec<_> = RECORD.lines().filter(here).collect();
    let differ: Vec<_> = lines.iter().filter(|line| !recorded.contains(&line.as_str())).map(String::as_str).collect();
    assert!(
        lines == recorded,
        "instruction counts have changed; if that is meant, BLESS=1 records these:\n{}",
        differ.join("\n")
    );
}

/// How much code the passes over channels are, and their registers. Of those with ReLU `fused.rs` has the paths
/// through it; what the smooth ones issue for a tile is not looked at.
#[test]
fn code_of_fused_passes() {
    const RECORD: &str = include_str!("../data/fused-code.csv");
    let Some(kernels) = of_passes() else { return };
    let version = nvcc_version(device_code());
    let mut lines =
        vec![format!("# The passes over channels (tests/compiled_code), from code by nvcc {version}."), String::new()];
    lines[1] = "capability,entry,instructions,registers".to_owned();
    for capability in COUNTED {
        for kernel in kernels.clone().filter(|k| k.capability == capability && Shape::of(k.name).fused) {
            lines.push(format!("{capability},{},{},{}", kernel.name, kernel.code.len(), kernel.resources.registers));
        }
    }
    if env::var_os("BLESS").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/fused-code.csv");
        return fs::write(path, lines.join("\n") + "\n").unwrap();
    }
    if nvcc_version(RECORD) != version || !device_code().starts_with("prebuilt ") {
        return tell("SKIPPED: the code of the fused passes is recorded as it is prebuilt\n");
    }
    let recorded: Vec<_> = RECORD.lines().collect();
    let differ: Vec<_> = lines.iter().filter(|line| !recorded.contains(&line.as_str())).cloned().collect();
    none_of(differ);
    assert_eq!(lines.len(), recorded.len());
}

/// What is recorded of the passes of a block with a batch normalisation is of this code.
#[test]
fn fused_passes_are_of_this_code() {
    let Some(kernels) = of_passes() else { return };
    let kernels: Vec<_> = kernels.filter(|kernel| kernel.capability == prediction::CAPABILITY).collect();
    let bless = env::var_os("BLESS").is_some();
    if kernels.is_empty() || !(is_recorded() || bless) {
        return;
    }
    let record = fused::record(&kernels, nvcc_version(device_code())).unwrap_or_else(|missing| panic!("{missing}"));
    if bless {
        return fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/fused-passes.csv"), record).unwrap();
    }
    assert!(record == fused::RECORD, "the record is out of date; BLESS=1 writes it anew:\n{record}");
}

/// The page of predictions is made of this code's facts, and the code reaches the aims.
#[test]
fn predictions_are_of_this_code() {
    let Some(kernels) = of_passes() else { return };
    let kernels: Vec<_> = kernels.filter(|kernel| kernel.capability == prediction::CAPABILITY).collect();
    let bless = env::var_os("BLESS").is_some();
    // The facts are of one capability and the nvcc of the record; that there is another was said with the counts.
    if kernels.is_empty() || !(is_recorded() || bless) {
        return;
    }
    let record = prediction::record(&kernels, nvcc_version(device_code()));
    let record = record.unwrap_or_else(|missed| panic!("{}", missed.join("\n")));
    if bless {
        return fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/compiled-passes.csv"), record).unwrap();
    }
    assert!(record == prediction::RECORD, "the record is out of date; BLESS=1 writes it anew:\n{record}");
}

// ---------------------------------------------------------------------------------------------------
// PTX

/// The PTX that ships: what of the above can be seen in it.
#[test]
fn prebuilt_ptx() {
    let mut complaints = Vec::new();
    let mut names = BTreeSet::new();
    for entry in shipped::ptx().iter().flat_map(|(_, text)| text.split(".visible .entry ").skip(1)) {
        let (name, body) = entry.split_once('(').expect("parameters");
        let name: &'static str = name;
        names.insert(name);
        if !Entry::PASSES.iter().any(|entry| entry.name() == name) {
            continue;
        }
        let shape = Shape::of(name);
        let (mut wide_loads, mut wide_stores, mut doubles) = (0, 0, 0);
        for line in body.lines().map(str::trim) {
            let line = if line.starts_with('@') { line.split_once(' ').map_or("", |(_, rest)| rest) } else { line };
            let opcode = line.split_whitespace().next().unwrap_or_default();
            let parts: Vec<_> = opcode.split('.').collect();
            let global = parts.len() > 1 && parts[1] == "global";
            let width =
                parts.last().and_then(|part| part.trim_start_matches(|c: char| c.is_alphabetic()).parse::<u32>().ok());
            let fine = match parts[0] {
                _ if parts.iter().any(|part| ["local", "shared", "nc"].contains(part)) => false,
                "ld" | "st" if global && parts.contains(&"v4") => width == Some(32),
                "ld" if global && parts.contains(&"v2") && shape.fused => width == Some(64),
                "ld" | "st" if global && parts.contains(&"v2") => false,
                "ld" | "st" if global && width == Some(64) && shape.draws() => true,
                "ld" | "st" if global && shape.fused && width == Some(8 * shape.size.max(4)) => true,
                "ld" | "st" if global => [Some(32), Some(8 * shape.size)].contains(&width),
                "ld" => parts[1] == "param",
                "st" | "atom" | "red" | "bar" | "barrier" | "call" => false,
                _ => true,
            };
            let wide = global && parts.contains(&"v4");
            wide_loads += u32::from(wide && parts[0] == "ld");
            wide_stores += u32::from(wide && parts[0] == "st");
            let double = !opcode.starts_with('.') && parts[1..].contains(&"f64");
            doubles += u32::from(double);
            if !fine || (double && shape.size != 8) {
                complaints.push(format!("{name}: {line}"));
            }
        }
        // In a loop over steps, whose first loads come before it.
        if shape.fused && wide_loads >= 1 && (shape.kind == Kind::Sums || wide_stores >= 1) {
            continue;
        }
        if wide_loads < shape.packs_ahead() || wide_stores < shape.packs_ahead() / shape.inputs {
            complaints.push(format!("{name}: {wide_loads} loads and {wide_stores} stores of 16 bytes"));
        }
        if shape.size == 8 && shape.kind != Kind::Moves && doubles == 0 {
            complaints.push(format!("{name} has no f64 arithmetic"));
        }
    }
    assert_eq!(names, Entry::ALL.iter().map(|entry| entry.name()).collect());
    none_of(complaints);
}
