//! Which networks are trained how: small enough for a CPU, or as the sources did it.

use std::f64::consts::PI;

use serde::Serialize;

use crate::data::Dataset;
use crate::data::augment::Augmentation;
use crate::nets::{Architecture, densenet, preresnet, published, resnet, resnext, simple, wide};

/// Stochastic gradient descent with momentum 0.9, and its schedule.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Recipe {
    /// Passes over the training images.
    pub epochs: u32,
    /// Images of a step.
    pub batch: usize,
    /// The learning rate to begin with.
    pub rate: f64,
    /// The epochs before which the rate is multiplied by `factor`.
    pub drops: Vec<u32>,
    /// See `drops`.
    pub factor: f64,
    /// Half a cosine from `rate` to zero, epoch by epoch, in place of the drops (Loshchilov and Hutter, 2017).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cosine: bool,
    /// The rate of the first steps, and how many they are.
    pub warm_up: Option<(f64, usize)>,
    /// Nesterov's momentum.
    pub nesterov: bool,
    /// Of all parameters, as the sources' code has it.
    pub weight_decay: f64,
    /// What is done to the training images.
    pub augmentation: Augmentation,
    /// Whether the test error is taken after every epoch or after the last one alone.
    pub test_each_epoch: bool,
}

impl Recipe {
    /// The learning rate at this step, both counted from zero.
    pub fn rate_at(&self, epoch: u32, step: usize) -> f64 {
        match self.warm_up {
            Some((rate, steps)) if step < steps => rate,
            _ if self.cosine => self.rate * (1.0 + (PI * f64::from(epoch) / f64::from(self.epochs)).cos()) / 2.0,
            _ => self.rate * self.factor.powi(self.drops.iter().filter(|d| epoch >= **d).count() as i32),
        }
    }

    /// For a small network on a part of the data: minutes on a CPU.
    pub fn small(epochs: u32) -> Self {
        Self {
            epochs,
            batch: 64,
            rate: 0.1,
            drops: vec![epochs / 2, (3 * epochs).div_ceil(4)],
            factor: 0.1,
            cosine: false,
            warm_up: None,
            nesterov: true,
            weight_decay: 5e-4,
            augmentation: Augmentation::default(),
            test_each_epoch: true,
        }
    }

    /// As the network's source trains it on these data.
    pub fn full(architecture: &Architecture, data: &Dataset) -> Self {
        let svhn = data.name == "SVHN";
        let base = Self {
            epochs: 300,
            batch: 64,
            rate: 0.1,
            drops: vec![150, 225],
            factor: 0.1,
            cosine: false,
            warm_up: None,
            nesterov: true,
            weight_decay: 1e-4,
            augmentation: Augmentation::standard(data),
            test_each_epoch: true,
        };
        match architecture {
            // DeVries and Taylor train it as Wide-ResNet is trained.
            Architecture::ResNet(c) if c.stages == 4 => {
                Self { epochs: 200, batch: 128, drops: vec![60, 120, 160], factor: 0.2, weight_decay: 5e-4, ..base }
            }
            // 64,000 steps of 128 images, the rate divided by ten after 32,000 and 48,000; 400 steps at 0.01
            // to begin with in networks as deep as the paper's.
            Architecture::ResNet(_) | Architecture::PreResNet(_) => Self {
                epochs: 164,
                batch: 128,
                drops: vec![82, 123],
                nesterov: false,
                warm_up: Some((0.01, 400)),
                ..base
            },
            Architecture::Wide(_) if svhn => {
                Self { epochs: 160, batch: 128, rate: 0.01, drops: vec![80, 120], weight_decay: 5e-4, ..base }
            }
            Architecture::Wide(_) => {
                Self { epochs: 200, batch: 128, drops: vec![60, 120, 160], factor: 0.2, weight_decay: 5e-4, ..base }
            }
            Architecture::DenseNet(_) if svhn => Self { epochs: 40, drops: vec![20, 30], ..base },
            // The paper's exception: DenseNet-BC-190-40 has batches of 32.
            Architecture::DenseNet(c) if c.growth == 40 => Self { batch: 32, ..base },
            Architecture::DenseNet(_) => base,
            // The paper's own schedule for SVHN.
            Architecture::ResNeXt(_) if svhn => {
                Self { epochs: 100, batch: 128, drops: vec![40, 70], weight_decay: 5e-4, ..base }
            }
            Architecture::ResNeXt(_) => Self { batch: 128, weight_decay: 5e-4, ..base },
            Architecture::Simple(_) => Self { epochs: 30, drops: vec![15, 25], rate: 0.05, batch: 128, ..base },
        }
    }
}

/// The simple network; the paper does not say how wide its own was.
pub fn simple(full: bool) -> Architecture {
    let channels = if full { [32, 64, 128] } else { [8, 16, 32] };
    Architecture::Simple(simple::Config { channels, hidden: 64 })
}

/// A small network of each kind.
pub fn small() -> Vec<(&'static str, Architecture)> {
    vec![
        ("ResNet-8", Architecture::ResNet(resnet::Config { width: 8, ..resnet::Config::basic(8) })),
        ("PreResNet-11", Architecture::PreResNet(preresnet::Config { width: 4, ..preresnet::Config::new(11) })),
        ("WideResNet-10-2", Architecture::Wide(wide::Config { width: 4, ..wide::Config::new(10, 2, 0.0) })),
        ("DenseNet-BC-16-6", Architecture::DenseNet(densenet::Config::new(16, 6))),
        ("ResNeXt-11-4x2d", Architecture::ResNeXt(resnext::Config { width: 4, ..resnext::Config::new(11, 4, 2) })),
    ]
}

