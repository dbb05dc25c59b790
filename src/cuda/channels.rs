//! From a pass over channels to its launches: what `launch` does for the others.

use std::ffi::c_void;

use super::addresses::{Addresses, checked};
use super::entry::Entry;
use super::error::Result as CudaResult;
use super::geometry;
use super::layout::{
    DA_CHUNK_ELEMENTS, DA_LAYOUT_ELEMENTS, DA_LAYOUT_IMAGES, DA_LAYOUT_ROWS, DA_LAYOUT_UNEVEN, DA_MIXTURE_MIXED,
    DA_PACK_BYTES, DA_TILE_ELEMENTS, da_args, da_divisor,
};
use super::parameters::parameters;
use super::planned::Launch;
use crate::element::Dtype;
use crate::error::Result;
use crate::fused::Shape;
use crate::pass::Pass;

/// Device addresses for one pass over channels; 0 is a null pointer, for what is absent.
///
/// Vectors have a value for each channel, in the type of the arithmetic: f64 for f64, f32 for the other types. The vectors
/// and the workspace start at a multiple of such a value's size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FusedAddresses {
    /// Those of every pass. The output of sums is dr, which may be absent; of statistics there is none. `saved` is x.
    pub tensors: Addresses,
    /// The residual, for passes that compute z.
    pub residual: u64,
    /// A vector, for passes that compute z. Absent, it is 1.
    pub scale: u64,
    /// A vector, for passes that compute z. Absent, it is 0.
    pub shift: u64,
    /// A vector, which x is taken relative to: for sums, if the second is wanted, and with beta and gamma.
    pub mean: u64,
    /// A vector, for the elementwise backward pass. Absent, it is 1.
    pub alpha: u64,
    /// A vector, for the elementwise backward pass, together with gamma and mean. Absent, these are 0 and x is not read
    /// for them.
    pub beta: u64,
    /// A vector, together with beta and mean.
    pub gamma: u64,
    /// The vectors that [`Pass::results`] names.
    pub results: [u64; 2],
    /// Memory for intermediate sums, of [`workspace_bytes`] bytes. What is in it before and after does not matter.
    pub workspace: u64,
}

/// How much memory a pass over channels needs for intermediate sums, in bytes; 0 for passes that are not of sums.
pub fn workspace_bytes(pass: &Pass, dtype: Dtype) -> usize {
    let sums = match pass {
        Pass::Statistics { .. } => 3,
        Pass::FusedSums { .. } => 2,
        _ => return 0,
    };
    let values = pass.shape().map_or(0, |shape| shape.channels().saturating_mul(chunks(&shape)));
    values.saturating_mul(sums * real_size(dtype))
}

/// Bytes of a value of a vector.
pub(super) const fn real_size(dtype: Dtype) -> usize {
    if matches!(dtype, Dtype::F64) { size_of::<f64>() } else { size_of::<f32>() }
}

fn chunks(shape: &Shape) -> usize {
    shape.count().div_ceil(DA_CHUNK_ELEMENTS as usize)
}

/// Plans a pass over channels: at most two launches, to be made in this order.
pub fn plan(pass: &Pass, shape: Shape, dtype: Dtype, n: usize, at: &FusedAddresses) -> Result<[Option<Launch>; 2]> {
    pass.check_without_tensors(n)?;
    let given = Given::check(pass, dtype, n, at)?;
    if shape.is_empty() && pass.results().is_none() {
        return Ok([None, None]);
    }
    // How nothing is laid out makes no difference; but kernels' arguments are divided by the inner extent.
    let shape = if shape.is_empty() { Shape::new(0, shape.channels(), 1)? } else { shape };
    let args = given.args(pass, dtype, &shape, at)?;
    Ok(match pass.results() {
        Some(_) => sums(pass, dtype, &shape, &given, args),
        None => [Some(elementwise(pass, dtype, &given, args)), None],
    })
}

/// The addresses that the pass uses; all others are 0, which is a multiple of everything.
struct Given {
    input: u64,
    output: u64,
    x: u64,
    mask: u64,
    residual: u64,
    scale: u64,
    shift: u64,
    mean: u64,
    alpha: u64,
    beta: u64,
    gamma: u64,
    results: [u64; 2],
    workspace: u64,
}

