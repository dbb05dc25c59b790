//! The emulation itself: that it catches each kind of defect and leaves sound kernels alone. Whether its functions do
//! what CUDA's do is shown by `cuda_functions.rs`.

use std::{
    fs,
    sync::{Arc, OnceLock},
    thread,
    time::Instant,
};

use drop_activation::cuda::launch::{NOTHING, da_args};

use crate::emulator::{self, Blocks, Buffer, BuildError, Emulator, Machine, Order, device_address};
use crate::numbers::numbers;

/// The fixtures, or `None` where nothing can be compiled, which is told once.
fn fixtures() -> Option<&'static Emulator> {
    static BUILT: OnceLock<Option<Emulator>> = OnceLock::new();
    BUILT
        .get_or_init(|| match Emulator::build(&emulator::root().join("tests/emulator/fixtures")) {
            Ok(emulator) => Some(emulator),
            Err(BuildError::Unavailable(why)) => {
                emulator::tell_skipped(&why);
                None
            }
            Err(BuildError::Failed(why)) => panic!("{why}"),
        })
        .as_ref()
}

fn args<T, U>(x: &[T], out: &mut [U]) -> da_args {
    let x = device_address(x.as_ptr()) as *const _;
    da_args { n: out.len() as u64, x, out: device_address(out.as_ptr()) as *mut _, ..NOTHING }
}

// ---------------------------------------------------------------------------------------------------
// Defects

/// Runs a kernel over `threads` words in and out.
fn launch(entry: &str, threads: usize, order: Order) -> Option<Result<Vec<u32>, String>> {
    let x = numbers(threads);
    let mut out = vec![0u32; threads];
    let a = args(&x, &mut out);
    let buffers = [Buffer::input("x", &x), Buffer::output("out", &mut out)];
    let result = fixtures()?.launch(entry, 1, threads as u32, &a, &buffers, order);
    Some(result.map(|()| out))
}

/// The report of a defect, which must be made under every order, and hold all of `words`.
fn caught(entry: &str, threads: usize, words: &[&str]) {
    for order in Order::ALL {
        let Some(result) = launch(entry, threads, order) else { return };
        let report = result.expect_err(entry);
        for word in words.iter().chain(&[entry]) {
            assert!(report.contains(word), "{order:?}: no {word:?} in {report:?}");
        }
    }
}

/// The line of a fixture on which this text stands, as reports name it.
fn line_of(text: &str) -> String {
    let source = fs::read_to_string(emulator::root().join("tests/emulator/fixtures/defects.cu")).unwrap();
    let lines: Vec<_> = source.lines().enumerate().filter(|(_, line)| line.contains(text)).collect();
    assert_eq!(lines.len(), 1, "{text:?} stands in one place");
    format!("defects.cu:{}", lines[0].0 + 1)
}

#[test]
fn a_mask_that_leaves_out_its_caller() {
    let line = line_of("__ballot_sync(0x7FFFFFFFu, 1)");
    caught(
        "defect_mask_short_by_one",
        32,
        &["lane 31", "calls __ballot_sync with mask 7FFFFFFF", "does not name it", &line],
    );
}

#[test]
fn a_lane_that_never_comes() {
    caught("defect_last_lane_returns", 32, &["deadlock", "waits at __ballot_sync", "for lane 31, which has returned"]);
}

#[test]
fn a_lane_that_does_not_exist() {
    let words = ["deadlock", "for lane 20, which does not exist: the block has 20 threads"];
    for order in Order::ALL {
        let mut out = vec![0u32; 20];
        let a = args(&numbers(32), &mut out);
        let Some(emulator) = fixtures() else { return };
        let report = emulator.launch("sound_in_place", 1, 20, &a, &[Buffer::scratch("out", &mut out)], order);
        // The read of undefined contents comes first in that kernel: give it contents.
        assert!(report.is_err());
        let mut packs = vec![0u32; 80];
        let a = args(&numbers(32), &mut packs);
        let report =
            emulator.launch("sound_in_place", 1, 20, &a, &[Buffer::in_place("out", &mut packs)], order).unwrap_err();
        for word in words {
            assert!(report.contains(word), "{report}");
        }
    }
}

