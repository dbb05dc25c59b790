//! Batch normalisation and Drop-Activation in one module.

use std::any::Any;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Device, Error, Layout, ModuleT, Result, Shape, Storage, Tensor,
    Var, WithDType, bail,
};
use drop_activation::fused::{self, BatchNorm, Gradient, Normalised, Preactivation, Running, cpu as passes};
use drop_activation::{DropActivation, Element, KeySequence, MaskKey, PackedMask};

#[cfg(feature = "cuda")]
use crate::batch_norm_cuda as cuda;
use crate::cpu::elements;
use crate::element::with_element;
use crate::layer::{ActivationLayer, checked};
use crate::normalisation::{Normalisation, of_dims};

/// A batch normalisation, a residual if there is one, and [`DropActivation`], in fewer passes over memory than three
/// operations take: `y = drop_activation((x - mean) / sqrt(variance + eps) * weight + bias + residual)`.
///
/// x has the shape (batch, channels, ...), of f32, f64, f16 or bf16, and is copied first where it is not contiguous.
/// Weight, bias and the running statistics have a value for each channel, of f64 where x is of f64 and of f32 else.
///
/// Training takes the statistics of x and moves the running ones, `running = (1 - momentum) running + momentum batch`
/// with the unbiased variance; a frozen layer takes the running ones and leaves them. Inference takes the running ones.
/// All are differentiable by candle's `backward`, by x, the residual, weight and bias; second derivatives of training
/// are an error.
///
/// A clone has the same running statistics and takes its keys from the same sequence.
#[derive(Clone, Debug)]
pub struct BatchNormDropActivation {
    activation: ActivationLayer,
    op: DropActivation,
    weight: Tensor,
    bias: Tensor,
    running_mean: Var,
    running_variance: Var,
    eps: f64,
    momentum: f64,
    frozen: bool,
}

impl BatchNormDropActivation {
    /// With parameters and running statistics of the caller's, such as a `VarMap`'s.
    ///
    /// # Errors
    /// Unless weight, bias and running statistics are vectors of one length and one type, f32 or f64; unless eps is
    /// positive and finite and momentum from 0 to 1.
    #[expect(clippy::too_many_arguments)]
    pub fn new(
        op: DropActivation,
        keys: impl Into<Arc<KeySequence>>,
        weight: Tensor,
        bias: Tensor,
        running_mean: Var,
        running_variance: Var,
        eps: f64,
        momentum: f64,
    ) -> Result<Self> {
        if !matches!(weight.dtype(), DType::F32 | DType::F64) {
            bail!("weight must be a tensor of f32 or f64, got {}", weight.dtype().as_str());
        }
        let vectors = [
            ("weight", &weight),
            ("bias", &bias),
            ("running_mean", running_mean.as_tensor()),
            ("running_variance", running_variance.as_tensor()),
        ];
        for (name, vector) in vectors {
            if vector.dims().len() != 1 || vector.dims() != weight.dims() || vector.dtype() != weight.dtype() {
                bail!(
                    "{name} must be a vector like weight, of shape {:?} and type {}, got shape {:?} and type {}",
                    weight.dims(),
                    weight.dtype().as_str(),
                    vector.dims(),
                    vector.dtype().as_str()
                );
            }
        }
        if !(eps > 0.0 && eps.is_finite()) {
            return Err(Error::wrap(drop_activation::Error::Epsilon { eps }));
        }
        if !(0.0..=1.0).contains(&momentum) {
            return Err(Error::wrap(drop_activation::Error::Momentum { momentum }));
        }
        let activation = ActivationLayer::new(op.into(), keys);
        Ok(Self { activation, op, weight, bias, running_mean, running_variance, eps, momentum, frozen: false })
    }

    /// Whether training takes the running statistics and leaves them as they are.
    pub fn set_frozen(&mut self, frozen: bool) {
        self.frozen = frozen;
    }

    /// Where its keys come from.
    pub fn keys(&self) -> &Arc<KeySequence> {
        self.activation.keys()
    }

