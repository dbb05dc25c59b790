//! What the compiled code of the passes comes to on sm_90, which is what an H200 and an H100 run: the facts that
//! `docs/gpu-prediction.md` is made of (by `scripts/report`), and the aims that they must reach.

use crate::{
    Count, WARPS_OF_A_BLOCK,
    sass::Kernel,
    shape::{Shape, mean_calls},
};

/// The facts as they are recorded.
pub const RECORD: &str = include_str!("../data/compiled-passes.csv");

/// Of both GPUs.
pub const CAPABILITY: u32 = 90;

/// Without `da_` and type.
const PASSES: [&str; 5] =
    ["train_forward_relu", "train_backward_relu", "infer_forward_relu", "relu_forward", "relu_backward"];
const DTYPES: [&str; 3] = ["f32", "f16", "bf16"];

/// Instructions for each element, at most: pass, type, number.
const AIMS: [(&str, &str, f64); 6] = [
    ("train_forward_relu", "f32", 15.0),
    ("train_forward_relu", "f16", 12.5),
    ("train_forward_relu", "bf16", 12.5),
    ("train_backward_relu", "f32", 5.0),
    ("train_backward_relu", "f16", 3.5),
    ("train_backward_relu", "bf16", 3.5),
];

/// Bytes that a multiprocessor must have in flight to keep the memory busy.
const ENOUGH_IN_FLIGHT: u32 = 48 * 1024;

/// One pass over one type.
struct Row {
    pass: &'static str,
    dtype: &'static str,
    /// For each element, of a warp's one tile.
    instructions: f64,
    /// The same of its second tile and each after it.
    next: f64,
    /// Of the first tile's, those of the ALU pipe.
    alu: f64,
    /// Instructions where the keep bits take two calls of Philox, one, or none, for a pass that draws any.
    few_calls: Option<[f64; 3]>,
    registers: u32,
    warps: u32,
    in_flight: u32,
}

impl Row {
    fn of(pass: &'static str, dtype: &'static str, kernel: &Kernel) -> Result<Self, String> {
        let shape = Shape::of(kernel.name);
        let registers = kernel.resources.registers;
        let warps = resident_warps(registers);
        let count = Count::of(kernel)?;
        let calls = |calls| Count::of_few_calls(kernel, calls);
        Ok(Self {
            pass,
            dtype,
            instructions: count.per_element(),
            next: count.next_per_element(),
            alu: f64::from(count.alu) / 32.0,
            few_calls: if shape.draws_keep_bits { Some([calls(2)?, calls(1)?, calls(0)?]) } else { None },
            registers,
            warps,
            in_flight: warps * 32 * 16 * shape.packs_ahead(),
        })
    }

    fn aim(&self) -> Option<f64> {
        let found = AIMS.iter().find(|aim| (aim.0, aim.1) == (self.pass, self.dtype));
        found.map(|aim| aim.2)
    }

    fn line(&self) -> String {
        let Self { pass, dtype, instructions, next, alu, registers, warps, in_flight, .. } = self;
        let aim = self.aim().map_or(String::new(), |aim| aim.to_string());
        let few_calls = match self.few_calls {
            Some([two, one, none]) => format!("{:.4},{two},{one},{none}", mean_calls()),
            None => ",,,".to_owned(),
        };
        format!("{pass},{dtype},{instructions:.4},{aim},{next:.4},{alu},{registers},{warps},{in_flight},{few_calls}\n")
    }
}

/// Of a multiprocessor with 65536 registers and room for 64 warps: registers are handed out by eight to a thread,
/// warps by the block.
pub fn resident_warps(registers: u32) -> u32 {
    let by_registers = 65536 / 32 / registers.next_multiple_of(8);
    by_registers.min(64) / WARPS_OF_A_BLOCK * WARPS_OF_A_BLOCK
}

/// The facts of these kernels, by the compiler of that version, or what is not reached.
pub fn record(kernels: &[&Kernel], version: &str) -> Result<String, Vec<String>> {
    let entries = PASSES.iter().flat_map(|pass| DTYPES.map(|dtype| (*pass, dtype)));
    let rows = entries.map(|(pass, dtype)| {
        let name = format!("da_{pass}_{dtype}");
        let kernel = kernels.iter().find(|kernel| kernel.name == name).ok_or(format!("no {name}"))?;
        Row::of(pass, dtype, kernel)
    });
    let (rows, missing): (Vec<_>, Vec<_>) = rows.partition(Result::is_ok);
    let rows: Vec<Row> = rows.into_iter().flatten().collect();
    let mut complaints: Vec<String> = missing.into_iter().filter_map(Result::err).collect();

    for row in &rows {
        let Row { pass, dtype, instructions, in_flight, .. } = row;
        if let Some(aim) = row.aim().filter(|aim| instructions > aim) {
            complaints.push(format!("{pass} {dtype}: {instructions:.2} instructions, the aim is {aim}"));
        }
        if *in_flight < ENOUGH_IN_FLIGHT {
            complaints.push(format!("{pass} {dtype}: {in_flight} bytes in flight of {ENOUGH_IN_FLIGHT}"));
        }
    }
    if !complaints.is_empty() {
        return Err(complaints);
    }
    let mut text = format!(
        "# What the passes of ReLU come to on sm_{CAPABILITY} (tests/compiled_code), from code by nvcc {version}. Instructions are for\n\
         # each element: of a warp's one tile, of each further tile, of the ALU pipe, and with fewer calls of Philox than\n\
         # the mean, which is \"calls\". BLESS=1 cargo test --test compiled_code writes this file; scripts/report makes tables of it.\n\
         pass,dtype,instructions,at_most,next_tile,alu,registers,warps,bytes_in_flight,calls,two_calls,one_call,no_calls\n"
    );
    text.extend(rows.iter().map(Row::line));
    Ok(text)
}

#[test]
fn warps_by_registers() {
    // 2048 threads need 32 registers or fewer; 33 count as 40, of which 51 warps are six whole blocks.
    assert_eq!([32, 33, 48, 78, 255].map(resident_warps), [64, 48, 40, 24, 8]);
}
