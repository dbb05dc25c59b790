//! The machine that executes PTX (`tests/ptx_machine`): that it catches each kind of defect, refuses what it doesn't know,
//! and runs sound kernels as the PTX ISA says. What single instructions compute is shown by `ptx_instructions.rs`.
#![cfg(feature = "cuda")]

mod emulator;
mod ptx_machine;

use emulator::{Access, Buffer, Machine, Order, device_address};
use ptx_machine::Ptx;

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

fn numbers(n: usize) -> Vec<u32> {
    let mut state = 0x2545_F491_4F6C_DD1Du64;
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 32) as u32
        })
        .collect()
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

/// Copies the word of each thread.
const COPY: &str = "ld.global.cs.u32 a, [from];\nst.global.wb.u32 [to], a;\nret;";

#[test]
fn a_sound_kernel_passes() {
    let x = numbers(96);
    assert_eq!(outcome(COPY, 1, 96, &x, 96), x);
}

// ---------------------------------------------------------------------------------------------------
// Accesses

#[test]
fn accesses_outside_of_buffers() {
    let past = "ld.global.cs.u32 a, [from+4];\nst.global.wb.u32 [to], a;\nret;";
    let words = ["thread 31", "lane 31", "reads 4 bytes outside every buffer", "offset 128 of x (128 bytes)"];
    caught_at(past, "ld.global", 32, &words);
    let before = "ld.global.cs.u32 a, [from+-4];\nst.global.wb.u32 [to], a;\nret;";
    caught_at(before, "ld.global", 32, &["thread 0 ", "reads 4 bytes outside every buffer", "offset -4 of "]);
    let past = "mov.u32 a, 1;\nst.global.wb.u32 [to + 4], a;\nret;";
    caught_at(past, "st.global", 32, &["thread 31", "writes 4 bytes outside every buffer", "offset 128 of out"]);
    let before = "mov.u32 a, 1;\nst.global.wb.u32 [to+-4], a;\nret;";
    caught_at(before, "st.global", 32, &["thread 0 ", "writes 4 bytes outside every buffer", "offset -4 of "]);
    let null = "mov.u64 at, 0;\nld.global.cs.u32 a, [at];\nst.global.wb.u32 [to], a;\nret;";
    caught_at(null, "ld.global", 32, &["thread 0 ", "outside every buffer"]);
    // The pack of the last thread begins within x and ends behind it.
    let pack = "add.s64 from, from, at;\nadd.s64 from, from, at;\nadd.s64 from, from, at;\n\
                setp.gt.u32 p, t, 7;\n@p bra L;\nld.global.cs.v4.u32 {a, b, c, d}, [from];\nL:\n\
                st.global.wb.u32 [to], t;\nret;";
    for (words, fits) in [(32, true), (31, false)] {
        let (x, mut out) = (Aligned([5; 32]), vec![0; 32]);
        let report = launch(pack, 1, 32, &x.0[..words], &mut out, Order::Forward);
        match report {
            Ok(()) => assert!(fits),
            Err(report) => {
                assert!(!fits && report.contains("thread 7 "), "{report}");
                assert!(
                    report.contains("reads 16 bytes outside every buffer, at offset 112 of x (124 bytes)"),
                    "{report}"
                );
            }
        }
    }
}

/// Two buffers with something between them that belongs to neither, and without anything between them.
#[test]
fn accesses_between_buffers_and_across_their_border() {
    let body = "add.s64 from, x, 60;\nld.global.cs.u64 l0, [from + 4];\nst.global.wb.u64 [to], l0;\nret;";
    let run = |second_at: u64, body: &str| {
        let (first, second, mut out) = ([1u32; 16], [2u32; 16], [0u64; 1]);
        let args = Args { from: 1 << 40, to: 3 << 40 };
        let buffers = [
            Buffer::input("first", &first).at(1 << 40),
            Buffer::input("second", &second).at((1 << 40) + second_at),
            Buffer::output("out", &mut out).at(3 << 40),
        ];
        made(body).launch("k", 1, 1, &args, &buffers, Order::Forward)
    };
    run(64, body).unwrap();
    let report = run(72, body).unwrap_err();
    assert!(report.contains("reads 8 bytes outside every buffer, at offset 64 of first"), "{report}");
    let across = body.replace("60", "56");
    let report = run(64, &across).unwrap_err();
    assert!(!report.contains("no multiple"), "{report}");
    let across = body.replace("from + 4", "from");
    let report = run(64, &across).unwrap_err();
    assert!(report.contains("reads 8 bytes outside every buffer, at offset 60 of first"), "{report}");
}

/// At the very end of the address space, which sums of addresses go round.
#[test]
fn accesses_at_the_end_of_the_address_space() {
    let body =
        "ld.global.cs.u32 a, [x];\nld.global.cs.u32 b, [x+OFFSET];\nadd.s32 a, a, b;\nst.global.wb.u32 [to], a;\nret;";
    let run = |body: &str| {
        let (x, mut out) = (Aligned([1, 2, 3, 4]), [0u32; 1]);
        let args = Args { from: u64::MAX - 15, to: 1 << 32 };
        let buffers = [Buffer::input("x", &x.0).at(u64::MAX - 15), Buffer::output("out", &mut out).at(1 << 32)];
        made(body).launch("k", 1, 1, &args, &buffers, Order::Forward).map(|()| out[0])
    };
    assert_eq!(run(&body.replace("OFFSET", "12")), Ok(5));
    for outside in ["16", "-4"] {
        let report = run(&body.replace("OFFSET", outside)).unwrap_err();
        assert!(report.contains(&format!("outside every buffer, at offset {outside} of x (16 bytes)")), "{report}");
    }
}

#[test]
fn misaligned_accesses() {
    let load = "ld.global.cs.u16 h0, [from + 1];\nst.global.wb.u32 [to], t;\nret;";
    caught_at(load, "ld.global", 32, &["reads 2 bytes of x at offset", "which is no multiple of 2"]);
    let pack = "mul.wide.u32 at, t, 0;\nadd.s64 from, x, 8;\nld.global.cs.v4.u32 {a, b, c, d}, [from];\nret;";
    caught_at(pack, "ld.global", 32, &["thread 0 ", "reads 16 bytes of x at offset 8", "which is no multiple of 16"]);
    let pair = "ld.global.cs.v2.u16 {h0, h1}, [from + 2];\nret;";
    caught_at(pair, "ld.global", 2, &["reads 4 bytes of x at offset", "which is no multiple of 4"]);
    let store = "st.global.wb.u64 [to], at;\nret;";
    caught_at(store, "st.global", 2, &["thread 1 ", "writes 8 bytes outside every buffer"]);
    caught_at(store, "st.global", 4, &["writes 8 bytes of out at offset 4", "which is no multiple of 8"]);
}

#[test]
fn reads_of_what_is_not_to_be_read() {
    let output = "ld.global.cs.u32 a, [to];\nst.global.wb.u32 [to], a;\nret;";
    caught_at(output, "ld.global", 32, &["thread 0 ", "reads 4 bytes of out", "which is not to be read"]);
}

#[test]
fn writes_of_inputs() {
    caught_at("st.global.wb.u32 [from], t;\nret;", "st.global", 32, &["writes 4 bytes of x", "not to be written"]);
}

/// Over one buffer.
fn over(access: Access, body: &str, order: Order) -> Result<Vec<u32>, String> {
    let mut both = numbers(32);
    let at = device_address(both.as_ptr());
    // SAFETY: all of `both`, which nothing else uses before the launch is over.
    let buffer = unsafe { Buffer::raw("both", both.as_mut_ptr().cast(), 128, access) };
    made(body).launch("k", 1, 32, &Args { from: at, to: at }, &[buffer], order).map(|()| both)
}

#[test]
fn work_in_place_and_in_scratch() {
    let twice = "ld.global.cs.u32 a, [to];\nadd.s32 a, a, 1;\nst.global.wb.u32 [to], a;\n";
    let after = format!("{twice}ld.global.cs.u32 b, [to];\nst.global.wb.u32 [to], b;\nret;");
    let once = format!("{twice}ret;");
    let unwritten = "ld.global.cg.u32 a, [to];\nret;";
    let written =
        "st.global.cg.u32 [to], t;\nld.global.cg.u32 a, [to];\nadd.s32 a, a, a;\nst.global.cg.u32 [to], a;\nret;";
    let by_nc = "ld.global.nc.u32 a, [to];\nst.global.wb.u32 [to], a;\nret;";
    let written_nc = format!("st.global.cg.u32 [to], t;\n{by_nc}");
    for order in Order::ALL {
        let expected: Vec<_> = numbers(32).iter().map(|n| n.wrapping_add(1)).collect();
        assert_eq!(over(Access::InPlace, &once, order), Ok(expected));
        assert_eq!(over(Access::Scratch, written, order), Ok((0..32).map(|t| 2 * t).collect()));
        for (buffer, body, words) in [
            (Access::InPlace, &after[..], "after this launch has written there"),
            (Access::Scratch, unwritten, "which nobody has written"),
            (Access::InPlace, by_nc, "by the read-only path, but the launch may write there"),
            (Access::Scratch, &written_nc, "by the read-only path, but the launch may write there"),
            (Access::InPlace, written, "after this launch has written there"),
        ] {
            let report = over(buffer, body, order).unwrap_err();
            assert!(report.contains(words) && report.contains("reads 4 bytes of both at offset"), "{report}");
        }
    }
    // Of what nobody writes, the read-only path may read.
    let read_only = COPY.replace("cs", "nc");
    assert_eq!(outcome(&read_only, 1, 32, &numbers(32), 32), numbers(32));
}

