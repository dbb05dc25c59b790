//! ResNeXt (Xie et al., 2017): bottlenecks whose 3 x 3 convolution is in groups.

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
    /// How many groups: the first number of 8x64d.
    pub cardinality: usize,
    /// The channels of a group in the first stage: the second number.
    pub group_width: usize,
    /// Of the first convolution.
    pub width: usize,
}

impl Config {
    /// ResNeXt-depth, cardinality x group_width d.
    pub fn new(depth: usize, cardinality: usize, group_width: usize) -> Self {
        Self { depth, cardinality, group_width, width: 64 }
    }
}

/// See the module.
#[derive(Debug)]
pub struct ResNeXt {
    stem: (Conv, Norm, Site),
    blocks: Vec<Block>,
    classifier: Linear,
}

#[derive(Debug)]
struct Block {
    layers: [(Conv, Norm); 3],
    activations: [Site; 3],
    projection: Option<(Conv, Norm)>,
}

impl ResNeXt {
    /// Builds it; the parameters are the builder's.
    ///
    /// # Errors
    /// Those of the device, and a depth that it has not.
    pub fn new(config: &Config, task: Task, b: &mut Builder) -> Result<Self> {
        let per_stage = blocks("ResNeXt", config.depth, 3, 2)?;
        let stem = (b.conv("stem", task.channels, config.width, 3, 1)?, b.norm("stem", config.width)?, b.activation()?);
        let mut inputs = config.width;
        let mut all = Vec::new();
        for stage in 0..3 {
            let inner = (config.cardinality * config.group_width) << stage;
            let outputs = (4 * config.width) << stage;
            for i in 0..per_stage {
                let stride = if stage > 0 && i == 0 { 2 } else { 1 };
                let name = |part: &str| format!("stage{stage}.{i}.{part}");
                let (first, second, third) = (name("conv0"), name("conv1"), name("conv2"));
                let layers = [
                    (b.conv(&first, inputs, inner, 1, 1)?, b.norm(&first, inner)?),
                    (b.grouped_conv(&second, inner, inner, 3, stride, config.cardinality)?, b.norm(&second, inner)?),
                    (b.conv(&third, inner, outputs, 1, 1)?, b.norm(&third, outputs)?),
                ];
                let projection = if inputs == outputs {
                    None
                } else {
                    let name = name("shortcut");
                    Some((b.conv(&name, inputs, outputs, 1, stride)?, b.norm(&name, outputs)?))
                };
                let activations = [b.activation()?, b.activation()?, b.activation()?];
                all.push(Block { layers, activations, projection });
                inputs = outputs;
            }
        }
        Ok(Self { stem, blocks: all, classifier: b.linear("classifier", inputs, task.classes)? })
    }
}

impl ModuleT for ResNeXt {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let (conv, norm, activation) = &self.stem;
        let mut x = activation.forward_t(&norm.forward_t(&conv.forward(x)?, train)?, train)?;
        for Block { layers, activations, projection } in &self.blocks {
            let mut y = x.clone();
            for (i, ((conv, norm), activation)) in layers.iter().zip(activations).enumerate() {
                y = norm.forward_t(&conv.forward(&y)?, train)?;
                if i == 2 {
                    let shortcut = match projection {
                        Some((conv, norm)) => norm.forward_t(&conv.forward(&x)?, train)?,
                        None => x.clone(),
                    };
                    y = (y + shortcut)?;
                }
                y = activation.forward_t(&y, train)?;
            }
            x = y;
        }
        self.classifier.forward(&global_pool(&x)?)
    }
}