/// The networks of the paper's table for these data.
pub fn full(data: &Dataset) -> Vec<(&'static str, Architecture)> {
    let names: &[&str] = match data.name {
        "CIFAR-10" => &[
            "ResNet-110",
            "PreResNet-164",
            "WideResNet-28-10",
            "DenseNet-BC-100-12",
            "DenseNet-BC-190-40",
            "ResNeXt-29-8x64d",
        ],
        "CIFAR-100" => &[
            "ResNet-164",
            "PreResNet-164",
            "WideResNet-28-10",
            "DenseNet-BC-100-12",
            "DenseNet-BC-190-40",
            "ResNeXt-29-8x64d",
        ],
        "SVHN" => &["WideResNet-16-8", "DenseNet-BC-100-12", "ResNeXt-29-8x64d"],
        _ => &["ResNet-164", "PreResNet-164", "WideResNet-28-10", "DenseNet-BC-100-12", "ResNeXt-29-8x64d"],
    };
    let mut networks: Vec<_> =
        published().into_iter().filter(|n| names.contains(&n.name)).map(|n| (n.name, n.architecture)).collect();
    if data.name == "SVHN" {
        // No augmentation there, so the source has dropout.
        networks.iter_mut().for_each(|(_, a)| {
            if let Architecture::DenseNet(c) = a {
                c.dropout = 0.2;
            }
        });
    }
    networks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_follow_the_schedule() {
        let data = crate::data::carried().expect("the carried images");
        let wide = Recipe::full(&published()[4].architecture, &data);
        let rates = [0, 59, 60, 119, 120, 160, 199].map(|epoch| wide.rate_at(epoch, 1_000));
        for (rate, expected) in rates.iter().zip([0.1, 0.1, 0.02, 0.02, 0.004, 0.0008, 0.0008]) {
            assert!((rate - expected).abs() < 1e-12, "{rates:?}");
        }
        let annealed = Recipe { cosine: true, ..wide.clone() };
        let rates = [0, 100, 150].map(|epoch| annealed.rate_at(epoch, 1_000));
        for (rate, expected) in rates.iter().zip([0.1, 0.05, 0.05 - 0.05 * 0.5f64.sqrt()]) {
            assert!((rate - expected).abs() < 1e-12, "{rates:?}");
        }
        let resnet = Recipe::full(&published()[0].architecture, &data);
        assert_eq!([resnet.rate_at(0, 399), resnet.rate_at(0, 400)], [0.01, 0.1]);
    }

    /// Epochs, batch, rate, drops, factor, weight decay, Nesterov.
    type Row = (&'static str, u32, usize, f64, &'static [u32], f64, f64, bool);

    /// He et al. (2015 and 2016), Zagoruyko and Komodakis, Huang et al., Xie et al., DeVries and Taylor, with
    /// the paper's batch for DenseNet-BC-190-40 and its schedule for ResNeXt on SVHN.
    #[test]
    fn full_recipes_are_the_sources() {
        let cifar: [Row; 9] = [
            ("ResNet-110", 164, 128, 0.1, &[82, 123], 0.1, 1e-4, false),
            ("ResNet-164", 164, 128, 0.1, &[82, 123], 0.1, 1e-4, false),
            ("ResNet-18", 200, 128, 0.1, &[60, 120, 160], 0.2, 5e-4, true),
            ("PreResNet-164", 164, 128, 0.1, &[82, 123], 0.1, 1e-4, false),
            ("WideResNet-28-10", 200, 128, 0.1, &[60, 120, 160], 0.2, 5e-4, true),
            ("WideResNet-16-8", 200, 128, 0.1, &[60, 120, 160], 0.2, 5e-4, true),
            ("DenseNet-BC-100-12", 300, 64, 0.1, &[150, 225], 0.1, 1e-4, true),
            ("DenseNet-BC-190-40", 300, 32, 0.1, &[150, 225], 0.1, 1e-4, true),
            ("ResNeXt-29-8x64d", 300, 128, 0.1, &[150, 225], 0.1, 5e-4, true),
        ];
        let svhn: [Row; 3] = [
            ("WideResNet-16-8", 160, 128, 0.01, &[80, 120], 0.1, 5e-4, true),
            ("DenseNet-BC-100-12", 40, 64, 0.1, &[20, 30], 0.1, 1e-4, true),
            ("ResNeXt-29-8x64d", 100, 128, 0.1, &[40, 70], 0.1, 5e-4, true),
        ];
        for (data, rows) in [("CIFAR-10", &cifar[..]), ("SVHN", &svhn)] {
            let data = Dataset { name: data, ..crate::data::carried().expect("the carried images") };
            for row in rows {
                let network = published().into_iter().find(|n| n.name == row.0).expect("a network");
                let r = Recipe::full(&network.architecture, &data);
                let found = (row.0, r.epochs, r.batch, r.rate, &r.drops[..], r.factor, r.weight_decay, r.nesterov);
                assert_eq!(found, *row);
            }
        }
    }
}
