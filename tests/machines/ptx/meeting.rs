//! Lanes that part meet again: they do not go on one after the other.

use super::*;

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
