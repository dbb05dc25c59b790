//! The blocks of a network on the CPU: a batch normalisation or a bias before Drop-Activation, with and without a
//! residual, forward and backward.
//!
//! Each block is measured in three ways: fused Drop-Activation, fused plain ReLU (p = 1), and unfused, where each
//! operation is a pass of its own: the statistics, the normalisation, the sum with the residual, the activation. Beside
//! them, a copy of a tensor. All take turns, round after round in another order; the figures are medians.
//! `benches/blocks.py` measures PyTorch's blocks.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::time::Instant;

use drop_activation::fused::{BatchNorm, Before, Gradient, Shape, cpu as fused};
use drop_activation::half::bf16;
use drop_activation::reference::philox4x32_10;
use drop_activation::{DropActivation, Element, InOut, MaskKey, PackedMask, Real, cpu};
use rayon::prelude::*;
use serde_json::{Value, json};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Block {
    Norm,
    NormResidual,
    Bias,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Fused,
    FusedRelu,
    Unfused,
    Copy,
}

impl Block {
    const ALL: [Self; 3] = [Self::Norm, Self::NormResidual, Self::Bias];

    fn name(self) -> &'static str {
        match self {
            Self::Norm => "norm",
            Self::NormResidual => "norm_residual",
            Self::Bias => "bias",
        }
    }

    /// Tensors that the fused passes move, forward and backward: docs/fused.md. The bits come on top.
    fn tensors(self) -> f64 {
        match self {
            Self::Norm => 8.0,
            Self::NormResidual => 10.0,
            Self::Bias => 4.0,
        }
    }
}

/// Channels-first or channels-last.
struct Layer {
    name: &'static str,
    shape: Shape,
    /// Smaller than the cache.
    warm: bool,
}

fn layers(quick: bool) -> Result<Vec<Layer>, Box<dyn Error>> {
    let layer = |name, outer, channels, inner, warm| -> Result<Layer, Box<dyn Error>> {
        Ok(Layer { name, shape: Shape::new(outer, channels, inner)?, warm })
    };
    let mut all = vec![
        layer("WideResNet-28-10, 160 x 32 x 32, batch 128", 128, 160, 1024, false)?,
        layer("WideResNet-28-10, 160 x 32 x 32, batch 128", 128 * 1024, 160, 1, false)?,
        layer("WideResNet-28-10, 160 x 32 x 32, batch 2", 2, 160, 1024, true)?,
        layer("WideResNet-28-10, 160 x 32 x 32, batch 2", 2 * 1024, 160, 1, true)?,
    ];
    if !quick {
        all.extend([
            layer("WideResNet-28-10, 640 x 8 x 8, batch 128", 128, 640, 64, false)?,
            layer("WideResNet-28-10, 640 x 8 x 8, batch 128", 128 * 64, 640, 1, false)?,
            layer("ResNet-50, 256 x 56 x 56, batch 128", 128, 256, 3136, false)?,
            layer("ResNet-50, 256 x 56 x 56, batch 128", 128 * 3136, 256, 1, false)?,
            layer("ResNet-50, 2048 x 7 x 7, batch 128", 128, 2048, 49, false)?,
            layer("ResNet-50, 2048 x 7 x 7, batch 128", 128 * 49, 2048, 1, false)?,
            layer("ResNet-50, 2048 x 7 x 7, batch 2", 2, 2048, 49, true)?,
        ]);
    }
    Ok(all)
}

struct Buffers<T: Element> {
    shape: Shape,
    x: Vec<T>,
    r: Vec<T>,
    z: Vec<T>,
    y: Vec<T>,
    dy: Vec<T>,
    dx: Vec<T>,
    dr: Vec<T>,
    mask: PackedMask,
    weight: Vec<T::Real>,
    bias: Vec<T::Real>,
}

impl<T: Element> Buffers<T> {
    fn new(shape: Shape) -> Self {
        let values = |seed: u32| -> Vec<T> {
            let mut values = vec![T::default(); shape.len()];
            values.par_chunks_mut(4).enumerate().for_each(|(i, part)| {
                let words = philox4x32_10([i as u32, seed, 0, 0], [1, 2]);
                for (value, word) in part.iter_mut().zip(words) {
                    *value = T::from_real(T::Real::from_f64(f64::from(word as i32) / 2f64.powi(30)));
                }
            });
            values
        };
        let vector = |value: f64| vec![T::Real::from_f64(value); shape.channels()];
        let op = DropActivation::default();
        let mask = cpu::forward(&op, MaskKey::new(0, 0), (&[T::default()], &mut [T::default()])).unwrap();
        Self {
            shape,
            x: values(0),
            r: values(1),
            z: values(2),
            y: values(3),
            dy: values(4),
            dx: values(5),
            dr: values(6),
            mask,
            weight: vector(1.1),
            bias: vector(0.2),
        }
    }

    fn run(&mut self, block: Block, way: Way) -> Result<(), Box<dyn Error>> {
        match way {
            Way::Fused => self.fused(block, 0.95),
            Way::FusedRelu => self.fused(block, 1.0),
            Way::Unfused => self.unfused(block),
            Way::Copy => {
                self.copy();
                Ok(())
            }
        }
    }

    fn copy(&mut self) {
        const PART: usize = 1 << 18;
        if self.x.len() <= 1 << 16 {
            return self.y.copy_from_slice(&self.x);
        }
        self.y.par_chunks_mut(PART).zip(self.x.par_chunks(PART)).for_each(|(y, x)| y.copy_from_slice(x));
    }

