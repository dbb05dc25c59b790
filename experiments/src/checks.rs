//! What `--quick` checks besides each experiment's own: facts that hold whatever the noise.

use anyhow::{Context, Result, ensure};
use candle_core::Device;
use drop_activation_candle::KeySequence;

use crate::activation::Activation;
use crate::data::Dataset;
use crate::nets::layers::Builder;
use crate::nets::{Architecture, Published, Task, published};
use crate::presets::{Recipe, small};
use crate::train::{Job, Training};

/// The paper's networks have as many parameters as their sources say.
///
/// # Errors
/// Names the network that has not.
pub fn parameter_counts() -> Result<()> {
    let task = Task { channels: 3, side: 32, classes: 10 };
    for Published { name, architecture, millions } in published() {
        let mut builder = Builder::new(Activation::PAPERS, KeySequence::new(0), &Device::Cpu);
        architecture.build(task, &mut builder)?;
        let parameters = builder.parameters();
        ensure!(
            format!("{:.1}", parameters as f64 / 1e6) == millions,
            "{name} has {parameters}, published {millions} M"
        );
    }
    Ok(())
}

/// All numbers of a training's state, and the place in the stream of masks.
fn state<N: candle_nn::ModuleT + ?Sized>(training: &Training<N>) -> Result<(Vec<f32>, u64)> {
    let builder = training.builder();
    let mut numbers = Vec::new();
    for (_, var) in builder.state() {
        numbers.extend(var.flatten_all()?.to_vec1::<f32>()?);
    }
    Ok((numbers, builder.keys().next_offset()))
}

/// A training that is interrupted after each epoch gives the same figures, the same parameters to the last bit
/// and leaves the stream of masks at the same place as one that runs through.
///
/// # Errors
/// If it does not.
pub fn resuming(data: &Dataset, device: &Device) -> Result<()> {
    let (_, architecture): (_, Architecture) = small().swap_remove(0);
    let recipe = Recipe { augmentation: crate::data::augment::Augmentation::standard(data), ..Recipe::small(3) };
    let checkpoint = std::env::temp_dir().join(format!("experiments-resuming-{}", std::process::id()));
    let job = |checkpoint| Job { activation: Activation::PAPERS, recipe: &recipe, data, seed: 7, device, checkpoint };
    let start = |checkpoint| Training::start(job(checkpoint), |task, builder| architecture.build(task, builder));
    let mut nothing = |_: &Training<dyn candle_nn::ModuleT>| Ok(Vec::new());

    let mut through = start(None)?;
    while through.next_epoch(&mut nothing)? {}
    let mut interrupted = start(Some(checkpoint.clone()))?;
    while interrupted.next_epoch(&mut nothing)? {
        interrupted = start(Some(checkpoint.clone())).context("going on")?;
    }
    std::fs::remove_file(&checkpoint)?;

    ensure!(
        interrupted.history() == through.history(),
        "figures differ after an interruption: {:?} and {:?}",
        interrupted.history(),
        through.history()
    );
    let ((ours, our_offset), (theirs, their_offset)) = (state(&interrupted)?, state(&through)?);
    ensure!(our_offset > 0, "no mask was drawn");
    ensure!(our_offset == their_offset, "the next mask would be {our_offset} instead of {their_offset}");
    ensure!(ours.iter().map(|v| v.to_bits()).eq(theirs.iter().map(|v| v.to_bits())), "parameters differ");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameter_counts_are_the_published_ones() {
        parameter_counts().expect("the published counts");
    }

    #[test]
    fn resumed_training_is_the_uninterrupted_one() {
        let data = crate::data::carried().expect("the carried images").part(80, 20, 0);
        resuming(&data, &Device::Cpu).expect("the same training");
    }
}
