//! Sound kernels, in every order.

use super::*;

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
                (block * 1_000_000 + grid * 100_000 + number * 1000 + thread).wrapping_add((thread % 32) << 27)
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
        made(body).launch_blocks("k", Blocks { grid: 7, block: 33, which: 2..5 }, &args, &buffers, order).unwrap();
        assert_eq!(out[..2], [33_702_000, 33_702_001u32.wrapping_add(1 << 27)]);
        assert_eq!(out[98], 33_704_032);
    }
}
