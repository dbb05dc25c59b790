//! From a pass to the launch that does it: which entry point, which grid, which arguments.
//!
//! Nothing here calls CUDA. The CPU emulation of the kernels executes the very plans that a GPU gets, with
//! host pointers. For the crate and its tests; not part of the stable interface.

use std::ffi::c_void;

use super::error::{CudaError, Result as CudaResult};
use super::geometry;
pub use super::layout::da_args;
use super::layout::{DA_MIXTURE_IDENTITY, DA_MIXTURE_MIXED, DA_MIXTURE_SIGMA, DA_PACK_BYTES, DA_TILE_ELEMENTS};
use super::modules::Module;
use crate::activation::Activation;
use crate::element::Dtype;
use crate::error::{Error, Result};
use crate::float_environment::in_default;
use crate::key::MaskKey;
use crate::operation::{DropActivation, Mixture};
use crate::pass::Pass;

/// Device addresses for one pass; 0 is a null pointer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// What the pass reads: x forward, dy backward.
    pub input: u64,
    /// What a backward pass reads besides, if it does: x or y of the forward pass, as [`Pass`] says.
    pub saved: u64,
    /// What the pass writes: y forward, dx backward.
    pub output: u64,
    /// The mask, if the pass has one: `ceil(n / 32)` words of 32 bits, written forward, read backward.
    pub mask: u64,
    /// A base in device memory that the offset of the pass's key is counted from, modulo 2^64: one word of 64 bits, read
    /// when the kernel runs. Without one the key's offset is the whole.
    pub offset_at: u64,
    /// Where RReLU's forward stores the offset that it drew with, one word of 64 bits, if that is wanted. Its backward
    /// pass finds it there whatever has become of the base: by a key of offset 0, with this as `offset_at`.
    pub offset_out: u64,
}

/// A kernel launch, ready to be made: one-dimensional, without dynamic shared memory, with `args` as the
/// kernel's one argument.
#[derive(Clone, Copy, Debug)]
pub struct Launch {
    /// The kernel.
    pub entry: Entry,
    /// Blocks.
    pub grid: u32,
    /// Threads of a block.
    pub block: u32,
    /// The kernel's argument, by value.
    pub args: da_args,
}

/// Plans `pass` over `n` elements of type `dtype` at the addresses `at`; `None` if there is nothing to do.
/// Addresses that the pass has no use for are not looked at.
pub fn plan(pass: &Pass, dtype: Dtype, n: usize, at: Addresses) -> Result<Option<Launch>> {
    pass.check_without_tensors(n)?;
    if pass.shape().is_some() {
        return Err(Error::HasChannels { function: "the CUDA backend" });
    }
    if n == 0 {
        return Ok(None);
    }
    let input = checked(pass.input(), at.input, dtype.size())?;
    let output = checked(pass.output(), at.output, dtype.size())?;
    let saved = pass.saved().map_or(Ok(0), |name| checked(name, at.saved, dtype.size()))?;
    let mask = if pass.writes_mask() || pass.reads_mask() { checked("mask", at.mask, size_of::<u32>())? } else { 0 };

    // An address that the pass has no use for is 0, which is aligned.
    let aligned = (input | output | saved).is_multiple_of(DA_PACK_BYTES.into());
    let (x, dy) = if pass.is_forward() { (input, 0) } else { (saved, input) };
    let mut args = da_args {
        n: n as u64,
        tiles: (n as u64).div_ceil(DA_TILE_ELEMENTS.into()),
        full_tiles: if aligned { n as u64 / u64::from(DA_TILE_ELEMENTS) } else { 0 },
        x: x as *const c_void,
        dy: dy as *const c_void,
        out: output as *mut c_void,
        mask: mask as *mut u32,
        ..NOTHING
    };
    if let Some(key) = pass.key() {
        set_key(&mut args, key, optional("offset_at", at.offset_at)?);
    }
    if let Pass::RreluForward { .. } = pass {
        args.offset_out = optional("offset_out", at.offset_out)? as *mut u64;
    }
    match pass {
        Pass::Forward { op, .. } | Pass::ForwardWithoutMask { op, .. } => set_threshold(&mut args, op.threshold()),
        Pass::Infer { op } | Pass::InferBackward { op } => set_mixture(&mut args, op, dtype),
        Pass::RreluForward { op, .. } | Pass::RreluBackward { op, .. } => {
            args.lower = op.lower();
            args.upper = op.upper();
        }
        Pass::RreluInfer { op } | Pass::RreluInferBackward { op } => set_slope(&mut args, op.inference_slope()),
        Pass::Backward { .. } | Pass::BackwardFromOutput { .. } | Pass::ReluForward | Pass::ReluBackward => {}
        Pass::FusedForward { .. }
        | Pass::FusedInfer { .. }
        | Pass::Statistics { .. }
        | Pass::FusedSums { .. }
        | Pass::FusedBackward { .. } => unreachable!("refused"),
    }
    Ok(Some(Launch { entry: Entry::of(pass, dtype), grid: geometry::grid(args.n), block: geometry::BLOCK, args }))
}

