"""Derivatives of the operators over channels, of the first order, and how they are mapped over a batch."""

from __future__ import annotations

from torch import Tensor

from . import _batch_norm_operators as norms
from . import _bias_operators as biases
from ._channels import needed
from ._derivatives import Mapped, below_autograd, where_needed
from ._functionalize import where_transforms_begin
from ._operators import LIBRARY


def _function(operator, setup, backward_of, jvp_of):
    class Derived(Mapped):
        @staticmethod
        def forward(*arguments):
            with below_autograd():
                return operator(*arguments)

        setup_context, backward, jvp = map(staticmethod, (setup, backward_of, jvp_of))

    Derived.operator = operator
    return Derived


def _refusing(error: type[Exception], text: str):
    def refuse(ctx, *_):
        raise error(text)

    return refuse


def _save_nothing(ctx, inputs, output):
    pass


# ---- A batch normalisation.


def _save_norm(ctx, inputs, output):
    x, residual, weight, bias, mean, _, _, *ctx.parameters = inputs
    _, mask, *statistics = output
    ctx.mark_non_differentiable(mask, *statistics)
    ctx.of_x, ctx.with_residual = mean is None, residual is not None
    _, _, activation, _ = ctx.parameters
    ctx.save_for_backward(mask, x, needed(residual, activation), weight, bias, *statistics)


def _backward_of_norm(ctx, dy, *_):
    mask, x, residual, weight, bias, mean, variance = ctx.saved_tensors
    residual = dy if ctx.with_residual and residual is None else residual  # like it, and not looked at
    dx, dr, of_weight, of_bias = norms.batch_norm_backward(
        dy, mask, x, residual, weight, bias, mean, variance, ctx.of_x, *ctx.parameters
    )
    gradients = norms.gradients(dx, dr, of_weight, of_bias, ctx.with_residual, weight, bias)
    return *gradients, None, None, None, None, None, None, None


# ---- A bias.


def _save_bias(ctx, inputs, output):
    x, residual, bias, _, *ctx.parameters = inputs
    _, mask = output
    ctx.mark_non_differentiable(mask)
    _, activation, ctx.dim, _ = ctx.parameters
    ctx.with_residual, ctx.like = residual is not None, (x.shape, x.dtype)
    saved = mask, *(needed(tensor, activation) for tensor in (x, residual, bias))
    ctx.save_for_backward(*saved)
    ctx.save_for_forward(*saved)


def _backward_of_bias(ctx, dy, _):
    dx, of_bias = biases.bias_backward(dy, *ctx.saved_tensors, *ctx.parameters)
    return *biases.gradients(dx, of_bias, ctx.with_residual), None, None, None, None, None


def _jvp_of_bias(ctx, x: Tensor | None, residual: Tensor | None, bias: Tensor | None, *_):
    """The Jacobian by x is diagonal, so that it is the backward pass applied to the tangent of the sum."""
    shape, dtype = ctx.like
    if bias is not None:
        bias = bias.to(dtype).view([-1 if i == ctx.dim % len(shape) else 1 for i in range(len(shape))]).expand(shape)
    tangent, *others = (of for of in (x, residual, bias) if of is not None)
    for other in others:
        tangent = tangent + other
    return biases.bias_backward(tangent, *ctx.saved_tensors, *ctx.parameters)[0], None


def _no_second_derivatives(of: str, instead: str):
    text = f"{of} with Drop-Activation in it has no second derivatives: use {instead}, which have them"
    return [_refusing(RuntimeError, text)] * 2


_NORM = "a batch normalisation", "nn.BatchNorm and DropActivation"
_NO_FORWARD_MODE = f"{_NORM[0]} with Drop-Activation in it has no forward mode: use {_NORM[1]}, which have it"

for operator, function in (
    (
        norms.batch_norm,
        _function(norms.batch_norm, _save_norm, _backward_of_norm, _refusing(NotImplementedError, _NO_FORWARD_MODE)),
    ),
    (
        norms.batch_norm_backward,
        _function(norms.batch_norm_backward, _save_nothing, *_no_second_derivatives(*_NORM)),
    ),
    (biases.bias_, _function(biases.bias_, _save_bias, _backward_of_bias, _jvp_of_bias)),
    (
        biases.bias_backward,
        _function(
            biases.bias_backward, _save_nothing, *_no_second_derivatives("a bias", "x + bias and DropActivation")
        ),
    ),
):
    LIBRARY.impl(operator, where_needed(operator, function.apply), "Autograd")
    LIBRARY.impl(operator, where_transforms_begin(operator, function.apply), "FuncTorchDynamicLayerFrontMode")
