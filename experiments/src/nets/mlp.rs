//! The fully connected network of Figure 3.

use candle_core::{Result, Tensor};
use candle_nn::{Linear, Module, ModuleT};

use super::layers::Builder;
use crate::activation::Site;

/// One number in, one number out.
#[derive(Debug)]
pub struct Mlp {
    hidden: Vec<(Linear, Site)>,
    output: Linear,
}

impl Mlp {
    /// With hidden layers of these widths.
    ///
    /// # Errors
    /// Those of the device.
    pub fn new(widths: &[usize], b: &mut Builder) -> Result<Self> {
        let mut inputs = 1;
        let mut hidden = Vec::new();
        for (i, width) in widths.iter().enumerate() {
            hidden.push((b.uniform_linear(&format!("hidden{i}"), inputs, *width)?, b.activation()?));
            inputs = *width;
        }
        Ok(Self { hidden, output: b.uniform_linear("output", inputs, 1)? })
    }
}

impl ModuleT for Mlp {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let mut x = x.clone();
        for (linear, activation) in &self.hidden {
            x = activation.forward_t(&linear.forward(&x)?, train)?;
        }
        self.output.forward(&x)
    }
}