/// Plans what stores `value` at `base`, counted from what is there if `on_top`.
pub fn plan_advance(base: u64, value: u64, on_top: bool) -> CudaResult<Launch> {
    let base = checked("base", base, size_of::<u64>())?;
    let offset_at = if on_top { base as *const u64 } else { std::ptr::null() };
    let args = da_args { offset: value, offset_at, offset_out: base as *mut u64, ..NOTHING };
    Ok(Launch { entry: Entry::ADVANCE, grid: 1, block: geometry::WARP, args })
}

/// Arguments that no kernel looks at.
pub const NOTHING: da_args = da_args {
    n: 0,
    tiles: 0,
    full_tiles: 0,
    x: std::ptr::null(),
    dy: std::ptr::null(),
    out: std::ptr::null_mut(),
    mask: std::ptr::null_mut(),
    shard_start: 0,
    round_keys: [0; 20],
    offset: 0,
    offset_at: std::ptr::null(),
    offset_out: std::ptr::null_mut(),
    threshold: 0,
    planes: 0,
    constant_word: 0,
    mixture: 0,
    plane_masks: [0; 12],
    p: 0.0,
    slope: 0.0,
    p_f32: 0.0,
    slope_f32: 0.0,
    lower: 0.0,
    upper: 0.0,
};

/// The address of a 64-bit word that the caller may leave out.
fn optional(argument: &'static str, address: u64) -> CudaResult<u64> {
    if address == 0 { Ok(0) } else { checked(argument, address, size_of::<u64>()) }
}

/// An address that a kernel can take.
fn checked(argument: &'static str, address: u64, alignment: usize) -> CudaResult<u64> {
    if address == 0 {
        Err(CudaError::NullPointer { argument })
    } else if !address.is_multiple_of(alignment as u64) {
        Err(CudaError::Misaligned { argument, address, alignment })
    } else {
        Ok(address)
    }
}

fn set_key(args: &mut da_args, key: MaskKey, offset_at: u64) {
    args.shard_start = key.first();
    args.round_keys = round_keys(key.seed());
    args.offset = key.offset();
    args.offset_at = offset_at as *const u64;
}

/// Philox's key in each of its rounds: the seed's two halves, to which two constants are added after each.
fn round_keys(seed: u64) -> [u32; 20] {
    std::array::from_fn(|i| {
        let (half, step) = if i % 2 == 0 { (seed as u32, 0x9E37_79B9) } else { ((seed >> 32) as u32, 0xBB67_AE85_u32) };
        half.wrapping_add(step.wrapping_mul(i as u32 / 2))
    })
}

/// The highest bits of T, each as a word of zeros or ones.
fn plane_masks(threshold: u32) -> [u32; 12] {
    std::array::from_fn(|i| if threshold << i >> 31 == 1 { u32::MAX } else { 0 })
}

