//! The other compiler of NVIDIA's that computes with constants: what nvcc makes of C++ for the newest GPUs has them in
//! place of expressions whose operands are constants.

use std::{collections::HashMap, fmt::Write};

use crate::{
    ptx::STRIDE,
    table::{Case, Value},
};

/// The C++ expression that is this instruction, as bits; `None` where nvcc would leave it to the GPU, or where the
/// result is a NaN: C++ has but one.
pub fn expression(case: &Case) -> Option<String> {
    let [crate::table::Expected::Bits(result)] = case.results[..] else { return None };
    let f = |i: usize| float(case.sources[i]);
    let text = match case.instruction {
        "fma.rn.f32" => format!("fmaf({}, {}, {})", f(0), f(1), f(2)),
        "fma.rn.f64" => format!("fma({}, {}, {})", f(0), f(1), f(2)),
        "add.rn.f32" | "add.rn.f64" => format!("{} + {}", f(0), f(1)),
        "sub.rn.f32" | "sub.rn.f64" => format!("{} - {}", f(0), f(1)),
        "mul.rn.f32" | "mul.rn.f64" => format!("{} * {}", f(0), f(1)),
        "div.rn.f32" | "div.rn.f64" => format!("{} / {}", f(0), f(1)),
        "rcp.rn.f32" => format!("1.0f / {}", f(0)),
        "sqrt.rn.f32" => format!("sqrtf({})", f(0)),
        // C++ has the sign last, PTX has it first.
        "copysign.f32" => format!("copysignf({}, {})", f(1), f(0)),
        "copysign.f64" => format!("copysign({}, {})", f(1), f(0)),
        "cvt.rn.f32.u64" | "cvt.rn.f64.u64" => converted(result, "unsigned long long", case.sources[0]),
        "cvt.rn.f32.s64" | "cvt.rn.f64.s64" => converted(result, "long long", case.sources[0]),
        "cvt.rn.f64.u32" => converted(result, "unsigned", case.sources[0]),
        "cvt.rn.f64.s32" => converted(result, "int", case.sources[0]),
        "cvt.rni.f32.f32" => format!("rintf({})", f(0)),
        "cvt.rzi.f32.f32" => format!("truncf({})", f(0)),
        "cvt.rmi.f32.f32" => format!("floorf({})", f(0)),
        "cvt.rpi.f32.f32" => format!("ceilf({})", f(0)),
        "cvt.rni.f64.f64" => format!("rint({})", f(0)),
        "cvt.rzi.f64.f64" => format!("trunc({})", f(0)),
        "cvt.rni.s32.f32" => return Some(format!("(unsigned)__float2int_rn({})", f(0))),
        "cvt.rzi.s32.f32" => return Some(format!("(unsigned)__float2int_rz({})", f(0))),
        "cvt.rmi.s32.f32" => return Some(format!("(unsigned)__float2int_rd({})", f(0))),
        "cvt.rpi.s32.f32" => return Some(format!("(unsigned)__float2int_ru({})", f(0))),
        "cvt.rzi.u32.f32" => return Some(format!("__float2uint_rz({})", f(0))),
        "cvt.rzi.s64.f32" => return Some(format!("__float2ll_rz({})", f(0))),
        "cvt.rzi.u64.f32" => return Some(format!("__float2ull_rz({})", f(0))),
        "cvt.rzi.s32.f64" => return Some(format!("(unsigned)__double2int_rz({})", f(0))),
        "cvt.rzi.u32.f64" => return Some(format!("__double2uint_rz({})", f(0))),
        "cvt.rzi.s64.f64" => return Some(format!("__double2ll_rz({})", f(0))),
        "cvt.rzi.u64.f64" => return Some(format!("__double2ull_rz({})", f(0))),
        "mul.hi.u64" => wide("unsigned", case),
        "mul.hi.s64" => wide("", case),
        _ => return None,
    };
    if case.instruction.starts_with("mul.hi") {
        return Some(text);
    }
    let (infinity, bits) = match result.width {
        32 => (0x7f80_0000, "__float_as_uint"),
        _ => (0x7ff0_0000_0000_0000, "__double_as_longlong"),
    };
    let magnitude = result.bits & !(1 << (result.width - 1));
    (magnitude <= infinity || case.instruction.starts_with("copysign")).then(|| format!("{bits}({text})"))
}

fn float(value: Value) -> String {
    match value.width {
        32 => format!("__uint_as_float({:#x}u)", value.bits),
        _ => format!("__longlong_as_double((long long){:#x}ull)", value.bits),
    }
}

fn converted(result: Value, from: &str, source: Value) -> String {
    let to = if result.width == 32 { "float" } else { "double" };
    format!("({to})({from}){:#x}ull", source.bits)
}

fn wide(sign: &str, case: &Case) -> String {
    let factor = |i: usize| format!("({sign} __int128)({sign} long long){:#x}ull", case.sources[i].bits);
    format!("{} * {} >> 64", factor(0), factor(1))
}

/// A source with a kernel of each group, whose results stand `STRIDE` bytes apart.
pub fn source(groups: &[Vec<(usize, String)>]) -> String {
    let mut text = String::new();
    for (kernel, group) in groups.iter().enumerate() {
        let _ = writeln!(text, "extern \"C\" __global__ void k{kernel}(unsigned long long *out) {{");
        for (i, (_, expression)) in group.iter().enumerate() {
            let _ = writeln!(text, "    out[{i}] = (unsigned long long)({expression});");
        }
        text.push_str("}\n");
    }
    text
}

/// Which constants PTX stores: of each kernel, the result at each place that is one.
pub fn stores(ptx: &str) -> HashMap<(usize, usize), u64> {
    let mut found = HashMap::new();
    let mut kernel = 0;
    let mut constants = HashMap::new();
    for line in ptx.lines() {
        if let Some((_, name)) = line.split_once(".entry k") {
            kernel = name.trim_end_matches('(').parse().expect("a kernel's number");
            constants.clear();
        }
        let line = line.trim().trim_end_matches(';');
        let Some((opcode, operands)) = line.split_once(char::is_whitespace) else { continue };
        let Some((to, from)) = operands.trim().split_once(", ") else { continue };
        match opcode {
            "mov.b64" | "mov.u64" => _ = from.parse::<i64>().map(|value| constants.insert(to, value as u64)),
            "st.global.b64" | "st.global.u64" => {
                let place = to.trim_end_matches(']').split_once('+').map_or(0, |(_, place)| place.parse().unwrap());
                if let Some(value) = constants.get(from) {
                    found.insert((kernel, place / STRIDE as usize), *value);
                }
            }
            _ => {}
        }
    }
    found
}
