//! ResNet (He et al., 2015): the nonlinearity after the addition.

use candle_core::{Result, Tensor};
use candle_nn::{Linear, Module, ModuleT};
use serde::Serialize;

use super::layers::{Builder, Conv, Norm, global_pool};
use super::{Task, blocks};
use crate::activation::Site;

/// What a block is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Kind {
    /// Two 3 x 3 convolutions.
    Basic,
    /// 1 x 1, 3 x 3 and 1 x 1, the last of four times the width.
    Bottleneck,
}

/// How the shortcut changes the number of channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Shortcut {
    /// Every other pixel, and channels of zeros (option A).
    Padded,
    /// A 1 x 1 convolution (option B).
    Projected,
}

/// Depth and width.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Config {
    /// Counts the convolutions and the last layer.
    pub depth: usize,
    /// Of the first stage; it doubles from stage to stage.
    pub width: usize,
    /// Of all blocks.
    pub kind: Kind,
    /// Where the number of channels changes.
    pub shortcut: Shortcut,
    /// How many stages: three for CIFAR's networks.
    pub stages: usize,
}

impl Config {
    /// ResNet-20 to ResNet-110 for CIFAR.
    pub fn basic(depth: usize) -> Self {
        Self { depth, width: 16, kind: Kind::Basic, shortcut: Shortcut::Padded, stages: 3 }
    }

    /// ResNet-164, from He et al. (2016).
    pub fn bottleneck(depth: usize) -> Self {
        Self { kind: Kind::Bottleneck, shortcut: Shortcut::Projected, ..Self::basic(depth) }
    }

    /// ImageNet's ResNet-18 behind a 3 x 3 convolution, as DeVries and Taylor (2017) use it.
    pub fn resnet18() -> Self {
        Self { depth: 18, width: 64, shortcut: Shortcut::Projected, stages: 4, ..Self::basic(18) }
    }