/// T of the keep stream, in \[0, 2^32\]. Its ends need no random bits; elsewhere the bits of T below its
/// lowest set one decide nothing.
fn set_threshold(args: &mut da_args, threshold: u64) {
    match u32::try_from(threshold) {
        Ok(0) => args.constant_word = 0,
        Ok(threshold) => {
            args.threshold = threshold;
            args.planes = u32::BITS - threshold.trailing_zeros();
            args.plane_masks = plane_masks(threshold);
        }
        Err(_) => args.constant_word = u32::MAX,
    }
}

fn set_mixture(args: &mut da_args, op: &DropActivation, dtype: Dtype) {
    let (mixture, p_f32, slope) = in_default(*op, |op| {
        let mixture = if dtype == Dtype::F64 { op.mixture::<f64>() } else { op.mixture::<f32>() };
        (mixture, op.p() as f32, 1.0 - op.p())
    });
    args.mixture = match mixture {
        Mixture::Identity => DA_MIXTURE_IDENTITY,
        Mixture::Sigma => DA_MIXTURE_SIGMA,
        Mixture::Mixed { .. } => DA_MIXTURE_MIXED,
    };
    args.p = op.p();
    args.p_f32 = p_f32;
    set_slope(args, slope);
}

fn set_slope(args: &mut da_args, slope: f64) {
    args.slope = slope;
    args.slope_f32 = in_default(slope, |slope| slope as f32);
}

/// Kernels of one name in the order of [`Dtype`].
macro_rules! names {
    ($($part:literal)+) => {
        [
            concat!("da_", $($part,)+ "_f32"),
            concat!("da_", $($part,)+ "_f16"),
            concat!("da_", $($part,)+ "_bf16"),
            concat!("da_", $($part,)+ "_f64"),
        ]
    };
}

/// The kernels with their modules: first those of passes that have an activation, in the order of [`Activation::ALL`].
macro_rules! kernels {
    (of every activation { $($stem:literal)+ } $($module:ident { $($name:literal)+ })+) => {
        const KERNELS: &[(Module, [&str; 4])] = &[
            $(
                (Module::Relu, names!($stem "_relu")),
                (Module::Smooth, names!($stem "_sigmoid")),
                (Module::Smooth, names!($stem "_tanh")),
                (Module::Smooth, names!($stem "_gelu")),
                (Module::Smooth, names!($stem "_silu")),
            )+
            $($((Module::$module, names!($name)),)+)+
        ];
    };
}

kernels! {
    of every activation { "train_forward" "train_backward" "infer_forward" "infer_backward" }
    Relu { "train_forward_relu_nomask" "train_backward_relu_from_output" "relu_forward" "relu_backward" }
    Rrelu { "rrelu_train_forward" "rrelu_train_backward" "rrelu_infer_forward" "rrelu_infer_backward" }
}

const _: () = assert!(KERNELS.len() == 4 * Activation::ALL.len() + 8, "a kernel for every activation");

/// The place of a pass among the [`KERNELS`]: the one function that tells passes apart on this side. Those without a mask
/// exist for ReLU alone, as [`Pass::check_without_tensors`] has made sure.
fn place_of(pass: &Pass) -> u8 {
    const ACTIVATIONS: u8 = Activation::ALL.len() as u8;
    const OTHERS: u8 = 4 * ACTIVATIONS;
    match pass {
        Pass::Forward { op, .. } => op.activation() as u8,
        Pass::Backward { op } => ACTIVATIONS + op.activation() as u8,
        Pass::Infer { op } => 2 * ACTIVATIONS + op.activation() as u8,
        Pass::InferBackward { op } => 3 * ACTIVATIONS + op.activation() as u8,
        Pass::ForwardWithoutMask { .. } => OTHERS,
        Pass::BackwardFromOutput { .. } => OTHERS + 1,
        Pass::ReluForward => OTHERS + 2,
        Pass::ReluBackward => OTHERS + 3,
        Pass::RreluForward { .. } => OTHERS + 4,
        Pass::RreluBackward { .. } => OTHERS + 5,
        Pass::RreluInfer { .. } => OTHERS + 6,
        Pass::RreluInferBackward { .. } => OTHERS + 7,
        Pass::FusedForward { .. }
        | Pass::FusedInfer { .. }
        | Pass::Statistics { .. }
        | Pass::FusedSums { .. }
        | Pass::FusedBackward { .. } => unreachable!("refused"),
    }
}

