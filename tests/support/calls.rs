//! Every call of the public interface as a value: how it is made on the CPU and on CUDA, and what is wrong with it.

use drop_activation::{
    Activation, DropActivation, Element, Error, InOut, MaskKey, MaskOrigin, PackedMask, RRelu, Result, cpu, reference,
};

/// One pass with all its arguments but the tensor it reads (x, or dy in a backward pass) and the one it writes. `S` is
/// the type of a saved tensor and `M` of a mask: a slice and a `PackedMask` on the CPU, the device's own on CUDA.
#[derive(Clone, Copy, Debug)]
pub enum Call<S, M> {
    Forward(DropActivation, MaskKey),
    /// Refills a mask that was made for something else.
    ForwardInto(DropActivation, MaskKey),
    ForwardWithoutMask(DropActivation, MaskKey),
    Backward(DropActivation, M, Option<S>),
    BackwardFromOutput(DropActivation, S),
    Infer(DropActivation),
    InferBackward(DropActivation, S),
    RreluForward(RRelu, MaskKey),
    RreluForwardInto(RRelu, MaskKey),
    RreluBackward(RRelu, M),
    RreluInfer(RRelu),
    RreluInferBackward(RRelu, S),
    ReluForward,
    ReluBackward(S),
}

/// A call with what it reads on the host.
pub type HostCall<'a, T> = Call<&'a [T], &'a PackedMask>;

/// Which call, without its arguments.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Forward,
    ForwardInto,
    ForwardWithoutMask,
    Backward,
    BackwardFromOutput,
    Infer,
    InferBackward,
    RreluForward,
    RreluForwardInto,
    RreluBackward,
    RreluInfer,
    RreluInferBackward,
    ReluForward,
    ReluBackward,
}

impl Kind {
    pub const ALL: [Self; 14] = [
        Self::Forward,
        Self::ForwardInto,
        Self::ForwardWithoutMask,
        Self::Backward,
        Self::BackwardFromOutput,
        Self::Infer,
        Self::InferBackward,
        Self::RreluForward,
        Self::RreluForwardInto,
        Self::RreluBackward,
        Self::RreluInfer,
        Self::RreluInferBackward,
        Self::ReluForward,
        Self::ReluBackward,
    ];

    pub fn reads_mask(self) -> bool {
        matches!(self, Self::Backward | Self::RreluBackward)
    }

    /// Whether the call refills a mask of the caller's.
    pub fn refills_mask(self) -> bool {
        matches!(self, Self::ForwardInto | Self::RreluForwardInto)
    }

    /// What its input and its output are called.
    pub fn tensors(self) -> (&'static str, &'static str) {
        match self {
            Self::Backward
            | Self::BackwardFromOutput
            | Self::InferBackward
            | Self::RreluBackward
            | Self::RreluInferBackward
            | Self::ReluBackward => ("dy", "dx"),
            _ => ("x", "y"),
        }
    }
}

/// What calls of every kind are made of.
#[derive(Clone, Copy)]
pub struct Arguments<S, M> {
    pub op: DropActivation,
    pub rrelu: RRelu,
    pub key: MaskKey,
    pub mask: M,
    pub saved: S,
    /// Whether `Backward` gets the saved tensor, which ReLU's need not.
    pub with_saved: bool,
}

impl<S, M> Call<S, M> {
    pub fn new(kind: Kind, arguments: Arguments<S, M>) -> Self {
        let Arguments { op, rrelu, key, mask, saved, with_saved } = arguments;
        match kind {
            Kind::Forward => Self::Forward(op, key),
            Kind::ForwardInto => Self::ForwardInto(op, key),
            Kind::ForwardWithoutMask => Self::ForwardWithoutMask(op, key),
            Kind::Backward => Self::Backward(op, mask, with_saved.then_some(saved)),
            Kind::BackwardFromOutput => Self::BackwardFromOutput(op, saved),
            Kind::Infer => Self::Infer(op),
            Kind::InferBackward => Self::InferBackward(op, saved),
            Kind::RreluForward => Self::RreluForward(rrelu, key),
            Kind::RreluForwardInto => Self::RreluForwardInto(rrelu, key),
            Kind::RreluBackward => Self::RreluBackward(rrelu, mask),
            Kind::RreluInfer => Self::RreluInfer(rrelu),
            Kind::RreluInferBackward => Self::RreluInferBackward(rrelu, saved),
            Kind::ReluForward => Self::ReluForward,
            Kind::ReluBackward => Self::ReluBackward(saved),
        }
    }