    fn blocks(&self) -> Result<usize> {
        let layers = if self.kind == Kind::Basic { 2 } else { 3 };
        match self.stages {
            3 => blocks("ResNet", self.depth, layers, 2),
            n if (self.depth - 2).is_multiple_of(n * layers) => Ok((self.depth - 2) / (n * layers)),
            n => candle_core::bail!("depth {} of ResNet with {n} stages: allowed are 2 + {} n", self.depth, n * layers),
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct ResNet {
    stem: (Conv, Norm, Site),
    stages: Vec<Vec<Block>>,
    classifier: Linear,
}

#[derive(Debug)]
struct Block {
    layers: Vec<(Conv, Norm)>,
    /// One after each layer, the last of them after the addition.
    activations: Vec<Site>,
    shortcut: Option<(Conv, Norm)>,
    /// Where the shortcut has no weights: the step from pixel to pixel.
    stride: usize,
}

/// What the shift ratio is measured at.
pub struct Probes {
    /// The output of the second stage.
    pub module: Tensor,
    /// Within the last block of that stage, the input of its second batch normalisation.
    pub inner: Tensor,
}

impl ResNet {
    /// Builds it; the parameters are the builder's.
    ///
    /// # Errors
    /// Those of the device, and a depth that it has not.
    pub fn new(config: &Config, task: Task, b: &mut Builder) -> Result<Self> {
        let per_stage = config.blocks()?;
        let stem = (b.conv("stem", task.channels, config.width, 3, 1)?, b.norm("stem", config.width)?, b.activation()?);
        let mut inputs = config.width;
        let mut stages = Vec::new();
        for stage in 0..config.stages {
            let width = config.width << stage;
            let mut blocks = Vec::new();
            for i in 0..per_stage {
                let stride = if stage > 0 && i == 0 { 2 } else { 1 };
                let block = Block::new(&format!("stage{stage}.{i}"), config, (inputs, width, stride), b)?;
                inputs = if config.kind == Kind::Basic { width } else { 4 * width };
                blocks.push(block);
            }
            stages.push(blocks);
        }
        Ok(Self { stem, stages, classifier: b.linear("classifier", inputs, task.classes)? })
    }

    fn stem(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let (conv, norm, activation) = &self.stem;
        activation.forward_t(&norm.forward_t(&conv.forward(x)?, train)?, train)
    }

    /// Goes as far as the end of the second stage.
    ///
    /// # Errors
    /// Those of the device.
    pub fn probes(&self, x: &Tensor, train: bool) -> Result<Probes> {
        let mut x = self.stem(x, train)?;
        let (last, before) = self.stages[1].split_last().expect("a block");
        for block in self.stages[0].iter().chain(before) {
            x = block.forward_t(&x, train)?;
        }
        let (conv, norm) = &last.layers[0];
        let first = last.activations[0].forward_t(&norm.forward_t(&conv.forward(&x)?, train)?, train)?;
        let inner = last.layers[1].0.forward(&first)?;
        Ok(Probes { module: last.forward_t(&x, train)?, inner })
    }
}

impl ModuleT for ResNet {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let mut x = self.stem(x, train)?;
        for block in self.stages.iter().flatten() {
            x = block.forward_t(&x, train)?;
        }
        self.classifier.forward(&global_pool(&x)?)
    }
}

impl Block {
    fn new(
        name: &str,
        config: &Config,
        (inputs, width, stride): (usize, usize, usize),
        b: &mut Builder,
    ) -> Result<Self> {
        let outputs = if config.kind == Kind::Basic { width } else { 4 * width };
        // (inputs, outputs, kernel, stride) of each layer.
        let shapes: &[(usize, usize, usize, usize)] = match config.kind {
            Kind::Basic => &[(inputs, width, 3, stride), (width, width, 3, 1)],
            Kind::Bottleneck => &[(inputs, width, 1, stride), (width, width, 3, 1), (width, outputs, 1, 1)],
        };
        let mut layers = Vec::new();
        let mut activations = Vec::new();
        for (i, (inputs, outputs, kernel, stride)) in shapes.iter().copied().enumerate() {
            let name = format!("{name}.conv{i}");
            layers.push((b.conv(&name, inputs, outputs, kernel, stride)?, b.norm(&name, outputs)?));
            activations.push(b.activation()?);
        }
        let shortcut = if inputs != outputs && config.shortcut == Shortcut::Projected {
            let name = format!("{name}.shortcut");
            Some((b.conv(&name, inputs, outputs, 1, stride)?, b.norm(&name, outputs)?))
        } else {
            None
        };
        Ok(Self { layers, activations, shortcut, stride })
    }

    fn shortcut(&self, x: &Tensor, outputs: usize, train: bool) -> Result<Tensor> {
        if let Some((conv, norm)) = &self.shortcut {
            return norm.forward_t(&conv.forward(x)?, train);
        }
        let mut x = x.clone();
        if self.stride > 1 {
            for dimension in [2, 3] {
                let end = x.dim(dimension)? as u32;
                let kept = Tensor::arange_step(0, end, self.stride as u32, x.device())?;
                x = x.index_select(&kept, dimension)?;
            }
        }
        let inputs = x.dim(1)?;
        if outputs > inputs { x.pad_with_zeros(1, 0, outputs - inputs) } else { Ok(x) }
    }
}

impl ModuleT for Block {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let (last, before) = self.activations.split_last().expect("an activation for each layer");
        let mut y = x.clone();
        for (i, (conv, norm)) in self.layers.iter().enumerate() {
            y = norm.forward_t(&conv.forward(&y)?, train)?;
            if let Some(activation) = before.get(i) {
                y = activation.forward_t(&y, train)?;
            }
        }
        let shortcut = self.shortcut(x, y.dim(1)?, train)?;
        last.forward_t(&(y + shortcut)?, train)
    }
}