#[test]
fn accesses_without_a_cache_operator() {
    for load in ["ld.global.u32 a, [from];", "ld.global.v2.u16 {h0, h1}, [from];"] {
        caught_at(&format!("{load}\nst.global.wb.u32 [to], t;\nret;"), load, 32, &["by itself"]);
    }
    for store in ["st.global.u32 [to], t;", "@p st.global.u32 [to], t;"] {
        caught_at(&format!("setp.eq.u32 p, t, 3;\n{store}\nret;"), store, 32, &["by itself"]);
    }
}

#[test]
fn bytes_written_twice_or_never() {
    let twice = "st.global.wb.u32 [to], t;\nsetp.eq.u32 p, t, 9;\n@p st.global.wb.u16 [to + 2], h0;\nret;";
    let twice = twice.replace("setp", "mov.u16 h0, 1;\nsetp");
    caught_at(&twice, "[to + 2]", 32, &["thread 9 ", "writes 2 bytes of out at offset 38", "for the second time"]);
    // Two lanes of one instruction.
    let same = "and.b32 a, t, 30;\nmul.wide.u32 l0, a, 4;\nsub.s64 to, to, at;\nadd.s64 to, to, l0;\n\
                st.global.wb.u32 [to], t;\nret;";
    caught_at(same, "st.global", 32, &["writes 4 bytes of out", "for the second time"]);
    let one_missing = "setp.ne.u32 p, t, 9;\n@p st.global.wb.u32 [to], t;\nret;";
    caught(one_missing, 32, &["4 of the 128 bytes of out are never written, the first at offset 36"]);
    let half = "cvt.u16.u32 h0, t;\nst.global.wb.u16 [to], h0;\nret;";
    caught(half, 32, &["64 of the 128 bytes of out are never written, the first at offset 2"]);
    let report = over(Access::InPlace, one_missing, Order::Forward).unwrap_err();
    assert!(report.contains("4 of the 128 bytes of both are never written"), "{report}");
}

#[test]
fn buffers_that_overlap() {
    let mut both = numbers(40);
    let from = both.as_ptr();
    // SAFETY: words 8 to 40 of `both`, which this launch refuses to touch.
    let out = unsafe { Buffer::raw("out", both.as_mut_ptr().add(8).cast(), 128, Access::Output) };
    let x = Buffer::input("x", &[0u32; 32]).at(device_address(from));
    let args = Args { from: device_address(from), to: device_address(from) + 32 };
    let report = made(COPY).launch("k", 1, 32, &args, &[x, out], Order::Forward).unwrap_err();
    assert!(report.contains("buffers x and out overlap"), "{report}");
}

/// By its name, and by an address in a register.
#[test]
fn the_parameter_can_be_addressed() {
    let sound = "mov.b64 l0, k_param;\nadd.s64 l1, l0, 8;\nld.param.u64 l2, [l1];\nld.param.v2.u32 {a, b}, [l1+-8];\n\
                 ld.param.u8 h0, [l1+-7];\nld.param.u8 h1, [k_param+1];\nld.param.b8 h2, [k_param];\n\
                 ld.param.v2.u16 {h3, h4}, [k_param+4];\nmov.b32 c, {h2, h1};\nadd.s64 to, l2, 0;\n\
                 mad.lo.u32 i, t, 20, 0;\nmul.wide.u32 at, i, 1;\nadd.s64 to, to, at;\ncvt.u32.u16 d, h0;\n\
                 mov.b32 e, {h3, h4};\nst.global.wb.u32 [to], a;\nst.global.wb.u32 [to+4], b;\n\
                 st.global.wb.u32 [to+8], c;\nst.global.wb.u32 [to+12], d;\nst.global.wb.u32 [to+16], e;\nret;";
    let mut out = [0u32; 15];
    let args = Args { from: 0x8765_43A1_FEDC_BAF9, to: device_address(out.as_ptr()) };
    made(sound).launch("k", 1, 3, &args, &[Buffer::output("out", &mut out)], Order::Forward).unwrap();
    assert_eq!(out, [[0xFEDC_BAF9, 0x8765_43A1, 0x00BA_00F9, 0xBA, 0x8765_43A1]; 3].as_flattened());
    for (load, words) in [
        ("ld.param.u64 l1, [l0+16];", "reads 8 bytes at 16 of a parameter of 16"),
        ("ld.param.u32 a, [l0+-4];", "reads 4 bytes at -4 of a parameter of 16"),
        ("ld.param.u32 a, [l0+2];", "reads 4 bytes at 2 of a parameter of 16"),
        ("ld.param.v2.u64 {l1, l2}, [l0+8];", "reads 16 bytes at 8 of a parameter of 16"),
        ("ld.param.u32 a, [x];", "of a parameter of 16"),
        ("ld.global.cs.u32 a, [l0];", "outside every buffer"),
        ("st.global.cs.u32 [l0], t;", "outside every buffer"),
        ("ld.param.u32 a, [l3];", "reads register l3, which nobody has written"),
    ] {
        caught_at(&format!("mov.u64 l0, k_param;\n{load}\nret;"), load, 32, &[words]);
    }
}

// ---------------------------------------------------------------------------------------------------
// Registers

#[test]
fn registers_that_nobody_has_written() {
    let store = "st.global.wb.u32 [to], a;";
    caught_at(&format!("{store}\nret;"), store, 32, &["thread 0 ", "reads register a, which nobody has written"]);
    for (reads, register) in [
        ("add.s32 b, t, a;", "a"),
        ("selp.b32 b, t, t, p;", "p"),
        ("@p mov.u32 b, t;", "p"),
        ("@!p bra L;", "p"),
        ("@p ret;", "p"),
        ("ld.global.cs.u32 b, [l0];", "l0"),
        ("st.global.cs.u32 [l0], t;", "l0"),
        ("st.global.cs.v2.u32 [to], {t, a};", "a"),
        ("mov.b64 l0, {t, a};", "a"),
        ("mov.b64 {a, b}, l0;", "l0"),
        ("shfl.sync.idx.b32 b, a, 0, 31, -1;", "a"),
        ("shfl.sync.idx.b32 b, t, a, 31, -1;", "a"),
        ("shfl.sync.idx.b32 b, t, 0, a, -1;", "a"),
        ("shfl.sync.idx.b32 b, t, 0, 31, a;", "a"),
        ("vote.sync.any.pred q, p, -1;", "p"),
        ("vote.sync.any.pred q, !p, -1;", "p"),
        ("vote.sync.ballot.b32 a, q, b;", "b"),
        ("bar.warp.sync a;", "a"),
    ] {
        let body = format!("{reads}\nL:\nst.global.wb.u32 [to], t;\nret;");
        caught_at(&body, reads, 32, &[&format!("reads register {register}, which nobody has written")]);
    }
}

#[test]
fn registers_that_one_lane_has_not_written() {
    for write in [
        "@!p mov.u32 a, 7;",
        "@p bra L;\nmov.u32 a, 7;\nL:",
        "@!p bra L;\nbra M;\nL: mov.u32 a, 7;\nM:",
        "@!p ld.global.cs.u32 a, [from];",
        "@p bra L;\nshfl.sync.bfly.b32 a, t, 0, 31, 0xFFFFFDFF;\nL:",
    ] {
        let body = format!("setp.eq.u32 p, t, 9;\n{write}\nadd.s32 b, a, 1;\nst.global.wb.u32 [to], b;\nret;");
        caught_at(&body, "add.s32 b", 32, &["thread 9 (warp 0, lane 9)", "reads register a"]);
        // Where that lane does not look, all is well.
        let unread = body.replace("add.s32 b, a, 1;", "mov.u32 b, 3;\n@!p add.s32 b, a, 1;");
        assert_eq!(outcome(&unread, 1, 32, &[6; 32], 32)[9], 3, "{unread}");
    }
    // What a block or warp leaves in a register is nothing to the next.
    let first_alone = "setp.ne.u32 p, i, 0;\n@p bra L;\nmov.u32 a, 1;\nL:\nsetp.ge.u32 q, t, 1;\n@q mov.u32 a, 1;\n\
                       st.global.wb.u32 [to], a;\nret;";
    for order in Order::ALL {
        let report = launch(first_alone, 3, 32, &[0; 96], &mut [0; 96], order).unwrap_err();
        assert!(report.contains("lane 0) reads register a") && !report.contains("block 0,"), "{report}");
    }
}

// ---------------------------------------------------------------------------------------------------
// Collectives

/// Leads the lower half to L, the others on.
const HALVES: &str = "setp.lt.u32 p, t, 16;\n@p bra L;\n";

#[test]
fn a_mask_that_leaves_out_its_caller() {
    for collective in ["bar.warp.sync 0x7FFFFFFF;", "vote.sync.any.pred q, 1, 0x7FFFFFFF;"] {
        let body = format!("{collective}\nst.global.wb.u32 [to], t;\nret;");
        caught_at(&body, collective, 32, &["lane 31", "gives the lanes 7FFFFFFF, which does not name it"]);
    }
    caught("bar.warp.sync 0;\nret;", 1, &["lane 0", "which does not name it"]);
}