    pub fn kind(&self) -> Kind {
        match self {
            Self::Forward(..) => Kind::Forward,
            Self::ForwardInto(..) => Kind::ForwardInto,
            Self::ForwardWithoutMask(..) => Kind::ForwardWithoutMask,
            Self::Backward(..) => Kind::Backward,
            Self::BackwardFromOutput(..) => Kind::BackwardFromOutput,
            Self::Infer(..) => Kind::Infer,
            Self::InferBackward(..) => Kind::InferBackward,
            Self::RreluForward(..) => Kind::RreluForward,
            Self::RreluForwardInto(..) => Kind::RreluForwardInto,
            Self::RreluBackward(..) => Kind::RreluBackward,
            Self::RreluInfer(..) => Kind::RreluInfer,
            Self::RreluInferBackward(..) => Kind::RreluInferBackward,
            Self::ReluForward => Kind::ReluForward,
            Self::ReluBackward(..) => Kind::ReluBackward,
        }
    }

    /// The saved tensor that it reads beside dy, and what that is called.
    pub fn saved(&self) -> Option<(&'static str, &S)> {
        match self {
            Self::Backward(_, _, saved) => saved.as_ref().map(|saved| ("x", saved)),
            Self::InferBackward(_, saved) | Self::RreluInferBackward(_, saved) => Some(("x", saved)),
            Self::BackwardFromOutput(_, saved) | Self::ReluBackward(saved) => Some(("y", saved)),
            _ => None,
        }
    }

    /// The mask that it reads.
    pub fn mask(&self) -> Option<&M> {
        match self {
            Self::Backward(_, mask, _) | Self::RreluBackward(_, mask) => Some(mask),
            _ => None,
        }
    }

    /// The same call with its saved tensor and its mask in another form.
    pub fn map<S2, M2>(self, saved: impl FnOnce(S) -> S2, mask: impl FnOnce(M) -> M2) -> Call<S2, M2> {
        match self {
            Self::Forward(op, key) => Call::Forward(op, key),
            Self::ForwardInto(op, key) => Call::ForwardInto(op, key),
            Self::ForwardWithoutMask(op, key) => Call::ForwardWithoutMask(op, key),
            Self::Backward(op, given, x) => Call::Backward(op, mask(given), x.map(saved)),
            Self::BackwardFromOutput(op, y) => Call::BackwardFromOutput(op, saved(y)),
            Self::Infer(op) => Call::Infer(op),
            Self::InferBackward(op, x) => Call::InferBackward(op, saved(x)),
            Self::RreluForward(op, key) => Call::RreluForward(op, key),
            Self::RreluForwardInto(op, key) => Call::RreluForwardInto(op, key),
            Self::RreluBackward(op, given) => Call::RreluBackward(op, mask(given)),
            Self::RreluInfer(op) => Call::RreluInfer(op),
            Self::RreluInferBackward(op, x) => Call::RreluInferBackward(op, saved(x)),
            Self::ReluForward => Call::ReluForward,
            Self::ReluBackward(y) => Call::ReluBackward(saved(y)),
        }
    }

