"""Derivatives of the operators, in both directions and of any order, and how they are mapped over a batch.

The Jacobian of every operator is diagonal, so that forward mode is the backward pass applied to the tangent. Elements
of a mask have no derivatives.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.autograd import Function

from . import _operators as operators
from ._layout import in_order

below_autograd = torch._C._AutoDispatchBelowAutograd


def _mapped(function, info, in_dims, arguments):
    """One call for each sample: each has a mask of its own, or what its key says."""
    results = []
    for i in range(info.batch_size):
        sample = [a if dim is None else a.select(dim, i) for a, dim in zip(arguments, in_dims)]
        results.append(function.apply(*sample))
    if isinstance(results[0], Tensor):
        return torch.stack(results), 0
    return tuple(map(torch.stack, zip(*results))), (0,) * len(results[0])


class Forward(Function):
    @staticmethod
    def forward(x, key, p, activation, first, layout):
        with below_autograd():
            return operators.forward(x, key, p, activation, first, layout)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, _, ctx.p, ctx.activation, _, ctx.layout = inputs
        mask = output[1]
        ctx.mark_non_differentiable(mask)
        saved = (mask, None if ctx.activation == "relu" else x)
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)

    @staticmethod
    def backward(ctx, dy, _):
        mask, x = ctx.saved_tensors
        return Backward.apply(dy, mask, x, ctx.p, ctx.activation, ctx.layout), None, None, None, None, None

    @staticmethod
    def jvp(ctx, x_tangent, *_):
        mask, x = ctx.saved_tensors
        return Backward.apply(x_tangent, mask, x, ctx.p, ctx.activation, ctx.layout), None

    @staticmethod
    def vmap(info, in_dims, *arguments):
        return _mapped(Forward, info, in_dims, arguments)


class Backward(Function):
    """dx, which is linear in dy and its own transpose; for ReLU it has no other derivative."""

    @staticmethod
    def forward(dy, mask, x, p, activation, layout):
        with below_autograd():
            return operators.backward(dy, mask, x, p, activation, layout)

    @staticmethod
    def setup_context(ctx, inputs, output):
        dy, mask, x, ctx.p, ctx.activation, ctx.layout = inputs
        saved = (mask, x, None if x is None else dy)
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)

    @staticmethod
    def backward(ctx, gradient):
        mask, x, dy = ctx.saved_tensors
        by_dy = by_x = None
        if ctx.needs_input_grad[0]:
            by_dy = Backward.apply(gradient, mask, x, ctx.p, ctx.activation, ctx.layout)
        if x is not None and ctx.needs_input_grad[2]:
            by_x = gradient * dy * _kept_curvature(mask, x, ctx.activation, ctx.layout)
        return by_dy, None, by_x, None, None, None

    @staticmethod
    def jvp(ctx, dy_tangent, _, x_tangent, *__):
        mask, x, dy = ctx.saved_tensors
        tangent = None
        if dy_tangent is not None:
            tangent = Backward.apply(dy_tangent, mask, x, ctx.p, ctx.activation, ctx.layout)
        if x is not None and x_tangent is not None:
            by_x = x_tangent * dy * _kept_curvature(mask, x, ctx.activation, ctx.layout)
            tangent = by_x if tangent is None else tangent + by_x
        return tangent

    @staticmethod
    def vmap(info, in_dims, *arguments):
        return _mapped(Backward, info, in_dims, arguments)


def _kept_curvature(mask: Tensor, x: Tensor, activation: str, layout: int) -> Tensor:
    """keep σ''(x), from PyTorch's operations, so that it has derivatives in turn."""
    if activation == "relu":
        return torch.zeros_like(x)
    bits = torch.arange(32, dtype=torch.int32, device=mask.device)
    keep = in_order(((mask.unsqueeze(1) >> bits) & 1).flatten(), x, layout).bool()
    return torch.where(keep, _CURVATURES[activation](x), torch.zeros((), dtype=x.dtype, device=x.device))


