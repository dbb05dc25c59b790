//! Training, epoch by epoch, with a checkpoint after each.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use candle_core::{D, DType, Device, Tensor, Var};
use candle_nn::{ModuleT, loss};
use drop_activation_candle::KeySequence;
use serde::{Deserialize, Serialize};

use crate::activation::Activation;
use crate::data::augment::Augmentation;
use crate::data::{Dataset, Images, shuffled};
use crate::nets::Task;
use crate::nets::layers::Builder;
use crate::optimiser::Sgd;
use crate::presets::Recipe;
use crate::random;
use crate::results;

/// Images of a step in evaluation.
const TEST_BATCH: usize = 250;

/// What is measured in an epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// The mean of the training loss over the epoch's steps.
    pub train_loss: f64,
    /// The error (%) on the training images as they passed, in training mode.
    pub train_error: f64,
    /// The error (%) on the test images, if it was taken.
    pub test_error: Option<f64>,
    /// The length of the last step's gradient.
    pub gradient_norm: f64,
    /// What the experiment measured besides.
    pub probes: Vec<f64>,
}

/// What to train on what and how.
pub struct Job<'a> {
    /// The nonlinearity everywhere.
    pub activation: Activation,
    /// The schedule.
    pub recipe: &'a Recipe,
    /// The images.
    pub data: &'a Dataset,
    /// Of parameters, masks, order and augmentation.
    pub seed: u64,
    /// Where it runs.
    pub device: &'a Device,
    /// Where the state is kept after each epoch.
    pub checkpoint: Option<PathBuf>,
}

/// A network in training.
pub struct Training<'a, N: ?Sized> {
    job: Job<'a>,
    builder: Builder,
    network: Box<N>,
    sgd: Sgd,
    history: Vec<Epoch>,
}

impl<'a, N: ModuleT + ?Sized> Training<'a, N> {
    /// Goes on from the checkpoint, if there is one, or starts anew.
    ///
    /// # Errors
    /// If the network cannot be built, or the checkpoint is not of this network.
    pub fn start(job: Job<'a>, build: impl FnOnce(Task, &mut Builder) -> candle_core::Result<Box<N>>) -> Result<Self> {
        let images = &job.data.train;
        let task = Task { channels: images.channels, side: images.height, classes: job.data.classes };
        let stored = job.checkpoint.as_deref().filter(|file| file.is_file());
        let stored = stored.map(|file| Checkpoint::read(file, job.device)).transpose()?;
        let keys =
            stored.as_ref().map_or(KeySequence::new(job.seed), |c| KeySequence::resume(job.seed, c.note.next_offset));
        let mut builder = Builder::new(job.activation, keys, job.device);
        let network = build(task, &mut builder)?;
        let sgd = Sgd::new(builder.trained(), job.recipe.nesterov, job.recipe.weight_decay)?;
        let mut history = Vec::new();
        match stored {
            Some(checkpoint) => {
                checkpoint.restore(&builder, &sgd)?;
                history = checkpoint.note.history;
            }
            None => builder.initialise(job.seed)?,
        }
        Ok(Self { job, builder, network, sgd, history })
    }

    /// The network.
    pub fn network(&self) -> &N {
        &self.network
    }

    /// Its parameters and keys.
    pub fn builder(&self) -> &Builder {
        &self.builder
    }

    /// All epochs so far.
    pub fn history(&self) -> &[Epoch] {
        &self.history
    }

    /// Trains what is left of the recipe; `progress` is called after each epoch.
    ///
    /// # Errors
    /// If the loss or the gradient is not finite, or a file cannot be written.
    pub fn finish(
        mut self,
        mut probe: impl FnMut(&Self) -> Result<Vec<f64>>,
        mut progress: impl FnMut(&Epoch),
    ) -> Result<Vec<Epoch>> {
        while self.next_epoch(&mut probe)? {
            progress(self.history.last().expect("an epoch"));
        }
        Ok(self.history)
    }

    /// Trains one epoch, unless all are done.
    ///
    /// # Errors
    /// Those of [`finish`](Self::finish).
    pub fn next_epoch(&mut self, probe: &mut impl FnMut(&Self) -> Result<Vec<f64>>) -> Result<bool> {
        let epoch = self.history.len() as u32;
        let recipe = self.job.recipe;
        if epoch >= recipe.epochs {
            return Ok(false);
        }
        let images = &self.job.data.train;
        let order = shuffled(images.len(), &mut random::generator(self.job.seed, random::ORDER, epoch));
        // A step of a single image has no variance to normalise by.
        let steps: Vec<&[usize]> = order.chunks(recipe.batch).filter(|c| c.len() > 1 || order.len() == 1).collect();
        let mut rng = random::generator(self.job.seed, random::AUGMENTATION, epoch);
        let (mut loss_sum, mut wrong, mut seen, mut gradient_norm) = (0.0, 0, 0, 0.0);
        for (i, numbers) in steps.iter().enumerate() {
            let (x, labels) = batch(&self.job, images, numbers, |i, out| {
                recipe.augmentation.apply(self.job.data, images, i, &mut rng, out);
            })?;
            let logits = self.network.forward_t(&x, true)?;
            let loss = loss::cross_entropy(&logits, &labels)?;
            let value = f64::from(loss.to_scalar::<f32>()?);
            ensure!(value.is_finite(), "epoch {epoch}, step {i}: the loss is {value}");
            let gradients = loss.backward()?;
            if i + 1 == steps.len() {
                gradient_norm = self.sgd.norm(&gradients)?;
                ensure!(gradient_norm.is_finite(), "epoch {epoch}: the gradient's length is {gradient_norm}");
            }
            self.sgd.step(&gradients, recipe.rate_at(epoch, epoch as usize * steps.len() + i))?;
            loss_sum += value;
            wrong += count_wrong(&logits, &labels)?;
            seen += numbers.len();
        }
        let test = recipe.test_each_epoch || epoch + 1 == recipe.epochs;
        let test_error = if test { Some(self.error(&self.job.data.test)?) } else { None };
        let probes = probe(self)?;
        self.history.push(Epoch {
            train_loss: loss_sum / steps.len() as f64,
            train_error: 100.0 * wrong as f64 / seen as f64,
            test_error,
            gradient_norm,
            probes,
        });
        if let Some(file) = &self.job.checkpoint {
            Checkpoint::write(file, &self.builder, &self.sgd, &self.history)?;
        }
        Ok(true)
    }