#[test]
fn lanes_that_wait_in_two_places() {
    let here = line_of("v = __ballot_sync(0xFFFFFFFFu, 1)");
    let there = line_of("v = __ballot_sync(0xFFFFFFFFu, 0)");
    caught("defect_two_places", 32, &["deadlock", "lane 0 waits", "for lane 16, which waits", &here, &there]);
    caught(
        "defect_two_kinds",
        32,
        &["deadlock", "lane 0 waits at __syncwarp", "for lane 16, which waits at __syncthreads"],
    );
    caught(
        "defect_two_kinds_on_one_line",
        32,
        &["deadlock", "lane 0 waits at __any_sync", "for lane 16, which waits at __all_sync"],
    );
    caught(
        "defect_two_masks",
        32,
        &["deadlock", "lane 0 waits", "FFFFFFFF", "for lane 16, which waits at __syncwarp with mask FFFF8000"],
    );
}

#[test]
fn a_shuffle_from_a_lane_that_takes_no_part() {
    caught("defect_value_of_absent_lane", 32, &["takes the value of lane 16", "__shfl_sync with mask 0000FFFF"]);
    caught("defect_odd_width", 32, &["width is a power of two"]);
}

#[test]
fn a_barrier_that_some_thread_misses() {
    caught("defect_barrier_not_for_all", 64, &["deadlock", "waits at __syncthreads", "thread 40, having returned"]);
    caught(
        "defect_barrier_not_for_all_warps",
        64,
        &["deadlock", "waits at __syncthreads", "thread 32, having returned"],
    );
    caught("defect_two_barriers", 64, &["deadlock", "thread 0 waits at __syncthreads", "thread 32 at another"]);
}

#[test]
fn a_missing_synchronisation_shows_in_the_order() {
    for (entry, sound, threads) in [
        ("defect_missing_syncwarp", "sound_shared_by_warp", 32),
        ("defect_missing_syncthreads", "sound_shared_by_block", 256),
    ] {
        if fixtures().is_none() {
            return;
        }
        let outcomes = |entry| Order::ALL.map(|order| launch(entry, threads, order).unwrap().unwrap());
        let expected: Vec<u32> = numbers(threads).into_iter().rev().collect();
        let wrong = outcomes(entry);
        assert!(wrong[0] != wrong[1] && !wrong.contains(&expected), "{entry}");
        assert_eq!(outcomes(sound), [(); 3].map(|()| expected.clone()), "{sound}");
    }
}

#[test]
fn an_endless_loop() {
    caught("defect_endless", 32, &["endless loop"]);
}

#[test]
fn accesses_out_of_bounds() {
    let line = line_of("__stcg(output(a) + 1, 0u)");
    caught(
        "defect_store_past_the_end",
        32,
        &["thread 31", "writes 4 bytes", "outside every buffer", "offset 128 of out (128 bytes)", &line],
    );
    caught("defect_load_before_the_start", 32, &["thread 0", "reads 4 bytes", "outside every buffer"]);
}

#[test]
fn accesses_that_go_round_the_checks() {
    caught("defect_plain_load", 32, &["thread ", "reads or writes at 0xFFFF", "by itself"]);
    caught("defect_plain_store", 32, &["thread ", "reads or writes at 0xFFFF", "by itself"]);
    caught("defect_null", 32, &["thread ", "by itself"]);
}

#[test]
fn a_pack_that_sticks_out() {
    for order in Order::ALL {
        let Some(emulator) = fixtures() else { return };
        let x = Aligned([[0u32; 4]; 32]);
        let x = &x.0.as_flattened()[..127];
        let mut out = vec![0u32; 32];
        let a = args(x, &mut out);
        let buffers = [Buffer::input("x", x), Buffer::output("out", &mut out)];
        let report = emulator.launch("defect_pack_past_the_end", 1, 32, &a, &buffers, order).unwrap_err();
        for word in ["thread 31", "reads 16 bytes outside every buffer", "offset 496 of x (508 bytes)"] {
            assert!(report.contains(word), "{report}");
        }
    }
}

