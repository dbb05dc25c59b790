//! Kernels whose instructions have constants for operands.

use std::fmt::Write;

use crate::table::{Case, Value};

/// Bytes from a result to the next.
pub const STRIDE: u64 = 8;

pub const HEAD: &str = ".version 8.0\n.target sm_90\n.address_size 64\n";

/// A kernel that stores the results of these cases, `STRIDE` apart, in order.
pub fn kernel<'a>(name: &str, cases: impl Iterator<Item = &'a Case>) -> String {
    let mut text = head(name);
    let mut place = 0;
    for case in cases {
        text.push_str("{\n");
        block(&mut text, case, &mut place).expect("a string takes what is written");
        text.push_str("}\n");
    }
    text.push_str("ret;\n}\n");
    text
}

/// A kernel of the instruction as it is, or of statements that are to be the same, on sources that nothing is known of.
/// The last one may be an immediate in both, and a second source of zero stays.
pub fn unknown_sources(name: &str, case: &Case, last_is_immediate: bool, statements: Option<&str>) -> String {
    let mut text = head(name);
    text.push_str(REGISTERS);
    let mut sources = case.sources.clone();
    if last_is_immediate {
        sources.last_mut().expect("a source").width = 8;
    }
    let is_zero = |i: usize| last_is_immediate && i == 1 && sources[1].bits == 0;
    let unknown: Vec<_> = (0..sources.len()).filter(|i| sources[*i].width != 8 && !is_zero(*i)).collect();
    if is_zero(1) {
        text.push_str("mov.b32 s1, 0;\n");
    }
    for i in &unknown {
        let _ = match last_is_immediate {
            // A load could become a narrower one, of the bytes that are used.
            true => writeln!(text, "mov.u32 s{i}, %clock;"),
            // A clock could make the operation one of a warp's.
            false => writeln!(text, "ld.volatile.global.b32 s{i}, [p+{}];", 4 * i),
        };
    }
    match statements {
        Some(statements) => text.push_str(statements),
        None => instructions(&mut text, case.instruction, &sources, case.results.len()).expect("a string"),
    }
    // All sources are of use, whatever the instruction makes of them.
    for i in unknown {
        let _ = writeln!(text, "st.global.b32 [p+{}], s{i};", 64 + 4 * i);
    }
    for i in 0..case.results.len() {
        let _ = writeln!(text, "st.global.b32 [p+{}], d{i};", i as u64 * STRIDE);
    }
    text + "ret;\n}\n"
}

/// A kernel of statements on constant sources, one after the other.
pub fn statements(name: &str, all: &[(&Case, &str)]) -> String {
    let mut text = head(name);
    let mut place = 0;
    for (case, statements) in all {
        let _ = writeln!(text, "{{\n{REGISTERS}");
        for (i, source) in case.sources.iter().enumerate() {
            let _ = writeln!(text, "mov.b32 s{i}, {:#x};", source.bits);
        }
        text.push_str(statements);
        for i in 0..case.results.len() {
            let _ = writeln!(text, "st.global.b32 [p+{place}], d{i};");
            place += STRIDE;
        }
        text.push_str("}\n");
    }
    text + "ret;\n}\n"
}

/// What statements may use.
const REGISTERS: &str = ".reg .b32 s<8>, t<8>, d<2>;\n.reg .b16 h<4>;\n.reg .b64 l<4>;\n";

fn head(name: &str) -> String {
    format!(
        ".visible .entry {name}(.param .u64 out) {{\n\
         .reg .b64 p;\n\
         ld.param.u64 p, [out];\n\
         cvta.to.global.u64 p, p;\n"
    )
}

fn block(text: &mut String, case: &Case, place: &mut u64) -> std::fmt::Result {
    for (i, source) in case.sources.iter().enumerate() {
        match source.width {
            8 => {}
            1 => writeln!(text, ".reg .pred s{i};\nmov.pred s{i}, {};", source.bits)?,
            width => writeln!(text, ".reg .b{width} s{i};\nmov.b{width} s{i}, {:#x};", source.bits)?,
        }
    }
    for (i, result) in case.results.iter().enumerate() {
        let class = if result.width() == 1 { "pred".into() } else { format!("b{}", result.width()) };
        writeln!(text, ".reg .{class} d{i};")?;
    }
    instructions(text, case.instruction, &case.sources, case.results.len())?;
    for (i, result) in case.results.iter().enumerate() {
        match result.width() {
            // As a word, so that no store has to put halves together.
            1 => writeln!(text, ".reg .b32 w{i};\nselp.b32 w{i}, 1, 0, d{i};\nst.global.b32 [p+{place}], w{i};")?,
            16 => writeln!(text, ".reg .b32 w{i};\ncvt.u32.u16 w{i}, d{i};\nst.global.b32 [p+{place}], w{i};")?,
            width => writeln!(text, "st.global.b{width} [p+{place}], d{i};")?,
        }
        *place += STRIDE;
    }
    Ok(())
}

/// The instructions themselves, from s0, s1, ... to d0, d1, ...
fn instructions(text: &mut String, instruction: &str, sources: &[Value], results: usize) -> std::fmt::Result {
    let named = |i: usize| match sources[i].width {
        8 => format!("{:#x}", sources[i].bits),
        _ => format!("s{i}"),
    };
    let list = |range: std::ops::Range<usize>| range.map(named).collect::<Vec<_>>().join(", ");
    if let Some(opcode) = instruction.strip_suffix(" pack") {
        return writeln!(text, "{opcode} d0, {{{}}};", list(0..sources.len()));
    }
    if let Some(opcode) = instruction.strip_suffix(" unpack") {
        return writeln!(text, "{opcode} {{d0, d1}}, s0;");
    }
    let opcodes: Vec<_> = instruction.split("; ").collect();
    let mut next = 0;
    for (i, opcode) in opcodes.iter().enumerate() {
        let count = match opcodes.len() {
            1 => sources.len(),
            _ if opcode.starts_with("mad") => 3,
            _ => 2,
        };
        writeln!(text, "{opcode} d{i}, {};", list(next..next + count))?;
        next += count;
    }
    assert!(next == sources.len() && opcodes.len() == results, "{instruction} has other operands");
    Ok(())
}