    /// The layer with a residual: a tensor of x's shape and type that is added after the normalisation.
    ///
    /// # Errors
    /// Unless x has a type named above, the layer's channels in its second dimension, and the layer's type of arithmetic;
    /// unless the residual is like x; in training, if a channel has one element or none. No key was taken and no
    /// statistics moved then.
    pub fn forward_with_residual(&self, x: &Tensor, residual: Option<&Tensor>, train: bool) -> Result<Tensor> {
        let x = self.checked(x, residual)?;
        let residual = residual.map(Tensor::contiguous).transpose()?;
        if !train {
            return self.infer(&x, residual.as_ref());
        }
        // Drawn when the call was found in order. What is left to fail is a channel of one element.
        let count = x.elem_count() / x.dims()[1].max(1);
        if count == 0 || count == 1 && !self.frozen {
            bail!("x must have more than one element for each channel, got shape {:?}", x.dims());
        }
        self.train(&x, residual.as_ref(), self.keys().next_key())
    }

    fn checked(&self, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        let real = if x.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        let contiguous = checked(x)?;
        if real != self.weight.dtype() {
            let (weight, given) = (self.weight.dtype().as_str(), x.dtype().as_str());
            let allowed = if self.weight.dtype() == DType::F64 { "f64" } else { "f32, f16 or bf16" };
            bail!("x must be a tensor of {allowed}, since weight is of {weight}, got {given}");
        }
        let channels = self.weight.dims()[0];
        if x.dims().len() < 2 || x.dims()[1] != channels {
            bail!("x must have {channels} channels in its second dimension, got shape {:?}", x.dims());
        }
        if let Some(residual) = residual
            && (residual.dims() != x.dims() || residual.dtype() != x.dtype())
        {
            bail!(
                "residual must be like x, of shape {:?} and type {}, got shape {:?} and type {}",
                x.dims(),
                x.dtype().as_str(),
                residual.dims(),
                residual.dtype().as_str()
            );
        }
        Ok(contiguous)
    }

    fn train(&self, x: &Tensor, residual: Option<&Tensor>, key: MaskKey) -> Result<Tensor> {
        let normalisation = Normalisation {
            op: self.op,
            key,
            eps: self.eps,
            momentum: self.momentum,
            frozen: self.frozen,
            running: [self.running_mean.as_detached_tensor(), self.running_variance.as_detached_tensor()],
            weight: self.weight.detach(),
            bias: self.bias.detach(),
        };
        let training = Training { normalisation, saved: Arc::default() };
        let saved = training.saved.clone();
        let parameters = Tensor::stack(&[&self.weight, &self.bias], 0)?;
        let y = match residual {
            Some(residual) => x.apply_op3(residual, &parameters, training)?,
            None => x.apply_op2(&parameters, training)?,
        };
        if let (false, Some(saved)) = (self.frozen, saved.get()) {
            for (running, moved) in [&self.running_mean, &self.running_variance].into_iter().zip(&saved.moved) {
                running.set(moved)?;
            }
        }
        Ok(y)
    }

    /// Made of candle's operations, in the type of the arithmetic.
    fn infer(&self, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        let wide = self.weight.dtype();
        // No gradient goes through the statistics, which an optimizer of all variables would move by it.
        let [mean, variance] = [&self.running_mean, &self.running_variance].map(Var::as_detached_tensor);
        let scale = (&self.weight / (variance + self.eps)?.sqrt()?)?;
        let shift = (&self.bias - (mean * &scale)?)?;
        let mut shape = vec![1; x.dims().len()];
        shape[1] = scale.dims()[0];
        let (scale, shift) = (scale.reshape(&shape[..])?, shift.reshape(&shape[..])?);
        let mut z = x.to_dtype(wide)?.broadcast_mul(&scale)?.broadcast_add(&shift)?;
        if let Some(residual) = residual {
            z = (z + residual.to_dtype(wide)?)?;
        }
        self.activation.forward_t(&z, false)?.to_dtype(x.dtype())
    }
}

impl ModuleT for BatchNormDropActivation {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        self.forward_with_residual(x, None, train)
    }
}

/// What a forward pass leaves for its backward pass.
struct Saved {
    normalised: OnDevice,
    /// The running statistics afterwards.
    moved: [Tensor; 2],
}

/// Where the pass was made.
enum OnDevice {
    /// The mask, and a `Normalised` of the type of the arithmetic.
    Cpu(PackedMask, Box<dyn Any + Send + Sync>),
    #[cfg(feature = "cuda")]
    Cuda(cuda::Normalised),
}

/// A training forward pass, from x, the residual if there is one, and weight and bias as one tensor, which is there for
/// its gradient.
struct Training {
    normalisation: Normalisation,
    saved: Arc<OnceLock<Saved>>,
}

/// A tensor as candle gives it to an operation.
type Source<'a> = (&'a CpuStorage, &'a Layout);

impl Training {
    const NAME: &str = "batch normalisation with drop-activation";

