//! One call of a layer as candle's graph knows it: an operation object of its own, which holds what that
//! call's backward pass needs. candle drops it together with the tensors that were computed through it.

use std::sync::{Arc, OnceLock};

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Error, Layout, Result, Shape, Tensor, bail};
use drop_activation::{MaskKey, MaskOrigin, PackedMask};

use crate::cpu;
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::nonlinearity::{Nonlinearity, Random};

/// A mask, where its call was made.
pub(crate) enum Mask {
    Cpu(PackedMask),
    #[cfg(feature = "cuda")]
    Cuda(drop_activation::cuda::DeviceMask),
}

impl Mask {
    fn origin(&self) -> MaskOrigin {
        match self {
            Self::Cpu(mask) => mask.origin(),
            #[cfg(feature = "cuda")]
            Self::Cuda(mask) => mask.origin(),
        }
    }

    /// Whether the backward pass reads x besides the mask.
    fn needs_input(&self) -> bool {
        matches!(self.origin(), MaskOrigin::DropActivation(op) if op.activation().backward_needs_input())
    }
}

/// A training forward pass.
pub(crate) struct Training {
    random: Random,
    key: MaskKey,
    /// Set by the forward pass.
    mask: Arc<OnceLock<Mask>>,
}

impl Training {
    pub(crate) fn new(random: Random, key: MaskKey) -> Self {
        Self { random, key, mask: Arc::default() }
    }

    fn keep(&self, mask: Mask) -> Result<()> {
        self.mask.set(mask).or_else(|_| bail!("the forward pass of one call was run twice"))
    }
}

