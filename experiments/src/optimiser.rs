//! Stochastic gradient descent with momentum, which candle's has not, and Adam in one pass over each parameter,
//! where candle's takes fourteen.

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, Var};

const MOMENTUM: f64 = 0.9;

/// Stochastic gradient descent with momentum, as the sources' code has it: `g += decay w`, `v = momentum v + g`,
/// `w -= rate (g + momentum v)` with Nesterov's momentum, `w -= rate v` without.
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

/// Adam (Kingma and Ba, 2014) with its own constants: 0.9, 0.999, 1e-8.
pub struct Adam {
    /// Each parameter with the averages of its gradient and of its square.
    parameters: Vec<(Var, Vec<f32>, Vec<f32>)>,
    rate: f64,
    steps: i32,
}

impl Adam {
    /// At rest.
    pub fn new(parameters: Vec<Var>, rate: f64) -> Self {
        let at_rest = |p: Var| {
            let zeros = vec![0.0; p.elem_count()];
            (p, zeros.clone(), zeros)
        };
        Self { parameters: parameters.into_iter().map(at_rest).collect(), rate, steps: 0 }
    }

    /// One step down these gradients.
    ///
    /// # Errors
    /// Those of the device.
    pub fn step(&mut self, gradients: &GradStore) -> Result<()> {
        let (first, second, epsilon) = (0.9f32, 0.999f32, 1e-8f32);
        self.steps += 1;
        let rate = (self.rate / (1.0 - f64::from(first).powi(self.steps))) as f32;
        let scale = (1.0 / (1.0 - f64::from(second).powi(self.steps))) as f32;
        for (parameter, means, squares) in &mut self.parameters {
            let Some(gradient) = gradients.get(parameter) else { continue };
            let gradient = gradient.flatten_all()?.to_vec1::<f32>()?;
            let mut values = parameter.flatten_all()?.to_vec1::<f32>()?;
            for (((w, g), m), v) in values.iter_mut().zip(gradient).zip(means).zip(squares) {
                *m = first * *m + (1.0 - first) * g;
                *v = second * *v + (1.0 - second) * g * g;
                *w -= rate * *m / ((*v * scale).sqrt() + epsilon);
            }
            parameter.set(&Tensor::from_vec(values, parameter.shape(), parameter.device())?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use candle_nn::{AdamW, Optimizer, ParamsAdamW};

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

    #[test]
    fn adam_is_candles() {
        let start = [0.5f32, -1.0, 2.0];
        let (ours, candles) =
            (Var::new(&start, &Device::Cpu).expect("a variable"), Var::new(&start, &Device::Cpu).expect("one"));
        let mut adam = Adam::new(vec![ours.clone()], 0.1);
        let parameters = ParamsAdamW { lr: 0.1, weight_decay: 0.0, ..ParamsAdamW::default() };
        let mut expected = AdamW::new(vec![candles.clone()], parameters).expect("candle's");
        for _ in 0..20 {
            let loss = |v: &Var| v.sqr().and_then(|l| l.sqr()?.sum_all()).expect("a loss");
            adam.step(&loss(&ours).backward().expect("gradients")).expect("a step");
            expected.backward_step(&loss(&candles)).expect("a step");
        }
        let (ours, candles) = (ours.to_vec1::<f32>().expect("values"), candles.to_vec1::<f32>().expect("values"));
        assert!(ours.iter().zip(&candles).all(|(a, b)| (a - b).abs() < 1e-5), "{ours:?} {candles:?}");
        assert!((ours[0] - start[0]).abs() > 0.1, "nothing moved");
    }
}
