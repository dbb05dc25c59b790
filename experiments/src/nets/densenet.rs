//! DenseNet-BC (Huang et al., 2017): each layer sees all before it; bottlenecks, and transitions that halve
//! the number of channels.

use candle_core::{Result, Tensor};
use candle_nn::{Linear, Module, ModuleT};
use serde::Serialize;

use super::layers::{Builder, Conv, Norm, global_pool, pool};
use super::{Task, blocks};
use crate::activation::{Dropout, Site};

/// Depth and width.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Config {
    /// 4 + 6 n.
    pub depth: usize,
    /// The channels that each layer adds.
    pub growth: usize,
    /// The source has 0.2 where there is no data augmentation (SVHN).
    pub dropout: f64,
}

impl Config {
    /// DenseNet-BC-depth-growth.
    pub fn new(depth: usize, growth: usize) -> Self {
        Self { depth, growth, dropout: 0.0 }
    }
}

/// See the module.
#[derive(Debug)]
pub struct DenseNet {
    stem: Conv,
    stages: Vec<Stage>,
    head: (Norm, Site),
    classifier: Linear,
}

type Layer = (Norm, Site, Conv);

#[derive(Debug)]
struct Stage {
    /// What comes between the stage before and this one.
    transition: Option<Layer>,
    blocks: Vec<[Layer; 2]>,
    dropout: Option<Dropout>,
}

impl DenseNet {
    /// Builds it; the parameters are the builder's.
    ///
    /// # Errors
    /// Those of the device, and a depth that it has not.
    pub fn new(config: &Config, task: Task, b: &mut Builder) -> Result<Self> {
        let per_stage = blocks("DenseNet-BC", config.depth, 2, 4)?;
        let growth = config.growth;
        let mut channels = 2 * growth;
        let stem = b.conv("stem", task.channels, channels, 3, 1)?;
        let layer = |b: &mut Builder, name: String, inputs, outputs, kernel| -> Result<Layer> {
            let norm = b.norm(&name, inputs)?;
            Ok((norm, b.activation()?, b.conv(&name, inputs, outputs, kernel, 1)?))
        };
        let mut stages = Vec::new();
        for stage in 0..3 {
            let transition = if stage == 0 {
                None
            } else {
                let inputs = channels;
                channels /= 2;
                Some(layer(b, format!("stage{stage}.transition"), inputs, channels, 1)?)
            };
            let mut blocks = Vec::new();
            for i in 0..per_stage {
                let name = |part: usize| format!("stage{stage}.{i}.conv{part}");
                let bottleneck = layer(b, name(0), channels, 4 * growth, 1)?;
                blocks.push([bottleneck, layer(b, name(1), 4 * growth, growth, 3)?]);
                channels += growth;
            }
            let dropout = if config.dropout > 0.0 { Some(b.dropout(config.dropout)?) } else { None };
            stages.push(Stage { transition, blocks, dropout });
        }
        let head = (b.norm("head", channels)?, b.activation()?);
        Ok(Self { stem, stages, head, classifier: b.linear("classifier", channels, task.classes)? })
    }
}

fn forward((norm, activation, conv): &Layer, dropout: Option<&Dropout>, x: &Tensor, train: bool) -> Result<Tensor> {
    let x = conv.forward(&activation.forward_t(&norm.forward_t(x, train)?, train)?)?;
    dropout.map_or(Ok(x.clone()), |d| d.forward_t(&x, train))
}

impl ModuleT for DenseNet {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let mut x = self.stem.forward(x)?;
        for Stage { transition, blocks, dropout } in &self.stages {
            let dropout = dropout.as_ref();
            if let Some(transition) = transition {
                x = pool(&forward(transition, dropout, &x, train)?)?;
            }
            for [bottleneck, layer] in blocks {
                let y = forward(bottleneck, dropout, &x, train)?;
                let y = forward(layer, dropout, &y, train)?;
                x = Tensor::cat(&[&x, &y], 1)?;
            }
        }
        let x = self.head.1.forward_t(&self.head.0.forward_t(&x, train)?, train)?;
        self.classifier.forward(&global_pool(&x)?)
    }
}
