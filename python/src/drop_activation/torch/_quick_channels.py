"""Training passes over channels in the least time, on the CPU: one native operator forward and one backward, for plain
tensors, where nobody looks on and no transformation asks for more."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import Function

from .._activations import CODES
from ._channel_derivatives import biases, norms
from ._channels import needed
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
    """y, mean and variance, as `_batch_norm_operators.batch_norm` with a key that is drawn for it; None where this is not
    the way."""
    if not _is_quick(x, residual, weight, bias, mean, variance):
        return None
    tensors, parameters = (x, residual, weight, bias, mean, variance), (eps, p, CODES[activation], layout_of(x))
    if _has_gradients(*tensors):
        return _BatchNorm.apply(*tensors, _none_drawn(p), *parameters)
    y, _, mean, variance = norms.forward_on_cpu(*tensors, _none_drawn(p), *parameters)
    return y, mean, variance


def bias_(
    x: Tensor, residual: Tensor | None, bias: Tensor, key: Tensor | None, p: float, activation: str, dim: int
) -> Tensor | None:
    """y, as that of `_bias_operators.bias_`, with a key that is drawn for it if none is given; None where this is not the
    way."""
    if not _is_quick(x, residual, bias, key):
        return None
    tensors, parameters = (x, residual, bias), (p, CODES[activation], dim, layout_of(x))
    key = _none_drawn(p) if key is None else key
    if _has_gradients(*tensors):
        return _Bias.apply(*tensors, key, *parameters)
    return biases.forward_on_cpu(*tensors, key, *parameters)[0]


def _is_quick(x: Tensor, residual: Tensor | None, *others: Tensor | None) -> bool:
    return not (
        torch.compiler.is_compiling()
        or torch._C._len_torch_function_stack()
        or torch._C._get_tracing_state() is not None
        or not is_plain(x)
        or not (residual is None or is_plain(residual))
        or not x.is_cpu
        or not all(other is None or other.is_cpu for other in others)
        or x.dtype not in DTYPES
        or x.is_nested
        or x.layout is not torch.strided
        or not x.numel()
    )


def _none_drawn(p: float) -> Tensor | None:
    """With p of 0 or 1 nothing is drawn, so that other random numbers stay what they are."""
    return None if 0 < p < 1 else torch.zeros(1, dtype=torch.int64)


def _has_gradients(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


class _BatchNorm(Function):
    @staticmethod
    def forward(ctx, x, residual, weight, bias, mean, variance, key, eps, p, activation, layout):
        y, mask, *statistics = norms.forward_on_cpu(
            x, residual, weight, bias, mean, variance, key, eps, p, activation, layout
        )
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*statistics)
        ctx.save_for_backward(mask, x, needed(residual, activation), weight, bias, *statistics)
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
            dx, dr, of_weight, of_bias = norms.batch_norm_backward(
                dy, mask, x, residual, weight, bias, mean, variance, ctx.of_x, eps, p, activation, layout
            )
        else:
            of_residual = ctx.needs_input_grad[1]
            dx, dr, of_weight, of_bias = norms.backward_on_cpu(
                dy, mask, x, residual, weight, bias, mean, variance, eps, p, activation, layout, ctx.of_x, of_residual
            )
        gradients = norms.gradients(dx, dr, of_weight, of_bias, ctx.with_residual, weight, bias)
        return *gradients, None, None, None, None, None, None, None


class _Bias(Function):
    @staticmethod
    def forward(ctx, x, residual, bias, key, p, activation, dim, layout):
        y, mask = biases.forward_on_cpu(x, residual, bias, key, p, activation, dim, layout)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(mask, *(needed(tensor, activation) for tensor in (x, residual, bias)))
        ctx.with_residual, ctx.parameters = residual is not None, (p, activation, dim, layout)
        return y

    @staticmethod
    def backward(ctx, dy):
        if dy is None:  # y has no gradient
            return (None,) * 8
        plain = not torch.is_grad_enabled() and is_plain(dy)
        backward = biases.backward_on_cpu if plain else biases.bias_backward
        dx, of_bias = backward(dy, *ctx.saved_tensors, *ctx.parameters)
        return *biases.gradients(dx, of_bias, ctx.with_residual), None, None, None, None, None
