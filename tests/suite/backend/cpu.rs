//! The rayon backend.

use drop_activation::{DropActivation, InOut, MaskKey, PackedMask, Result, cpu};

use super::{Backend, Call, dirty_mask};
use crate::data::Bits;

#[derive(Debug)]
pub struct Cpu;

impl Backend for Cpu {
    fn name(&self) -> String {
        "cpu".to_owned()
    }

    fn run<T: Bits>(&self, call: &Call<T>, io: InOut<T>) -> Result<Option<PackedMask>> {
        let mut mask = dirty_mask();
        match *call {
            Call::Forward(op, key) => return cpu::forward(&op, key, io).map(Some),
            Call::ForwardInto(op, key) => {
                cpu::forward_into(&op, key, io, &mut mask)?;
                return Ok(Some(mask));
            }
            Call::ForwardWithoutMask(op, key) => cpu::forward_without_mask(&op, key, io),
            Call::Backward(op, mask, x) => cpu::backward(&op, mask, x, io),
            Call::BackwardFromOutput(op, y) => cpu::backward_from_output(&op, y, io),
            Call::Infer(op) => cpu::infer(&op, io),
            Call::InferBackward(op, x) => cpu::infer_backward(&op, x, io),
            Call::RreluForward(op, key) => return cpu::rrelu_forward(&op, key, io).map(Some),
            Call::RreluForwardInto(op, key) => {
                cpu::rrelu_forward_into(&op, key, io, &mut mask)?;
                return Ok(Some(mask));
            }
            Call::RreluBackward(op, mask) => cpu::rrelu_backward(&op, mask, io),
            Call::RreluInfer(op) => cpu::rrelu_infer(&op, io),
            Call::RreluInferBackward(op, x) => cpu::rrelu_infer_backward(&op, x, io),
            Call::ReluForward => cpu::relu_forward(io),
            Call::ReluBackward(y) => cpu::relu_backward(y, io),
        }?;
        Ok(None)
    }

    fn keep_words(&self, p: f64, key: MaskKey, len: usize) -> Result<Vec<u32>> {
        cpu::keep_mask(&DropActivation::relu(p)?, key, len)
    }
}
