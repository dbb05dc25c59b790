//! What a pass over channels takes besides its input, its output and its mask.

use crate::element::Element;
use crate::pass::FusedArguments;

/// What a pass over channels takes besides its input, its output and its mask, as [`Pass`](crate::Pass) names it. Each
/// may be absent, where `Pass` does not say that the pass needs it; what a pass has no use for is not looked at.
#[derive(Debug)]
pub struct Operands<'a, T: Element> {
    /// x of a backward pass.
    pub x: Option<&'a [T]>,
    /// As long as x. None is 0.
    pub residual: Option<&'a [T]>,
    /// For each channel. None is 1.
    pub scale: Option<&'a [T::Real]>,
    /// For each channel. None is 0.
    pub shift: Option<&'a [T::Real]>,
    /// For each channel.
    pub mean: Option<&'a [T::Real]>,
    /// For each channel. None is 1.
    pub alpha: Option<&'a [T::Real]>,
    /// For each channel. None is 0.
    pub beta: Option<&'a [T::Real]>,
    /// For each channel. None is 0.
    pub gamma: Option<&'a [T::Real]>,
    /// What is written for each channel: [`Pass::results`](crate::Pass::results).
    pub results: [Option<&'a mut [T::Real]>; 2],
}

impl<T: Element> Default for Operands<'_, T> {
    /// Nothing.
    fn default() -> Self {
        Self {
            x: None,
            residual: None,
            scale: None,
            shift: None,
            mean: None,
            alpha: None,
            beta: None,
            gamma: None,
            results: [None, None],
        }
    }
}

impl<'a, T: Element> Operands<'a, T> {
    /// Those that are read for each channel, in the order of `cpu::fused`'s.
    pub(crate) fn vectors(&self) -> [Option<&'a [T::Real]>; 6] {
        [self.scale, self.shift, self.mean, self.alpha, self.beta, self.gamma]
    }

    pub(crate) fn lengths(&self) -> FusedArguments {
        let [scale, shift, mean, alpha, beta, gamma] = self.vectors().map(|vector| vector.map(<[_]>::len));
        let residual = self.residual.map(<[_]>::len);
        let results = self.results.each_ref().map(|result| result.as_ref().map(|result| result.len()));
        FusedArguments { residual, scale, shift, mean, alpha, beta, gamma, results }
    }
}
