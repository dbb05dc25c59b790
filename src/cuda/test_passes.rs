//! Every pass once, and addresses for it, for the tests of what is made of them.

use super::addresses::Addresses;
use crate::activation::Activation;
use crate::element::Dtype;
use crate::fused::{Dz, Shape};
use crate::key::MaskKey;
use crate::operation::{DropActivation, RRelu};
use crate::pass::Pass;

pub(super) const DTYPES: [Dtype; 4] = [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::F64];

/// Each of its own, all aligned.
pub(super) const AT: Addresses = Addresses {
    input: 0x1000,
    saved: 0x2000,
    output: 0x3000,
    mask: 0x4000,
    offset_at: 0x5000,
    seed_at: 0x5800,
    offset_out: 0x6000,
};

pub(super) fn key() -> MaskKey {
    MaskKey::new(0x1234_5678_9ABC_DEF0, 7).shard(1 << 40).unwrap()
}

pub(super) fn op(activation: Activation, p: f64) -> DropActivation {
    DropActivation::new(activation, p).unwrap()
}

pub(super) fn passes(activation: Activation) -> Vec<Pass> {
    let (op, key) = (op(activation, 0.95), key());
    vec![Pass::Forward { op, key }, Pass::Backward { op }, Pass::Infer { op }, Pass::InferBackward { op }]
}

/// Those that know one activation only.
pub(super) fn other_passes() -> Vec<Pass> {
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

/// Those over channels, whether they have a mean, and the kernels that do them, without `da_` and type.
pub(super) fn fused_passes(activation: Activation) -> Vec<(Pass, bool, String)> {
    let (op, key, shape) = (op(activation, 0.95), key(), Shape::new(2, 3, 4).unwrap());
    let [training, inference] = [Dz::Training(op), Dz::Inference(op)];
    let relu = activation == Activation::Relu;
    let infer = if relu { "infer_" } else { "" };
    let of_sums =
        |mean: bool| if relu && !mean { "fused_sums_relu".to_owned() } else { format!("fused_products_{activation}") };
    vec![
        (Pass::FusedForward { op, key, shape }, false, format!("fused_forward_{activation}")),
        (Pass::FusedInfer { op, shape }, false, format!("fused_forward_{activation}")),
        (Pass::FusedBackward { dz: training, shape }, true, format!("fused_backward_{activation}")),
        (Pass::FusedBackward { dz: inference, shape }, false, format!("fused_{infer}backward_{activation}")),
        (Pass::FusedBackward { dz: Dz::Given, shape }, true, "fused_backward_relu".to_owned()),
        (Pass::FusedSums { dz: training, shape }, true, of_sums(true)),
        (Pass::FusedSums { dz: training, shape }, false, of_sums(false)),
        (Pass::FusedSums { dz: inference, shape }, true, format!("fused_{infer}products_{activation}")),
        (Pass::FusedSums { dz: inference, shape }, false, format!("fused_{infer}products_{activation}")),
        (Pass::FusedSums { dz: Dz::Given, shape }, true, "fused_products_relu".to_owned()),
        (Pass::FusedSums { dz: Dz::Given, shape }, false, "fused_sums_relu".to_owned()),
        (Pass::Statistics { shape }, false, "fused_moments".to_owned()),
    ]
}