#[repr(C, align(16))]
#[derive(Clone, Copy)]
struct Aligned<T>(T);

#[test]
fn a_misaligned_pack() {
    for order in Order::ALL {
        let Some(emulator) = fixtures() else { return };
        let x = Aligned([[0u32; 4]; 32]);
        let x = x.0.as_flattened();
        let mut out = vec![0u32; 32];
        let a = args(x, &mut out);
        let buffers = [Buffer::input("x", x), Buffer::output("out", &mut out)];
        let report = emulator.launch("defect_misaligned", 1, 32, &a, &buffers, order).unwrap_err();
        assert!(report.contains("which is no multiple of 16"), "{report}");
    }
}

#[test]
fn elements_not_written_exactly_once() {
    caught("defect_twice", 32, &["writes 4 bytes of out at offset 120, some of them for the second time"]);
    caught("defect_never", 32, &["4 of the 128 bytes of out are never written, the first at offset 68"]);
}

#[test]
fn bytes_that_nobody_wrote() {
    for order in Order::ALL {
        let Some(emulator) = fixtures() else { return };
        let mut out = vec![0u32; 32];
        let mut mask = vec![0u32; 32];
        let a = da_args { mask: device_address(mask.as_ptr()) as *mut _, ..args(&[0u8; 0], &mut out) };
        let buffers = [Buffer::output("out", &mut out), Buffer::scratch("mask", &mut mask)];
        let report = emulator.launch("defect_undefined", 1, 32, &a, &buffers, order).unwrap_err();
        assert!(
            report.contains("reads 4 bytes of mask at offset") && report.contains("nobody has written"),
            "{report}"
        );
    }
}

#[test]
fn reading_in_place_what_is_written_already() {
    for order in Order::ALL {
        let Some(emulator) = fixtures() else { return };
        let mut x = numbers(32);
        let a = args(&[0u8; 0], &mut x);
        let report = emulator
            .launch("defect_neighbour_in_place", 1, 32, &a, &[Buffer::in_place("x", &mut x)], order)
            .unwrap_err();
        assert!(report.contains("after this launch has written there"), "{report}");
    }
}

#[test]
fn accesses_of_the_wrong_kind() {
    caught("defect_writes_input", 32, &["writes 4 bytes of x", "not to be written"]);
    caught("defect_reads_output", 32, &["reads 4 bytes of out", "not to be read"]);
    for order in Order::ALL {
        let Some(emulator) = fixtures() else { return };
        let mut x = numbers(32);
        let a = args(&[0u8; 0], &mut x);
        let report =
            emulator.launch("defect_read_only_path", 1, 32, &a, &[Buffer::in_place("x", &mut x)], order).unwrap_err();
        assert!(report.contains("by the read-only path"), "{report}");
    }
}

#[test]
fn launches_that_make_no_sense() {
    let Some(emulator) = fixtures() else { return };
    let x = numbers(64);
    let mut out = vec![0u32; 64];
    let a = args(&x, &mut out);
    let run = |entry, grid, block, buffers: &[Buffer]| {
        emulator.launch(entry, grid, block, &a, buffers, Order::Forward).unwrap_err()
    };
    assert!(run("no_such_kernel", 1, 32, &[]).contains("no kernel no_such_kernel"));
    assert!(run("sound_copy", 0, 32, &[]).contains("no such launch"));
    assert!(run("sound_copy", 1, 1025, &[]).contains("no such launch"));
    assert!(run("sound_copy", 1, 32, &[]).contains("no buffers"));
    let overlapping = [Buffer::input("x", &x), Buffer::input("x", &x[63..])];
    assert!(run("sound_copy", 1, 32, &overlapping).contains("overlap"));
    let small = emulator.launch("sound_copy", 1, 32, &0u64, &[], Order::Forward).unwrap_err();
    assert!(small.contains(&format!("da_args has {} bytes", size_of::<da_args>())), "{small}");
}

