//! Kernels whose instructions have constants for operands.

use std::fmt::Write;

use crate::table::{Case, Value};

/// Bytes from a result to the next.
pub const STRIDE: u64 = 8;

pub const HEAD: &str = ".version 8.0\n.target sm_90\n.address_size 64\n";

/// A kernel that stores the results of these cases, `STRIDE` apart, in order.
pub fn kernel<'a>(name: &str, cases: impl Iterator<Item = &'a Case>) -> String {
    let mut text = format!(
        ".visible .entry {name}(.param .u64 out) {{\n\
         .reg .b64 p;\n\
         ld.param.u64 p, [out];\n\
         cvta.to.global.u64 p, p;\n"
    );
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
/// Immediates stay, and so does a second source of zero.
pub fn unknown_sources(name: &str, case: &Case, statements: Option<&str>) -> String {
    let mut text = format!(
        ".visible .entry {name}(.param .u64 out) {{\n\
         .reg .b64 p;\n.reg .b32 s<4>, t<8>, d0;\n.reg .b16 h<4>;\n\
         ld.param.u64 p, [out];\n\
         cvta.to.global.u64 p, p;\n"
    );
    let last = case.sources.len() - 1;
    for i in 0..last {
        // A clock is read once for each, in order; a load could become a narrower one.
        let _ = match i == 1 && case.sources[1].bits == 0 {
            true => writeln!(text, "mov.b32 s1, 0;"),
            false => writeln!(text, "mov.u32 s{i}, %clock;"),
        };
    }
    match statements {
        Some(statements) => text.push_str(statements),
        None => {
            let sources: String = (0..last).map(|i| format!("s{i}, ")).collect();
            let _ = writeln!(text, "{} d0, {sources}{:#x};", case.instruction, case.sources[last].bits);
        }
    }
    // All sources are of use, whatever the instruction makes of them.
    for i in (0..last).filter(|i| *i != 1 || case.sources[1].bits != 0) {
        let _ = writeln!(text, "st.global.b32 [p+{}], s{i};", 16 + 4 * i);
    }
    text + "st.global.b32 [p], d0;\nret;\n}\n"
}

/// A kernel of statements on constant sources, one after the other.
pub fn statements(name: &str, all: &[(&Case, &str)]) -> String {
    let mut text = format!(
        ".visible .entry {name}(.param .u64 out) {{\n\
         .reg .b64 p;\n\
         ld.param.u64 p, [out];\n\
         cvta.to.global.u64 p, p;\n"
    );
    for (i, (case, statements)) in all.iter().enumerate() {
        text.push_str("{\n.reg .b32 s<4>, t<8>, d0;\n.reg .b16 h<4>;\n");
        for (i, source) in case.sources.iter().enumerate() {
            let _ = writeln!(text, "mov.b32 s{i}, {:#x};", source.bits);
        }
        let _ = writeln!(text, "{statements}st.global.b32 [p+{}], d0;\n}}", i as u64 * STRIDE);
    }
    text + "ret;\n}\n"
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
