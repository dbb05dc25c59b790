//! The paper's networks, each as its own source defines it, with depth and width as parameters.

pub mod densenet;
pub mod layers;
pub mod mlp;
pub mod preresnet;
pub mod resnet;
pub mod resnext;
pub mod simple;
pub mod wide;

use candle_core::Result;
use candle_nn::ModuleT;
use serde::Serialize;

use layers::Builder;

/// A network by its architecture, without weights.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum Architecture {
    /// The simple network of the paper's Figure 2.
    Simple(simple::Config),
    /// He et al. (2015).
    ResNet(resnet::Config),
    /// He et al. (2016).
    PreResNet(preresnet::Config),
    /// Zagoruyko and Komodakis (2016).
    Wide(wide::Config),
    /// Huang et al. (2017).
    DenseNet(densenet::Config),
    /// Xie et al. (2017).
    ResNeXt(resnext::Config),
}

/// What the images are and what the answers are.
#[derive(Clone, Copy, Debug)]
pub struct Task {
    /// Channels of an image.
    pub channels: usize,
    /// Rows (and columns) of an image.
    pub side: usize,
    /// How many classes.
    pub classes: usize,
}

impl Architecture {
    /// The network; its parameters are the builder's.
    ///
    /// # Errors
    /// Those of the device, and a depth that the architecture has not.
    pub fn build(&self, task: Task, builder: &mut Builder) -> Result<Box<dyn ModuleT>> {
        Ok(match self {
            Self::Simple(c) => Box::new(simple::Simple::new(c, task, builder)?),
            Self::ResNet(c) => Box::new(resnet::ResNet::new(c, task, builder)?),
            Self::PreResNet(c) => Box::new(preresnet::PreResNet::new(c, task, builder)?),
            Self::Wide(c) => Box::new(wide::Wide::new(c, task, builder)?),
            Self::DenseNet(c) => Box::new(densenet::DenseNet::new(c, task, builder)?),
            Self::ResNeXt(c) => Box::new(resnext::ResNeXt::new(c, task, builder)?),
        })
    }
}

/// A network whose number of parameters (CIFAR-10 unless it says otherwise) its source states, in millions.
pub struct Published {
    /// Its name in the paper's tables.
    pub name: &'static str,
    /// The architecture.
    pub architecture: Architecture,
    /// Millions of parameters, with as many decimals as its source gives.
    pub millions: &'static str,
}

/// The paper's networks in their full size.
pub fn published() -> Vec<Published> {
    let network = |name, architecture, millions| Published { name, architecture, millions };
    vec![
        network("ResNet-110", Architecture::ResNet(resnet::Config::basic(110)), "1.7"),
        network("ResNet-164", Architecture::ResNet(resnet::Config::bottleneck(164)), "1.7"),
        network("ResNet-18", Architecture::ResNet(resnet::Config::resnet18()), "11.2"),
        network("PreResNet-164", Architecture::PreResNet(preresnet::Config::new(164)), "1.7"),
        network("WideResNet-28-10", Architecture::Wide(wide::Config::new(28, 10, 0.3)), "36.5"),
        network("WideResNet-16-8", Architecture::Wide(wide::Config::new(16, 8, 0.4)), "11.0"),
        network("DenseNet-BC-100-12", Architecture::DenseNet(densenet::Config::new(100, 12)), "0.8"),
        network("DenseNet-BC-190-40", Architecture::DenseNet(densenet::Config::new(190, 40)), "25.6"),
        network("ResNeXt-29-8x64d", Architecture::ResNeXt(resnext::Config::new(29, 8, 64)), "34.4"),
    ]
}

/// A depth that is `per_stage` layers for each block of three equal stages, and `rest` others.
fn blocks(name: &str, depth: usize, per_stage: usize, rest: usize) -> Result<usize> {
    match depth.checked_sub(rest) {
        Some(n) if n > 0 && n.is_multiple_of(3 * per_stage) => Ok(n / (3 * per_stage)),
        _ => candle_core::bail!("depth {depth} of {name}: allowed are {rest} + {} n, n from 1", 3 * per_stage),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};
    use drop_activation_candle::KeySequence;

    use super::*;
    use crate::activation::Activation;

    fn build(architecture: &Architecture, task: Task) -> (Box<dyn ModuleT>, Builder) {
        let mut builder = Builder::new(Activation::PAPERS, KeySequence::new(1), &Device::Cpu);
        let network = architecture.build(task, &mut builder).expect("a network");
        (network, builder)
    }

    /// To the last parameter, as these networks are known. That the rounded counts of all are the published
    /// ones is in `checks`.
    #[test]
    fn some_counts_are_exact() {
        let task = Task { channels: 3, side: 32, classes: 10 };
        let count = |name: &str| {
            let network = published().into_iter().find(|n| n.name == name).expect("a network");
            build(&network.architecture, task).1.parameters()
        };
        assert_eq!(count("WideResNet-28-10"), 36_479_194);
        assert_eq!(count("DenseNet-BC-100-12"), 769_162);
        assert_eq!(count("ResNet-18"), 11_173_962);
    }

    #[test]
    fn small_networks_of_each_kind_give_a_number_for_each_class_and_a_gradient_for_each_parameter() {
        let task = Task { channels: 1, side: 28, classes: 7 };
        for (name, architecture) in crate::presets::small() {
            let (network, builder) = build(&architecture, task);
            builder.initialise(1).expect("parameters");
            let x = Tensor::rand(-1f32, 1.0, (3, 1, 28, 28), &Device::Cpu).expect("images");
            let y = network.forward_t(&x, true).expect("logits");
            assert_eq!(y.dims(), [3, 7], "{name}");
            let labels = Tensor::zeros(3, DType::U32, &Device::Cpu).expect("labels");
            let loss = candle_nn::loss::cross_entropy(&y, &labels).expect("a loss");
            let gradients = loss.backward().expect("gradients");
            for var in builder.trained() {
                let gradient = gradients.get(&var).expect("a gradient for each parameter");
                let sum = gradient.abs().and_then(|g| g.sum_all()?.to_scalar::<f32>()).expect("a sum");
                assert!(sum.is_finite(), "{name}");
            }
            assert_eq!(network.forward_t(&x, false).expect("logits").dims(), [3, 7], "{name}");
        }
    }

    #[test]
    fn depths_that_an_architecture_has_not_are_refused() {
        let mut builder = Builder::new(Activation::Relu, KeySequence::new(1), &Device::Cpu);
        let task = Task { channels: 3, side: 32, classes: 10 };
        let wrong = Architecture::PreResNet(preresnet::Config::new(165));
        let error = wrong.build(task, &mut builder).err().expect("an error").to_string();
        assert!(error.contains("depth 165 of PreResNet: allowed are 2 + 9 n"), "{error}");
    }
}