    /// The errors that this call may return; none if it must succeed. The lengths are those of the input, the output
    /// and the saved tensor; `mask` is the origin and the length of the mask that is read. This does not use the
    /// library's own checks, so that it can judge them.
    pub fn due(&self, len: usize, output: usize, saved: usize, mask: (MaskOrigin, usize)) -> Vec<Error> {
        let mut due = Vec::new();
        let (reads, writes) = self.kind().tensors();
        let lengths = [Some((writes, output, reads)), self.saved().map(|(name, _)| (name, saved, "dy"))];
        for (argument, given, other) in lengths.into_iter().flatten().filter(|(_, given, _)| *given != len) {
            due.push(Error::Length { argument, given, other, expected: len });
        }
        let is_relu = |op: &DropActivation| op.activation() == Activation::Relu;
        match self {
            Self::Forward(_, key)
            | Self::ForwardInto(_, key)
            | Self::ForwardWithoutMask(_, key)
            | Self::RreluForward(_, key)
            | Self::RreluForwardInto(_, key) => due.extend(overrun(*key, len)),
            _ => {}
        }
        match self {
            Self::ForwardWithoutMask(op, _) | Self::BackwardFromOutput(op, _) if !is_relu(op) => {
                due.push(Error::NeedsMask { activation: op.activation() });
            }
            Self::Backward(op, _, None) if !is_relu(op) => {
                due.push(Error::MissingInput { activation: op.activation() });
            }
            _ => {}
        }
        let (origin, mask_len) = mask;
        let (own, expected) = match (self, origin) {
            (Self::Backward(op, ..), MaskOrigin::DropActivation(made_by)) => (made_by == *op, op.to_string()),
            (Self::Backward(op, ..), MaskOrigin::RRelu(..)) => (false, op.to_string()),
            (Self::RreluBackward(op, _), MaskOrigin::RRelu(made_by, _)) => (made_by == *op, op.to_string()),
            (Self::RreluBackward(op, _), MaskOrigin::DropActivation(_)) => (false, op.to_string()),
            _ => return due,
        };
        if !own {
            due.push(Error::MaskOrigin { given: origin, expected });
        }
        if mask_len != len {
            due.push(Error::MaskLength { given: mask_len, other: "dy", expected: len });
        }
        due
    }
}

/// The error of a key whose elements would be counted beyond 64 bits.
pub fn overrun(key: MaskKey, len: usize) -> Option<Error> {
    let last_is_beyond = len != 0 && key.first().checked_add(len as u64 - 1).is_none();
    last_is_beyond.then(|| Error::IndexRange { first: key.first(), len })
}

/// The calls of Drop-Activation with these arguments, each with the tensor that it reads. Masks are the reference's.
pub fn each_of_drop_activation<T: Element>(
    op: DropActivation,
    key: MaskKey,
    (x, dy): (&[T], &[T]),
    mut check: impl FnMut(&HostCall<T>, &[T]),
) {
    let (y, mask) = reference::forward(&op, key, x).expect("a valid call");
    check(&Call::Forward(op, key), x);
    check(&Call::ForwardInto(op, key), x);
    check(&Call::Backward(op, &mask, op.activation().backward_needs_input().then_some(x)), dy);
    check(&Call::Infer(op), x);
    check(&Call::InferBackward(op, x), dy);
    if op.activation() == Activation::Relu {
        check(&Call::ForwardWithoutMask(op, key), x);
        check(&Call::BackwardFromOutput(op, &y), dy);
    }
}

/// The same of RReLU and of plain ReLU.
pub fn each_of_the_others<T: Element>(
    rrelu: RRelu,
    key: MaskKey,
    (x, dy): (&[T], &[T]),
    mut check: impl FnMut(&HostCall<T>, &[T]),
) {
    let (_, signs) = reference::rrelu_forward(&rrelu, key, x).expect("a valid call");
    check(&Call::RreluForward(rrelu, key), x);
    check(&Call::RreluForwardInto(rrelu, key), x);
    check(&Call::RreluBackward(rrelu, &signs), dy);
    check(&Call::RreluInfer(rrelu), x);
    check(&Call::RreluInferBackward(rrelu, x), dy);
    check(&Call::ReluForward, x);
    check(&Call::ReluBackward(&reference::relu_forward(x)), dy);
}

