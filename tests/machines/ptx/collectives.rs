//! Collectives and branches that go wrong.

use super::*;

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