impl CustomOp1 for Training {
    fn name(&self) -> &'static str {
        match self.random {
            Random::RRelu(_) => "rrelu",
            Random::DropActivation(_) => "drop-activation",
        }
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (y, mask) = cpu::train(&self.random, self.key, (x, layout))?;
        self.keep(Mask::Cpu(mask))?;
        Ok((y, layout.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (y, mask) = cuda::train(&self.random, self.key, (x, layout))?;
        self.keep(Mask::Cuda(mask))?;
        Ok((y, layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let Some(mask) = self.mask.get() else { bail!("{}: backward without a forward pass", self.name()) };
        let dy = dy.contiguous()?;
        let backward = TrainingBackward { mask: self.mask.clone() };
        if mask.needs_input() { dy.apply_op2(x, backward) } else { dy.apply_op1(backward) }.map(Some)
    }
}

/// The backward pass of a [`Training`], from dy, or from dy and x, to dx.
///
/// What needs no x is linear in pieces: from dy to dx it multiplies each element by a number, so it is its own backward
/// pass. What needs x has none, and so a second derivative of it is candle's error and not a wrong number.
struct TrainingBackward {
    mask: Arc<OnceLock<Mask>>,
}

impl TrainingBackward {
    const NAME: &str = "the backward pass of drop-activation or rrelu";

    fn cpu(&self, dy: (&CpuStorage, &Layout), x: Option<(&CpuStorage, &Layout)>) -> Result<(CpuStorage, Shape)> {
        match self.mask.get() {
            Some(Mask::Cpu(mask)) => Ok((cpu::train_backward(mask, x, dy)?, dy.1.shape().clone())),
            _ => bail!("dy must be on the CUDA device of the mask, got a tensor on the CPU"),
        }
    }

    #[cfg(feature = "cuda")]
    fn cuda(&self, dy: (&CudaStorage, &Layout), x: Option<(&CudaStorage, &Layout)>) -> Result<(CudaStorage, Shape)> {
        match self.mask.get() {
            Some(Mask::Cuda(mask)) => Ok((cuda::train_backward(mask, x, dy)?, dy.1.shape().clone())),
            _ => bail!("dy must be on the CPU, as the mask is, got a tensor on a CUDA device"),
        }
    }
}

impl CustomOp1 for TrainingBackward {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn cpu_fwd(&self, dy: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        self.cpu((dy, layout), None)
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, dy: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        self.cuda((dy, layout), None)
    }

    fn bwd(&self, _dy: &Tensor, _dx: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        gradient.contiguous()?.apply_op1(Self { mask: self.mask.clone() }).map(Some)
    }
}

impl CustomOp2 for TrainingBackward {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn cpu_fwd(
        &self,
        dy: &CpuStorage,
        dy_layout: &Layout,
        x: &CpuStorage,
        x_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.cpu((dy, dy_layout), Some((x, x_layout)))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        dy: &CudaStorage,
        dy_layout: &Layout,
        x: &CudaStorage,
        x_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.cuda((dy, dy_layout), Some((x, x_layout)))
    }
}

/// An inference forward pass; for plain ReLU a training one too.
pub(crate) struct Inference(pub(crate) Nonlinearity);

impl CustomOp1 for Inference {
    fn name(&self) -> &'static str {
        match self.0 {
            Nonlinearity::Relu => "relu",
            Nonlinearity::RRelu(_) => "rrelu at inference",
            Nonlinearity::DropActivation(_) => "drop-activation at inference",
        }
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((cpu::infer(&self.0, (x, layout))?, layout.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        Ok((cuda::infer(&self.0, (x, layout))?, layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        // Plain ReLU's backward pass reads y, which the next operation mostly keeps alive anyway.
        let saved = if self.0 == Nonlinearity::Relu { y } else { x };
        dy.contiguous()?.apply_op2(saved, InferenceBackward(self.0)).map(Some)
    }
}

/// The backward pass of an [`Inference`], from dy and the saved tensor to dx. Of second derivatives the same is
/// true as for [`TrainingBackward`]: those of what is linear in pieces do not depend on the saved tensor.
struct InferenceBackward(Nonlinearity);

impl CustomOp2 for InferenceBackward {
    fn name(&self) -> &'static str {
        match self.0 {
            Nonlinearity::Relu => "the backward pass of relu",
            Nonlinearity::RRelu(_) => "the backward pass of rrelu at inference",
            Nonlinearity::DropActivation(_) => "the backward pass of drop-activation at inference",
        }
    }

    fn cpu_fwd(
        &self,
        dy: &CpuStorage,
        dy_layout: &Layout,
        saved: &CpuStorage,
        saved_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let dx = cpu::infer_backward(&self.0, (saved, saved_layout), (dy, dy_layout))?;
        Ok((dx, dy_layout.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        dy: &CudaStorage,
        dy_layout: &Layout,
        saved: &CudaStorage,
        saved_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let dx = cuda::infer_backward(&self.0, (saved, saved_layout), (dy, dy_layout))?;
        Ok((dx, dy_layout.shape().clone()))
    }

    fn bwd(
        &self,
        _dy: &Tensor,
        saved: &Tensor,
        _dx: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        if self.0.is_piecewise_linear() {
            Ok((Some(gradient.contiguous()?.apply_op2(saved, Self(self.0))?), None))
        } else {
            Err(Error::BackwardNotSupported { op: CustomOp2::name(self) }.bt())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use candle_core::{Device, Var};
    use drop_activation::{Activation, DropActivation};

    use super::*;

    /// A training call of 100 elements: its result, and a look at its mask that does not keep it.
    fn call(x: &Tensor, activation: Activation) -> (Tensor, Weak<OnceLock<Mask>>) {
        let op = DropActivation::new(activation, 0.5).unwrap();
        let training = Training::new(Random::DropActivation(op), MaskKey::new(1, 2));
        let mask = Arc::downgrade(&training.mask);
        (x.apply_op1(training).unwrap(), mask)
    }

    fn variable() -> Var {
        Var::ones(100, candle_core::DType::F32, &Device::Cpu).unwrap()
    }

    #[test]
    fn a_mask_lives_as_long_as_its_result() {
        let x = variable();
        let (y, mask) = call(&x, Activation::Relu);
        let later = (&y * 2.0).unwrap();
        drop(y);
        assert!(mask.upgrade().is_some(), "later needs it");
        drop(later);
        assert!(mask.upgrade().is_none(), "a forward pass without a backward pass leaks its mask");
    }

    #[test]
    fn a_backward_pass_leaves_nothing_behind() {
        for activation in Activation::ALL {
            let x = variable();
            let (y, mask) = call(&x, activation);
            let gradients = y.backward().unwrap();
            assert!(gradients.get(&x).is_some());
            drop(gradients);
            assert!(mask.upgrade().is_some());
            drop(y);
            assert!(mask.upgrade().is_none(), "{activation}");
        }
    }

    #[test]
    fn a_mask_that_no_gradient_can_ask_for_is_dropped_at_once() {
        let (_y, mask) = call(&variable().detach(), Activation::Relu);
        assert!(mask.upgrade().is_none());
    }

    /// candle's backward pass adds gradients up, and so hands out contiguous ones; that is not promised anywhere.
    #[test]
    fn a_gradient_with_another_layout_is_read_by_its_layout() {
        let x = Tensor::arange(-7f64, 8.0, &Device::Cpu).unwrap().reshape((3, 5)).unwrap();
        let dy = Tensor::arange(1f64, 16.0, &Device::Cpu).unwrap().reshape((5, 3)).unwrap().t().unwrap();
        let op = DropActivation::relu(0.5).unwrap();
        let training = Training::new(Random::DropActivation(op), MaskKey::new(1, 2));
        let y = x.apply_op1_no_bwd(&training).unwrap();
        let calls: [(&dyn CustomOp1, &Tensor); 2] = [(&training, &y), (&Inference(op.into()), &y)];
        for (call, y) in calls {
            let rows = |dy: &Tensor| call.bwd(&x, y, dy).unwrap().unwrap().to_vec2::<f64>().unwrap();
            assert_eq!(rows(&dy), rows(&dy.contiguous().unwrap()), "{}", call.name());
        }
    }
}
