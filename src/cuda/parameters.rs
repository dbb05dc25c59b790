//! What a kernel gets besides addresses: the pass's key and numbers, in the form that its threads want them.

use super::layout::{DA_MIXTURE_IDENTITY, DA_MIXTURE_MIXED, DA_MIXTURE_SIGMA, da_args, da_divisor};
use crate::element::Dtype;
use crate::float_environment::in_default;
use crate::fused::Dz;
use crate::key::MaskKey;
use crate::operation::{DropActivation, Mixture};
use crate::pass::Pass;

/// Of what nothing is divided by.
const NO_DIVISOR: da_divisor = da_divisor { multiplier: 0, shift: 0 };

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
    seed_at: std::ptr::null(),
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
    channels: 0,
    inner: 0,
    by_channels: NO_DIVISOR,
    by_inner: NO_DIVISOR,
    layout: 0,
    step_channels: 0,
    step_within: 0,
    columns: 0,
    by_columns: NO_DIVISOR,
    column_tiles: 0,
    straight_tiles: 0,
    residual: std::ptr::null(),
    scale: std::ptr::null(),
    shift: std::ptr::null(),
    alpha: std::ptr::null(),
    beta: std::ptr::null(),
    gamma: std::ptr::null(),
    mean: std::ptr::null(),
    count: 0,
    chunks: 0,
    across: 0,
    by_across: NO_DIVISOR,
    row_step: 0,
    within_step: 0,
    partial: std::ptr::null_mut(),
    results: [std::ptr::null_mut(); 2],
};

/// The key and the numbers of `pass`, for a kernel of `dtype`. All else is as in [`NOTHING`].
pub(super) fn parameters(pass: &Pass, dtype: Dtype) -> da_args {
    let mut args = NOTHING;
    if let Some(key) = pass.key() {
        set_key(&mut args, key);
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
        Pass::FusedForward { op, .. } => {
            set_threshold(&mut args, op.threshold());
            args.mixture = DA_MIXTURE_SIGMA;
        }
        Pass::FusedInfer { op, .. } => set_fused_mixture(&mut args, op, dtype),
        Pass::FusedSums { dz, .. } | Pass::FusedBackward { dz, .. } => match dz {
            Dz::Given => args.constant_word = u32::MAX,
            Dz::Training(_) => args.mixture = DA_MIXTURE_SIGMA,
            Dz::Inference(op) => set_fused_mixture(&mut args, op, dtype),
        },
        Pass::Statistics { .. } => {}
    }
    args
}

fn set_key(args: &mut da_args, key: MaskKey) {
    args.shard_start = key.first();
    args.round_keys = round_keys(key.seed());
    args.offset = key.offset();
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

/// For kernels that are of training too: a bit chooses between the identity and what may be a mixture.
fn set_fused_mixture(args: &mut da_args, op: &DropActivation, dtype: Dtype) {
    set_mixture(args, op, dtype);
    args.constant_word = if args.mixture == DA_MIXTURE_IDENTITY { 0 } else { u32::MAX };
}

fn set_slope(args: &mut da_args, slope: f64) {
    args.slope = slope;
    args.slope_f32 = in_default(slope, |slope| slope as f32);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activation::Activation;
    use crate::cuda::test_passes::{key, op};
    use crate::operation::RRelu;

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
        assert_eq!(parameters(&pass(0.5), Dtype::F32).plane_masks[..2], [u32::MAX, 0]);
        assert_eq!(parameters(&pass(1.0), Dtype::F32).plane_masks, [0; 12]);
    }

    #[test]
    fn thresholds_at_the_edges() {
        let of = |p: f64| {
            let pass = Pass::Forward { op: op(Activation::Relu, p), key: key() };
            let (_, [threshold, planes, constant, mixture], p, p_f32) = numbers(&parameters(&pass, Dtype::F32));
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
            let (of_stream, [threshold, planes, constant, mixture], p, p_f32) = numbers(&parameters(&pass, Dtype::F64));
            assert_eq!((of_stream, threshold, planes, constant), ([0; 4], 0, 0, 0), "unused fields are zero");
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
        let stream = [0, key.first(), key.seed(), key.offset()];
        for pass in [Pass::RreluForward { op, key }, Pass::RreluBackward { op, key }] {
            let args = parameters(&pass, Dtype::F16);
            assert_eq!(numbers(&args), (stream, [0; 4], [0.0; 2], [0.0, 0.0, 0.25, 0.5]));
        }
        for pass in [Pass::RreluInfer { op }, Pass::RreluInferBackward { op }] {
            let args = parameters(&pass, Dtype::F16);
            assert_eq!(numbers(&args), ([0; 4], [0; 4], [0.0, 0.375], [0.0, 0.375, 0.0, 0.0]));
        }
    }
}
