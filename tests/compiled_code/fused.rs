//! What a warp issues in the passes of a block with a batch normalisation, in training and without a residual, on
//! sm_90: for a straight tile of an elementwise pass, and for full chunks of sums. Of each layout that goes by packs.

use crate::{
    path::{self, Marks, Wanted},
    prediction::{CAPABILITY, resident_warps},
    sass::Kernel,
    shape::{FIRST_VOTE, Shape, mean_calls},
};

/// The facts as they are recorded.
pub const RECORD: &str = include_str!("../data/fused-passes.csv");

const DTYPES: [(&str, u32); 3] = [("f32", 4), ("f16", 2), ("bf16", 2)];

#[derive(Clone, Copy, PartialEq)]
enum Layout {
    Rows,
    Planes,
}

/// The passes: of plain ReLU, whose p is 1, the forward pass is another path through the same code.
const PASSES: [(&str, &str); 5] = [
    ("statistics", "fused_moments"),
    ("forward", "fused_forward_relu"),
    ("forward_plain", "fused_forward_relu"),
    ("sums", "fused_products_relu"),
    ("backward", "fused_backward_relu"),
];

/// The path that is meant, with this many calls of Philox where keep bits are drawn, and how many elements of a lane it
/// is of.
fn wanted(stem: &str, layout: Layout, size: u32, calls: u32) -> (Wanted, u32) {
    let (pack, rows) = (16 / size, layout == Layout::Rows);
    // Values of a vector for a pack, by 16 bytes: once in a tile of rows. One value for each pack in planes.
    let vectors = |count: u32, packs: u32| if rows { (count * pack / 4, 0) } else { (0, count * packs) };
    let packs = 32 / pack;
    // Of a lane: two packs of channels to a warp in rows; neighbouring chunks in planes.
    let packs_of_sums = if rows { 64 } else { 32 };
    let (of_vectors, marks, elements, guarded) = match stem {
        "fused_moments" => {
            let marks = Marks { wide_loads: packs_of_sums, narrow_stores: 3, ..Marks::default() };
            ((0, 0), marks, packs_of_sums * pack, Some(packs_of_sums))
        }
        // Whether there is a mean hangs on a predicate, as does a mask.
        "fused_products_relu" => {
            let (wide_loads, narrow_loads) = (2 * packs_of_sums, packs_of_sums);
            let marks = Marks { wide_loads, narrow_loads, narrow_stores: 2, ..Marks::default() };
            ((0, 0), marks, packs_of_sums * pack, Some(0))
        }
        "fused_forward_relu" => {
            let votes = (calls + 1).saturating_sub(FIRST_VOTE);
            let marks = Marks { wide_loads: packs, wide_stores: packs, narrow_stores: 1, votes, ..Marks::default() };
            (vectors(2, packs), marks, 32, None)
        }
        _ => {
            let marks = Marks { wide_loads: 2 * packs, wide_stores: packs, narrow_loads: 1, ..Marks::default() };
            (vectors(4, packs), marks, 32, None)
        }
    };
    let marks = Marks { wide_vectors: of_vectors.0, narrow_vectors: of_vectors.1, ..marks };
    let products = if stem == "fused_forward_relu" { 16 * calls..=20 * calls } else { 0..=0 };
    let spreads = (elements == 32).then_some(4 * packs);
    let additions = (stem == "fused_forward_relu").then_some(0);
    (Wanted { marks, products, guarded, spreads, additions, leaves_out_loads: elements == 32 }, elements)
}

/// The facts of these kernels, by the compiler of that version, or what was not found.
pub fn record(kernels: &[&Kernel], version: &str) -> Result<String, String> {
    let mut text = format!(
        "# What the passes over channels with ReLU come to on sm_{CAPABILITY} (tests/compiled_code), from code by nvcc \
         {version}.\n\
         # Instructions are for each element: all, and those of each pipe. forward_plain is forward with p = 1.\n\
         # BLESS=1 cargo test --test compiled_code writes this file; scripts/report makes tables of it.\n\
         pass,layout,dtype,instructions,alu,fma,mufu,lsu,registers,warps\n"
    );
    for (pass, stem) in PASSES {
        for (layout, of_layout) in [("rows", Layout::Rows), ("planes", Layout::Planes)] {
            for (dtype, size) in DTYPES {
                let name = format!("da_{stem}_{dtype}");
                let kernel = kernels.iter().find(|kernel| kernel.name == name).ok_or(format!("no {name}"))?;
                let of_calls = |calls| {
                    let (wanted, elements) = wanted(stem, of_layout, size, calls);
                    let one = path::of_first_tile(kernel, &wanted)
                        .ok_or_else(|| format!("{name}: no path of {layout} with {calls} calls of Philox"))?;
                    let pipes = one.pipes;
                    let counts = [one.instructions, pipes.alu, pipes.fma, pipes.mufu, pipes.lsu];
                    Ok::<_, String>(counts.map(|count| f64::from(count) / f64::from(elements)))
                };
                let counts = if pass == "forward" {
                    assert!(Shape::of(kernel.name).draws_keep_bits);
                    let (fewer, more) = (of_calls(FIRST_VOTE)?, of_calls(FIRST_VOTE + 1)?);
                    let share = mean_calls() - f64::from(FIRST_VOTE);
                    std::array::from_fn(|i| fewer[i] + share * (more[i] - fewer[i]))
                } else {
                    of_calls(0)?
                };
                let registers = kernel.resources.registers;
                let counts = counts.map(|count: f64| format!("{count:.2}")).join(",");
                text += &format!("{pass},{layout},{dtype},{counts},{registers},{}\n", resident_warps(registers));
            }
        }
    }
    Ok(text)
}