    /// The error (%) at inference.
    fn error(&self, images: &Images) -> Result<f64> {
        let numbers: Vec<usize> = (0..images.len()).collect();
        let mut wrong = 0;
        for numbers in numbers.chunks(TEST_BATCH) {
            let (x, labels) = plain_batch(&self.job, images, numbers)?;
            wrong += count_wrong(&self.network.forward_t(&x, false)?, &labels)?;
        }
        Ok(100.0 * wrong as f64 / images.len() as f64)
    }

    /// The first `count` training images, without augmentation.
    ///
    /// # Errors
    /// Those of the device.
    pub fn some_images(&self, count: usize) -> Result<Tensor> {
        let numbers: Vec<usize> = (0..count.min(self.job.data.train.len())).collect();
        Ok(plain_batch(&self.job, &self.job.data.train, &numbers)?.0)
    }
}

fn plain_batch(job: &Job, images: &Images, numbers: &[usize]) -> Result<(Tensor, Tensor)> {
    let none = Augmentation::default();
    let mut rng = random::generator(0, random::AUGMENTATION, 0);
    batch(job, images, numbers, |i, out| none.apply(job.data, images, i, &mut rng, out))
}

fn batch(
    job: &Job,
    images: &Images,
    numbers: &[usize],
    mut append: impl FnMut(usize, &mut Vec<f32>),
) -> Result<(Tensor, Tensor)> {
    let mut pixels = Vec::with_capacity(numbers.len() * images.image_len());
    numbers.iter().for_each(|i| append(*i, &mut pixels));
    let labels: Vec<u32> = numbers.iter().map(|i| u32::from(images.labels[*i])).collect();
    let x = Tensor::from_vec(pixels, (numbers.len(), images.channels, images.height, images.width), job.device)?;
    Ok((x, Tensor::from_vec(labels, numbers.len(), job.device)?))
}

fn count_wrong(logits: &Tensor, labels: &Tensor) -> Result<u32> {
    let wrong = logits.detach().argmax(D::Minus1)?.ne(labels)?;
    Ok(wrong.to_dtype(DType::U32)?.sum_all()?.to_scalar()?)
}

/// A network's state between two epochs, in one safetensors file.
struct Checkpoint {
    tensors: HashMap<String, Tensor>,
    note: Note,
}

#[derive(Serialize, Deserialize)]
struct Note {
    next_offset: u64,
    history: Vec<Epoch>,
}

impl Checkpoint {
    fn write(file: &Path, builder: &Builder, sgd: &Sgd, history: &[Epoch]) -> Result<()> {
        let mut tensors: HashMap<String, Tensor> =
            builder.state().map(|(name, var)| (name.to_owned(), var.as_detached_tensor())).collect();
        for (i, velocity) in sgd.velocities().enumerate() {
            tensors.insert(format!("velocity {i}"), velocity.as_detached_tensor());
        }
        let note = Note { next_offset: builder.keys().next_offset(), history: history.to_vec() };
        let note = serde_json::to_vec(&note)?;
        tensors.insert("note".into(), Tensor::from_vec(note.clone(), note.len(), &Device::Cpu)?);
        let new = file.with_extension("part");
        candle_core::safetensors::save(&tensors, &new).with_context(|| format!("{}", new.display()))?;
        results::rename(&new, file)
    }

    fn read(file: &Path, device: &Device) -> Result<Self> {
        let read = || -> Result<Self> {
            let mut tensors = candle_core::safetensors::load(file, device)?;
            let note = tensors.remove("note").context("no note")?.to_vec1::<u8>()?;
            Ok(Self { tensors, note: serde_json::from_slice(&note)? })
        };
        read().with_context(|| format!("{}: not a checkpoint; remove it to start anew", file.display()))
    }

    fn restore(&self, builder: &Builder, sgd: &Sgd) -> Result<()> {
        let set = |name: &str, var: &Var| match self.tensors.get(name) {
            Some(tensor) if tensor.shape() == var.shape() => Ok(var.set(tensor)?),
            found => bail!("checkpoint: {name} is {:?}, expected {:?}", found.map(|t| t.shape()), var.shape()),
        };
        builder.state().try_for_each(|(name, var)| set(name, var))?;
        sgd.velocities().enumerate().try_for_each(|(i, var)| set(&format!("velocity {i}"), var))
    }
}
