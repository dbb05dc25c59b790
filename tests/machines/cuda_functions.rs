//! CUDA's functions, as the kernels call them: what `tests/emulator` makes of each is what nvcc compiles it to,
//! executed as PTX. Where there is no nvcc, the emulation alone is tested, against values that are computed here.

use std::{fmt::Debug, fs, sync::OnceLock};

use drop_activation::cuda::launch::{NOTHING, da_args};
use drop_activation::half::{bf16, f16};

use crate::emulator::{self, Buffer, BuildError, Emulator, Machine, Order, device_address};
use crate::numbers::numbers;
use crate::ptx_machine::{Ptx, compile};

/// The functions as sources, and as nvcc compiles them.
struct Functions {
    sources: Emulator,
    /// For compute capabilities 7.5 and 9.0: functions of 16 bits are other instructions in each.
    compiled: Vec<(u32, Ptx)>,
}

fn functions() -> Option<&'static Functions> {
    static BUILT: OnceLock<Option<Functions>> = OnceLock::new();
    let build = || {
        let folder = emulator::root().join("tests/emulator/functions");
        let sources = match Emulator::build(&folder) {
            Ok(emulator) => emulator,
            Err(BuildError::Unavailable(why)) => {
                emulator::tell_skipped(&why);
                return None;
            }
            Err(BuildError::Failed(why)) => panic!("{why}"),
        };
        let compiled = match compile::nvcc() {
            Ok(_) => [75, 90].map(|c| (c, compile::of_folder(&folder, c).unwrap_or_else(|e| panic!("{e}")))).into(),
            Err(why) => {
                compile::tell_skipped(why);
                Vec::new()
            }
        };
        Some(Functions { sources, compiled })
    };
    BUILT.get_or_init(build).as_ref()
}

const GRID: u32 = 4;
const BLOCK: u32 = 64;

fn launch<In: Copy, Out: Copy + Default>(
    machine: &impl Machine,
    entry: &str,
    x: &[In],
    n: usize,
    order: Order,
) -> Vec<Out> {
    let mut out = vec![Out::default(); n];
    let (from, to) = (device_address(x.as_ptr()), device_address(out.as_ptr()));
    let args = da_args { n: n as u64, x: from as *const _, out: to as *mut _, ..NOTHING };
    let buffers = [Buffer::input("x", x), Buffer::output("out", &mut out)];
    machine.launch(entry, GRID, BLOCK, &args, &buffers, order).unwrap_or_else(|report| panic!("{report}"));
    out
}

/// A function's results, on which all machines agree to the last bit.
fn each<In: Copy, Out: Copy + Default + PartialEq + Debug>(
    function: &str,
    x: &[In],
    inputs: usize,
) -> Option<Vec<Out>> {
    each_like(function, x, inputs, |a: &Out, b| a == b)
}

/// The same where results need only be alike.
fn each_like<In: Copy, Out: Copy + Default + Debug>(
    function: &str,
    x: &[In],
    inputs: usize,
    alike: impl Fn(&Out, &Out) -> bool,
) -> Option<Vec<Out>> {
    let functions = functions()?;
    // So many that every lane comes to every meeting: the first again at the end.
    let n = (x.len() / inputs).next_multiple_of((GRID * BLOCK) as usize);
    let x: Vec<In> = x.iter().cycle().copied().take(n * inputs).collect();
    let entry = format!("function_{function}");
    let meant: Vec<Out> = launch(&functions.sources, &entry, &x, n, Order::Reversed);
    for (capability, ptx) in &functions.compiled {
        let compiled: Vec<Out> = launch(ptx, &entry, &x, n, Order::Random(7));
        if let Some(i) = (0..n).find(|&i| !alike(&meant[i], &compiled[i])) {
            let (meant, compiled) = (&meant[i], &compiled[i]);
            panic!("{function}: result {i} is {compiled:X?} when compiled for {capability}, not {meant:X?}");
        }
    }
    Some(meant)
}

/// A vector, whose address is a multiple of its size.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(align(16))]
struct Pack([u32; 4]);

