//! The machine of `tests/ptx_machine` computes what `tests/data/ptx-instructions.txt` says. Table and machine were
//! written apart, and NVIDIA's own tools confirm the table (`tests/ptx_assembler`).

#[path = "../ptx_assembler/table.rs"]
mod table;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use self::table::{Case, Value};
use crate::emulator::{Buffer, Machine, Order, device_address};
use crate::ptx_machine::{Ptx, compile};

#[repr(C)]
#[derive(Clone, Copy)]
struct Args {
    sources: u64,
    results: u64,
}

/// A kernel of one thread for each case: its sources come from memory, its results go there, in 8 bytes each.
fn kernel(cases: &[&Case]) -> String {
    let first = cases[0];
    let mut text = String::from(
        ".version 8.0\n.target sm_90\n.address_size 64\n.visible .entry k(\n.param .align 8 .b8 k_param[16]\n)\n{\n\
         .reg .b64 from, to, offset;\n.reg .b32 thread;\n\
         ld.param.u64 from, [k_param];\nld.param.u64 to, [k_param+8];\nmov.u32 thread, %tid.x;\n",
    );
    let mut write = |line: String| text.push_str(&(line + "\n"));
    write(format!("mul.wide.u32 offset, thread, {};\nadd.s64 from, from, offset;", 8 * first.sources.len()));
    write(format!("mul.wide.u32 offset, thread, {};\nadd.s64 to, to, offset;", 8 * first.results.len()));
    for (i, source) in first.sources.iter().enumerate() {
        match source.width {
            8 => {}
            1 => {
                write(format!(".reg .b32 w{i};\n.reg .pred s{i};\nld.global.cs.u32 w{i}, [from+{}];", 8 * i));
                write(format!("setp.ne.u32 s{i}, w{i}, 0;"));
            }
            width => write(format!(".reg .b{width} s{i};\nld.global.cs.b{width} s{i}, [from+{}];", 8 * i)),
        }
    }
    for (i, result) in first.results.iter().enumerate() {
        write(if result.width() == 1 {
            format!(".reg .pred d{i};")
        } else {
            format!(".reg .b{} d{i};", result.width())
        });
    }
    instructions(first, &mut write);
    for (i, result) in first.results.iter().enumerate() {
        let at = 8 * i;
        match result.width() {
            1 => write(format!(".reg .b32 v{i};\nselp.b32 v{i}, 1, 0, d{i};\nst.global.cs.b32 [to+{at}], v{i};")),
            width => write(format!("st.global.cs.b{width} [to+{at}], d{i};")),
        }
    }
    text + "ret;\n}\n"
}

/// As the table's header explains.
fn instructions(case: &Case, write: &mut impl FnMut(String)) {
    let named = |(i, source): (usize, &Value)| match source.width {
        8 => format!("{:#x}", source.bits),
        _ => format!("s{i}"),
    };
    let sources: Vec<_> = case.sources.iter().enumerate().map(named).collect();
    if let Some(opcode) = case.instruction.strip_suffix(" pack") {
        return write(format!("{opcode} d0, {{{}}};", sources.join(", ")));
    }
    if let Some(opcode) = case.instruction.strip_suffix(" unpack") {
        return write(format!("{opcode} {{d0, d1}}, s0;"));
    }
    let opcodes: Vec<_> = case.instruction.split("; ").collect();
    let mut sources = sources.into_iter();
    for (i, opcode) in opcodes.iter().enumerate() {
        let count = match opcodes.len() {
            1 => case.sources.len(),
            _ if opcode.starts_with("mad") => 3,
            _ => 2,
        };
        let own: Vec<_> = sources.by_ref().take(count).collect();
        write(format!("{opcode} d{i}, {};", own.join(", ")));
    }
}

/// The cases of each instruction, those with other immediates apart.
fn groups(cases: &[Case]) -> BTreeMap<(&str, Vec<u64>), Vec<&Case>> {
    let mut groups = BTreeMap::<_, Vec<_>>::new();
    for case in cases {
        let immediates = case.sources.iter().filter(|source| source.width == 8).map(|source| source.bits).collect();
        groups.entry((case.instruction, immediates)).or_default().push(case);
    }
    groups
}

#[test]
fn the_machine_computes_what_the_table_says() {
    let cases = table::cases();
    let (mut refused, mut wrong, mut computed) = (BTreeSet::new(), String::new(), 0);
    for ((instruction, _), cases) in groups(&cases) {
        let ptx = match Ptx::new([("table", kernel(&cases).as_str())]) {
            Ok(ptx) => ptx,
            Err(why) if why.contains("not known here") => {
                refused.insert(instruction);
                continue;
            }
            Err(why) => panic!("{instruction}: {why}"),
        };
        for cases in cases.chunks(1000) {
            let sources: Vec<u64> = cases.iter().flat_map(|case| case.sources.iter().map(|s| s.bits)).collect();
            let of_each = cases[0].results.len();
            let mut results = vec![0u64; cases.len() * of_each];
            let args = Args { sources: device_address(sources.as_ptr()), results: device_address(results.as_ptr()) };
            let buffers = [Buffer::input("sources", &sources), Buffer::scratch("results", &mut results)];
            let done = ptx.launch("k", 1, cases.len() as u32, &args, &buffers, Order::Forward);
            done.unwrap_or_else(|report| panic!("{instruction}: {report}"));
            for (case, given) in cases.iter().zip(results.chunks(of_each)) {
                computed += 1;
                if !case.results.iter().zip(given).all(|(expected, bits)| expected.admits(*bits)) {
                    let _ = writeln!(wrong, "{}, but the machine: {given:#x?}", case.line);
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    println!("{computed} of {} cases; unknown to the machine: {refused:?}", cases.len());
    // What the kernels need it to know.
    assert!(computed > 5000, "only {computed}");
}

/// The table knows what the machine is asked to compute: every instruction of the kernels, for the oldest GPU and for
/// sm_90.
#[test]
fn every_instruction_of_the_kernels_has_cases() {
    let cases = table::cases();
    let known: BTreeSet<&str> = cases.iter().map(|case| case.instruction).collect();
    for ptx in [Some(compile::shipped()), compile::fresh_90()].into_iter().flatten() {
        let without: BTreeSet<&str> = ptx.computing().filter(|opcode| !known.contains(opcode)).collect();
        // These move what they are given as it is.
        let moves = |opcode: &&str| opcode.starts_with("mov.") || opcode.starts_with("cvta.");
        assert!(without.iter().all(moves), "no cases of {without:?}");
    }
}
