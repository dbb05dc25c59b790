//! Stochastic gradient descent with momentum, as the sources' code has it (candle's has no momentum):
//! `g += decay w`, `v = momentum v + g`, `w -= rate (g + momentum v)` with Nesterov's momentum, `rate v` without.

use candle_core::backprop::GradStore;
use candle_core::{Result, Var};

const MOMENTUM: f64 = 0.9;

/// The parameters and their velocities.
pub struct Sgd {
    parameters: Vec<(Var, Var)>,
    nesterov: bool,
    weight_decay: f64,
}

impl Sgd {
    /// At rest.
    ///
    /// # Errors
    /// Those of the device.
    pub fn new(parameters: Vec<Var>, nesterov: bool, weight_decay: f64) -> Result<Self> {
        let at_rest = |p: Var| Ok((p.clone(), Var::from_tensor(&p.zeros_like()?.detach())?));
        Ok(Self { parameters: parameters.into_iter().map(at_rest).collect::<Result<_>>()?, nesterov, weight_decay })
    }

    /// The velocities, in the order of the parameters: what a checkpoint must hold.
    pub fn velocities(&self) -> impl Iterator<Item = &Var> {
        self.parameters.iter().map(|(_, v)| v)
    }

    /// One step down these gradients.
    ///
    /// # Errors
    /// Those of the device.
    pub fn step(&self, gradients: &GradStore, rate: f64) -> Result<()> {
        for (parameter, velocity) in &self.parameters {
            let Some(gradient) = gradients.get(parameter) else { continue };
            let value = parameter.as_detached_tensor();
            let gradient = (gradient.detach() + (&value * self.weight_decay)?)?;
            let new = ((velocity.as_detached_tensor() * MOMENTUM)? + &gradient)?;
            let step = if self.nesterov { (gradient + (&new * MOMENTUM)?)? } else { new.clone() };
            parameter.set(&(value - (step * rate)?)?)?;
            velocity.set(&new)?;
        }
        Ok(())
    }

    /// The length of all gradients together.
    ///
    /// # Errors
    /// Those of the device, and a parameter without a gradient.
    pub fn norm(&self, gradients: &GradStore) -> Result<f64> {
        let mut squares = 0.0;
        for (parameter, _) in &self.parameters {
            let Some(gradient) = gradients.get(parameter) else { candle_core::bail!("a parameter has no gradient") };
            squares += f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?);
        }
        Ok(squares.sqrt())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// Two steps down `3 w` from `w = 1`, by hand.
    #[test]
    fn two_steps_by_hand() {
        for (nesterov, expected) in [(false, [0.69, 0.1041]), (true, [0.411, -0.417909])] {
            let w = Var::new(&[1.0f64], &Device::Cpu).expect("a variable");
            let sgd = Sgd::new(vec![w.clone()], nesterov, 0.1).expect("an optimiser");
            for expected in expected {
                let loss = (w.as_tensor() * 3.0).and_then(|l| l.sum_all()).expect("a loss");
                sgd.step(&loss.backward().expect("gradients"), 0.1).expect("a step");
                let value = w.to_vec1::<f64>().expect("a value")[0];
                assert!((value - expected).abs() < 1e-12, "{nesterov} {value} {expected}");
            }
        }
    }
}