    fn fused(&mut self, block: Block, p: f64) -> Result<(), Box<dyn Error>> {
        let Self { shape, x, r, y, dy, dx, dr, mask, weight, bias, .. } = self;
        let (shape, op, key) = (*shape, DropActivation::relu(p)?, MaskKey::new(1, 2));
        if block == Block::Bias {
            let before = Before { shift: Some(&bias[..]), ..Before::default() };
            fused::forward_into(&op, key, shape, &before, (&*x, &mut *y), mask)?;
            let by = Gradient::Training(&op, mask, None);
            // dx = dz is written with the sums.
            fused::reduce(shape, dy, &by, None, Some(dx))?;
            return Ok(());
        }
        let norm = BatchNorm { weight: Some(weight), bias: Some(bias), eps: 1e-5 };
        let normalised = norm.of_batch(shape, x, None)?;
        let with_residual = block == Block::NormResidual;
        let before = normalised.before(with_residual.then_some(&r[..]));
        fused::forward_into(&op, key, shape, &before, (&*x, &mut *y), mask)?;
        let by = Gradient::Training(&op, mask, None);
        normalised.backward(shape, &by, x, (&*dy, &mut *dx), with_residual.then_some(&mut dr[..]))?;
        Ok(())
    }

    fn unfused(&mut self, block: Block) -> Result<(), Box<dyn Error>> {
        let Self { shape, x, r, z, y, dy, dx, dr, mask, weight, bias } = self;
        let (shape, op, key) = (*shape, DropActivation::default(), MaskKey::new(1, 2));
        // With p = 0 the inference pass is the affine map alone.
        let identity = DropActivation::relu(0.0)?;
        if block == Block::Bias {
            let before = Before { shift: Some(&bias[..]), ..Before::default() };
            fused::infer(&identity, shape, &before, (&*x, &mut *z))?;
            cpu::forward_into(&op, key, (&*z, &mut *y), mask)?;
            cpu::backward(&op, mask, None, (&*dy, &mut *dx))?;
            fused::reduce(shape, dx, &Gradient::Given, None, None)?;
            return Ok(());
        }
        let norm = BatchNorm { weight: Some(weight), bias: Some(bias), eps: 1e-5 };
        let normalised = norm.of_batch(shape, x, None)?;
        fused::infer(&identity, shape, &normalised.before(None), (&*x, &mut *z))?;
        if block == Block::NormResidual {
            let sum = Before { residual: Some(&r[..]), ..Before::default() };
            fused::infer(&identity, shape, &sum, InOut::InPlace(&mut z[..]))?;
        }
        cpu::forward_into(&op, key, (&*z, &mut *y), mask)?;
        // dr, if it is asked for, is the gradient that the normalisation takes.
        cpu::backward(&op, mask, None, (&*dy, &mut *dr))?;
        normalised.backward(shape, &Gradient::Given, x, (&*dr, &mut *dx), None)?;
        Ok(())
    }
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn measure<T: Element>(layer: &Layer, rows: &mut Vec<Value>) -> Result<(), Box<dyn Error>> {
    let mut buffers = Buffers::<T>::new(layer.shape);
    let (calls, rounds) = match layer.shape.len() {
        _ if layer.warm => (20, 31),
        0..0x400_0000 => (1, 11),
        _ => (1, 5),
    };
    let memory = if layer.shape.inner() == 1 { "channels last" } else { "channels first" };
    for block in Block::ALL {
        let mut ways = [Way::Fused, Way::FusedRelu, Way::Unfused, Way::Copy];
        let mut times: BTreeMap<Way, Vec<f64>> = BTreeMap::new();
        for round in 0..=rounds {
            ways.sort_by_cached_key(|way| philox4x32_10([round, *way as u32, 0, 0], [0, 0])[0]);
            for way in ways {
                let start = Instant::now();
                for _ in 0..calls {
                    buffers.run(block, way)?;
                }
                // The first round warms up.
                if round > 0 {
                    times.entry(way).or_default().push(start.elapsed().as_secs_f64() / f64::from(calls));
                }
            }
        }
        let seconds: BTreeMap<Way, f64> = times.iter_mut().map(|(way, times)| (*way, median(times))).collect();
        let (fused, relu, unfused, copy) =
            (seconds[&Way::Fused], seconds[&Way::FusedRelu], seconds[&Way::Unfused], seconds[&Way::Copy]);
        let ideal = copy * block.tensors() / 2.0;
        println!(
            "{:>5} {:14} {:44} {memory:14} {:9.3} ms   of ReLU {:.3}   of unfused {:.3}   copy's bytes/s {:.3}",
            T::DTYPE.name(),
            block.name(),
            layer.name,
            1e3 * fused,
            fused / relu,
            fused / unfused,
            ideal / fused
        );
        rows.push(json!({
            "dtype": T::DTYPE.name(),
            "block": block.name(),
            "layer": layer.name,
            "memory": memory,
            "n": layer.shape.len(),
            "warm": layer.warm,
            "tensors": block.tensors(),
            "seconds": { "fused": fused, "fused_relu": relu, "unfused": unfused, "copy": copy },
        }));
    }
    Ok(())
}

/// All of them. The file holds, at any time, what has been measured.
pub fn run(quick: bool, file: Option<&Path>) -> Result<(), Box<dyn Error>> {
    let (set, threads) = (cpu::instruction_set(), rayon::current_num_threads());
    println!("blocks on the CPU, {set}, {threads} threads");
    let mut rows = Vec::new();
    for layer in layers(quick)? {
        measure::<f32>(&layer, &mut rows)?;
        measure::<bf16>(&layer, &mut rows)?;
        if let Some(file) = file {
            let results = json!({ "device": format!("CPU, {set}, {threads} threads"), "blocks": rows });
            std::fs::write(file, serde_json::to_string_pretty(&results)? + "\n")?;
        }
    }
    Ok(())
}
