//! The simple network of Figure 2: three blocks of 3 x 3 convolution, batch normalisation, nonlinearity and
//! average pooling, then two fully connected layers. The paper does not say how wide they are.

use candle_core::{Result, Tensor};
use candle_nn::{Linear, Module, ModuleT};
use serde::Serialize;

use super::Task;
use super::layers::{Builder, Conv, Norm, pool};
use crate::activation::Site;

/// Widths.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Config {
    /// The channels of the three blocks.
    pub channels: [usize; 3],
    /// The width of the first fully connected layer.
    pub hidden: usize,
}

/// See the module.
#[derive(Debug)]
pub struct Simple {
    blocks: Vec<(Conv, Norm, Site)>,
    hidden: (Linear, Site),
    classifier: Linear,
}

impl Simple {
    /// Builds it; the parameters are the builder's.
    ///
    /// # Errors
    /// Those of the device.
    pub fn new(config: &Config, task: Task, b: &mut Builder) -> Result<Self> {
        let mut inputs = task.channels;
        let mut blocks = Vec::new();
        for (i, outputs) in config.channels.into_iter().enumerate() {
            let name = format!("block{i}");
            blocks.push((b.conv(&name, inputs, outputs, 3, 1)?, b.norm(&name, outputs)?, b.activation()?));
            inputs = outputs;
        }
        let features = inputs * (task.side / 8).pow(2);
        let hidden = (b.linear("hidden", features, config.hidden)?, b.activation()?);
        Ok(Self { blocks, hidden, classifier: b.linear("classifier", config.hidden, task.classes)? })
    }
}

impl ModuleT for Simple {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let mut x = x.clone();
        for (conv, norm, activation) in &self.blocks {
            x = pool(&activation.forward_t(&norm.forward_t(&conv.forward(&x)?, train)?, train)?)?;
        }
        let (hidden, activation) = &self.hidden;
        let x = activation.forward_t(&hidden.forward(&x.flatten_from(1)?)?, train)?;
        self.classifier.forward(&x)
    }
}