#[test]
fn functions_that_are_not_emulated() {
    if fixtures().is_none() {
        return;
    }
    for (number, word) in [
        "__expf(1.0f)",
        "rsqrtf(1.0f)",
        "sqrtf(1.0f)",
        "atomicAdd(&i, 1)",
        "__reduce_add_sync(~0u, 1u)",
        "__hadd(h, h)",
    ]
    .into_iter()
    .enumerate()
    {
        let folder = emulator::scratch_folder(&format!("unknown-{number}"));
        let source = format!("#include <cuda_fp16.h>\n__device__ void f(int i, __half h) {{ {word}; }}\n");
        fs::write(folder.join("word.cu"), source).unwrap();
        let Err(BuildError::Failed(report)) = Emulator::build(&folder) else { panic!("{word} compiles") };
        assert!(report.contains("error") && report.contains(word.split('(').next().unwrap()), "{report}");
        fs::remove_dir_all(&folder).unwrap();
    }
}

// ---------------------------------------------------------------------------------------------------
// Sound kernels

#[test]
fn a_failed_launch_leaves_no_trace() {
    for _ in 0..3 {
        for (entry, threads) in [("defect_two_places", 32), ("defect_two_barriers", 64), ("defect_twice", 32)] {
            let Some(result) = launch(entry, threads, Order::Forward) else { return };
            assert!(result.is_err());
        }
        let out = launch("sound_shared_by_block", 256, Order::Reversed).unwrap().unwrap();
        assert!(out.into_iter().eq(numbers(256).into_iter().rev()));
    }
}

#[test]
fn every_grid_and_block_size_copies() {
    for (grid, block) in [(1, 1), (1, 32), (3, 32), (7, 96), (2, 1024), (1000, 64)] {
        for order in Order::ALL {
            let x = numbers(1000);
            let mut out = vec![0u32; 1000];
            let a = args(&x, &mut out);
            let buffers = [Buffer::input("x", &x), Buffer::output("out", &mut out)];
            let Some(emulator) = fixtures() else { return };
            emulator.launch("sound_copy", grid, block, &a, &buffers, order).unwrap();
            assert_eq!(x, out);
        }
    }
}

/// Offsets beyond 2^32, by a window on a tensor that nobody could allocate.
#[test]
fn a_window_on_a_huge_tensor() {
    const BASE: u64 = 0x7F00_0000_0000;
    const GRID: u32 = 0x4000_0000;
    for order in Order::ALL {
        let Some(emulator) = fixtures() else { return };
        let mut out = vec![0u32; 5 * 8];
        let first = GRID - 5;
        let a = da_args { out: BASE as *mut _, shard_start: 8, ..NOTHING };
        let window = Buffer::scratch("out", &mut out).at(BASE + u64::from(first) * 8 * 4);
        emulator
            .launch_blocks(
                "sound_block_numbers",
                Blocks { grid: GRID, block: 32, which: first..GRID },
                &a,
                &[window],
                order,
            )
            .unwrap();
        let numbers: Vec<u32> = out.into_iter().step_by(8).collect();
        assert_eq!(numbers, (first..GRID).collect::<Vec<_>>());
    }
}

#[test]
fn shuffles_take_the_lane_that_cuda_documents() {
    let x: Vec<u32> = (100..132).collect();
    for width in [1u32, 2, 4, 8, 16, 32] {
        for argument in 0..40u32 {
            for order in Order::ALL {
                let mut out = vec![0u32; 160];
                let a = da_args { threshold: argument, planes: width, ..args(&x, &mut out) };
                let buffers = [Buffer::input("x", &x), Buffer::output("out", &mut out)];
                let Some(emulator) = fixtures() else { return };
                emulator.launch("sound_shuffles", 1, 32, &a, &buffers, order).unwrap();
                for lane in 0..32 {
                    let (start, end) = (lane / width * width, lane / width * width + width);
                    let or_own = |inside: bool, from: u32| 100 + if inside { from } else { lane };
                    let expected = [
                        100 + start + argument % width,
                        or_own(lane >= start + argument, lane.wrapping_sub(argument)),
                        or_own(lane + argument < end, lane + argument),
                        or_own(lane ^ argument < end, lane ^ argument),
                        1 + 100 + (lane ^ 1),
                    ];
                    let got: Vec<u32> = (0..5).map(|row| out[32 * row + lane as usize]).collect();
                    assert_eq!(got, expected, "lane {lane}, argument {argument}, width {width}");
                }
            }
        }
    }
}