/// Makes the call on the CPU backend. Returns the mask of the calls that make one; `refilled` is for those that refill.
pub fn on_cpu<T: Element>(call: &HostCall<T>, io: InOut<T>, refilled: &mut PackedMask) -> Result<Option<PackedMask>> {
    match *call {
        Call::Forward(op, key) => return cpu::forward(&op, key, io).map(Some),
        Call::ForwardInto(op, key) => cpu::forward_into(&op, key, io, refilled),
        Call::ForwardWithoutMask(op, key) => cpu::forward_without_mask(&op, key, io),
        Call::Backward(op, mask, x) => cpu::backward(&op, mask, x, io),
        Call::BackwardFromOutput(op, y) => cpu::backward_from_output(&op, y, io),
        Call::Infer(op) => cpu::infer(&op, io),
        Call::InferBackward(op, x) => cpu::infer_backward(&op, x, io),
        Call::RreluForward(op, key) => return cpu::rrelu_forward(&op, key, io).map(Some),
        Call::RreluForwardInto(op, key) => cpu::rrelu_forward_into(&op, key, io, refilled),
        Call::RreluBackward(op, mask) => cpu::rrelu_backward(&op, mask, io),
        Call::RreluInfer(op) => cpu::rrelu_infer(&op, io),
        Call::RreluInferBackward(op, x) => cpu::rrelu_infer_backward(&op, x, io),
        Call::ReluForward => cpu::relu_forward(io),
        Call::ReluBackward(y) => cpu::relu_backward(y, io),
    }?;
    Ok(None)
}

#[cfg(feature = "cuda")]
mod cuda {
    use std::sync::Arc;

    use drop_activation::cuda::cudarc::driver::CudaStream;
    use drop_activation::cuda::{DeviceMask, InOut, Kernels, Saved};
    use drop_activation::{Element, Result};

    use super::Call;

    /// A call with its saved tensor on a device; its mask is given apart.
    pub type DeviceCall<'a, T> = Call<&'a dyn Saved<T>, ()>;

    /// Enqueues the call on the CUDA backend. Returns the mask of the calls that make one; `mask` is for those that
    /// read or refill one.
    pub fn on_cuda<'a, T: Element>(
        kernels: &Kernels,
        stream: &Arc<CudaStream>,
        call: &DeviceCall<T>,
        io: impl Into<InOut<'a, T>>,
        mask: &mut DeviceMask,
    ) -> Result<Option<DeviceMask>> {
        match *call {
            Call::Forward(op, key) => return kernels.forward(stream, &op, key, io).map(Some),
            Call::ForwardInto(op, key) => kernels.forward_into(stream, &op, key, io, mask),
            Call::ForwardWithoutMask(op, key) => kernels.forward_without_mask(stream, &op, key, io),
            Call::Backward(op, (), x) => kernels.backward(stream, &op, mask, x, io),
            Call::BackwardFromOutput(op, y) => kernels.backward_from_output(stream, &op, y, io),
            Call::Infer(op) => kernels.infer(stream, &op, io),
            Call::InferBackward(op, x) => kernels.infer_backward(stream, &op, x, io),
            Call::RreluForward(op, key) => return kernels.rrelu_forward(stream, &op, key, io).map(Some),
            Call::RreluForwardInto(op, key) => kernels.rrelu_forward_into(stream, &op, key, io, mask),
            Call::RreluBackward(op, ()) => kernels.rrelu_backward(stream, &op, mask, io),
            Call::RreluInfer(op) => kernels.rrelu_infer(stream, &op, io),
            Call::RreluInferBackward(op, x) => kernels.rrelu_infer_backward(stream, &op, x, io),
            Call::ReluForward => kernels.relu_forward(stream, io),
            Call::ReluBackward(y) => kernels.relu_backward(stream, y, io),
        }?;
        Ok(None)
    }
}
#[cfg(feature = "cuda")]
#[allow(unused_imports)]
pub use cuda::{DeviceCall, on_cuda};