#[test]
fn lanes_that_wait_for_ever() {
    let returned = "setp.eq.u32 p, t, 31;\n@p ret;\nbar.warp.sync -1;\nst.global.wb.u32 [to], t;\nret;";
    caught(returned, 32, &["deadlock: lane 0 waits at bar.warp.sync", "for lane 31, which has returned"]);
    let absent = "shfl.sync.idx.b32 a, t, 0, 31, -1;\nst.global.wb.u32 [to], a;\nret;";
    caught(absent, 20, &["deadlock: lane 0 waits", "for lane 20, which does not exist: the block has 20 threads"]);
    caught(absent, 52, &["warp 1: deadlock: lane 0 waits", "for lane 20, which does not exist: the block has 52"]);
    let guarded = "setp.ne.u32 p, t, 5;\n@p bar.warp.sync -1;\nst.global.wb.u32 [to], t;\nret;";
    caught(guarded, 32, &["deadlock: lane 0 waits", "for lane 5, which has returned"]);
    for there in ["bar.warp.sync -1;", "vote.sync.any.pred q, 1, -1;", "bar.warp.sync 0xFFFFFFFE;"] {
        let body = format!("{HALVES}{there} // there\nbra M;\nL:\nbar.warp.sync -1; // here\nM:\nret;");
        let (here, there) = (line_of(&body, "// here"), line_of(&body, "// there"));
        caught(&body, 32, &["deadlock: lane ", "which waits at ", &here, &there]);
    }
}

/// One instruction, lanes that name different sets.
#[test]
fn lanes_that_disagree_about_who_takes_part() {
    let body = format!(
        "setp.lt.u32 p, t, 16;\nselp.b32 m, 0xFFFFFFFF, 0xFFFF8000, p;\n{}\nst.global.wb.u32 [to], t;\nret;",
        "shfl.sync.bfly.b32 a, t, 1, 31, m;"
    );
    let body = format!(".reg .b32 m;\n{body}");
    caught(&body, 32, &["deadlock", "FFFFFFFF", "FFFF8000", "shfl.sync.bfly.b32"]);
    // Sets that lie apart are two collectives.
    let apart = body.replace("0xFFFFFFFF", "0xFFFF").replace("0xFFFF8000", "0xFFFF0000").replace("[to], t", "[to], a");
    assert_eq!(outcome(&apart, 1, 32, &[0; 32], 32), (0..32).map(|t| t ^ 1).collect::<Vec<_>>());
}

#[test]
fn a_shuffle_from_a_lane_that_takes_no_part() {
    let body = format!(
        "{HALVES}st.global.wb.u32 [to], t;\nret;\nL:\n{}\nst.global.wb.u32 [to], a;\nret;",
        "shfl.sync.idx.b32 a, t, 16, 31, 0xFFFF;"
    );
    caught_at(&body, "shfl.sync", 32, &["lane 0", "takes the value of lane 16, which takes no part"]);
    let butterfly = body.replace("idx.b32 a, t, 16", "bfly.b32 a, t, 24");
    caught_at(&butterfly, "shfl.sync", 32, &["lane 0", "takes the value of lane 24, which takes no part"]);
}

#[test]
fn a_uniform_branch_that_divides_its_lanes() {
    let body = "setp.lt.u32 p, t, 8;\n@p bra.uni L;\nbra.uni M;\nL:\nM:\nst.global.wb.u32 [to], t;\nret;";
    caught_at(body, "@p bra.uni", 32, &["of the lanes FFFFFFFF only 000000FF branch"]);
    for (same, threads) in [("8", 8), ("0", 32), ("32", 32)] {
        let body = body.replace("t, 8", &format!("t, {same}"));
        assert_eq!(outcome(&body, 1, threads, &[], threads as usize), (0..threads).collect::<Vec<_>>());
    }
}

// ---------------------------------------------------------------------------------------------------
// Launches

#[test]
fn an_endless_loop() {
    caught("L:\nbra L;", 32, &["endless loop"]);
    caught("L:\nsetp.eq.u32 p, t, 7;\n@p bra L;\nst.global.wb.u32 [to], t;\nret;", 32, &["endless loop"]);
    caught("L:\nvote.sync.any.pred p, 1, -1;\n@p bra L;\nret;", 32, &["endless loop"]);
}

#[test]
fn launches_that_are_impossible() {
    let x = [0u32; 1024];
    let mut out = [0u32; 1024];
    let args = Args { from: device_address(x.as_ptr()), to: device_address(out.as_ptr()) };
    let buffers = [Buffer::input("x", &x), Buffer::output("out", &mut out)];
    let ptx = made(COPY);
    for (grid, block, blocks) in
        [(1, 257, 0..1), (1, 0, 0..1), (0, 1, 0..0), (4, 256, 0..5), (4, 256, 2..2), (1 << 31, 1, 0..1)]
    {
        let report = ptx.launch_blocks("k", grid, block, blocks, &args, &buffers, Order::Reversed).unwrap_err();
        assert!(report.contains("no such launch of k: 1 to 2147483647 blocks of 1 to 256 threads"), "{report}");
    }
    let report = ptx.launch("k", 4, 256, &args.from, &buffers, Order::Forward).unwrap_err();
    assert_eq!(report, "the argument has 16 bytes in the kernel, the caller's has 8");
    let report = ptx.launch("l", 4, 256, &args, &buffers, Order::Forward).unwrap_err();
    assert_eq!(report, "there is no kernel l");
    assert!(ptx.has("k") && !ptx.has("l"));
    // Without .maxntid, and with one that no GPU grants.
    for text in
        [kernel(COPY).replace(".maxntid 256, 1, 1\n", ""), kernel(COPY).replace(".maxntid 256", ".maxntid 2048")]
    {
        let ptx = Ptx::new([("self", text.as_str())]).unwrap();
        let report = ptx.launch("k", 1, 1025, &args, &buffers, Order::Forward).unwrap_err();
        assert!(report.contains("of 1 to 1024 threads"), "{report}");
    }
    ptx.launch("k", 4, 256, &args, &buffers, Order::Forward).unwrap();
}

// ---------------------------------------------------------------------------------------------------
// What is not known

