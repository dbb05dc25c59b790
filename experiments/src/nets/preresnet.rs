//! PreResNet (He et al., 2016): normalisation and nonlinearity before each convolution; bottleneck blocks.

use candle_core::{Result, Tensor};
use candle_nn::{Linear, Module, ModuleT};
use serde::Serialize;

use super::layers::{Builder, Conv, Norm, global_pool};
use super::{Task, blocks};
use crate::activation::Site;

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
    head: (Norm, Site),
    classifier: Linear,
}

#[derive(Debug)]
struct Block {
    layers: Vec<(Norm, Site, Conv)>,
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
                let name = format!("stage{stage}.{i}");
                let shapes = [(inputs, width, 1, stride), (width, width, 3, 1), (width, 4 * width, 1, 1)];
                let mut layers = Vec::new();
                for (j, (inputs, outputs, kernel, stride)) in shapes.into_iter().enumerate() {
                    let name = format!("{name}.conv{j}");
                    let norm = b.norm(&name, inputs)?;
                    layers.push((norm, b.activation()?, b.conv(&name, inputs, outputs, kernel, stride)?));
                }
                let projection = if inputs == 4 * width {
                    None
                } else {
                    Some(b.conv(&format!("{name}.shortcut"), inputs, 4 * width, 1, stride)?)
                };
                all.push(Block { layers, projection });
                inputs = 4 * width;
            }
        }
        let head = (b.norm("head", inputs)?, b.activation()?);
        Ok(Self { stem, blocks: all, head, classifier: b.linear("classifier", inputs, task.classes)? })
    }
}

impl ModuleT for PreResNet {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let mut x = self.stem.forward(x)?;
        for Block { layers, projection } in &self.blocks {
            let mut y = x.clone();
            for (i, (norm, activation, conv)) in layers.iter().enumerate() {
                y = activation.forward_t(&norm.forward_t(&y, train)?, train)?;
                // Where the number of channels changes, the shortcut begins behind the first nonlinearity.
                if let (0, Some(projection)) = (i, projection) {
                    x = projection.forward(&y)?;
                }
                y = conv.forward(&y)?;
            }
            x = (x + y)?;
        }
        let x = self.head.1.forward_t(&self.head.0.forward_t(&x, train)?, train)?;
        self.classifier.forward(&global_pool(&x)?)
    }
}
