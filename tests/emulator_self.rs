//! The emulation itself: that it catches each kind of defect, leaves sound kernels alone, and means by
//! CUDA's words what CUDA does.

#[path = "../src/cuda/layout.rs"]
mod layout;

mod emulator;

use std::{
    fs, ptr,
    sync::{Arc, OnceLock},
    thread,
    time::Instant,
};

use emulator::{Buffer, BuildError, Emulator, Machine, Order, device_address};
use half::{bf16, f16};
use layout::da_args;

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

const NO_ARGS: da_args = da_args {
    n: 0,
    x: ptr::null(),
    dy: ptr::null(),
    out: ptr::null_mut(),
    mask: ptr::null_mut(),
    first: 0,
    seed: 0,
    offset: 0,
    offset_at: std::ptr::null(),
    offset_out: std::ptr::null_mut(),
    threshold: 0,
    planes: 0,
    settled: 0,
    mixture: 0,
    p: 0.0,
    slope: 0.0,
    p_f32: 0.0,
    slope_f32: 0.0,
    lower: 0.0,
    upper: 0.0,
};

fn args<T, U>(x: &[T], out: &mut [U]) -> da_args {
    let x = device_address(x.as_ptr()) as *const _;
    da_args { n: out.len() as u64, x, out: device_address(out.as_ptr()) as *mut _, ..NO_ARGS }
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
    assert!(small.contains("da_args has 128 bytes"), "{small}");
}