#[test]
fn votes_count_the_lanes_they_name() {
    let mut x = numbers(32);
    x[16..].iter_mut().for_each(|v| *v = *v & 0x7F | 0x10); // bit 7 in none, bit 4 in all
    let low = x[..16].iter().enumerate().fold(0, |word, (lane, v)| word | (v & 1) << lane);
    let any = x[16..].iter().fold(0, |word, v| word | v & 0xFF);
    let all = x[16..].iter().fold(0xFF, |word, v| word & v);
    for order in Order::ALL {
        let mut out = vec![0u32; 32];
        let a = args(&x, &mut out);
        let buffers = [Buffer::input("x", &x), Buffer::output("out", &mut out)];
        let Some(emulator) = fixtures() else { return };
        emulator.launch("sound_votes", 1, 32, &a, &buffers, order).unwrap();
        assert!(out[..16].iter().all(|&v| v == low), "{out:X?}");
        assert!(out[16..].iter().all(|&v| v == any | all << 8), "{out:X?}");
    }
}

#[test]
fn in_place_is_allowed() {
    for order in Order::ALL {
        let before = numbers(128);
        let mut packs = Aligned([[0u32; 4]; 32]);
        let x = packs.0.as_flattened_mut();
        x.copy_from_slice(&before);
        let a = args(&[0u8; 0], x);
        let Some(emulator) = fixtures() else { return };
        emulator.launch("sound_in_place", 1, 32, &a, &[Buffer::in_place("x", x)], order).unwrap();
        for (i, &v) in x.iter().enumerate() {
            assert_eq!(v, before[if i % 4 == 0 { i ^ 4 } else { i }]);
        }
    }
}

#[test]
fn threads_launch_side_by_side() {
    let Some(emulator) = fixtures() else { return };
    let expected: Arc<Vec<u32>> = Arc::new(numbers(256).into_iter().rev().collect());
    let threads: Vec<_> = (0..8)
        .map(|seed| {
            let expected = expected.clone();
            thread::spawn(move || {
                for round in 0..50 {
                    let out = launch("sound_shared_by_block", 256, Order::Random(50 * seed + round)).unwrap().unwrap();
                    assert_eq!(out, *expected);
                    assert!(launch("defect_last_lane_returns", 32, Order::Forward).unwrap().is_err());
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
    let _ = emulator;
}

/// Prints the speed with --nocapture.
#[test]
fn the_order_does_not_show() {
    let Some(emulator) = fixtures() else { return };
    let n = 1 << 20;
    let x: Vec<_> = numbers(n).chunks(4).map(|c| Aligned([c[0], c[1], c[2], c[3]])).collect();
    let masks = Order::ALL.map(|order| {
        let mut out = vec![Aligned([0; 4]); n / 4];
        let mut mask = vec![0u32; n / 32];
        let a = da_args { n: n as u64, mask: device_address(mask.as_ptr()) as *mut _, ..args(&x, &mut out) };
        let buffers = [Buffer::input("x", &x), Buffer::output("out", &mut out), Buffer::output("mask", &mut mask)];
        let start = Instant::now();
        emulator.launch("sound_tiles", 8, 128, &a, &buffers, order).unwrap();
        println!("{order:?}: {:.1} million elements per second", n as f64 / start.elapsed().as_secs_f64() / 1e6);
        assert!(x.iter().zip(&out).all(|(x, out)| x.0 == out.0));
        mask
    });
    assert!(masks[0] == masks[1] && masks[0] == masks[2]);
    assert!(masks[0].iter().any(|&word| word != masks[0][0]));
}
