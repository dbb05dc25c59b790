//! PTX that is not known to the machine, or is none.

use super::*;

/// Each of these lines in a kernel is an error, which names it and says `why`.
fn all_refused<'a>(why: &str, lines: impl IntoIterator<Item = &'a str>) {
    let mut wrong = String::new();
    for line in lines {
        let body = format!("{line} // here\nst.global.wb.u32 [to], t;\nret;");
        let here = line_of(&body, line.lines().next().unwrap_or_default());
        match Ptx::new([("self", kernel(&body).as_str())]) {
            Ok(_) => wrong += &format!("accepted: {line}\n"),
            Err(given)
                if given.starts_with("self: ") && given.contains(&format!("{here}: ")) && given.contains(why) => {}
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
        div.full.f32 f0, f1, f2;        div.s32 a, b, c;                rem.s32 a, b, c;
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
        call foo;      call.uni foo;      brx.idx a, L;     exit;     ret.uni;     trap;     brkpt;
        bra.conv L;    tex.1d.v4.s32.s32 a, b;      mma.sync a, b;    griddepcontrol.wait;   pmevent 1;  add;
        mov.f16 h0, h1;     mov.b8 h0, h1;     mov a, b;    discard.global.L2 [to], 128;    mapa.u64 l0, l1, a;
    ";
    let registers = ".reg .f32 f<4>; .reg .f64 d<4>;";
    let lines: Vec<_> = instructions.split(';').map(|line| format!("{registers} {};", line.trim())).collect();
    all_refused("not known here", lines[..lines.len() - 1].iter().map(String::as_str));
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    all_refused(
        "",
        [
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
            "ld.param.s32 l0, [k_param];",
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
        ],
    );
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
    all_refused(
        "",
        [
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
        ],
    );
}

#[test]
fn unknown_directives_are_refused() {
    all_refused(
        "unknown directive",
        [
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
        ],
    );
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