/// An entry point of the device code: a kernel for one element type, or what advances a sequence of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry(u8);

impl Entry {
    const OF_PASSES: usize = 4 * KERNELS.len();

    /// How many there are.
    pub const COUNT: usize = Self::OF_PASSES + 1;

    /// What advances a sequence of keys.
    pub const ADVANCE: Self = Self(Self::OF_PASSES as u8);

    /// All of them.
    pub const ALL: [Self; Self::COUNT] = {
        let mut all = [Self(0); Self::COUNT];
        let mut i = 0;
        while i < all.len() {
            all[i] = Self(i as u8);
            i += 1;
        }
        all
    };

    /// Those of passes: all but [`Entry::ADVANCE`].
    pub const PASSES: [Self; Self::OF_PASSES] = {
        let mut passes = [Self(0); Self::OF_PASSES];
        let mut i = 0;
        while i < passes.len() {
            passes[i] = Self::ALL[i];
            i += 1;
        }
        passes
    };

    fn of(pass: &Pass, dtype: Dtype) -> Self {
        Self(4 * place_of(pass) + dtype as u8)
    }

    /// The symbol's name.
    pub const fn name(self) -> &'static str {
        if self.index() == Self::OF_PASSES {
            return "da_advance";
        }
        let (_, names) = KERNELS[self.index() / 4];
        names[self.index() % 4]
    }

    /// The module that it is in.
    pub(crate) const fn module(self) -> Module {
        if self.index() == Self::OF_PASSES { Module::Advance } else { KERNELS[self.index() / 4].0 }
    }

    /// Its place in [`Entry::ALL`].
    pub(super) const fn index(self) -> usize {
        self.0 as usize
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::path::Path;

    use super::*;
    use crate::operation::RRelu;

    const DTYPES: [Dtype; 4] = [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::F64];
    const AT: Addresses =
        Addresses { input: 0x1000, saved: 0x2000, output: 0x3000, mask: 0x4000, offset_at: 0x5000, offset_out: 0x6000 };

    fn key() -> MaskKey {
        MaskKey::new(0x1234_5678_9ABC_DEF0, 7).shard(1 << 40).unwrap()
    }

    fn op(activation: Activation, p: f64) -> DropActivation {
        DropActivation::new(activation, p).unwrap()
    }

    fn passes(activation: Activation) -> Vec<Pass> {
        let (op, key) = (op(activation, 0.95), key());
        vec![Pass::Forward { op, key }, Pass::Backward { op }, Pass::Infer { op }, Pass::InferBackward { op }]
    }

    /// Those that know one activation only.
    fn other_passes() -> Vec<Pass> {
        let (op, rrelu, key) = (DropActivation::default(), RRelu::default(), key());
        vec![
            Pass::ForwardWithoutMask { op, key },
            Pass::BackwardFromOutput { op },
            Pass::RreluForward { op: rrelu, key },
            Pass::RreluBackward { op: rrelu, key },
            Pass::RreluInfer { op: rrelu },
            Pass::RreluInferBackward { op: rrelu },
            Pass::ReluForward,
            Pass::ReluBackward,
        ]
    }

    fn planned(pass: &Pass, dtype: Dtype) -> Launch {
        plan(pass, dtype, 5, AT).unwrap().unwrap()
    }

    #[test]
    fn every_entry_is_the_plan_of_one_pass() {
        let stems = ["train_forward", "train_backward", "infer_forward", "infer_backward"];
        let others = [
            "train_forward_relu_nomask",
            "train_backward_relu_from_output",
            "rrelu_train_forward",
            "rrelu_train_backward",
            "rrelu_infer_forward",
            "rrelu_infer_backward",
            "relu_forward",
            "relu_backward",
        ];
        let mut planned_entries = HashSet::new();
        for dtype in DTYPES {
            for activation in Activation::ALL {
                for (pass, stem) in passes(activation).iter().zip(stems) {
                    let entry = planned(pass, dtype).entry;
                    assert_eq!(entry.name(), format!("da_{stem}_{activation}_{}", dtype.name()));
                    planned_entries.insert(entry);
                }
            }
            for (pass, stem) in other_passes().iter().zip(others) {
                let entry = planned(pass, dtype).entry;
                assert_eq!(entry.name(), format!("da_{stem}_{}", dtype.name()));
                planned_entries.insert(entry);
            }
        }
        planned_entries.insert(plan_advance(8, 1, true).unwrap().entry);
        assert_eq!(planned_entries, HashSet::from(Entry::ALL));
        assert_eq!(Entry::ALL.map(Entry::name).into_iter().collect::<HashSet<_>>().len(), Entry::COUNT);
    }

    /// `DA_ENTRIES(da_relu_forward, ...)` and `DA_ENTRY(da_name_f32, ...)` of every .cu file.
    #[test]
    fn the_sources_define_these_entries_and_no_others() {
        let mut defined = HashSet::new();
        let advance = include_str!("../../kernels/advance.cu");
        assert_eq!(advance.matches("__global__").count(), 1);
        assert!(advance.contains(" da_advance("));
        defined.insert((Module::Advance, "da_advance".to_owned()));
        for (module, file) in [(Module::Relu, "relu"), (Module::Smooth, "smooth"), (Module::Rrelu, "rrelu")] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels").join(file).with_extension("cu");
            let text = std::fs::read_to_string(&path).unwrap();
            for line in text.lines() {
                if let Some(stem) = line.strip_prefix("DA_ENTRIES(").and_then(|rest| rest.split_once(',')) {
                    defined.extend(DTYPES.map(|dtype| (module, format!("{}_{}", stem.0, dtype.name()))));
                } else if let Some(name) = line.strip_prefix("DA_ENTRY(").and_then(|rest| rest.split_once(',')) {
                    defined.insert((module, name.0.to_owned()));
                }
            }
        }
        let known: HashSet<_> = Entry::ALL.map(|entry| (entry.module(), entry.name().to_owned())).into();
        assert_eq!(defined, known);
    }

    /// The fields that hold numbers, in the order of the header.
    fn numbers(args: &da_args) -> ([u64; 4], [u32; 4], [f64; 2], [f32; 4]) {
        (
            [
                args.n,
                args.shard_start,
                u64::from(args.round_keys[1]) << 32 | u64::from(args.round_keys[0]),
                args.offset,
            ],
            [args.threshold, args.planes, args.constant_word, args.mixture],
            [args.p, args.slope],
            [args.p_f32, args.slope_f32, args.lower, args.upper],
        )
    }

    /// By hand: the constants are added modulo 2^32, to each half by itself.
    #[test]
    fn round_keys_go_on_by_constants() {
        let keys = round_keys(0xFFFF_FFFF_0000_0001);
        assert_eq!(keys[..6], [1, 0xFFFF_FFFF, 0x9E37_79BA, 0xBB67_AE84, 0x3C6E_F373, 0x76CF_5D09]);
        assert_eq!(keys[18..], [0x8FF3_4782, 0x96A5_22AC]);
    }

    #[test]
    fn planes_are_the_bits_of_the_threshold() {
        let planes = plane_masks(0xF333_3333);
        let bits = [1, 1, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1];
        assert_eq!(planes, bits.map(|bit| if bit == 1 { u32::MAX } else { 0 }));
        let pass = |p| Pass::Forward { op: op(Activation::Relu, p), key: key() };
        assert_eq!(planned(&pass(0.5), Dtype::F32).args.plane_masks[..2], [u32::MAX, 0]);
        assert_eq!(planned(&pass(1.0), Dtype::F32).args.plane_masks, [0; 12]);
    }

    #[test]
    fn thresholds_at_the_edges() {
        let of = |p: f64| {
            let pass = Pass::Forward { op: op(Activation::Relu, p), key: key() };
            let (_, [threshold, planes, constant, mixture], p, p_f32) = numbers(&planned(&pass, Dtype::F32).args);
            assert_eq!((mixture, p, p_f32), (0, [0.0; 2], [0.0; 4]), "unused fields are zero");
            (threshold, planes, constant)
        };
        let step = 2f64.powi(-32);
        assert_eq!(of(0.0), (0, 0, 0));
        assert_eq!(of(step / 4.0), (0, 0, 0), "T rounds to 0");
        assert_eq!(of(step), (1, 32, 0));
        assert_eq!(of(0.25), (1 << 30, 2, 0));
        assert_eq!(of(0.5), (1 << 31, 1, 0));
        assert_eq!(of(0.75), (3 << 30, 2, 0));
        assert_eq!(of(0.95), (4_080_218_931, 32, 0));
        assert_eq!(of(1.0 - step), (u32::MAX, 32, 0));
        assert_eq!(of(1.0 - step / 4.0), (0, 0, u32::MAX), "T rounds to 2^32");
        assert_eq!(of(1.0), (0, 0, u32::MAX));
    }

    #[test]
    fn mixtures_at_the_edges() {
        let of = |p: f64| {
            let pass = Pass::Infer { op: op(Activation::Gelu, p) };
            let (of_stream, [threshold, planes, constant, mixture], p, p_f32) =
                numbers(&planned(&pass, Dtype::F64).args);
            assert_eq!((of_stream, threshold, planes, constant), ([5, 0, 0, 0], 0, 0, 0), "unused fields are zero");
            (mixture, p, p_f32)
        };
        assert_eq!(of(0.0), (DA_MIXTURE_IDENTITY, [0.0, 1.0], [0.0, 1.0, 0.0, 0.0]));
        assert_eq!(of(-0.0).1[0].to_bits(), 0, "no negative zero");
        assert_eq!(of(1.0), (DA_MIXTURE_SIGMA, [1.0, 0.0], [1.0, 0.0, 0.0, 0.0]));
        // 1 - p is rounded to f32 once, from f64: 1 - 0.95f32 would be another number.
        let slope = 1.0 - 0.95;
        assert_eq!(of(0.95), (DA_MIXTURE_MIXED, [0.95, slope], [0.95, slope as f32, 0.0, 0.0]));
        assert_ne!(slope as f32, 1.0 - 0.95_f32);
        let tiny = 1e-300;
        assert_eq!(of(tiny), (DA_MIXTURE_MIXED, [tiny, 1.0], [0.0, 1.0, 0.0, 0.0]));
    }

    #[test]
    fn rrelu_gets_its_bounds_or_their_mean() {
        let (op, key) = (RRelu::new(0.25, 0.5).unwrap(), key());
        let stream = [5, key.first(), key.seed(), key.offset()];
        for pass in [Pass::RreluForward { op, key }, Pass::RreluBackward { op, key }] {
            let args = planned(&pass, Dtype::F16).args;
            assert_eq!(numbers(&args), (stream, [0; 4], [0.0; 2], [0.0, 0.0, 0.25, 0.5]));
        }
        for pass in [Pass::RreluInfer { op }, Pass::RreluInferBackward { op }] {
            let args = planned(&pass, Dtype::F16).args;
            assert_eq!(numbers(&args), ([5, 0, 0, 0], [0; 4], [0.0, 0.375], [0.0, 0.375, 0.0, 0.0]));
        }
    }

    #[test]
    fn tiles_are_full_where_they_are_whole_and_all_tensors_aligned() {
        let of = |pass: &Pass, n: usize, at: Addresses| {
            let args = plan(pass, Dtype::Bf16, n, at).unwrap().unwrap().args;
            (args.tiles, args.full_tiles)
        };
        let relu = Pass::ReluForward;
        assert_eq!([1, 1023, 1024, 1025, 2048].map(|n| of(&relu, n, AT)), [(1, 0), (1, 0), (1, 1), (2, 1), (2, 2)]);
        let smooth = Pass::Backward { op: op(Activation::Gelu, 0.5) };
        for pass in [relu, Pass::ReluBackward, smooth] {
            let saved = if pass.saved().is_some() { (2, 0) } else { (2, 1) };
            assert_eq!(of(&pass, 1500, AT), (2, 1));
            assert_eq!(of(&pass, 1500, Addresses { input: AT.input + 8, ..AT }), (2, 0), "{pass:?}");
            assert_eq!(of(&pass, 1500, Addresses { output: AT.output + 2, ..AT }), (2, 0), "{pass:?}");
            assert_eq!(of(&pass, 1500, Addresses { saved: AT.saved + 4, ..AT }), saved, "{pass:?}");
            assert_eq!(of(&pass, 1500, Addresses { mask: AT.mask + 4, ..AT }), (2, 1), "{pass:?}");
        }
    }

    #[test]
    fn addresses_go_where_the_kernels_look() {
        let at = |pass: &Pass| {
            let args = planned(pass, Dtype::F32).args;
            [args.x as u64, args.dy as u64, args.out as u64, args.mask as u64]
        };
        for activation in Activation::ALL {
            let saved = if activation == Activation::Relu { 0 } else { AT.saved };
            let [forward, backward, infer, infer_backward] = passes(activation).try_into().unwrap();
            assert_eq!(at(&forward), [AT.input, 0, AT.output, AT.mask]);
            assert_eq!(at(&backward), [saved, AT.input, AT.output, AT.mask]);
            assert_eq!(at(&infer), [AT.input, 0, AT.output, 0]);
            assert_eq!(at(&infer_backward), [AT.saved, AT.input, AT.output, 0]);
        }
        let expected = [
            [AT.input, 0, AT.output, 0],
            [AT.saved, AT.input, AT.output, 0],
            [AT.input, 0, AT.output, AT.mask],
            [0, AT.input, AT.output, AT.mask],
            [AT.input, 0, AT.output, 0],
            [AT.saved, AT.input, AT.output, 0],
            [AT.input, 0, AT.output, 0],
            [AT.saved, AT.input, AT.output, 0],
        ];
        for (pass, expected) in other_passes().iter().zip(expected) {
            assert_eq!(at(pass), expected, "{pass:?}");
        }
    }

    #[test]
    fn offsets_may_be_counted_from_device_memory() {
        let offsets = |args: &da_args| (args.offset, args.offset_at as u64, args.offset_out as u64);
        let (op, rrelu, key) = (DropActivation::default(), RRelu::default(), key());
        for pass in
            [Pass::Forward { op, key }, Pass::ForwardWithoutMask { op, key }, Pass::RreluBackward { op: rrelu, key }]
        {
            assert_eq!(offsets(&planned(&pass, Dtype::F32).args), (7, AT.offset_at, 0), "{pass:?}");
        }
        let forward = Pass::RreluForward { op: rrelu, key };
        assert_eq!(offsets(&planned(&forward, Dtype::F32).args), (7, AT.offset_at, AT.offset_out));
        let without = Addresses { offset_at: 0, offset_out: 0, ..AT };
        assert_eq!(offsets(&plan(&forward, Dtype::F32, 5, without).unwrap().unwrap().args), (7, 0, 0));
        for pass in [Pass::Backward { op }, Pass::Infer { op }, Pass::RreluInfer { op: rrelu }, Pass::ReluForward] {
            let odd = Addresses { offset_at: 1, offset_out: 1, ..AT };
            let plan = plan(&pass, Dtype::F32, 5, odd).unwrap().unwrap();
            assert_eq!(offsets(&plan.args), (0, 0, 0), "not needed, not looked at");
        }
        let odd = |argument, address| Err(CudaError::Misaligned { argument, address, alignment: 8 }.into());
        let given = |at| plan(&forward, Dtype::F64, 5, at).map(|_| ());
        assert_eq!(given(Addresses { offset_at: 0x5004, ..AT }), odd("offset_at", 0x5004));
        assert_eq!(given(Addresses { offset_out: 0x6001, ..AT }), odd("offset_out", 0x6001));
    }

    #[test]
    fn a_base_of_offsets_advances_or_is_set() {
        let planned = |on_top| {
            let Launch { grid, block, args, .. } = plan_advance(0x5000, 3, on_top).unwrap();
            (grid, block, args.offset, args.offset_at as u64, args.offset_out as u64)
        };
        assert_eq!(planned(true), (1, 32, 3, 0x5000, 0x5000));
        assert_eq!(planned(false), (1, 32, 3, 0, 0x5000));
        assert_eq!(plan_advance(0, 3, true).unwrap_err(), CudaError::NullPointer { argument: "base" });
        let misaligned = CudaError::Misaligned { argument: "base", address: 0x5004, alignment: 8 };
        assert_eq!(plan_advance(0x5004, 3, true).unwrap_err(), misaligned);
    }

    #[test]
    fn bad_addresses_are_errors() {
        let gelu = Pass::Backward { op: op(Activation::Gelu, 0.5) };
        let error = |pass: &Pass, dtype, at| plan(pass, dtype, 1, at).unwrap_err();
        let null = |argument| Error::from(CudaError::NullPointer { argument });
        assert_eq!(error(&gelu, Dtype::F32, Addresses { input: 0, ..AT }), null("dy"));
        assert_eq!(error(&gelu, Dtype::F32, Addresses { saved: 0, ..AT }), null("x"));
        assert_eq!(error(&gelu, Dtype::F32, Addresses { output: 0, ..AT }), null("dx"));
        assert_eq!(error(&gelu, Dtype::F32, Addresses { mask: 0, ..AT }), null("mask"));
        assert_eq!(error(&Pass::ReluForward, Dtype::F32, Addresses { output: 0, ..AT }), null("y"));
        assert_eq!(error(&Pass::ReluBackward, Dtype::F32, Addresses { saved: 0, ..AT }), null("y"));

        for dtype in DTYPES {
            let address = AT.input + dtype.size() as u64 / 2;
            let misaligned = CudaError::Misaligned { argument: "x", address, alignment: dtype.size() };
            assert_eq!(error(&Pass::ReluForward, dtype, Addresses { input: address, ..AT }), misaligned.into());
            let odd_element = Addresses { input: AT.input + dtype.size() as u64, ..AT };
            assert!(plan(&Pass::ReluForward, dtype, 1, odd_element).is_ok());
        }
        let odd_mask = CudaError::Misaligned { argument: "mask", address: AT.mask + 2, alignment: 4 };
        assert_eq!(error(&gelu, Dtype::F16, Addresses { mask: AT.mask + 2, ..AT }), odd_mask.into());

        let relu = Pass::Backward { op: DropActivation::default() };
        assert!(plan(&relu, Dtype::F32, 1, Addresses { saved: 3, ..AT }).is_ok(), "not needed, not looked at");
    }

    #[test]
    fn bad_passes_are_errors_and_empty_ones_are_nothing() {
        let (gelu, key) = (op(Activation::Gelu, 0.5), MaskKey::new(0, 0).shard(u64::MAX - 31).unwrap());
        for pass in [Pass::ForwardWithoutMask { op: gelu, key }, Pass::BackwardFromOutput { op: gelu }] {
            for n in [0, 1] {
                let error = plan(&pass, Dtype::F32, n, AT).unwrap_err();
                assert_eq!(error, Error::NeedsMask { activation: Activation::Gelu });
            }
        }
        let relu = DropActivation::default();
        let rrelu = RRelu::default();
        for pass in [
            Pass::Forward { op: gelu, key },
            Pass::ForwardWithoutMask { op: relu, key },
            Pass::RreluForward { op: rrelu, key },
            Pass::RreluBackward { op: rrelu, key },
        ] {
            assert!(plan(&pass, Dtype::F32, 32, AT).unwrap().is_some());
            let error = plan(&pass, Dtype::F32, 33, AT).unwrap_err();
            assert_eq!(error, Error::IndexRange { first: key.first(), len: 33 });
        }
        for pass in [passes(Activation::Silu), other_passes()].concat() {
            assert!(plan(&pass, Dtype::Bf16, 0, Addresses::default()).unwrap().is_none(), "{pass:?}");
        }
    }
}