impl Given {
    fn check(pass: &Pass, dtype: Dtype, n: usize, at: &FusedAddresses) -> CudaResult<Self> {
        let (of_tensor, of_vector) = (dtype.size(), real_size(dtype));
        // Tensors without elements have no addresses, and no mask.
        let tensor = |argument, address| if n == 0 { Ok(0) } else { checked(argument, address, of_tensor) };
        let optional_tensor = |argument, address| if address == 0 { Ok(0) } else { tensor(argument, address) };
        let used = |used: bool, argument, address: u64| {
            if used && address != 0 { checked(argument, address, of_vector) } else { Ok(0) }
        };
        let (is_sums, is_backward) =
            (matches!(pass, Pass::FusedSums { .. }), matches!(pass, Pass::FusedBackward { .. }));
        let input = tensor(pass.input(), at.tensors.input)?;
        let output = match pass {
            Pass::Statistics { .. } => 0,
            Pass::FusedSums { .. } => optional_tensor(pass.output(), at.tensors.output)?,
            _ => tensor(pass.output(), at.tensors.output)?,
        };
        let mask = match n > 0 && (pass.writes_mask() || pass.reads_mask()) {
            true => checked("mask", at.tensors.mask, size_of::<u32>())?,
            false => 0,
        };
        // Beta, gamma and mean come together, or none does.
        let rest = is_backward && [at.beta, at.gamma, at.mean].iter().any(|address| *address != 0);
        let of_rest = |argument, address| if rest { checked(argument, address, of_vector) } else { Ok(0) };
        let (beta, gamma) = (of_rest("beta", at.beta)?, of_rest("gamma", at.gamma)?);
        let mean = if rest { of_rest("mean", at.mean)? } else { used(is_sums, "mean", at.mean)? };
        let x = match pass.saved().is_some() || mean != 0 {
            true => tensor("x", at.tensors.saved)?,
            false => 0,
        };
        let z = pass.computes_z();
        let (mut results, mut workspace) = ([0; 2], 0);
        if let Some([first, second]) = pass.results() {
            results[0] = checked(first, at.results[0], of_vector)?;
            let wanted = matches!(pass, Pass::Statistics { .. }) || mean != 0;
            results[1] = if wanted { checked(second, at.results[1], of_vector)? } else { 0 };
            if n > 0 {
                workspace = checked("workspace", at.workspace, of_vector)?;
            }
        }
        Ok(Self {
            input,
            output,
            x,
            mask,
            residual: if z { optional_tensor("residual", at.residual)? } else { 0 },
            scale: used(z, "scale", at.scale)?,
            shift: used(z, "shift", at.shift)?,
            mean,
            alpha: used(is_backward, "alpha", at.alpha)?,
            beta,
            gamma,
            results,
            workspace,
        })
    }

    fn args(&self, pass: &Pass, dtype: Dtype, shape: &Shape, at: &FusedAddresses) -> CudaResult<da_args> {
        let vector = |address: u64| address as *const c_void;
        let (x, dy) = if pass.is_forward() { (self.input, 0) } else { (self.x, self.input) };
        let mut args = da_args {
            n: shape.len() as u64,
            x: vector(x),
            dy: vector(dy),
            out: self.output as *mut c_void,
            mask: self.mask as *mut u32,
            channels: shape.channels() as u64,
            inner: shape.inner() as u64,
            residual: vector(self.residual),
            scale: vector(self.scale),
            shift: vector(self.shift),
            alpha: vector(self.alpha),
            beta: vector(self.beta),
            gamma: vector(self.gamma),
            mean: vector(self.mean),
            ..parameters(pass, dtype)
        };
        if pass.key().is_some() {
            (args.offset_at, args.seed_at) = at.tensors.base()?;
        }
        // One channel may be cut into planes of any size.
        if shape.channels() == 1 {
            args.inner = DA_CHUNK_ELEMENTS.into();
        }
        args.by_channels = divisor(args.channels);
        args.by_inner = divisor(args.inner);
        Ok(args)
    }

    /// Whether packs can be taken of all tensors, and of all vectors too.
    fn aligned(&self) -> (bool, bool) {
        let tensors = self.input | self.output | self.x | self.residual;
        let vectors = self.scale | self.shift | self.mean | self.alpha | self.beta | self.gamma;
        let is_aligned = |addresses: u64| addresses.is_multiple_of(DA_PACK_BYTES.into());
        (is_aligned(tensors), is_aligned(tensors | vectors))
    }
}

