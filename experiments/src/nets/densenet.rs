//! DenseNet-BC (Huang et al., 2017): each layer sees all before it; bottlenecks, and transitions that halve
//! the number of channels.

use candle_core::{Result, Tensor};
use candle_nn::{Module, ModuleT};
use serde::Serialize;

use super::layers::{Builder, Conv, Head, PreActivated, pool};
use super::{Task, blocks};
use crate::activation::Dropout;

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
    head: Head,
}

#[derive(Debug)]
struct Stage {
    /// What comes between the stage before and this one.
    transition: Option<PreActivated>,
    blocks: Vec<[PreActivated; 2]>,
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
        let mut stages = Vec::new();
        for stage in 0..3 {
            let transition = if stage == 0 {
                None
            } else {
                let inputs = channels;
                channels /= 2;
                Some(b.pre_activated(&format!("stage{stage}.transition"), inputs, channels, 1, 1)?)
            };
            let mut blocks = Vec::new();
            for i in 0..per_stage {
                let name = |part: usize| format!("stage{stage}.{i}.conv{part}");
                let bottleneck = b.pre_activated(&name(0), channels, 4 * growth, 1, 1)?;
                blocks.push([bottleneck, b.pre_activated(&name(1), 4 * growth, growth, 3, 1)?]);
                channels += growth;
            }
            let dropout = if config.dropout > 0.0 { Some(b.dropout(config.dropout)?) } else { None };
            stages.push(Stage { transition, blocks, dropout });
        }
        Ok(Self { stem, stages, head: b.head(channels, task.classes)? })
    }
}

fn forward(layer: &PreActivated, dropout: Option<&Dropout>, x: &Tensor, train: bool) -> Result<Tensor> {
    let x = layer.forward_t(x, train)?;
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
        self.head.forward_t(&x, train)
    }
}