    fn run(&self, x: Source<'_>, residual: Option<Source<'_>>) -> Result<(CpuStorage, Shape)> {
        use candle_core::backend::BackendStorage;
        let Normalisation { op, key, eps, momentum, frozen, running, weight, bias } = &self.normalisation;
        let shape = of_dims(x.1)?;
        let (y, saved) = with_element!(x.0.dtype(), T => {
            type Real = <T as Element>::Real;
            let (x, residual) = (elements::<T>(x)?, residual.map(elements::<T>).transpose()?);
            let (weight, bias) = (weight.to_vec1::<Real>()?, bias.to_vec1()?);
            let norm = BatchNorm { weight: Some(&weight), bias: Some(&bias), eps: *eps };
            let [mut mean, mut variance] = [running[0].to_vec1::<Real>()?, running[1].to_vec1()?];
            let normalised = if *frozen {
                norm.with_statistics(shape, &mean, &variance)
            } else {
                let running = Running { mean: &mut mean, variance: &mut variance, momentum: *momentum };
                norm.of_batch(shape, x, Some(running))
            }
            .map_err(Error::wrap)?;
            let mut y = vec![T::default(); x.len()];
            let mask = passes::forward(op, *key, shape, &normalised.before(residual), (x, &mut y));
            let moved = [Tensor::new(mean, &Device::Cpu)?, Tensor::new(variance, &Device::Cpu)?];
            let normalised = OnDevice::Cpu(mask.map_err(Error::wrap)?, Box::new(normalised));
            Ok::<_, Error>((T::to_cpu_storage_owned(y), Saved { normalised, moved }))
        })?;
        self.keep(saved)?;
        Ok((y, x.1.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn run_on_cuda(
        &self,
        x: (&CudaStorage, &Layout),
        residual: Option<(&CudaStorage, &Layout)>,
    ) -> Result<(CudaStorage, Shape)> {
        let (y, normalised, moved) = cuda::forward(&self.normalisation, x, residual)?;
        self.keep(Saved { normalised: OnDevice::Cuda(normalised), moved })?;
        Ok((y, x.1.shape().clone()))
    }

    fn keep(&self, saved: Saved) -> Result<()> {
        self.saved.set(saved).or_else(|_| bail!("the forward pass of one call was run twice"))
    }

    /// The gradients of x, the residual, and weight and bias.
    fn gradients(&self, x: &Tensor, residual: Option<&Tensor>, dy: &Tensor) -> Result<[Option<Tensor>; 3]> {
        let others: Others = Arc::default();
        let dy = dy.contiguous()?;
        let backward = Backward { op: self.normalisation.op, saved: self.saved.clone(), others: others.clone() };
        let dx = match residual {
            Some(residual) => dy.apply_op3(x, residual, backward)?,
            None => dy.apply_op2(x, backward)?,
        };
        let dr = residual.map(|_| dy.apply_op1(Other { others: others.clone(), parameters: false })).transpose()?;
        let parameters = dy.apply_op1(Other { others, parameters: true })?;
        Ok([Some(dx), dr, Some(parameters)])
    }
}

impl CustomOp2 for Training {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn cpu_fwd(&self, x: &CpuStorage, x_layout: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.run((x, x_layout), None)
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.run_on_cuda((x, x_layout), None)
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, _: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [dx, _, parameters] = self.gradients(x, None, dy)?;
        Ok((dx, parameters))
    }
}

impl CustomOp3 for Training {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        residual: &CpuStorage,
        residual_layout: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.run((x, x_layout), Some((residual, residual_layout)))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        residual: &CudaStorage,
        residual_layout: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.run_on_cuda((x, x_layout), Some((residual, residual_layout)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        residual: &Tensor,
        _: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [dx, dr, parameters] = self.gradients(x, Some(residual), dy)?;
        Ok((dx, dr, parameters))
    }
}

/// The gradients of the residual and of weight and bias, which the backward pass makes beside that of x.
type Others = Arc<Mutex<[Option<(Storage, Shape)>; 2]>>;

/// The backward pass, from dy, x and the residual to dx. It has none itself, and so a second derivative is candle's error.
struct Backward {
    op: DropActivation,
    saved: Arc<OnceLock<Saved>>,
    others: Others,
}

impl Backward {
    const NAME: &str = "the backward pass of batch normalisation with drop-activation";

    fn run(&self, dy: Source<'_>, x: Source<'_>, residual: Option<Source<'_>>) -> Result<(CpuStorage, Shape)> {
        use candle_core::backend::BackendStorage;
        let Some(Saved { normalised: OnDevice::Cpu(mask, normalised), .. }) = self.saved.get() else {
            bail!("{}: dy is on the CPU; the mask is not", Self::NAME)
        };
        let (shape, dims) = (of_dims(x.1)?, x.1.shape().clone());
        with_element!(x.0.dtype(), T => {
            type Real = <T as Element>::Real;
            let Some(normalised) = normalised.downcast_ref::<Normalised<Real>>() else {
                bail!("{}: x has changed its type", Self::NAME)
            };
            let (dy, x, residual) = (elements::<T>(dy)?, elements::<T>(x)?, residual.map(elements::<T>).transpose()?);
            let z = Preactivation { x, before: normalised.before(residual) };
            let by = Gradient::Training(&self.op, mask, Some(z));
            let mut dx = vec![T::default(); x.len()];
            let mut dr = residual.map(|_| vec![T::default(); x.len()]);
            let of = normalised.backward(shape, &by, x, (dy, &mut dx[..]), dr.as_deref_mut()).map_err(Error::wrap)?;
            let parameters = Real::to_cpu_storage_owned([of.weight, of.bias].concat());
            self.leave(dr.map(|dr| Storage::Cpu(T::to_cpu_storage_owned(dr))), Storage::Cpu(parameters), &dims, shape);
            Ok((T::to_cpu_storage_owned(dx), dims))
        })
    }

    #[cfg(feature = "cuda")]
    fn run_on_cuda(
        &self,
        dy: (&CudaStorage, &Layout),
        x: (&CudaStorage, &Layout),
        residual: Option<(&CudaStorage, &Layout)>,
    ) -> Result<(CudaStorage, Shape)> {
        let Some(Saved { normalised: OnDevice::Cuda(normalised), .. }) = self.saved.get() else {
            bail!("{}: dy is on a CUDA device; the mask is not", Self::NAME)
        };
        let (shape, dims) = (of_dims(x.1)?, x.1.shape().clone());
        let (dx, dr, parameters) = cuda::backward(&self.op, normalised, dy, x, residual)?;
        self.leave(dr.map(Storage::Cuda), Storage::Cuda(parameters), &dims, shape);
        Ok((dx, dims))
    }

    fn leave(&self, dr: Option<Storage>, parameters: Storage, dims: &Shape, shape: fused::Shape) {
        let others = [dr.map(|dr| (dr, dims.clone())), Some((parameters, Shape::from((2, shape.channels()))))];
        *self.others.lock().unwrap_or_else(PoisonError::into_inner) = others;
    }
}

impl CustomOp2 for Backward {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn cpu_fwd(&self, dy: &CpuStorage, l1: &Layout, x: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        self.run((dy, l1), (x, l2), None)
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, dy: &CudaStorage, l1: &Layout, x: &CudaStorage, l2: &Layout) -> Result<(CudaStorage, Shape)> {
        self.run_on_cuda((dy, l1), (x, l2), None)
    }
}

impl CustomOp3 for Backward {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn cpu_fwd(
        &self,
        dy: &CpuStorage,
        dy_layout: &Layout,
        x: &CpuStorage,
        x_layout: &Layout,
        residual: &CpuStorage,
        residual_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.run((dy, dy_layout), (x, x_layout), Some((residual, residual_layout)))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        dy: &CudaStorage,
        dy_layout: &Layout,
        x: &CudaStorage,
        x_layout: &Layout,
        residual: &CudaStorage,
        residual_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.run_on_cuda((dy, dy_layout), (x, x_layout), Some((residual, residual_layout)))
    }
}

/// Hands out what the backward pass has made. It stands for a function of dy, whose derivative is candle's error too.
struct Other {
    others: Others,
    /// Or the residual.
    parameters: bool,
}

impl Other {
    fn take(&self) -> Option<(Storage, Shape)> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)[usize::from(self.parameters)].take()
    }
}

impl CustomOp1 for Other {
    fn name(&self) -> &'static str {
        Backward::NAME
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        match self.take() {
            Some((Storage::Cpu(gradient), shape)) => Ok((gradient, shape)),
            _ => bail!("{}: it has no such gradient", Backward::NAME),
        }
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        match self.take() {
            Some((Storage::Cuda(gradient), shape)) => Ok((gradient, shape)),
            _ => bail!("{}: it has no such gradient", Backward::NAME),
        }
    }
}
