//! What a kernel does to memory.

use super::*;

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
                 mad.lo.u32 i, t, 24, 0;\nmul.wide.u32 at, i, 1;\nadd.s64 to, to, at;\ncvt.u32.u16 d, h0;\n\
                 mov.b32 e, {h3, h4};\nld.param.u32 l3, [l1+-4];\nshr.u64 l3, l3, 16;\ncvt.u32.u64 f, l3;\nst.global.wb.u32 [to], a;\nst.global.wb.u32 [to+4], b;\n\
                 st.global.wb.u32 [to+8], c;\nst.global.wb.u32 [to+12], d;\nst.global.wb.u32 [to+16], e;\n\
                 st.global.wb.u32 [to+20], f;\nret;";
    let mut out = [0u32; 18];
    let args = Args { from: 0x8765_43A1_FEDC_BAF9, to: device_address(out.as_ptr()) };
    made(sound).launch("k", 1, 3, &args, &[Buffer::output("out", &mut out)], Order::Forward).unwrap();
    assert_eq!(out, [[0xFEDC_BAF9, 0x8765_43A1, 0x00BA_00F9, 0xBA, 0x8765_43A1, 0x8765]; 3].as_flattened());
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