def _sigmoid_curvature(x):
    s = torch.sigmoid(x)
    return s * (1 - s) * (1 - 2 * s)


def _tanh_curvature(x):
    t = torch.tanh(x)
    return -2 * t * (1 - t * t)


def _gelu_curvature(x):
    return (2 - x * x) * torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def _silu_curvature(x):
    s = torch.sigmoid(x)
    return s * (1 - s) * (2 + x * (1 - 2 * s))


_CURVATURES = {
    "sigmoid": _sigmoid_curvature,
    "tanh": _tanh_curvature,
    "gelu": _gelu_curvature,
    "silu": _silu_curvature,
}


class RReluForward(Function):
    @staticmethod
    def forward(x, key, lower, upper, first, layout):
        with below_autograd():
            return operators.rrelu_forward(x, key, lower, upper, first, layout)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, key, *ctx.parameters = inputs
        mask = output[1]
        ctx.mark_non_differentiable(mask)
        ctx.save_for_backward(mask, key)
        ctx.save_for_forward(mask, key)

    @staticmethod
    def backward(ctx, dy, _):
        return RReluBackward.apply(dy, *ctx.saved_tensors, *ctx.parameters), None, None, None, None, None

    @staticmethod
    def jvp(ctx, x_tangent, *_):
        return RReluBackward.apply(x_tangent, *ctx.saved_tensors, *ctx.parameters), None

    @staticmethod
    def vmap(info, in_dims, *arguments):
        return _mapped(RReluForward, info, in_dims, arguments)


class RReluBackward(Function):
    """Linear in dy and its own transpose."""

    @staticmethod
    def forward(dy, mask, key, lower, upper, first, layout):
        with below_autograd():
            return operators.rrelu_backward(dy, mask, key, lower, upper, first, layout)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, mask, key, *ctx.parameters = inputs
        ctx.save_for_backward(mask, key)
        ctx.save_for_forward(mask, key)

    @staticmethod
    def backward(ctx, gradient):
        dx = RReluBackward.apply(gradient, *ctx.saved_tensors, *ctx.parameters)
        return dx, None, None, None, None, None, None

    @staticmethod
    def jvp(ctx, dy_tangent, *_):
        return RReluBackward.apply(dy_tangent, *ctx.saved_tensors, *ctx.parameters)

    @staticmethod
    def vmap(info, in_dims, *arguments):
        return _mapped(RReluBackward, info, in_dims, arguments)


class ForwardInPlace(Function):
    """Marks x as overwritten, after PyTorch's own checks that it may be. `over` does it then: a refusal comes before
    anything is written."""

    @staticmethod
    def forward(ctx, x, mask, p, layout):
        ctx.p, ctx.layout = p, layout
        ctx.mark_dirty(x)
        ctx.save_for_backward(mask)
        return x

    @staticmethod
    def backward(ctx, dy):
        (mask,) = ctx.saved_tensors
        return Backward.apply(dy, mask, None, ctx.p, "relu", ctx.layout), None, None, None


for operator, function in (
    (operators.forward, Forward),
    (operators.backward, Backward),
    (operators.rrelu_forward, RReluForward),
    (operators.rrelu_backward, RReluBackward),
):
    # The second is where torch.func's transforms begin: what their interpreters would do with an operator of C++, whose
    # derivatives they take apart themselves, is not for a `Function`.
    for dispatch_key in ("Autograd", "FuncTorchDynamicLayerFrontMode"):
        operators.LIBRARY.impl(operator, function.apply, dispatch_key)


def _over(x, mask, key, p, first, layout):
    if torch.is_grad_enabled() and x.requires_grad or torch.autograd.forward_ad._current_level >= 0:
        y, new_mask = Forward.apply(x, key, p, "relu", first, layout)
        x.copy_(y)
        mask.copy_(new_mask)
        return
    with below_autograd():
        operators.forward_(x, mask, key, p, first, layout)
    for written in (x, mask):
        if not written.is_inference():
            torch.autograd.graph.increment_version(written)


operators.LIBRARY.impl(operators.forward_, _over, "Autograd")