/// What kernels make divisions by `by` of, for dividends below 2^63.
fn divisor(by: u64) -> da_divisor {
    let shift = by.next_power_of_two().trailing_zeros();
    da_divisor { multiplier: (1u128 << (63 + shift)).div_ceil(by.into()) as u64, shift }
}

/// Elements of a pack.
fn pack(dtype: Dtype) -> u64 {
    u64::from(DA_PACK_BYTES) / dtype.size() as u64
}

fn elementwise(pass: &Pass, dtype: Dtype, given: &Given, mut args: da_args) -> Launch {
    let (tensors_aligned, all_aligned) = given.aligned();
    let (pack, segment) = (pack(dtype), 32 * pack(dtype));
    args.tiles = args.n.div_ceil(DA_TILE_ELEMENTS.into());
    args.columns = args.channels / greatest_common_divisor(args.channels, segment);
    let layout = match args.inner {
        // Where packs are, kernels count channels, places in a plane and what is 32 columns apart in 32 bits.
        _ if args.channels.max(args.inner) >= 1 << 31 || args.columns >= 1 << 26 => DA_LAYOUT_ELEMENTS,
        1 if all_aligned && args.channels.is_multiple_of(pack) => DA_LAYOUT_ROWS,
        inner if tensors_aligned && inner.is_multiple_of(pack) => DA_LAYOUT_IMAGES,
        inner if tensors_aligned && inner >= pack => DA_LAYOUT_UNEVEN,
        _ => DA_LAYOUT_ELEMENTS,
    };
    args.layout = layout.into();
    if layout != DA_LAYOUT_ELEMENTS {
        args.full_tiles = args.n / u64::from(DA_TILE_ELEMENTS);
        args.step_channels = (segment / args.inner % args.channels) as u32;
        args.step_within = (segment % args.inner) as u32;
    }
    if layout == DA_LAYOUT_ROWS {
        args.column_tiles = args.full_tiles / args.columns * args.columns;
        args.by_columns = divisor(args.columns);
    }
    args.straight_tiles = match layout {
        _ if args.mixture == DA_MIXTURE_MIXED => 0,
        DA_LAYOUT_ROWS => args.column_tiles,
        DA_LAYOUT_IMAGES => args.full_tiles,
        _ => 0,
    };
    let entry = Entry::of(pass, dtype, false);
    Launch { entry, grid: geometry::grid(args.n), block: geometry::BLOCK, args }
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// The sums of chunks, and the sums of these.
fn sums(pass: &Pass, dtype: Dtype, shape: &Shape, given: &Given, mut args: da_args) -> [Option<Launch>; 2] {
    args.count = shape.count() as u64;
    args.chunks = chunks(shape) as u64;
    args.partial = given.workspace as *mut c_void;
    args.results = given.results.map(|address| address as *mut c_void);
    let (tensors_aligned, all_aligned) = given.aligned();
    let pack = pack(dtype);
    // The kernels of a gradient that needs z have one pack of channels to a warp, the others two (kAcross).
    let across = if pass.computes_z() { pack } else { 2 * pack };
    let (layout, along, across) = match args.inner {
        1 if all_aligned && args.channels.is_multiple_of(pack) => {
            (DA_LAYOUT_ROWS, args.chunks, args.channels.div_ceil(across))
        }
        inner if tensors_aligned && inner.is_multiple_of(pack) && args.count.is_multiple_of(pack) => {
            (DA_LAYOUT_IMAGES, args.chunks.div_ceil(pack), args.channels)
        }
        _ => (DA_LAYOUT_ELEMENTS, args.chunks, args.channels),
    };
    let units = along * across;
    args.layout = layout.into();
    args.across = across;
    args.by_across = divisor(across);
    args.within_step = 32 % args.inner;
    args.row_step = 32 / args.inner * args.channels * args.inner + args.within_step;
    let launch = |entry, warps| Launch { entry, grid: geometry::grid_of_warps(warps), block: geometry::BLOCK, args };
    let count = match pass {
        Pass::Statistics { .. } => 3,
        Pass::FusedSums { dz, .. } if dz.needs_z() || given.mean != 0 => 2,
        _ => 1,
    };
    let total = launch(Entry::total(count, dtype), args.channels);
    // Without elements the sums are zero, and nothing else is read.
    let of_chunks = (units != 0).then(|| launch(Entry::of(pass, dtype, given.mean != 0), units));
    [of_chunks, Some(total)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activation::Activation;
    use crate::cuda::error::CudaError;
    use crate::cuda::test_passes::{AT, DTYPES, fused_passes, key, op};
    use crate::error::Error;
    use crate::fused::Dz;

    /// Each at an address of its own, all aligned.
    fn everything() -> FusedAddresses {
        FusedAddresses {
            tensors: AT,
            residual: 0x7000,
            scale: 0x8000,
            shift: 0x9000,
            mean: 0xA000,
            alpha: 0xB000,
            beta: 0xC000,
            gamma: 0xD000,
            results: [0xE000, 0xF000],
            workspace: 0x1_0000,
        }
    }

    fn planned(pass: &Pass, dtype: Dtype, at: &FusedAddresses) -> Result<Vec<Launch>> {
        let shape = pass.shape().unwrap();
        Ok(plan(pass, shape, dtype, shape.len(), at)?.into_iter().flatten().collect())
    }

    fn forward(outer: usize, channels: usize, inner: usize) -> Pass {
        let shape = Shape::new(outer, channels, inner).unwrap();
        Pass::FusedForward { op: op(Activation::Relu, 0.95), key: key(), shape }
    }

    fn statistics(outer: usize, channels: usize, inner: usize) -> Pass {
        Pass::Statistics { shape: Shape::new(outer, channels, inner).unwrap() }
    }

    #[test]
    fn a_pass_is_one_launch_and_two_if_it_sums() {
        for activation in Activation::ALL {
            for (pass, _, _) in fused_passes(activation) {
                let launches = planned(&pass, Dtype::F32, &everything()).unwrap();
                let (sums, names) = (pass.results().is_some(), launches.iter().map(|launch| launch.entry.name()));
                assert_eq!(launches.len(), if sums { 2 } else { 1 }, "{pass:?}");
                assert_eq!(names.filter(|name| name.contains("_total_")).count(), usize::from(sums), "{pass:?}");
            }
        }
    }

    #[test]
    fn layouts_of_elementwise_passes() {
        let of = |pass: &Pass, dtype, at: &FusedAddresses| {
            let args = planned(pass, dtype, at).unwrap()[0].args;
            (args.layout as u32, args.full_tiles, args.columns, args.column_tiles, args.straight_tiles)
        };
        let at = everything();
        // 640 channels are two and a half segments of 256, so they begin anew after five.
        assert_eq!(of(&forward(100, 640, 1), Dtype::F16, &at), (DA_LAYOUT_ROWS, 62, 5, 60, 60));
        assert_eq!(of(&forward(100, 640, 1), Dtype::F32, &at), (DA_LAYOUT_ROWS, 62, 5, 60, 60));
        assert_eq!(of(&forward(100, 64, 1), Dtype::Bf16, &at), (DA_LAYOUT_ROWS, 6, 1, 6, 6));
        assert_eq!(of(&forward(100, 1000, 1), Dtype::F64, &at), (DA_LAYOUT_ROWS, 97, 125, 0, 0));
        assert_eq!(of(&forward(100, 12, 1), Dtype::F16, &at), (DA_LAYOUT_ELEMENTS, 0, 3, 0, 0), "half packs");
        assert_eq!(of(&forward(100, 12, 1), Dtype::F32, &at), (DA_LAYOUT_ROWS, 1, 3, 0, 0));
        assert_eq!(of(&forward(100, 3, 64), Dtype::F16, &at), (DA_LAYOUT_IMAGES, 18, 3, 0, 18));
        assert_eq!(of(&forward(100, 3, 49), Dtype::F16, &at), (DA_LAYOUT_UNEVEN, 14, 3, 0, 0), "packs of two channels");
        assert_eq!(of(&forward(100, 30, 7), Dtype::F16, &at), (DA_LAYOUT_ELEMENTS, 0, 15, 0, 0), "packs of three");
        assert_eq!(
            of(&forward(5000, 1, 1), Dtype::F16, &at),
            (DA_LAYOUT_IMAGES, 4, 1, 0, 4),
            "one channel is one image"
        );
        // Rows take packs of the vectors too.
        let vector = FusedAddresses { shift: at.shift + 4, ..at };
        assert_eq!(of(&forward(100, 640, 1), Dtype::F16, &vector), (DA_LAYOUT_ELEMENTS, 0, 5, 0, 0));
        assert_eq!(of(&forward(100, 3, 64), Dtype::F16, &vector), (DA_LAYOUT_IMAGES, 18, 3, 0, 18));
        let residual = FusedAddresses { residual: at.residual + 2, ..at };
        assert_eq!(of(&forward(100, 3, 64), Dtype::F16, &residual), (DA_LAYOUT_ELEMENTS, 0, 3, 0, 0));
        // What inference mixes is not for straight tiles, but its ends are.
        let infer = |p| Pass::FusedInfer { op: op(Activation::Relu, p), shape: Shape::new(100, 640, 1).unwrap() };
        assert_eq!(of(&infer(0.5), Dtype::F16, &at), (DA_LAYOUT_ROWS, 62, 5, 60, 0));
        assert_eq!(of(&infer(1.0), Dtype::F16, &at), (DA_LAYOUT_ROWS, 62, 5, 60, 60));
        // Numbers that 32 bits do not hold.
        assert_eq!(of(&forward(3, 1 << 31, 1), Dtype::F16, &at).0, DA_LAYOUT_ELEMENTS);
        assert_eq!(of(&forward(1, 3, 1 << 31), Dtype::F16, &at).0, DA_LAYOUT_ELEMENTS);
        assert_eq!(of(&forward(1, 1, (1 << 33) + 1), Dtype::F16, &at), (DA_LAYOUT_IMAGES, 1 << 23, 1, 0, 1 << 23));
    }

    /// The kernels' arithmetic (kernels/divisor.cuh), against a division.
    #[test]
    fn divisions_by_multiplication() {
        let quotient = |dividend: u64, by: da_divisor| {
            ((u128::from(2 * dividend) * u128::from(by.multiplier)) >> 64) as u64 >> by.shift
        };
        let mut numbers: Vec<u64> = (1..=70).collect();
        for power in 3..63 {
            numbers.extend([(1 << power) - 1, 1 << power, (1 << power) + 1, (1 << power) / 3, (1 << power) / 5 * 7]);
        }
        numbers.retain(|number| *number < 1 << 63);
        for &by in &numbers {
            let of = divisor(by);
            for &dividend in numbers.iter().chain(&[0, (1 << 63) - 1]) {
                // What is next to a multiple is where a multiplier that is too small or too large shows.
                let multiple = dividend / by * by;
                for dividend in [dividend, multiple, multiple.saturating_sub(1)] {
                    assert_eq!(quotient(dividend, of), dividend / by, "{dividend} / {by}");
                }
            }
        }
    }

    /// As many warps as it takes to give each its chunks.
    #[test]
    fn layouts_of_sums() {
        let of = |pass: &Pass, dtype| {
            let launches = planned(pass, dtype, &everything()).unwrap();
            let args = launches[0].args;
            (args.layout as u32, args.count, args.chunks, launches[0].grid, launches[1].grid)
        };
        assert_eq!(of(&statistics(3000, 640, 1), Dtype::F16), (DA_LAYOUT_ROWS, 3000, 3, 15, 80));
        assert_eq!(of(&statistics(128, 64, 3136), Dtype::F16), (DA_LAYOUT_IMAGES, 401_408, 392, 392, 8));
        assert_eq!(of(&statistics(128, 64, 49), Dtype::F32), (DA_LAYOUT_ELEMENTS, 6272, 7, 56, 8));
        let dz = Dz::Inference(op(Activation::Silu, 0.5));
        let sums = Pass::FusedSums { dz, shape: Shape::new(3000, 640, 1).unwrap() };
        assert_eq!(of(&sums, Dtype::F16), (DA_LAYOUT_ROWS, 3000, 3, 30, 80));
    }

    #[test]
    fn sums_of_nothing_are_one_launch() {
        let pass = Pass::FusedSums { dz: Dz::Given, shape: Shape::new(0, 640, 1).unwrap() };
        let at = FusedAddresses { workspace: 0, ..everything() };
        let launches = planned(&pass, Dtype::Bf16, &at).unwrap();
        assert_eq!(launches.iter().map(|l| l.entry.name()).collect::<Vec<_>>(), ["da_fused_products_total_f32"]);
        let shape = Shape::new(0, 640, 1).unwrap();
        let error = planned(&Pass::Statistics { shape }, Dtype::F32, &at).unwrap_err();
        assert_eq!(error, Error::NoElements { outer: 0, channels: 640, inner: 1 });
        // Then there are no tensors to have an address.
        let none = FusedAddresses { results: at.results, ..FusedAddresses::default() };
        assert_eq!(planned(&pass, Dtype::Bf16, &none).unwrap().len(), 1);
        assert!(planned(&forward(0, 3, 2), Dtype::F32, &none).unwrap().is_empty());
    }

    #[test]
    fn workspaces_have_a_value_for_each_sum_of_each_chunk() {
        let dz = Dz::Given;
        let shape = Shape::new(3000, 7, 1).unwrap();
        assert_eq!(workspace_bytes(&Pass::Statistics { shape }, Dtype::F16), 3 * 7 * 3 * 4);
        assert_eq!(workspace_bytes(&Pass::FusedSums { dz, shape }, Dtype::F64), 2 * 7 * 3 * 8);
        assert_eq!(workspace_bytes(&Pass::FusedBackward { dz, shape }, Dtype::F64), 0);
        assert_eq!(workspace_bytes(&Pass::ReluForward, Dtype::F64), 0);
    }

    /// What a pass needs, by the name in the error: left out, and at an odd address.
    #[test]
    fn addresses_that_are_absent_or_misaligned() {
        type Set = fn(&mut FusedAddresses, u64);
        type Get = fn(&FusedAddresses) -> u64;
        let fields: [(&str, Set, Get); 14] = [
            ("input", |at, to| at.tensors.input = to, |at| at.tensors.input),
            ("x", |at, to| at.tensors.saved = to, |at| at.tensors.saved),
            ("output", |at, to| at.tensors.output = to, |at| at.tensors.output),
            ("mask", |at, to| at.tensors.mask = to, |at| at.tensors.mask),
            ("residual", |at, to| at.residual = to, |at| at.residual),
            ("scale", |at, to| at.scale = to, |at| at.scale),
            ("shift", |at, to| at.shift = to, |at| at.shift),
            ("mean", |at, to| at.mean = to, |at| at.mean),
            ("alpha", |at, to| at.alpha = to, |at| at.alpha),
            ("beta", |at, to| at.beta = to, |at| at.beta),
            ("gamma", |at, to| at.gamma = to, |at| at.gamma),
            ("first", |at, to| at.results[0] = to, |at| at.results[0]),
            ("second", |at, to| at.results[1] = to, |at| at.results[1]),
            ("workspace", |at, to| at.workspace = to, |at| at.workspace),
        ];
        for dtype in DTYPES {
            for activation in [Activation::Relu, Activation::Gelu] {
                for (pass, _, _) in fused_passes(activation) {
                    let [is_sums, is_backward] =
                        [matches!(pass, Pass::FusedSums { .. }), matches!(pass, Pass::FusedBackward { .. })];
                    for (field, set, get) in fields {
                        // Whether the pass looks at it, and whether it may be absent.
                        let (looked_at, optional) = match field {
                            "input" => (true, false),
                            "x" => (is_sums || is_backward, false),
                            "output" => (!matches!(pass, Pass::Statistics { .. }), is_sums),
                            "mask" => (pass.reads_mask() || pass.writes_mask(), false),
                            "residual" | "scale" | "shift" => (pass.computes_z(), true),
                            "mean" => (is_sums || is_backward, is_sums),
                            "alpha" => (is_backward, true),
                            "beta" | "gamma" => (is_backward, false),
                            _ => (pass.results().is_some(), false),
                        };
                        let name = match field {
                            "input" => pass.input(),
                            "output" => pass.output(),
                            "first" | "second" => {
                                pass.results().map_or("", |names| names[usize::from(field == "second")])
                            }
                            other => other,
                        };
                        let what = format!("{field} of {pass:?}, {}", dtype.name());
                        let mut at = everything();
                        set(&mut at, 0);
                        let absent = planned(&pass, dtype, &at).map(|_| ());
                        let missing = Err(CudaError::NullPointer { argument: name }.into());
                        assert_eq!(absent, if looked_at && !optional { missing } else { Ok(()) }, "{what}");
                        let mut at = everything();
                        let odd = get(&at) + 1;
                        set(&mut at, odd);
                        let alignment = match field {
                            "input" | "x" | "output" | "residual" => dtype.size(),
                            "mask" => 4,
                            _ => real_size(dtype),
                        };
                        let misaligned = Err(CudaError::Misaligned { argument: name, address: odd, alignment }.into());
                        let given = planned(&pass, dtype, &at).map(|_| ());
                        assert_eq!(given, if looked_at { misaligned } else { Ok(()) }, "{what}");
                    }
                }
            }
        }
    }
}