/// Each of these lines in a kernel is an error, which names it.
fn all_refused<'a>(lines: impl IntoIterator<Item = &'a str>) {
    let mut wrong = String::new();
    for line in lines {
        let body = format!("{line} // here\nst.global.wb.u32 [to], t;\nret;");
        let here = line_of(&body, line.lines().next().unwrap_or_default());
        match Ptx::new([("self", kernel(&body).as_str())]) {
            Ok(_) => wrong += &format!("accepted: {line}\n"),
            Err(why) if why.starts_with("self: ") && why.contains(&format!("{here}: ")) => {}
            Err(why) => wrong += &format!("not named as {here}: {line}: {why}\n"),
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn unknown_instructions_are_refused() {
    let instructions = "
        add.f32 f0, f1, f2;             add.ftz.f32 f0, f1, f2;         add.rn.ftz.f32 f0, f1, f2;
        add.rn.sat.f32 f0, f1, f2;      add.rz.f32 f0, f1, f2;          add.sat.s32 a, b, c;
        add.f16 h0, h1, h2;             add.f16x2 a, b, c;              add.u8 h0, h1, h2;
        mul.f32 f0, f1, f2;             mul.s32 a, b, c;                mul.wide.u64 l0, l1, l2;
        mul24.lo.s32 a, b, c;           mad.f32 f0, f1, f2, f3;         mad.rn.f32 f0, f1, f2, f3;
        fma.f32 f0, f1, f2, f3;         fma.rn.ftz.f32 f0, f1, f2, f3;  fma.rn.relu.f16 h0, h1, h2, h3;
        fma.rz.f64 d0, d1, d2, d3;      sub.f32 f0, f1, f2;             div.approx.f32 f0, f1, f2;
        div.full.f32 f0, f1, f2;        div.s32 a, b, c;                rem.u32 a, b, c;
        rcp.approx.f32 f0, f1;          rcp.approx.ftz.f64 d0, d1;      sqrt.approx.f32 f0, f1;
        rsqrt.approx.f32 f0, f1;        ex2.approx.f32 f0, f1;          ex2.approx.ftz.f32 f0, f1;
        lg2.approx.f32 f0, f1;          sin.approx.f32 f0, f1;          tanh.approx.f32 f0, f1;
        neg.ftz.f32 f0, f1;             neg.u32 a, b;                   abs.ftz.f32 f0, f1;
        abs.u32 a, b;                   min.ftz.f32 f0, f1, f2;         min.xorsign.abs.f32 f0, f1, f2;
        max.NaN.f64 d0, d1, d2;         add.cc.u64 l0, l1, l2;          addc.u64 l0, l1, l2;
        mul.cc.u32 a, b, c;             mad.wide.cc.u32 l0, a, b, l1;   mad24.lo.u32 a, b, c, d;
        cvt.f32.f64 f0, d0;             cvt.rz.f32.f64 f0, d0;          cvt.rn.ftz.f32.f64 f0, d0;
        cvt.rn.sat.f32.f64 f0, d0;      cvt.sat.s32.s64 a, l0;          cvt.rn.f16.f64 h0, d0;
        cvt.rz.f16.f32 h0, f0;          cvt.rn.relu.f16.f32 h0, f0;     cvt.rna.tf32.f32 a, f0;
        cvt.s32.f32 a, f0;              cvt.rni.s64.f32 l0, f0;         cvt.rni.s32.f64 a, d0;
        cvt.rzi.ftz.s32.f32 a, f0;      cvt.f32.s32 f0, a;              cvt.rp.f32.s32 f0, a;
        cvt.u8.u32 h0, a;               cvt.s8.s32 h0, a;               cvt.pack.sat.s16.s32 a, b, c;
        cvt.f32.f32 f0, f1;             cvta.u64 l0, l1;                cvta.shared.u64 l0, l1;
        cvta.to.local.u64 l0, l1;       isspacep.global p, l0;          mov.b128 l0, l1;
        ld.volatile.global.u32 a, [from];    ld.relaxed.gpu.global.u32 a, [from];   ld.acquire.sys.global.u32 a, [from];
        ld.weak.global.u32 a, [from];        ld.u32 a, [from];                      ld.shared.u32 a, [from];
        ld.local.u32 a, [from];              ld.const.u32 a, [from];                ld.global.ca.L2::128B.u32 a, [from];
        ld.global.L1::no_allocate.u32 a, [from];                                    ld.global.nc.cs.u32 a, [from];
        ld.global.cs.u8 h0, [from];          ld.global.cs.pred p, [from];           ld.global.cs.v3.u32 {a, b, c}, [from];
        ld.global.cs.v8.f32 {a, b, c, d, a, b, c, d}, [from];                       ld.global.cs.v4.u64 {l0, l1, l2, l3}, [x];
        ld.global.wb.u32 a, [from];          ldu.global.u32 a, [from];              st.volatile.global.u32 [to], a;
        st.shared.u32 [to], a;               st.local.u32 [to], a;                  st.u32 [to], a;
        st.global.ca.u32 [to], a;            st.global.cs.u8 [to], h0;              st.global.nc.u32 [to], a;
        st.async.global.u32 [to], a;         st.global.cs.v4.u64 [to], {l0, l1, l2, l3};
        prefetch.global.L2 [from];           atom.global.add.u32 a, [to], b;        red.global.add.u32 [to], a;
        atom.global.cas.b32 a, [to], b, c;   membar.gl;      fence.sc.gpu;          cp.async.ca.shared.global [to], [from], 4;
        bar.sync 0;            barrier.sync 0;            bar.arrive 0, 32;         bar.red.popc.u32 a, 0, p;
        shfl.bfly.b32 a, b, 1, 31;           shfl.sync.b32 a, b, 1, 31, -1;         shfl.sync.bfly.u32 a, b, 1, 31, -1;
        shfl.sync.bfly.b64 l0, l1, 1, 31, -1;                                       shfl.sync.rot.b32 a, b, 1, 31, -1;
        vote.any.pred p, q;    vote.ballot.b32 a, p;      vote.sync.any.b32 a, p, -1;    vote.sync.ballot.pred p, q, -1;
        vote.sync.none.pred p, q, -1;        activemask.b32 a;                      match.any.sync.b32 a, b, -1;
        redux.sync.add.u32 a, b, -1;         elect.sync a|p, -1;                    nanosleep.u32 20;
        setp.lt.and.s32 p, a, b, q;          setp.lt.ftz.f32 p, f0, f1;             setp.lt.b32 p, a, b;
        setp.lo.s32 p, a, b;                 setp.equ.s32 p, a, b;                  setp.lt.f16 p, h0, h1;
        setp.gt.f16x2 p|q, a, b;             setp.xx.u32 p, a, b;                   set.lt.and.u32.s32 a, b, c, p;
        set.lt.u32.f16 a, h0, h1;            set.lt.ftz.f32.f32 f0, f1, f2;         selp.pred p, q, r, p;
        selp.f16 h0, h1, h2, p;              slct.f32.s32 f0, f1, f2, a;            lop3.b64 l0, l1, l2, l3, 1;
        lop3.or.b32 a|p, b, c, d, 1, q;      and.u32 a, b, c;     or.s32 a, b, c;   xor.f32 a, b, c;
        cnot.b32 a, b;                       not.u32 a, b;                          shl.u32 a, b, c;
        shl.s32 a, b, c;                     shf.l.b32 a, b, c, d;                  shf.l.wrap.b64 l0, l1, l2, a;
        shr.f32 a, b, c;                     prmt.b32.f5e a, b, c, d;               prmt.b64 l0, l1, l2, l3;
        popc.u32 a, b;                       clz.s32 a, b;       brev.u32 a, b;     bfind.shiftamt.u32 a, b;
        bfe.b32 a, b, c, d;                  bfi.u32 a, b, c, d, e;                 szext.clamp.u32 a, b, c;
        bmsk.clamp.b32 a, b, c;              dp4a.u32.u32 a, b, c, d;               sad.u32 a, b, c, d;
        testp.finite.f32 p, f0;              copysign.f16 h0, h1, h2;               vadd.s32.s32.s32 a, b, c;
        call foo;      call.uni (a), foo, (b);      brx.idx a, L;     exit;     ret.uni;     trap;     brkpt;
        bra.conv L;    tex.1d.v4.s32.s32 a, b;      mma.sync a, b;    griddepcontrol.wait;   pmevent 1;  add;  .32 a;
        mov.f16 h0, h1;     mov.b8 h0, h1;     mov a, b;    discard.global.L2 [to], 128;    mapa.u64 l0, l1, a;
    ";
    let registers = ".reg .f32 f<4>; .reg .f64 d<4>;";
    let lines: Vec<_> = instructions.split(';').map(|line| format!("{registers} {};", line.trim())).collect();
    all_refused(lines[..lines.len() - 1].iter().map(String::as_str));
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    all_refused([
        // Widths.
        "add.s32 a, b, l0;",
        "add.s64 l0, l1, a;",
        "add.s64 a, l0, l1;",
        "add.s16 a, b, 1;",
        "mul.wide.u32 a, b, c;",
        "mul.wide.u16 l0, h0, h1;",
        "mad.wide.u32 l0, a, b, c;",
        "cvt.u16.u32 a, b;",
        "cvt.u64.u32 l0, l1;",
        "cvt.u32.u16 a, b;",
        "cvt.rn.f16.f32 a, b;",
        "selp.b32 a, b, l0, p;",
        "selp.b64 l0, a, l1, p;",
        "selp.b32 a, b, c, d;",
        "selp.b32 p, b, c, q;",
        "setp.eq.u32 a, b, c;",
        "setp.eq.u64 p, b, c;",
        "set.eq.u32.u32 p, a, b;",
        "shl.b64 l0, l1, l2;",
        "shr.u16 h0, h1, h2;",
        "and.pred p, q, a;",
        "and.b32 a, b, p;",
        "not.pred a, p;",
        "popc.b64 l0, l1;",
        "bfe.u64 l0, l1, l2, l3;",
        "mov.u32 a, l0;",
        "mov.u64 l0, %tid.x;",
        "mov.u16 h0, %tid.x;",
        "mov.b64 l0, {a, b, c};",
        "mov.b64 l0, {a, h0};",
        "mov.b64 a, {h0, h1, h2, h3};",
        "mov.b64 l0, {a, b, c, d};",
        "mov.b32 h0, {1, 2, 3, 4};",
        "mov.b32 a, {b, c};",
        "mov.u32 a, {h0, h1};",
        "mov.f32 a, {h0, h1};",
        "mov.b32 {h0, h1, h2}, a;",
        "mov.b32 {a, b}, c;",
        "mov.b64 {a, b}, c;",
        "mov.u64 {a, b}, l0;",
        "mov.b64 {a, 1}, l0;",
        "ld.global.cs.u32 l0, [from];",
        "ld.global.cs.s32 l0, [from];",
        "ld.global.cs.s16 a, [from];",
        "ld.global.cs.u16 a, [from];",
        "ld.global.cs.u64 a, [from];",
        "ld.global.cs.u32 p, [from];",
        "st.global.cs.u32 [to], l0;",
        "st.global.cs.u16 [to], a;",
        "st.global.cs.u32 [to], p;",
        "shfl.sync.bfly.b32 l0, l1, 1, 31, -1;",
        "shfl.sync.bfly.b32 a|b, c, 1, 31, -1;",
        "shfl.sync.bfly.b32 a, b, l0, 31, -1;",
        "vote.sync.ballot.b32 p, q, -1;",
        "vote.sync.any.pred a, q, -1;",
        "vote.sync.any.pred p, a, -1;",
        "vote.sync.any.pred p, q, l0;",
        "bar.warp.sync l0;",
        "@a mov.u32 b, 1;",
        "@a bra L;\nL:",
        "@l0 ret;",
        // Kinds.
        "add.s32 1, a, b;",
        "add.s32 a, b, !p;",
        "add.s32 a, !b, c;",
        "selp.b32 a, !p, b, q;",
        "and.pred p, !q, r;",
        "mov.pred p, !q;",
        "add.s32 a, b, {c, d};",
        "add.s32 a, b, [from];",
        "add.s32 a, b, _;",
        "add.s32 a, b, L;\nL:",
        "add.s32 a, b, [k_param];",
        "add.s32 a|p, b, c;",
        "setp.eq.u32 p|q, a, b;",
        "mov.u32 _, a;",
        "mov.u32 a, k;",
        "mov.u32 a, k_param;",
        "mov.s64 l0, k_param;",
        "add.s64 l0, l1, k_param;",
        "mov.u32 a, %tid;",
        "mov.u32 a, %tid.y;",
        "mov.u32 a, %ntid.z;",
        "mov.u32 a, %warpid;",
        "mov.u32 a, %clock;",
        "mov.u64 l0, %clock64;",
        "mov.u32 a, %lanemask_lt;",
        "mov.u32 a, %smid;",
        "mov.u32 a, %envreg0;",
        "mov.u32 a, WARP_SZ;",
        "mov.u32 a, undeclared;",
        "mov.u32 a, %r1;",
        "bra a;",
        "bra 3;",
        "bra nowhere;",
        "bra.uni nowhere;",
        "@q9 bra L;\nL:",
        "ld.global.cs.u32 a, from;",
        "ld.global.cs.u32 a, [b];",
        "ld.global.cs.u32 a, [4096];",
        "ld.global.cs.u32 a, [k_param];",
        "ld.global.cs.u32 a, [from+b];",
        "ld.global.cs.u32 a, [from+4+4];",
        "ld.global.cs.u32 a, [from-4];",
        "ld.global.cs.u32 a, [from++4];",
        "ld.global.cs.u32 a, [from+];",
        "ld.global.cs.u32 a, [+4];",
        "ld.global.cs.u32 a, [from+4 4];",
        "ld.global.cs.u32 a, [from+4;",
        "ld.global.cs.u32 a, [from+4]];",
        "ld.global.cs.u32 a, [from]+4;",
        "ld.global.cs.u32 a, [from+9223372036854775808];",
        "st.global.cs.u32 [to, a;",
        "ld.param.u64 l0, [k_param+4];",
        "ld.param.u64 l0, [k_param+16];",
        "ld.param.u64 l0, [k_param+-8];",
        "ld.param.u64 l0, [k_param-8];",
        "ld.param.u32 l0, [k_param];",
        "ld.param.v2.u64 {l0, l1}, [k_param+8];",
        "ld.param.u8 a, [k_param];",
        "ld.param.s8 h0, [k_param];",
        "ld.param.v2.u8 {h0, h1}, [k_param];",
        "ld.param.u8 h0, [k_param+16];",
        "ld.param.u32 a, [b];",
        "ld.param.u32 a, [other];",
        "ld.param.b32 a, k_param;",
        // Counts.
        "add.s32 a, b;",
        "add.s32 a, b, c, d;",
        "add.s32 a;",
        "not.b32 a, b, c;",
        "fma.rn.f32 a, b, c;",
        "mov.u32 a, b, c;",
        "ret a;",
        "bra L, M;\nL:\nM:",
        "bar.warp.sync;",
        "bar.warp.sync -1, a;",
        "shfl.sync.bfly.b32 a, b, 1, 31;",
        "shfl.sync.bfly.b32 a, b, 1, 31, -1, -1;",
        "vote.sync.any.pred p, q;",
        "ld.global.cs.v2.u32 {a, b, c}, [from];",
        "ld.global.cs.v4.u32 {a, b}, [from];",
        "ld.global.cs.v2.u32 a, [from];",
        "ld.global.cs.u32 {a}, [from];",
        "ld.global.cs.u32 {a, b}, [from];",
        "ld.global.cs.v2.u32 {a, {b}}, [from];",
        "st.global.cs.v2.u32 [to], {a, b, c};",
        "st.global.cs.v4.u32 [to], {a, b};",
        "st.global.cs.v2.u32 [to], a;",
        "st.global.cs.u32 [to], {a};",
        "ld.global.cs.u32 a;",
        "ld.global.cs.u32 a, [from], b;",
        "ld.global.cs.v2.u32 {a, b, [from];",
        "mov.b64 l0, {a, b;",
        "mov.b64 l0, {a, b}};",
        "add.s32 a,, b, c;",
        "add.s32 a, b, c,;",
        "add.s32 , a, b, c;",
        // Two results in one register, which leaves open which stays.
        "mov.b64 {a, a}, l0;",
        "ld.global.cs.v2.u32 {a, a}, [from];",
    ]);
}

#[test]
fn immediates_mean_what_they_say_or_are_refused() {
    for (kind, register, text, value) in [
        ("u32", "a", "0", 0),
        ("u32", "a", "7", 7),
        ("s32", "a", "-1", 0xFFFF_FFFF),
        ("s32", "a", "-2147483648", 0x8000_0000),
        ("u32", "a", "4294967295", 0xFFFF_FFFF),
        ("u32", "a", "4294967295U", 0xFFFF_FFFF),
        ("u32", "a", "0xDEADbeef", 0xDEAD_BEEF),
        ("u32", "a", "0xFFU", 0xFF),
        ("u32", "a", "0b101", 5),
        ("b32", "a", "-0x10", 0xFFFF_FFF0),
        ("f32", "a", "0f3F800000", 0x3F80_0000),
        ("f32", "a", "0FBf8AbCdE", 0xBF8A_BCDE),
        ("b32", "a", "0f7FC00001", 0x7FC0_0001),
        ("u64", "l0", "-1", u64::MAX),
        ("u64", "l0", "18446744073709551615", u64::MAX),
        ("s64", "l0", "-9223372036854775808", 1 << 63),
        ("b64", "l0", "0x8000000000000001", 0x8000_0000_0000_0001),
        ("f64", "l0", "0d3FF0000000000000", 0x3FF0_0000_0000_0000),
        ("f64", "l0", "0DbFF8000000000001", 0xBFF8_0000_0000_0001),
        ("u16", "h0", "65535", 0xFFFF),
        ("s16", "h0", "-32768", 0x8000),
        ("b16", "h0", "0xABCD", 0xABCD),
    ] {
        let bits = match register {
            "a" => 32,
            "l0" => 64,
            _ => 16,
        };
        let store = match bits {
            32 => "cvt.u64.u32 l1, a;".into(),
            64 => "mov.u64 l1, l0;".into(),
            _ => "cvt.u64.u16 l1, h0;".to_owned(),
        };
        let body =
            format!("mov.{kind} {register}, {text};\n{store}\nadd.s64 to, to, at;\nst.global.wb.u64 [to], l1;\nret;");
        let given = outcome(&body, 1, 1, &[0], 2);
        assert_eq!(u64::from(given[0]) | u64::from(given[1]) << 32, value, "{kind} {text}");
    }
    all_refused([
        // Of another type than the instruction's, where what is meant would be a guess.
        "mov.f32 a, 1;",
        "mov.f64 l0, 1;",
        "add.rn.f32 a, b, 1;",
        "setp.lt.f32 p, a, 0;",
        "st.global.cs.v2.f32 [to], {a, 0};",
        "add.s32 a, b, 0f3F800000;",
        "mov.f64 l0, 0f3F800000;",
        "mov.f32 a, 0d3FF0000000000000;",
        "mov.b64 l0, 0f3F800000;",
        "mov.b16 h0, 0f3F800000;",
        "mov.b32 a, 0d3FF0000000000000;",
        // Ill-formed.
        "mov.f32 a, 0f3F80000;",
        "mov.f32 a, 0f3F8000000;",
        "mov.f32 a, 0f;",
        "mov.f32 a, 0f+F800000;",
        "mov.f32 a, -0f3F800000;",
        "mov.f32 a, 0f3F80000U;",
        "mov.f32 a, 0f3F800000U;",
        "mov.f64 l0, 0d3FF000000000000;",
        "mov.u32 a, 0x;",
        "mov.u32 a, 0x-1;",
        "mov.u32 a, 0x+1;",
        "mov.u32 a, --1;",
        "mov.u32 a, -;",
        "mov.u32 a, 0xFFu;",
        "mov.u32 a, 017;",
        "mov.u32 a, 0b2;",
        "mov.u32 a, 08;",
        "mov.u32 a, 1.0;",
        "mov.f32 a, 1.0;",
        "mov.f32 a, 1e3;",
        "mov.u32 a, 1 + 2;",
        "mov.u32 a, (1);",
        "mov.u32 a, 1 2;",
        "mov.u64 l0, 18446744073709551616;",
        "mov.u64 l0, 0x10000000000000000;",
        "mov.s64 l0, -9223372036854775809;",
        "mov.u32 a, 'a';",
        "mov.u32 a, \"a\";",
    ]);
}

#[test]
fn unknown_directives_are_refused() {
    all_refused([
        ".reg .b8 small;",
        ".reg .b128 large;",
        ".reg .zz32 odd;",
        ".reg .b32x odd;",
        ".reg .v4 .b32 pack;",
        ".reg .u24 odd;",
        ".reg .b32 many<x>;",
        ".reg .b32 many<3;",
        ".reg .b32 one,;",
        ".reg .b32;",
        ".reg;",
        ".reg .b32 a;",
        ".reg .b32 x<3>, y, x<2>;",
        ".shared .align 4 .b8 s[16];",
        ".local .align 4 .b8 s[16];",
        ".global .align 4 .b8 s[16];",
        ".const .align 4 .b8 s[16];",
        ".param .b32 other;",
        ".callprototype _ ();",
        ".branchtargets L;",
        ".reqntid 32, 1, 1",
        ".maxnreg 32",
        ".maxntid x, 1, 1",
        ".maxntid 256, 1, 1, 1",
        ".maxntid 65536, 65536, 2",
        ".maxntid 0",
        ".section .debug_info { }",
        ".unheard_of 3",
    ]);
}

/// What a whole module is refused for.
fn module_refused(text: &str, words: &[&str]) {
    let why = Ptx::new([("self", text)]).err().unwrap_or_else(|| panic!("accepted:\n{text}"));
    for word in words.iter().chain(&["self: "]) {
        assert!(why.contains(word), "no {word:?} in {why:?}:\n{text}");
    }
}

#[test]
fn modules_that_are_not_kernels_of_one_argument_are_refused() {
    let sound = kernel(COPY);
    Ptx::new([("self", sound.as_str())]).unwrap();
    let head = ".visible .entry k(\n.param .align 8 .b8 k_param[16]\n)";
    assert!(sound.contains(head));
    for other in [
        ".visible .func k(\n.param .align 8 .b8 k_param[16]\n)",
        ".visible .func (.param .b32 r) k(\n.param .align 8 .b8 k_param[16]\n)",
        ".visible k(\n.param .align 8 .b8 k_param[16]\n)",
        ".visible .entry k()",
        ".visible .entry k",
        ".visible .entry (\n.param .align 8 .b8 k_param[16]\n)",
        ".visible .entry k l(\n.param .align 8 .b8 k_param[16]\n)",
        ".visible .entry k(\n.param .u64 k_param\n)",
        ".visible .entry k(\n.param .align 4 .b8 k_param[16]\n)",
        ".visible .entry k(\n.param .align 8 .b16 k_param[16]\n)",
        ".visible .entry k(\n.param .align 8 .b8 k_param[]\n)",
        ".visible .entry k(\n.param .align 8 .b8 k_param[16],\n.param .u32 n\n)",
        ".extern .entry k(\n.param .align 8 .b8 k_param[16]\n)",
        ".weak .entry k(\n.param .align 8 .b8 k_param[16]\n)",
    ] {
        module_refused(&sound.replace(head, other), &["line 4"]);
    }
    for before in [
        ".global .align 4 .b8 table[4] = {1, 2, 3, 4};",
        ".const .f32 c = 0f3F800000;",
        ".shared .align 16 .b8 s[1024];",
        ".extern .shared .align 16 .b8 s[];",
        ".extern .func (.param .b32 r) f (.param .b32 a);",
        ".func f() { ret; }",
        ".alias f, g;",
        "mov.u32 a, b;",
        "L:",
        "{",
        "}",
        "/* a comment */",
    ] {
        module_refused(&sound.replacen(".visible", &format!("{before}\n.visible"), 1), &["line 4"]);
    }
    module_refused(&format!("{sound}{}", &sound[sound.find(".visible").unwrap()..]), &["a second kernel k"]);
    module_refused(&sound.replace(".maxntid 256, 1, 1\n{", ".maxntid 256, 1, 1\n.reg .b32 a;\n{"), &["line 8"]);
    module_refused(&sound.replace(".maxntid 256, 1, 1\n{", ".maxntid 256, 1, 1\nret;\n{"), &["line 8"]);
    module_refused(&sound.replace(".maxntid 256, 1, 1\n{", ".maxntid 256, 1, 1\nL:\n{"), &["line 8"]);
    module_refused(&sound.replace(".maxntid 256, 1, 1\n{", ".maxntid 256, 1, 1\n}"), &["line 8"]);
    module_refused(sound.trim_end().trim_end_matches('}'), &["line 4", "k has no end"]);
    module_refused(&format!("{sound}}}"), &["not expected outside a function"]);
}

#[test]
fn flow_that_leads_nowhere_is_refused() {
    for body in ["mov.u32 a, 1;", "@p ret;", "@p bra L;\nL:\nret;\nadd.s32 a, t, t;", "L:\n@p bra L;", ""] {
        module_refused(&kernel(body), &["k ends without ret"]);
    }
    module_refused(&kernel("setp.eq.u32 p, t, 1;\n@p bra L;\nret;\nL:"), &["leads behind the end"]);
    let twice = kernel("L:\nmov.u32 a, 1;\nL: // again\nret;");
    module_refused(&twice, &["a second label L", &line_of("L:\nmov.u32 a, 1;\nL: // again\nret;", "// again")]);
}

#[test]
fn a_missing_semicolon_is_an_error() {
    for body in [
        "ld.global.cs.u32 a, [from]\nst.global.wb.u32 [to], a;\nret;",
        "mov.u32 a, b\nst.global.wb.u32 [to], a;\nret;",
        "mov.u32 a, 1\nst.global.wb.u32 [to], a;\nret;",
        "mov.u32 a, %tid.x\nst.global.wb.u32 [to], a;\nret;",
        "bra L\nL: ret;",
        "bra L\nst.global.wb.u32 [to], t;\nL: ret;",
        "bar.warp.sync -1\nret;",
        "ret\nst.global.wb.u32 [to], t;\nret;",
        "mov.u32 a, 1;\nret",
    ] {
        module_refused(&kernel(body), &["line "]);
    }
}

// ---------------------------------------------------------------------------------------------------
// Sound kernels

#[test]
fn loads_and_stores_of_every_width() {
    let bytes: Vec<u8> = (0..64).map(|i| 0x80 ^ (i * 37) as u8).collect();
    let words: Vec<u32> = bytes.chunks(4).map(|four| u32::from_le_bytes(four.try_into().unwrap())).collect();
    let x = Aligned::<16>(words.try_into().unwrap());
    // What is loaded from 0 on is stored to 0 on, in one access or in parts.
    for body in [
        "ld.global.cs.v4.u32 {a, b, c, d}, [x];\nst.global.wb.v4.u32 [to], {a, b, c, d};",
        "ld.global.ca.v4.f32 {a, b, c, d}, [x];\nst.global.cg.v2.b32 [to], {a, b};\nst.global.wt.v2.s32 [to+8], {c, d};",
        "ld.global.cg.v2.u64 {l0, l1}, [x];\nst.global.wb.v2.f64 [to], {l0, l1};",
        "ld.global.cv.v2.u64 {l0, l1}, [x];\nst.global.wb.u64 [to], l0;\nmov.b64 {c, d}, l1;\nst.global.wb.v2.u32 [to+8], {c, d};",
        "ld.global.lu.v4.u16 {h0, h1, h2, h3}, [x];\nst.global.wb.v4.u16 [to], {h0, h1, h2, h3};\n\
         ld.global.cs.u64 l0, [x+8];\nst.global.wb.f64 [to+8], l0;",
        "ld.global.nc.v4.b16 {h0, h1, h2, h3}, [x];\nmov.b64 l0, {h0, h1, h2, h3};\nst.global.wb.u64 [to], l0;\n\
         ld.global.cs.u64 l0, [x+8];\nmov.b64 {h0, h1, h2, h3}, l0;\nst.global.wb.v2.u16 [to+8], {h0, h1};\n\
         mov.b32 a, {h2, h3};\nst.global.wb.u32 [to+12], a;",
        "ld.global.cs.u16 h0, [x];\nld.global.cs.s16 h1, [x + 2];\nst.global.wb.v2.s16 [to], {h0, h1};\n\
         ld.global.cs.u32 a, [x+4];\nmov.b32 {h2, h3}, a;\nst.global.wb.u16 [to+6], h3;\nst.global.wb.u16 [to + 4], h2;\n\
         add.s64 l0, x, 16;\nld.global.cs.u64 l1, [l0+-8];\nadd.s64 to, to, 4096;\nst.global.wb.u64 [to+-4088], l1;",
    ] {
        let mut out = Aligned([0; 4]);
        launch(&format!("{body}\nret;"), 1, 1, &x.0, &mut out.0, Order::Forward)
            .unwrap_or_else(|e| panic!("{e}\n{body}"));
        assert_eq!(out.0, x.0[..4], "{body}");
    }
}

/// Into 32 bits, and into 16 with something left beside it.
#[test]
fn narrow_values_leave_the_other_bits_alone() {
    let body = "ld.global.cs.u16 h0, [from+2];\ncvt.u32.u16 a, h0;\ncvt.s32.s16 b, h0;\nmul.wide.s16 c, h0, h0;\n\
                cvt.u16.u32 h1, a;\nneg.s16 h1, h1;\ncvt.u32.u16 d, h1;\nxor.b32 a, a, b;\nxor.b32 a, a, c;\n\
                add.s32 a, a, d;\nst.global.wb.u32 [to], a;\nret;";
    let x = numbers(32);
    let expected = |x: u32| {
        let half = (x >> 16) as u16;
        let signed = i32::from(half as i16);
        (u32::from(half) ^ signed as u32 ^ (signed * signed) as u32).wrapping_add(u32::from(half.wrapping_neg()))
    };
    assert_eq!(outcome(body, 1, 32, &x, 32), x.iter().map(|&x| expected(x)).collect::<Vec<_>>());
}

#[test]
fn guards_select_lanes() {
    let body = "ld.global.cs.u32 a, [from];\nand.b32 b, a, 1;\nsetp.eq.u32 p, b, 1;\n@p add.s32 a, a, 5;\n\
                @!p not.b32 a, a;\n@p st.global.wb.u32 [to], a;\nsetp.gt.u32 q, a, 0x7FFFFFFF;\n@p ret;\n\
                @q bra L;\nadd.s32 a, a, 9;\nL:\nst.global.wb.u32 [to], a;\nret;";
    let x = numbers(64);
    let expected = |x: u32| match (x & 1 == 1, !x > 0x7FFF_FFFF) {
        (true, _) => x.wrapping_add(5),
        (false, true) => !x,
        (false, false) => (!x).wrapping_add(9),
    };
    assert_eq!(outcome(body, 1, 64, &x, 64), x.iter().map(|&x| expected(x)).collect::<Vec<_>>());
}

/// Each lane has a carry flag. A guard that does not hold leaves it, and an instruction without .cc does too.
#[test]
fn the_carry_flag_is_each_lanes_own() {
    let body = "ld.global.cs.u32 a, [from];\nsetp.gt.u32 p, t, 15;\nadd.cc.u32 b, a, a;\n@p sub.cc.u32 b, 1, 0;\n\
                add.s32 b, b, 0;\naddc.u32 c, 0, 0;\naddc.cc.u32 d, 0, 0;\naddc.u32 e, 0, 0;\nadd.s32 c, c, d;\n\
                mad.lo.u32 c, e, 100, c;\nst.global.wb.u32 [to], c;\nret;";
    let x = numbers(32);
    let expected = (0..32).map(|t| if t > 15 { 0 } else { 2 * (x[t] >> 31) }).collect::<Vec<_>>();
    assert_eq!(outcome(body, 1, 32, &x, 32), expected);
    // As with registers, nothing is read that nobody has written.
    for reads in ["addc.u32 a, t, t;", "subc.cc.u32 a, t, t;", "madc.hi.u32 a, t, t, t;"] {
        let unwritten =
            format!("setp.ne.u32 p, t, 9;\n@p add.cc.u32 b, t, t;\n{reads}\nst.global.wb.u32 [to], t;\nret;");
        caught_at(&unwritten, reads, 32, &["lane 9", "reads the carry flag, which nobody has written"]);
        let unwritten = unwritten.replace("@p add.cc.u32", "@p add.u32");
        caught_at(&unwritten, reads, 32, &["lane 0", "reads the carry flag"]);
    }
    for order in Order::ALL {
        let first_alone =
            "setp.eq.u32 p, i, 0;\n@p add.cc.u32 b, t, t;\naddc.u32 a, 0, 0;\nst.global.wb.u32 [to], a;\nret;";
        let report = launch(first_alone, 2, 1, &[0; 2], &mut [0; 2], order).unwrap_err();
        assert!(report.contains("block 1, thread 0 (warp 0, lane 0) reads the carry flag"), "{report}");
    }
}

/// An inner scope's register hides an outer one of the same name.
#[test]
fn scopes_hide_registers() {
    let body = "mov.u32 a, 1;\n{\n.reg .b32 a;\nmov.u32 a, 20;\n{\n.reg .b64 a;\nmov.u64 a, 300;\ncvt.u32.u64 b, a;\n}\n\
                add.s32 b, b, a;\n}\nadd.s32 b, b, a;\nst.global.wb.u32 [to], b;\nret;";
    assert_eq!(outcome(body, 1, 1, &[0], 1), [321]);
    // The inner one begins unwritten, and is gone afterwards.
    caught("mov.u32 a, 1;\n{\n.reg .b32 a;\nadd.s32 b, a, 1;\n}\nret;", 1, &["reads register a"]);
    module_refused(&kernel("{\n.reg .b32 z;\nmov.u32 z, 1;\n}\nadd.s32 a, z, 1;\nret;"), &["no operand of 32 bits"]);
}

/// Both halves of a warp at once, each in a collective of its own, and then all.
#[test]
fn collectives_of_parts_side_by_side() {
    let body = format!(
        "ld.global.cs.u32 a, [from];\nand.b32 b, a, 1;\nsetp.eq.u32 q, b, 1;\n{HALVES}\
         vote.sync.ballot.b32 c, q, 0xFFFF0000;\nshfl.sync.down.b32 d, a, 4, 31, 0xFFFF0000;\nbra M;\n\
         L:\nshfl.sync.up.b32 d, a, 3, 0, 0xFFFF;\nvote.sync.ballot.b32 c, q, 0xFFFF;\n\
         M:\nshfl.sync.bfly.b32 e, c, 16, 31, -1;\nxor.b32 c, c, e;\nadd.s32 d, d, c;\nst.global.wb.u32 [to], d;\nret;"
    );
    let x = numbers(32);
    let ballot = (0..32).fold(0, |set, t| set | (x[t] & 1) << t);
    let expected = (0..32).map(|t| {
        let from = match t {
            0..3 => t,
            3..16 => t - 3,
            16..28 => t + 4,
            _ => t,
        };
        x[from].wrapping_add(ballot)
    });
    assert_eq!(outcome(&body, 1, 32, &x, 32), expected.collect::<Vec<_>>());
}

/// Lanes leave a loop one after the other; those that stay vote among themselves.
#[test]
fn collectives_in_loops_of_different_length() {
    let body = "ld.global.cs.u32 a, [from];\nand.b32 a, a, 63;\nmov.u32 b, 0;\nmov.u32 c, 0;\nmov.u32 d, -1;\n\
                L:\nsetp.lt.u32 p, b, a;\nvote.sync.ballot.b32 d, p, d;\n@!p bra M;\n\
                popc.b32 e, d;\nadd.s32 c, c, e;\nadd.s32 b, b, 1;\nbra L;\n\
                M:\nbar.warp.sync -1;\nst.global.wb.u32 [to], c;\nret;";
    let x = numbers(64);
    let trips: Vec<u32> = x.iter().map(|x| x & 63).collect();
    let expected = |t: usize| {
        let warp = &trips[t / 32 * 32..][..32];
        (0..trips[t]).map(|round| warp.iter().filter(|&&trips| trips > round).count() as u32).sum()
    };
    assert_eq!(outcome(body, 1, 64, &x, 64), (0..64).map(expected).collect::<Vec<u32>>());
}

#[test]
fn guards_on_collectives() {
    let body = "setp.lt.u32 p, t, 20;\nsetp.lt.u32 q, t, 3;\nmov.u32 a, 77;\nmov.u32 b, 77;\n\
                @p vote.sync.ballot.b32 a, q, 0xFFFFF;\n@!p vote.sync.ballot.b32 b, !q, 0xFFF00000;\n\
                @p bar.warp.sync 0xFFFFF;\nmad.lo.u32 c, b, 1000, a;\nst.global.wb.u32 [to], c;\nret;";
    let expected = |t| if t < 20 { 77_000 + 7 } else { 0xFFF0_0000u32.wrapping_mul(1000).wrapping_add(77) };
    assert_eq!(outcome(body, 1, 32, &[0; 32], 32), (0..32).map(expected).collect::<Vec<_>>());
}

/// Data Movement and Conversion Instructions, shfl.sync, "Semantics": the value and the predicate of each lane.
fn shuffled(mode: &str, lane: u32, b: u32, c: u32) -> (u32, bool) {
    let (lane, b_val, c_val, segment_mask) = (lane as i32, (b & 31) as i32, (c & 31) as i32, (c >> 8 & 31) as i32);
    let max_lane = (lane & segment_mask) | (c_val & !segment_mask);
    let min_lane = lane & segment_mask;
    let (source, inside) = match mode {
        "up" => (lane - b_val, lane - b_val >= max_lane),
        "down" => (lane + b_val, lane + b_val <= max_lane),
        "bfly" => (lane ^ b_val, (lane ^ b_val) <= max_lane),
        _ => {
            let source = min_lane | (b_val & !segment_mask);
            (source, source <= max_lane)
        }
    };
    if inside { (source as u32, true) } else { (lane as u32, false) }
}

/// Every offset with every segment that a width makes, with odd ones, and with others in each lane.
#[test]
fn shuffles_of_every_kind() {
    let random = numbers(64 * 32 * 2);
    for mode in ["up", "down", "bfly", "idx"] {
        let clamps: &[u32] = if mode == "up" { &[0, 5] } else { &[31, 21] };
        let segments = [32, 16, 8, 4, 2, 1, 11, 0].map(|width| (32 - width) << 8);
        let pairs = |c: u32| (0..34).map(move |b| [if b == 33 { u32::MAX } else { b }, c]);
        let uniform = segments.iter().flat_map(|segment| clamps.iter().map(move |clamp| segment | clamp));
        // Bits that do not count are set in some.
        let mut operands: Vec<[u32; 2]> = uniform.flat_map(|c| pairs(c).chain(pairs(c | 0xFFFF_E0E0))).collect();
        operands = operands.into_iter().flat_map(|pair| [pair; 32]).collect();
        operands.extend(random.chunks(2).map(|pair| [pair[0], pair[1]]));
        let threads = operands.len();
        let body = format!(
            "mul.wide.u32 l0, i, 8;\nadd.s64 from, x, l0;\nadd.s64 to, to, at;\nld.global.cs.v2.u32 {{b, c}}, [from];\n\
             mad.lo.u32 a, i, 1000, 7;\nshfl.sync.{mode}.b32 d|p, a, b, c, -1;\nshfl.sync.{mode}.b32 a, a, b, c, -1;\n\
             xor.b32 e, a, d;\nselp.b32 f, 1, 0, p;\nadd.s32 e, e, f;\nst.global.wb.v2.u32 [to], {{d, e}};\nret;"
        );
        let given = outcome(&body, (threads / 32) as u32, 32, operands.as_flattened(), 2 * threads);
        for (i, given) in given.chunks(2).enumerate() {
            let [b, c] = operands[i];
            let (source, inside) = shuffled(mode, i as u32 % 32, b, c);
            let value = (i as u32 / 32 * 32 + source) * 1000 + 7;
            assert_eq!(given, [value, inside.into()], "{mode}, lane {}, b {b:#x}, c {c:#x}", i % 32);
        }
    }
    // By hand, of the ones that the kernels and their users know: __shfl_up_sync(v, 1), and within eight.
    assert_eq!([0, 1, 31].map(|lane| shuffled("up", lane, 1, 0)), [(0, false), (0, true), (30, true)]);
    assert_eq!([7, 8, 15].map(|lane| shuffled("down", lane, 1, 0x181F)), [(7, false), (9, true), (15, false)]);
    assert_eq!([3, 12].map(|lane| shuffled("idx", lane, 9, 0x181F)), [(1, true), (9, true)]);
}

/// Parallel Synchronization and Communication Instructions, vote.sync, among the lanes of many masks.
#[test]
fn votes_of_parts_of_a_warp() {
    let mut cases: Vec<[u32; 2]> = numbers(400).chunks(2).map(|pair| [pair[0], pair[1]]).collect();
    for mask in [1, 1 << 31, 0x8000_0001, u32::MAX, 0xFFFF] {
        cases.extend([0, mask, !mask, u32::MAX, mask & 0xAAAA_AAAA].map(|holds| [mask, holds]));
    }
    let body = "mul.wide.u32 l0, block, 8;\nadd.s64 from, x, l0;\nld.global.cs.v2.u32 {a, b}, [from];\n\
                add.s64 to, to, at;\nmov.u32 c, -1;\nmov.u32 d, -1;\n\
                shr.u32 e, a, t;\nand.b32 e, e, 1;\nsetp.eq.u32 p, e, 0;\n@p bra L;\n\
                shr.u32 e, b, t;\nand.b32 e, e, 1;\nsetp.eq.u32 q, e, 1;\n\
                vote.sync.ballot.b32 c, q, a;\nvote.sync.all.pred p, q, a;\nselp.b32 d, 1, 0, p;\n\
                vote.sync.any.pred p, q, a;\nselp.b32 e, 2, 0, p;\nor.b32 d, d, e;\n\
                vote.sync.uni.pred p, q, a;\nselp.b32 e, 4, 0, p;\nor.b32 d, d, e;\n\
                vote.sync.all.pred p, !q, a;\nselp.b32 e, 8, 0, p;\nor.b32 d, d, e;\n\
                L:\nst.global.wb.v2.u32 [to], {c, d};\nret;";
    let threads = 32 * cases.len();
    let given = outcome(body, cases.len() as u32, 32, cases.as_flattened(), 2 * threads);
    for (i, given) in given.chunks(2).enumerate() {
        let [mask, holds] = cases[i / 32];
        let of = (0..32).filter(|lane| mask >> lane & 1 == 1).map(|lane| holds >> lane & 1 == 1);
        let (all, any) = (of.clone().all(|h| h), of.clone().any(|h| h));
        let flags = u32::from(all) | u32::from(any) << 1 | u32::from(all || !any) << 2 | u32::from(!any) << 3;
        let expected = if mask >> (i % 32) & 1 == 1 { [mask & holds, flags] } else { [u32::MAX; 2] };
        assert_eq!(given, expected, "mask {mask:08X}, holds {holds:08X}, lane {}", i % 32);
    }
}

#[test]
fn special_registers_in_every_shape_of_launch() {
    let body = "mov.u32 a, %nctaid.x;\nmad.lo.u32 b, block, 1000, t;\nmad.lo.u32 b, a, 100000, b;\n\
                mov.u32 c, %laneid;\nmad.lo.u32 b, size, 1000000, b;\nshl.b32 c, c, 27;\nadd.s32 b, b, c;\n\
                st.global.wb.u32 [to], b;\nret;";
    for block in [1, 31, 32, 33, 63, 64, 256] {
        for grid in [1, 2, 7] {
            let expected = |i: u32| {
                let (number, thread) = (i / block, i % block);
                (block * 1_000_000 + grid * 100_000 + number * 1000 + thread).wrapping_add(thread % 32 << 27)
            };
            let threads = grid * block;
            let given = outcome(body, grid, block, &[], threads as usize);
            assert_eq!(given, (0..threads).map(expected).collect::<Vec<_>>(), "{grid} blocks of {block}");
        }
    }
    // Blocks 2 to 4 of 7 alone.
    for order in Order::ALL {
        let mut out = [0u32; 99];
        let args = Args { from: 0, to: device_address(out.as_ptr()).wrapping_sub(4 * 66) };
        let buffers = [Buffer::output("out", &mut out)];
        made(body).launch_blocks("k", 7, 33, 2..5, &args, &buffers, order).unwrap();
        assert_eq!(out[..2], [33_702_000, 33_702_001u32.wrapping_add(1 << 27)]);
        assert_eq!(out[98], 33_704_032);
    }
}

#[test]
fn every_block_and_every_warp_comes_once() {
    for seed in (0..40).chain([u64::MAX, 0x9E37_79B9_7F4A_7C15]) {
        for order in [Order::Forward, Order::Reversed, Order::Random(seed)] {
            for count in (1..130).chain([997, 1024, 3 * 5 * 7 * 11]) {
                for salt in [0, 1, count] {
                    let mut all: Vec<_> = ptx_machine::in_order(count, order, salt).collect();
                    all.sort();
                    assert!(all.into_iter().eq(0..count), "{count} in {order:?}, {salt}");
                }
            }
        }
    }
    // Counts that no test counts through: neighbours differ, and are within.
    for count in [u64::from(u32::MAX), (1 << 31) - 1, 1 << 31] {
        let some: Vec<_> = ptx_machine::in_order(count, Order::Random(5), 1).take(1000).collect();
        assert!(some.iter().all(|&i| i < count) && some[0] != some[1] && some[0] != some[999]);
    }
    // And the same launch does not come in one order whatever the seed.
    let order = |seed| ptx_machine::in_order(64, Order::Random(seed), 1).collect::<Vec<_>>();
    assert!((0..10).map(order).collect::<std::collections::HashSet<_>>().len() > 8);
}

// ---------------------------------------------------------------------------------------------------
// Lanes that meet again

/// What follows a divergence, so long that the budget of a launch admits it three times and not four.
fn tail() -> String {
    "mov.u32 f, 0;\nTAIL:\nadd.s32 f, f, 1;\nsetp.lt.u32 r, f, 90000;\n@r bra TAIL;\nst.global.wb.u32 [to], f;\nret;"
        .into()
}

#[test]
fn lanes_meet_again_after_they_parted() {
    for (what, body) in [
        ("nothing", ""),
        ("if", "setp.lt.u32 p, t, 7;\n@p bra L;\nmov.u32 a, 1;\nL:"),
        ("if and else", "setp.lt.u32 p, t, 7;\n@p bra L;\nmov.u32 a, 1;\nbra M;\nL:\nmov.u32 a, 2;\nM:"),
        (
            "nested",
            "and.b32 a, t, 1;\nand.b32 b, t, 2;\nand.b32 c, t, 12;\nsetp.eq.u32 p, a, 0;\nsetp.eq.u32 q, b, 0;\n\
             setp.eq.u32 r, c, 0;\n@p bra L;\n@q bra M;\nmov.u32 a, 1;\nM:\n@r bra N;\nmov.u32 a, 2;\nbra N;\n\
             L:\n@!q bra O;\nmov.u32 a, 3;\n@r bra N;\nO:\nmov.u32 a, 4;\nN:",
        ),
        ("a loop tested at its end", "mov.u32 a, 0;\nL:\nadd.s32 a, a, 1;\nsetp.le.u32 p, a, t;\n@p bra L;"),
        (
            "a loop tested at its head",
            "mov.u32 a, 0;\nL:\nsetp.ge.u32 p, a, t;\n@p bra M;\nadd.s32 a, a, 1;\nbra L;\nM:",
        ),
        (
            "a loop whose exit stands before its body",
            "mov.u32 a, 0;\nbra L;\nEXIT:\nbra M;\nL:\nsetp.ge.u32 p, a, t;\n@p bra EXIT;\nadd.s32 a, a, 1;\nbra L;\nM:",
        ),
        (
            "a loop that is left in the middle",
            "mov.u32 a, 0;\nL:\nadd.s32 a, a, 1;\nsetp.gt.u32 p, a, t;\n@p bra M;\nand.b32 b, a, 1;\n\
             setp.eq.u32 q, b, 0;\n@q bra N;\nadd.s32 c, a, 3;\nN:\nsetp.lt.u32 p, a, 20;\n@p bra L;\nM:",
        ),
        (
            "a loop in a loop",
            "mov.u32 a, 0;\nL:\nsetp.ge.u32 p, a, t;\n@p bra M;\nmov.u32 b, 0;\nN:\nsetp.ge.u32 q, b, a;\n@q bra O;\n\
             add.s32 b, b, 1;\nbra N;\nO:\nadd.s32 a, a, 1;\nbra L;\nM:",
        ),
        (
            "a loop with two entries",
            "mov.u32 a, 0;\nsetp.lt.u32 p, t, 13;\n@p bra N;\nL:\nadd.s32 a, a, 1;\nN:\nadd.s32 a, a, 1;\n\
             setp.lt.u32 p, a, t;\n@p bra L;",
        ),
        (
            "a collective of parts",
            "setp.lt.u32 p, t, 9;\n@p bar.warp.sync 0x1FF;\n@!p bar.warp.sync 0xFFFFFE00;\nbar.warp.sync -1;",
        ),
    ] {
        let body = format!("{body}\n{}", tail());
        for order in Order::ALL.into_iter().chain((0..8).map(Order::Random)) {
            let mut out = [0; 32];
            let done = launch(&body, 1, 32, &[0; 32], &mut out, order);
            assert_eq!(done, Ok(()), "{what}, {order:?}");
            assert_eq!(out, [90_000; 32], "{what}, {order:?}");
        }
    }
    // The measure: four groups would be too much for it.
    let apart = format!("and.b32 a, t, 3;\nL:\n{}", tail());
    let apart = apart.replace("TAIL:", "setp.eq.u32 p, a, 0;\nadd.s32 a, a, -1;\n@!p bra L;\nTAIL:");
    launch(&apart, 1, 32, &[0; 32], &mut [0; 32], Order::Forward).unwrap();
    let four: String = (0..4)
        .map(|k| {
            format!("P{k}:\nsetp.ne.u32 p, a, {k};\n@p bra P{};\n{}\n", k + 1, tail().replace("TAIL", &format!("T{k}")))
        })
        .collect();
    let four = format!("and.b32 a, t, 3;\n{four}P4:\nret;");
    let report = launch(&four, 1, 32, &[0; 32], &mut [0; 32], Order::Forward).unwrap_err();
    assert!(report.contains("endless loop"), "{report}");
    let three = four.replace("t, 3;", "t, 1;");
    launch(&three, 1, 32, &[0; 32], &mut [0; 32], Order::Forward).unwrap();
}
