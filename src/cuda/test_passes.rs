//! Every pass once, for the tests of what is made of it.

use crate::activation::Activation;
use crate::element::Dtype;
use crate::key::MaskKey;
use crate::operation::{DropActivation, RRelu};
use crate::pass::Pass;

pub(super) const DTYPES: [Dtype; 4] = [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::F64];

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
