//! PreResNet (He et al., 2016): normalisation and nonlinearity before each convolution; bottleneck blocks.

use candle_core::{Result, Tensor};
use candle_nn::{Module, ModuleT};
use serde::Serialize;

use super::layers::{Builder, Conv, Head, PreActivated};
use super::{Task, blocks};

/// Depth and width.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Config {
    /// 2 + 9 n.
    pub depth: usize,
    /// Of the first stage's 3 x 3 convolutions.
    pub width: usize,
}

impl Config {
    /// The source's width.
    pub fn new(depth: usize) -> Self {
        Self { depth, width: 16 }
    }
}

/// See the module.
#[derive(Debug)]
pub struct PreResNet {
    stem: Conv,
    blocks: Vec<Block>,
    head: Head,
}

#[derive(Debug)]
struct Block {
    layers: [PreActivated; 3],
    projection: Option<Conv>,
}

impl PreResNet {
    /// Builds it; the parameters are the builder's.
    ///
    /// # Errors
    /// Those of the device, and a depth that it has not.
    pub fn new(config: &Config, task: Task, b: &mut Builder) -> Result<Self> {
        let per_stage = blocks("PreResNet", config.depth, 3, 2)?;
        let stem = b.conv("stem", task.channels, config.width, 3, 1)?;
        let mut inputs = config.width;
        let mut all = Vec::new();
        for stage in 0..3 {
            let width = config.width << stage;
            for i in 0..per_stage {
                let stride = if stage > 0 && i == 0 { 2 } else { 1 };
                let name = |part: &str| format!("stage{stage}.{i}.{part}");
                let layers = [
                    b.pre_activated(&name("conv0"), inputs, width, 1, stride)?,
                    b.pre_activated(&name("conv1"), width, width, 3, 1)?,
                    b.pre_activated(&name("conv2"), width, 4 * width, 1, 1)?,
                ];
                let projection = if inputs == 4 * width {
                    None
                } else {
                    Some(b.conv(&name("shortcut"), inputs, 4 * width, 1, stride)?)
                };
                all.push(Block { layers, projection });
                inputs = 4 * width;
            }
        }
        Ok(Self { stem, blocks: all, head: b.head(inputs, task.classes)? })
    }
}

impl ModuleT for PreResNet {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let mut x = self.stem.forward(x)?;
        for Block { layers: [first, second, third], projection } in &self.blocks {
            let activated = first.activated(&x, train)?;
            let y = second.forward_t(&first.conv.forward(&activated)?, train)?;
            let y = third.forward_t(&y, train)?;
            // Where the number of channels changes, the shortcut begins behind the first nonlinearity.
            let shortcut = projection.as_ref().map_or_else(|| Ok(x.clone()), |p| p.forward(&activated))?;
            x = (shortcut + y)?;
        }
        self.head.forward_t(&x, train)
    }
}
