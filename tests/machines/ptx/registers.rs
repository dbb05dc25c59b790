//! What is read before it is written.

use super::*;

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

/// "Division by zero yields an unspecified, machine-specific value." Thread 5 divides by zero here.
#[test]
fn divisions_by_zero() {
    for (divide, zero) in [
        ("div.u32 b, t, a;", "sub.u32 a, t, 5;"),
        ("rem.u32 b, t, a;", "sub.u32 a, t, 5;"),
        ("div.u64 l1, l0, l0;", "sub.u32 a, t, 5;\ncvt.u64.u32 l0, a;"),
        ("rem.u64 l1, l0, l0;", "sub.u32 a, t, 5;\ncvt.u64.u32 l0, a;"),
    ] {
        let body = format!("{zero}\n{divide}\nst.global.wb.u32 [to], t;\nret;");
        caught_at(&body, divide, 32, &["thread 5 ", "divides by zero, of which the result is open"]);
    }
}
