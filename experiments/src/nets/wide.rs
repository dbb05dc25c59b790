//! Wide-ResNet (Zagoruyko and Komodakis, 2016): basic blocks in PreResNet's order, dropout between their
//! convolutions.

use candle_core::{Result, Tensor};
use candle_nn::{Linear, Module, ModuleT};
use serde::Serialize;

use super::layers::{Builder, Conv, Norm, global_pool};
use super::{Task, blocks};
use crate::activation::{Dropout, Site};

/// Depth and width.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Config {
    /// 4 + 6 n.
    pub depth: usize,
    /// The factor by which it is wider than `width`.
    pub factor: usize,
    /// Of the first convolution.
    pub width: usize,
    /// The rate of its dropout: the source's best results have 0.3 on CIFAR and 0.4 on SVHN.
    pub dropout: f64,
}

impl Config {
    /// WRN-depth-factor.
    pub fn new(depth: usize, factor: usize, dropout: f64) -> Self {
        Self { depth, factor, width: 16, dropout }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Wide {
    stem: Conv,
    blocks: Vec<Block>,
    head: (Norm, Site),
    classifier: Linear,
}

#[derive(Debug)]
struct Block {
    first: (Norm, Site, Conv),
    dropout: Option<Dropout>,
    second: (Norm, Site, Conv),
    projection: Option<Conv>,
}

impl Wide {
    /// Builds it; the parameters are the builder's.
    ///
    /// # Errors
    /// Those of the device, and a depth that it has not.
    pub fn new(config: &Config, task: Task, b: &mut Builder) -> Result<Self> {
        let per_stage = blocks("Wide-ResNet", config.depth, 2, 4)?;
        let stem = b.conv("stem", task.channels, config.width, 3, 1)?;
        let mut inputs = config.width;
        let mut all = Vec::new();
        for stage in 0..3 {
            let width = (config.width * config.factor) << stage;
            for i in 0..per_stage {
                let stride = if stage > 0 && i == 0 { 2 } else { 1 };
                let name = |part: &str| format!("stage{stage}.{i}.{part}");
                let mut layer = |part: &str, inputs, stride| -> Result<_> {
                    let norm = b.norm(&name(part), inputs)?;
                    Ok((norm, b.activation()?, b.conv(&name(part), inputs, width, 3, stride)?))
                };
                let (first, second) = (layer("conv0", inputs, stride)?, layer("conv1", width, 1)?);
                let dropout = if config.dropout > 0.0 { Some(b.dropout(config.dropout)?) } else { None };
                let projection = if inputs == width && stride == 1 {
                    None
                } else {
                    Some(b.conv(&name("shortcut"), inputs, width, 1, stride)?)
                };
                all.push(Block { first, dropout, second, projection });
                inputs = width;
            }
        }
        let head = (b.norm("head", inputs)?, b.activation()?);
        Ok(Self { stem, blocks: all, head, classifier: b.linear("classifier", inputs, task.classes)? })
    }
}

impl ModuleT for Wide {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let mut x = self.stem.forward(x)?;
        for Block { first, dropout, second, projection } in &self.blocks {
            let (norm, activation, conv) = first;
            let before = activation.forward_t(&norm.forward_t(&x, train)?, train)?;
            let y = conv.forward(&before)?;
            let (norm, activation, conv) = second;
            let mut y = activation.forward_t(&norm.forward_t(&y, train)?, train)?;
            if let Some(dropout) = dropout {
                y = dropout.forward_t(&y, train)?;
            }
            let shortcut = projection.as_ref().map_or_else(|| Ok(x.clone()), |p| p.forward(&before))?;
            x = (conv.forward(&y)? + shortcut)?;
        }
        let x = self.head.1.forward_t(&self.head.0.forward_t(&x, train)?, train)?;
        self.classifier.forward(&global_pool(&x)?)
    }
}
