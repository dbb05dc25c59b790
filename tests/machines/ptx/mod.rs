//! The machine that executes PTX (`tests/ptx_machine`): that it catches each kind of defect, refuses what it doesn't
//! know, and runs sound kernels as the PTX ISA says. What single instructions compute is shown by
//! `ptx_instructions.rs`.

mod accesses;
mod collectives;
mod launches;
mod meeting;
mod refused;
mod registers;
mod sound;

use crate::emulator::{Access, Blocks, Buffer, Machine, Order, device_address};
use crate::numbers::numbers;
use crate::ptx_machine::{self, Ptx};

#[repr(C)]
#[derive(Clone, Copy)]
struct Args {
    from: u64,
    to: u64,
}

/// What all these kernels begin with. `i` is the thread's number in the grid; `from` and `to` point to its word of the
/// input and of the output, `x` to the input's first.
const PROLOGUE: &str = "\
    .reg .b64 from, to, x, at, l<4>;
    .reg .b32 i, t, block, size, a, b, c, d, e, f;
    .reg .b16 h<5>;
    .reg .pred p, q, r;
    ld.param.u64 x, [k_param];
    ld.param.u64 to, [k_param+8];
    mov.u32 t, %tid.x;
    mov.u32 block, %ctaid.x;
    mov.u32 size, %ntid.x;
    mad.lo.u32 i, block, size, t;
    mul.wide.u32 at, i, 4;
    add.s64 from, x, at;
    add.s64 to, to, at;
";

fn kernel(body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_90\n.address_size 64\n\
         .visible .entry k(\n.param .align 8 .b8 k_param[16]\n)\n.maxntid 256, 1, 1\n{{\n{PROLOGUE}{body}\n}}\n"
    )
}

fn made(body: &str) -> Ptx {
    Ptx::new([("self", kernel(body).as_str())]).unwrap_or_else(|why| panic!("{why}\n{body}"))
}

/// The line of the kernel on which this text stands, as reports name it.
fn line_of(body: &str, text: &str) -> String {
    let whole = kernel(body);
    let lines: Vec<_> = whole.lines().enumerate().filter(|(_, line)| line.contains(text)).collect();
    assert_eq!(lines.len(), 1, "{text:?} stands in one place");
    format!("line {}", lines[0].0 + 1)
}

/// Buffers begin at a multiple of 16 here.
#[repr(C, align(16))]
struct Aligned<const N: usize>([u32; N]);

fn launch(body: &str, grid: u32, block: u32, x: &[u32], out: &mut [u32], order: Order) -> Result<(), String> {
    let args = Args { from: device_address(x.as_ptr()), to: device_address(out.as_ptr()) };
    made(body).launch("k", grid, block, &args, &[Buffer::input("x", x), Buffer::output("out", out)], order)
}

/// What a kernel makes of `x`, which must be the same in every order.
fn outcome(body: &str, grid: u32, block: u32, x: &[u32], words: usize) -> Vec<u32> {
    let outcomes = Order::ALL.map(|order| {
        let mut out = vec![0; words];
        launch(body, grid, block, x, &mut out, order).unwrap_or_else(|report| panic!("{order:?}: {report}\n{body}"));
        out
    });
    assert!(outcomes.iter().all(|outcome| *outcome == outcomes[0]), "{body}");
    let [outcome, ..] = outcomes;
    outcome
}

/// The report of a defect, which must be made under every order, and hold all of `words`.
fn caught(body: &str, threads: u32, words: &[&str]) {
    let x = Aligned([5; 256]);
    for order in Order::ALL {
        let mut out = Aligned([0; 256]);
        let out = &mut out.0[..threads as usize];
        let report = launch(body, 1, threads, &x.0[..threads as usize], out, order).expect_err(body);
        for word in words.iter().chain(&["k, grid 1, block size"]) {
            assert!(report.contains(word), "{order:?}: no {word:?} in {report:?}\n{body}");
        }
    }
}

/// The same where the report is of this line.
fn caught_at(body: &str, at: &str, threads: u32, words: &[&str]) {
    let line = line_of(body, at);
    caught(body, threads, &[words, &[&format!("in {line}")]].concat());
}

/// What a whole module is refused for.
fn module_refused(text: &str, words: &[&str]) {
    let why = Ptx::new([("self", text)]).err().unwrap_or_else(|| panic!("accepted:\n{text}"));
    for word in words.iter().chain(&["self: "]) {
        assert!(why.contains(word), "no {word:?} in {why:?}:\n{text}");
    }
}

/// Leads the lower half to L, the others on.
const HALVES: &str = "setp.lt.u32 p, t, 16;\n@p bra L;\n";

/// Copies the word of each thread.
const COPY: &str = "ld.global.cs.u32 a, [from];\nst.global.wb.u32 [to], a;\nret;";

#[test]
fn a_sound_kernel_passes() {
    let x = numbers(96);
    assert_eq!(outcome(COPY, 1, 96, &x, 96), x);
}
