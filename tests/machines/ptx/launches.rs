//! Launches that are impossible, or never end; the order of blocks and warps.

use super::*;

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
        let report = ptx
            .launch_blocks("k", Blocks { grid, block, which: blocks }, &args, &buffers, Order::Reversed)
            .unwrap_err();
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