/// f32 of every kind: numbers, and the values that break naive code.
fn floats(n: usize) -> Vec<f32> {
    let edges =
        [0, 1, 0x7F_FFFF, 0x80_0000, 0x3F80_0000, 0x7F7F_FFFF, 0x7F80_0000, 0x7F80_0001, 0x7FC0_1234, 0x7FFF_FFFF];
    let both_signs = edges.into_iter().flat_map(|bits| [bits, bits | 1 << 31]);
    both_signs.chain(numbers(n)).map(f32::from_bits).collect()
}

fn doubles(n: usize) -> Vec<f64> {
    let wide = numbers(2 * n);
    let random = wide.chunks(2).map(|pair| f64::from_bits(u64::from(pair[0]) << 32 | u64::from(pair[1])));
    let edges = [0.0, 5e-324, f64::MIN_POSITIVE, 1.0, f64::MAX, f64::INFINITY, f64::NAN];
    edges.into_iter().flat_map(|v| [v, -v]).chain(random).collect()
}

#[test]
fn every_function_that_the_kernels_call_is_here() {
    let untested = emulator::untested(&emulator::root().join("kernels"));
    assert!(untested.is_empty(), "{untested:?}");
}

#[test]
fn a_function_that_is_not_here_is_found() {
    let folder = emulator::scratch_folder("untested-functions");
    let source =
        "// __in_a_comment(1)\n__device__ int f(int v) { return v ? __clz(v) + fma(1, 2, 3) : __umulhi(v, v); }\n";
    fs::write(folder.join("kernel.cu"), source).unwrap();
    assert_eq!(emulator::untested(&folder), ["__clz"]);
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn memory() {
    let x = numbers(4096);
    let Some(four) = each::<_, u32>("ldcs_stcs_4", &x, 1) else { return };
    assert_eq!(four[..4096], x);
    let packs: Vec<Pack> = x.chunks(4).map(|pack| Pack(pack.try_into().unwrap())).collect();
    let narrow: Vec<u16> = x.iter().map(|&v| v as u16).collect();
    let wide: Vec<u64> = x.iter().map(|&v| u64::from(v) << 31).collect();
    assert_eq!(each::<_, Pack>("ldcs_stwb_16", &packs, 1).unwrap()[..packs.len()], packs);
    assert_eq!(each::<_, u16>("ldcs_stwb_2", &narrow, 1).unwrap()[..4096], narrow);
    assert_eq!(each::<_, u64>("ldcs_stwb_8", &wide, 1).unwrap()[..4096], wide);
    assert_eq!(each::<_, u64>("ldcg_stwb_8", &wide, 1).unwrap()[..4096], wide);
    // Floating-point numbers, as bits.
    assert_eq!(each::<_, u32>("ldca_stwb_4", &x, 1).unwrap()[..4096], x);
    assert_eq!(each::<_, u64>("ldca_stwb_8", &wide, 1).unwrap()[..4096], wide);
    assert_eq!(each::<_, Pack>("ldca_stwb_of_floats", &packs, 1).unwrap()[..packs.len()], packs);
    assert_eq!(each::<_, Pack>("ldca_stwb_of_doubles", &packs, 1).unwrap()[..packs.len()], packs);
}

#[test]
fn bits_stay_as_they_are() {
    let (x, wide) = (floats(4096), doubles(4096));
    let Some(bits) = each::<_, u32>("float_as_uint", &x, 1) else { return };
    assert!(bits.iter().zip(&x).all(|(bits, x)| *bits == x.to_bits()));
    let words: Vec<u32> = x.iter().map(|v| v.to_bits()).collect();
    let same = |a: &f32, b: &f32| a.to_bits() == b.to_bits();
    let back = each_like("uint_as_float", &words, 1, same).unwrap();
    assert!(back.iter().zip(&x).all(|(back, x)| same(back, x)));
    let bits: Vec<u64> = each("double_as_longlong", &wide, 1).unwrap();
    assert!(bits.iter().zip(&wide).all(|(bits, x)| *bits == x.to_bits()));
    let back = each_like("longlong_as_double", &bits, 1, |a: &f64, b| a.to_bits() == b.to_bits()).unwrap();
    assert!(back.iter().zip(&wide).all(|(back, x)| back.to_bits() == x.to_bits()));
    let all: Vec<u16> = (0..=u16::MAX).collect();
    assert_eq!(each::<_, u16>("ushort_as_half_as_ushort", &all, 1).unwrap(), all);
    let packs: Vec<Pack> = each("make_uint4", &words[..4096], 4).unwrap();
    assert!(packs.iter().flat_map(|pack| pack.0).zip(&words[..4096]).all(|(a, b)| a == *b));
}

/// All selectors. CUDA's function looks at three bits of each, PTX's instruction at four.
#[test]
fn bytes_are_permuted() {
    let bytes = numbers(2 * 65536);
    let mut x = Vec::new();
    for (selector, bytes) in bytes.chunks(2).enumerate() {
        x.extend([bytes[0], bytes[1], selector as u32]);
    }
    // Worked by hand.
    x.extend([0x3322_1100, 0x7766_5544, 0x7362, 0x80FF_7F00, 0x0180_FE81, 0xFEDC, 0x8000_0080, 0, 0x8B8B]);
    // Beyond the selectors' bits.
    x.extend(numbers(3 * 4096));
    let Some(prmt) = each::<_, u32>("prmt", &x, 3) else { return };
    let byte_perm: Vec<u32> = each("byte_perm", &x, 3).unwrap();
    for ((x, prmt), byte_perm) in x.chunks(3).zip(&prmt).zip(&byte_perm) {
        let bytes = [x[0].to_le_bytes(), x[1].to_le_bytes()].concat();
        let pick = |i: u32| bytes[(x[2] >> (4 * i) & 7) as usize];
        let signed = |i: u32| if x[2] >> (4 * i) & 8 == 0 { pick(i) } else { ((pick(i) as i8) >> 7) as u8 };
        assert_eq!(*byte_perm, u32::from_le_bytes([0, 1, 2, 3].map(pick)), "{x:08X?}");
        assert_eq!(*prmt, u32::from_le_bytes([0, 1, 2, 3].map(signed)), "{x:08X?}");
    }
    assert_eq!(prmt[65536..][..3], [0x7733_6622, 0x00FF_FFFF, 0xFFFF_FFFF]);
    assert_eq!(byte_perm[65536..][..3], [0x7733_6622, 0x0180_FE81, 0x8080_8080]);
}

#[test]
fn funnel_shifts_and_products() {
    let mut x = numbers(3 * 4096);
    for amount in [0, 1, 31, 32, 33, 63, 64, u32::MAX] {
        x.extend([0x8765_4321, 0xFEDC_BA98, amount]);
    }
    let Some(left) = each::<_, u32>("funnelshift_l", &x, 3) else { return };
    for (x, left) in x.chunks(3).zip(left) {
        let both = u64::from(x[1]) << 32 | u64::from(x[0]);
        assert_eq!(left, (both << (x[2] % 32) >> 32) as u32);
    }
    let high: Vec<u32> = each("umulhi", &x, 2).unwrap();
    for (x, high) in x.chunks_exact(2).zip(high) {
        assert_eq!(high, ((u64::from(x[0]) * u64::from(x[1])) >> 32) as u32);
    }
    let wide: Vec<u64> = x.chunks_exact(2).map(|x| u64::from(x[0]) << 32 | u64::from(x[1])).collect();
    let wide = &wide[..wide.len() / 2 * 2];
    let high: Vec<u64> = each("umul64hi", wide, 2).unwrap();
    for (x, high) in wide.chunks_exact(2).zip(high) {
        assert_eq!(high, ((u128::from(x[0]) * u128::from(x[1])) >> 64) as u64);
    }
}

#[test]
fn sixteen_bits_widen_exactly() {
    let all: Vec<u16> = (0..=u16::MAX).collect();
    let Some(halves) = each::<_, u32>("half2float", &all, 1) else { return };
    for (&bits, half) in all.iter().zip(halves) {
        let expected = f16::from_bits(bits);
        assert_eq!(half, if expected.is_nan() { 0x7FFF_FFFF } else { expected.to_f32().to_bits() }, "{bits:04X}");
    }
}

/// Every number of 16 bits, every midpoint between neighbours, and the f32 next to each of them: what
/// is constant between those points is right everywhere if it is right there.
fn turning_points(widen: impl Fn(u16) -> f32) -> Vec<f32> {
    let mut points = floats(256);
    for bits in 0..=u16::MAX {
        let here = widen(bits);
        let next = widen(bits.wrapping_add(1));
        let middle = (f64::from(here) + f64::from(next)) / 2.0;
        for bits in [here.to_bits(), (middle as f32).to_bits()] {
            points.extend([bits, bits.wrapping_add(1), bits.wrapping_sub(1)].map(f32::from_bits));
        }
    }
    points.extend([65504.0, 65519.996, 65520.0, -65520.0]);
    points
}

fn check_narrowing(one: &str, two: &str, widen: impl Fn(u16) -> f32, narrow: impl Fn(f32) -> u16) {
    let points = turning_points(&widen);
    let Some(got) = each::<_, u16>(one, &points, 1) else { return };
    let expected = |v: f32| if v.is_nan() { 0x7FFF } else { narrow(v) };
    for (&v, got) in points.iter().zip(got) {
        assert_eq!(got, expected(v), "{v:e} ({:08X})", v.to_bits());
    }
    let pairs: Vec<u32> = each(two, &points, 2).unwrap();
    for (v, got) in points.chunks_exact(2).zip(pairs) {
        assert_eq!(got, u32::from(expected(v[0])) | u32::from(expected(v[1])) << 16, "{v:?}");
    }
}

#[test]
fn halves_are_rounded_to_nearest_even() {
    let (widen, narrow) = (|b| f16::from_bits(b).to_f32(), |v| f16::from_f32(v).to_bits());
    check_narrowing("float2half_rn", "floats2half2_rn", widen, narrow);
}

#[test]
fn bfloats_are_rounded_to_nearest_even() {
    let (widen, narrow) = (|b| bf16::from_bits(b).to_f32(), |v| bf16::from_f32(v).to_bits());
    check_narrowing("float2bfloat16_rn", "floats2bfloat162_rn", widen, narrow);
}

/// Every number of 16 bits against some, in either half.
#[test]
fn pairs_compare_each_for_itself() {
    let others = [0x0000u16, 0x8000, 0x0001, 0x8001, 0x3C00, 0xBF80, 0x7C00, 0xFF80, 0x7E00, 0xFFC1];
    let (mut x, mut expected) = (Vec::new(), [Vec::new(), Vec::new()]);
    for a in 0..=u16::MAX {
        let b = others[usize::from(a) % others.len()];
        x.extend([u32::from(a) | u32::from(b) << 16, u32::from(b) | u32::from(a) << 16]);
        let mask = |low: bool, high: bool| u32::from(low) * 0xFFFF + u32::from(high) * 0xFFFF_0000;
        let (ha, hb) = (f16::from_bits(a), f16::from_bits(b));
        expected[0].push(mask(ha <= hb, hb <= ha));
        let (ba, bb) = (bf16::from_bits(a), bf16::from_bits(b));
        expected[1].push(mask(ba <= bb, bb <= ba));
    }
    let Some(halves) = each::<_, u32>("hle2_mask_of_halves", &x, 2) else { return };
    assert_eq!(halves, expected[0]);
    assert_eq!(each::<_, u32>("hle2_mask_of_bfloats", &x, 2).unwrap(), expected[1]);
}

#[test]
fn signs_and_magnitudes() {
    let (x, wide) = (floats(4096), doubles(4096));
    let same = |a: &f32, b: &f32| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
    let same_wide = |a: &f64, b: &f64| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
    let Some(absolute) = each_like("fabsf", &x, 1, same) else { return };
    assert!(absolute.iter().zip(&x).all(|(got, x)| same(got, &x.abs())));
    let signed = each_like("copysignf", &x, 2, same).unwrap();
    assert!(signed.iter().zip(x.chunks_exact(2)).all(|(got, x)| same(got, &x[0].copysign(x[1]))));
    let absolute = each_like("fabs", &wide, 1, same_wide).unwrap();
    assert!(absolute.iter().zip(&wide).all(|(got, x)| same_wide(got, &x.abs())));
    let signed = each_like("copysign", &wide, 2, same_wide).unwrap();
    assert!(signed.iter().zip(wide.chunks_exact(2)).all(|(got, x)| same_wide(got, &x[0].copysign(x[1]))));
}

#[test]
fn products_and_sums_are_rounded_as_written() {
    let mut x: Vec<f32> = numbers(3 * 4096).into_iter().map(|v| (v >> 8) as f32 - 8e6).collect();
    x.extend(&floats(3 * 4096)[..3 * 4096]);
    let same = |a: &f32, b: &f32| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
    let Some(fused) = each_like("fmaf", &x, 3, same) else { return };
    let overloaded = each_like("fma_of_floats", &x, 3, same).unwrap();
    let apart = each_like("two_roundings", &x, 3, same).unwrap();
    let mut differ = 0;
    for ((x, fused), (overloaded, apart)) in x.chunks(3).zip(&fused).zip(overloaded.iter().zip(&apart)) {
        assert!(same(fused, &x[0].mul_add(x[1], x[2])) && same(fused, overloaded), "{x:?}");
        assert!(same(apart, &(x[0] * x[1] + x[2])), "{x:?}");
        differ += u32::from(!same(fused, apart));
    }
    assert!(differ > 0);
    let wide = doubles(3 * 4096);
    let same = |a: &f64, b: &f64| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
    let fused = each_like("fma", &wide, 3, same).unwrap();
    assert!(fused.iter().zip(wide.chunks_exact(3)).all(|(got, x)| same(got, &x[0].mul_add(x[1], x[2]))));
    let whole = numbers(4096);
    let floats: Vec<f32> = each("float_of_uint", &whole, 1).unwrap();
    assert!(floats.iter().zip(&whole).all(|(got, x)| *got == *x as f32));
}

/// Lanes of a warp take each other's values and votes; with half of them named, the halves meet apart.
#[test]
fn lanes_meet() {
    let x = numbers(2 * 4096);
    let Some(by_index) = each::<_, u32>("shfl_sync", &x, 2) else { return };
    let by_index_apart: Vec<u32> = each("shfl_sync_apart", &x, 2).unwrap();
    let by_xor: Vec<u32> = each("shfl_xor_sync", &x, 2).unwrap();
    let by_xor_apart: Vec<u32> = each("shfl_xor_sync_apart", &x, 2).unwrap();
    for (warp, values) in x.chunks(64).enumerate() {
        for lane in 0..32 {
            let (i, by) = (32 * warp + lane, values[2 * lane + 1] as usize);
            let of = |lane: usize| values[2 * lane];
            assert_eq!(by_index[i], of(by % 32));
            assert_eq!(by_index_apart[i], of(((by & !1) | (lane & 1)) % 32));
            assert_eq!(by_xor[i], of(lane ^ (by % 32)));
            assert_eq!(by_xor_apart[i], of(lane ^ (by & 30)));
        }
    }
    let x = &x[..4096];
    let ballot: Vec<u32> = each("ballot_sync", x, 1).unwrap();
    let ballot_apart: Vec<u32> = each("ballot_sync_apart", x, 1).unwrap();
    let any: Vec<u32> = each("any_sync", x, 1).unwrap();
    let any_apart: Vec<u32> = each("any_sync_apart", x, 1).unwrap();
    for (warp, values) in x.chunks(32).enumerate() {
        for lane in 0..32 {
            let i = 32 * warp + lane;
            let alike = |other: usize| other % 2 == lane % 2;
            let voted = (0..32).filter(|&l| values[l] & 4 != 0).fold(0, |set, l| set | 1u32 << l);
            let voted_apart = (0..32).filter(|&l| alike(l) && values[l] & 4 != 0).fold(0, |set, l| set | 1u32 << l);
            assert_eq!((ballot[i], ballot_apart[i]), (voted, voted_apart));
            assert_eq!(any[i], u32::from(values.iter().any(|v| v & 0x1F == 0)));
            assert_eq!(any_apart[i], u32::from((0..32).any(|l| alike(l) && values[l] & 0xF == 0)));
        }
    }
}
