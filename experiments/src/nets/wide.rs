//! Wide-ResNet (Zagoruyko and Komodakis, 2016): basic blocks in PreResNet's order, dropout between their
//! convolutions.

use candle_core::{Result, Tensor};
use candle_nn::{Module, ModuleT};
use serde::Serialize;

use super::layers::{Builder, Conv, Head, PreActivated};
use super::{Task, blocks};
use crate::activation::Dropout;

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
    head: Head,
}

#[derive(Debug)]
struct Block {
    first: PreActivated,
    dropout: Option<Dropout>,
    second: PreActivated,
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
                let first = b.pre_activated(&name("conv0"), inputs, width, 3, stride)?;
                let second = b.pre_activated(&name("conv1"), width, width, 3, 1)?;
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
        Ok(Self { stem, blocks: all, head: b.head(inputs, task.classes)? })
    }
}

impl ModuleT for Wide {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let mut x = self.stem.forward(x)?;
        for Block { first, dropout, second, projection } in &self.blocks {
            let activated = first.activated(&x, train)?;
            let mut y = second.activated(&first.conv.forward(&activated)?, train)?;
            if let Some(dropout) = dropout {
                y = dropout.forward_t(&y, train)?;
            }
            let shortcut = projection.as_ref().map_or_else(|| Ok(x.clone()), |p| p.forward(&activated))?;
            x = (second.conv.forward(&y)? + shortcut)?;
        }
        self.head.forward_t(&x, train)
    }
}
