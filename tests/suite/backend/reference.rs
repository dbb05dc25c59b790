//! The scalar specification.

use drop_activation::{DropActivation, Error, InOut, MaskKey, PackedMask, Result, reference};

use super::{Backend, Call, Run};
use crate::data::Bits;

#[derive(Debug)]
pub struct Reference;

impl<T: Bits> Run<T> for Reference {
    fn run_call(&self, call: &Call<T>, io: InOut<T>) -> Result<Option<PackedMask>> {
        let input: &[T] = match &io {
            InOut::OutOfPlace(input, _) => input,
            InOut::InPlace(both) => both,
        };
        let (result, mask) = match *call {
            Call::Forward(op, key) | Call::ForwardInto(op, key) => {
                let (y, mask) = reference::forward(&op, key, input)?;
                (y, Some(mask))
            }
            // The specification always makes the mask; what is left to check is who may throw it away.
            Call::ForwardWithoutMask(op, key) => match op.activation() {
                drop_activation::Activation::Relu => (reference::forward(&op, key, input)?.0, None),
                activation => return Err(Error::NeedsMask { activation }),
            },
            Call::Backward(op, mask, x) => (reference::backward(&op, mask, x, input)?, None),
            Call::BackwardFromOutput(op, y) => (reference::backward_from_output(&op, y, input)?, None),
            Call::Infer(op) => (reference::infer(&op, input), None),
            Call::InferBackward(op, x) => (reference::infer_backward(&op, x, input)?, None),
            Call::RreluForward(op, key) | Call::RreluForwardInto(op, key) => {
                let (y, mask) = reference::rrelu_forward(&op, key, input)?;
                (y, Some(mask))
            }
            Call::RreluBackward(op, mask) => (reference::rrelu_backward(&op, mask, input)?, None),
            Call::RreluInfer(op) => (reference::rrelu_infer(&op, input), None),
            Call::RreluInferBackward(op, x) => (reference::rrelu_infer_backward(&op, x, input)?, None),
            Call::ReluForward => (reference::relu_forward(input), None),
            Call::ReluBackward(y) => (reference::relu_backward(y, input)?, None),
        };
        match io {
            InOut::OutOfPlace(_, output) => output.copy_from_slice(&result),
            InOut::InPlace(both) => both.copy_from_slice(&result),
        }
        Ok(mask)
    }
}

impl Backend for Reference {
    fn name(&self) -> String {
        "reference".to_owned()
    }

    fn is_slow(&self) -> bool {
        true
    }

    fn keep_words(&self, p: f64, key: MaskKey, len: usize) -> Result<Vec<u32>> {
        reference::keep_mask(&DropActivation::relu(p)?, key, len)
    }
}