#[test]
fn words_that_have_no_meaning_here() {
    if fixtures().is_none() {
        return;
    }
    for (number, word) in
        ["__expf(1.0f)", "atomicAdd(&i, 1)", "__reduce_add_sync(~0u, 1u)", "__hadd(h, h)"].into_iter().enumerate()
    {
        let folder = emulator::scratch_folder(&format!("words-{number}"));
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
        let a = da_args { out: BASE as *mut _, first: 8, ..NO_ARGS };
        let window = Buffer::scratch("out", &mut out).at(BASE + u64::from(first) * 8 * 4);
        emulator.launch_blocks("sound_block_numbers", GRID, 32, first..GRID, &a, &[window], order).unwrap();
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

// ---------------------------------------------------------------------------------------------------
// Words

fn each<In: Copy, Out: Copy + Default>(entry: &str, x: &[In], inputs: usize) -> Option<Vec<Out>> {
    let mut out = vec![Out::default(); x.len() / inputs];
    let a = args(x, &mut out);
    let buffers = [Buffer::input("x", x), Buffer::output("out", &mut out)];
    fixtures()?.launch(&format!("word_{entry}"), 4, 64, &a, &buffers, Order::Forward).unwrap();
    Some(out)
}

#[test]
fn sixteen_bits_widen_exactly() {
    let all: Vec<u16> = (0..=u16::MAX).collect();
    let Some(halves) = each::<_, u32>("half2float", &all, 1) else { return };
    let bfloats = each::<_, u32>("bfloat162float", &all, 1).unwrap();
    for ((&bits, half), bfloat) in all.iter().zip(halves).zip(bfloats) {
        let expected = f16::from_bits(bits);
        assert_eq!(half, if expected.is_nan() { 0x7FFF_FFFF } else { expected.to_f32().to_bits() }, "{bits:04X}");
        assert_eq!(bfloat, u32::from(bits) << 16);
    }
}

/// Every number of 16 bits, every midpoint between neighbours, and the f32 next to each of them: what
/// is constant between those points is right everywhere if it is right there.
fn turning_points(widen: impl Fn(u16) -> f32) -> Vec<f32> {
    let mut points = Vec::new();
    for bits in 0..=u16::MAX {
        let here = widen(bits);
        let next = widen(bits.wrapping_add(1));
        let middle = (f64::from(here) + f64::from(next)) / 2.0;
        for v in [here, middle as f32] {
            points.extend([
                v,
                f32::from_bits(v.to_bits().wrapping_add(1)),
                f32::from_bits(v.to_bits().wrapping_sub(1)),
            ]);
        }
    }
    points.extend([
        65504.0,
        65519.996,
        65520.0,
        -65520.0,
        f32::MAX,
        f32::MIN,
        f32::MIN_POSITIVE,
        1e-45,
        f32::NAN,
        -f32::NAN,
    ]);
    points
}

/// The nearest of the guess and its neighbours, the even one of two; `infinity` stands for its power of two.
fn nearest(v: f64, guess: u16, widen: impl Fn(u16) -> f32, infinity: f64) -> u16 {
    let distance = |bits: u16| {
        let there = f64::from(widen(bits));
        (v - if there.is_infinite() { infinity.copysign(there) } else { there }).abs()
    };
    // Neighbours in magnitude; zero has one on the side of its own sign.
    let neighbours = [guess.wrapping_sub(1), guess, guess.wrapping_add(1)];
    let alike = neighbours.into_iter().filter(|n| (n ^ guess) & 0x8000 == 0 && !distance(*n).is_nan());
    alike.min_by(|a, b| distance(*a).total_cmp(&distance(*b)).then((a & 1).cmp(&(b & 1)))).unwrap()
}

fn check_narrowing(name: &str, widen: impl Fn(u16) -> f32, narrow: impl Fn(f32) -> u16, infinity: f64) {
    let points = turning_points(&widen);
    let Some(got) = each::<_, u16>(&format!("float2{name}"), &points, 1) else { return };
    for (&v, got) in points.iter().zip(got) {
        assert_eq!(got, if v.is_nan() { 0x7FFF } else { narrow(v) }, "{v:e} ({:08X})", v.to_bits());
    }
    // From f64, where a rounding through f32 would go wrong: just beside the same points.
    let points: Vec<f64> = points
        .iter()
        .filter(|v| v.is_finite())
        .flat_map(|&v| [f64::from(v), f64::from(v).next_up(), f64::from(v).next_down()])
        .collect();
    let got = each::<_, u16>(&format!("double2{name}"), &points, 1).unwrap();
    for (&v, got) in points.iter().zip(got) {
        assert_eq!(got, nearest(v, narrow(v as f32), &widen, infinity), "{v:e} ({:016X})", v.to_bits());
    }
}

#[test]
fn halves_are_rounded_to_nearest_even() {
    check_narrowing("half", |b| f16::from_bits(b).to_f32(), |v| f16::from_f32(v).to_bits(), 2f64.powi(16));
}

#[test]
fn bfloats_are_rounded_to_nearest_even() {
    check_narrowing("bfloat16", |b| bf16::from_bits(b).to_f32(), |v| bf16::from_f32(v).to_bits(), 2f64.powi(128));
}

#[test]
fn pairs_compare_each_for_itself() {
    let values: [f32; 9] = [0.0, -0.0, 1.0, -1.0, 6e-8, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 2.5];
    let expected = |a: f32, b: f32| {
        let (less, equal, greater) = (u32::from(a < b), u32::from(a == b), u32::from(a > b));
        (less | equal) | equal << 1 | greater << 2 | (1 - greater) << 3 | (less | greater) << 4
    };
    let mut quads = Vec::new();
    for a in values {
        for b in values {
            quads.extend([a, b, b, values[2]]);
        }
    }
    let halves: Vec<f16> = quads.iter().map(|&v| f16::from_f32(v)).collect();
    let bfloats: Vec<bf16> = quads.iter().map(|&v| bf16::from_f32(v)).collect();
    let Some(got_halves) = each::<_, u32>("compare_half", &halves, 4) else { return };
    let got_bfloats = each::<_, u32>("compare_bfloat16", &bfloats, 4).unwrap();
    for ((quad, half), bfloat) in quads.chunks(4).zip(got_halves).zip(got_bfloats) {
        let both = expected(quad[0], quad[2]) | expected(quad[1], quad[3]) << 16;
        assert_eq!((half, bfloat), (both, both), "{quad:?}");
    }
}

#[test]
fn bytes_are_permuted_as_prmt_does() {
    let mut x = numbers(3 * 4096);
    x.extend([0x3322_1100, 0x7766_5544, 0x7362, 0x80FF_7F00, 0x0180_FE81, 0xFEDC, 0x8000_0080, 0, 0x8B8B]);
    let Some(got) = each::<_, u32>("byte_perm", &x, 3) else { return };
    for (x, got) in x.chunks(3).zip(&got) {
        let bytes = [x[0].to_le_bytes(), x[1].to_le_bytes()].concat();
        let pick = |i: u32| {
            let nibble = x[2] >> (4 * i) & 15;
            let byte = bytes[(nibble & 7) as usize];
            if nibble & 8 == 0 { byte } else { ((byte as i8) >> 7) as u8 }
        };
        assert_eq!(*got, u32::from_le_bytes([pick(0), pick(1), pick(2), pick(3)]), "{x:08X?}");
    }
    // Worked by hand.
    assert_eq!(got[4096..], [0x7733_6622, 0x00FF_FFFF, 0xFFFF_FFFF]);
}

#[test]
fn bits_and_products() {
    let x = numbers(3 * 4096);
    let Some(left) = each::<_, u32>("funnelshift_l", &x, 3) else { return };
    let right: Vec<u32> = each("funnelshift_r", &x, 3).unwrap();
    let high: Vec<u32> = each("umulhi", &x, 2).unwrap();
    let reversed: Vec<u32> = each("brev", &x, 1).unwrap();
    for ((x, left), right) in x.chunks(3).zip(left).zip(right) {
        let both = u64::from(x[1]) << 32 | u64::from(x[0]);
        assert_eq!(left, (both << (x[2] % 32) >> 32) as u32);
        assert_eq!(right, (both >> (x[2] % 32)) as u32);
    }
    for (x, high) in x.chunks(2).zip(high) {
        assert_eq!(high, ((u64::from(x[0]) * u64::from(x[1])) >> 32) as u32);
    }
    assert!(reversed.iter().zip(&x).all(|(r, x)| *r == x.reverse_bits()));
    let x: Vec<u32> = x.into_iter().chain([0, 1, 0x8000_0000, u32::MAX]).collect();
    let counts: Vec<u32> = each("counts", &x, 1).unwrap();
    for (&x, count) in x.iter().zip(counts) {
        let first = if x == 0 { 0 } else { x.trailing_zeros() + 1 };
        assert_eq!(count, x.count_ones() | x.leading_zeros() << 8 | first << 16, "{x:08X}");
    }
}

#[test]
fn products_and_sums_are_rounded_as_written() {
    let x: Vec<f32> = numbers(3 * 4096).into_iter().map(|v| (v >> 8) as f32 - 8e6).collect();
    let Some(fused) = each::<_, f32>("fma", &x, 3) else { return };
    let apart: Vec<f32> = each("two_roundings", &x, 3).unwrap();
    let mut differ = 0;
    for ((x, fused), apart) in x.chunks(3).zip(fused).zip(apart) {
        assert_eq!(fused, x[0].mul_add(x[1], x[2]));
        assert_eq!(apart, x[0] * x[1] + x[2]);
        differ += u32::from(fused != apart);
    }
    assert!(differ > 0);
}
