"""A training pass of a batch normalisation with Drop-Activation in the least time, on the CPU: one native operator
forward and one backward, for plain tensors, where nobody looks on and no transformation asks for more."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import Function

from .._activations import CODES
from . import _channel_operators as operators
from ._layout import layout_of
from ._operators import DTYPES
from ._plain import is_plain


def batch_norm(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    eps: float,
    p: float,
    activation: str,
) -> tuple[Tensor, Tensor, Tensor] | None:
    """y, mean and variance, as `_channel_operators.batch_norm` with a key that is drawn for it; None where this is not the
    way."""
    if (
        torch.compiler.is_compiling()
        or torch._C._len_torch_function_stack()
        or torch._C._get_tracing_state() is not None
        or not is_plain(x)
        or not (residual is None or is_plain(residual))
        or not x.is_cpu
        or not all(vector is None or vector.is_cpu for vector in (weight, bias, mean, variance))
        or x.dtype not in DTYPES
        or x.is_nested
        or x.layout is not torch.strided
        or not x.numel()
    ):
        return None
    code, layout = CODES[activation], layout_of(x)
    # With p of 0 or 1 nothing is drawn, so that other random numbers stay what they are.
    key = None if 0 < p < 1 else torch.zeros(1, dtype=torch.int64)
    tensors = x, residual, weight, bias, mean, variance
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        return _BatchNorm.apply(*tensors, key, eps, p, code, layout)
    y, _, mean, variance = operators.forward_on_cpu(*tensors, key, eps, p, code, layout)
    return y, mean, variance


class _BatchNorm(Function):
    @staticmethod
    def forward(ctx, x, residual, weight, bias, mean, variance, key, eps, p, activation, layout):
        y, mask, *statistics = operators.forward_on_cpu(
            x, residual, weight, bias, mean, variance, key, eps, p, activation, layout
        )
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*statistics)
        ctx.save_for_backward(mask, x, operators.saved(residual, activation), weight, bias, *statistics)
        ctx.of_x, ctx.with_residual = mean is None, residual is not None
        ctx.parameters = eps, p, activation, layout
        return y, *statistics

    @staticmethod
    def backward(ctx, dy, *_):
        if dy is None:  # y has no gradient
            return (None,) * 11
        mask, x, residual, weight, bias, mean, variance = ctx.saved_tensors
        eps, p, activation, layout = ctx.parameters
        if torch.is_grad_enabled() or not is_plain(dy):
            residual = dy if ctx.with_residual and residual is None else residual
            dx, dr, of_weight, of_bias = operators.batch_norm_backward(
                dy, mask, x, residual, weight, bias, mean, variance, ctx.of_x, eps, p, activation
            )
        else:
            of_residual = ctx.needs_input_grad[1]
            dx, dr, of_weight, of_bias = operators.backward_on_cpu(
                dy, mask, x, residual, weight, bias, mean, variance, eps, p, activation, layout, ctx.of_x, of_residual
            )
        gradients = operators.gradients(dx, dr, of_weight, of_bias, ctx.with_residual, weight, bias)
        return *gradients, None, None, None, None, None, None, None
