"""Derivatives of the operators, in both directions and of any order, and how they are mapped over a batch.

The Jacobian of every operator is diagonal, so that forward mode is the backward pass applied to the tangent. Elements
of a mask have no derivatives.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

from .._library import ACTIVATIONS
from . import _operators as operators
from ._keys import draw_key
from ._layout import in_order
from ._plain import is_plain

RELU = ACTIVATIONS["relu"]
below_autograd = torch._C._AutoDispatchBelowAutograd


class _Mapped(Function):
    @classmethod
    def vmap(cls, info, in_dims, *arguments):
        """One call for each sample: each has a mask of its own, or what its key says."""
        results = []
        for i in range(info.batch_size):
            sample = [a if dim is None else a.select(dim, i) for a, dim in zip(arguments, in_dims)]
            results.append(cls.apply(*sample))
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        return tuple(map(torch.stack, zip(*results))), (0,) * len(results[0])


def _linear(operator, tensors: int):
    """The Function of an operator that is linear in its first argument, has its own transpose, and no derivative by
    the `tensors` that come next."""

    class Linear(_Mapped):
        @staticmethod
        def forward(*arguments):
            with below_autograd():
                return operator(*arguments)

        @staticmethod
        def setup_context(ctx, inputs, output):
            _, *saved = inputs[: 1 + tensors]
            ctx.parameters = inputs[1 + tensors :]
            ctx.save_for_backward(*saved)
            ctx.save_for_forward(*saved)

        @staticmethod
        def backward(ctx, gradient):
            dy = Linear.apply(gradient, *ctx.saved_tensors, *ctx.parameters)
            return dy, *(None for _ in (*ctx.saved_tensors, *ctx.parameters))

        @staticmethod
        def jvp(ctx, tangent, *_):
            return Linear.apply(tangent, *ctx.saved_tensors, *ctx.parameters)

    return Linear


def _drawing(operator, gradient):
    """The Function of an operator that draws a mask and returns y and that. `gradient` returns, for the mask and the
    arguments, the Function of the backward pass, the tensors that this takes after dy, and its other parameters."""

    class Drawing(_Mapped):
        @staticmethod
        def forward(*arguments):
            with below_autograd():
                return operator(*arguments)

        @staticmethod
        def setup_context(ctx, inputs, output):
            mask = output[1]
            ctx.mark_non_differentiable(mask)
            ctx.gradient, saved, ctx.parameters = gradient(mask, *inputs)
            ctx.others = (None,) * (len(inputs) - 1)
            ctx.save_for_backward(*saved)
            ctx.save_for_forward(*saved)

        @staticmethod
        def backward(ctx, dy, _):
            return ctx.gradient.apply(dy, *ctx.saved_tensors, *ctx.parameters), *ctx.others

        @staticmethod
        def jvp(ctx, x_tangent, *_):
            return ctx.gradient.apply(x_tangent, *ctx.saved_tensors, *ctx.parameters), None

    return Drawing


#: ReLU's.
Backward = _linear(operators.backward, tensors=1)
RReluBackward = _linear(operators.rrelu_backward, tensors=2)


class BackwardSaved(_Mapped):
    """The others', which depends on x as well."""

    @staticmethod
    def forward(dy, mask, x, activation, layout):
        with below_autograd():
            return operators.backward_saved(dy, mask, x, activation, layout)

    @staticmethod
    def setup_context(ctx, inputs, output):
        dy, mask, x, ctx.activation, ctx.layout = inputs
        ctx.save_for_backward(dy, mask, x)
        ctx.save_for_forward(dy, mask, x)

    @staticmethod
    def backward(ctx, gradient):
        by_dy, by_x = ctx.needs_input_grad[0], ctx.needs_input_grad[2]
        return (
            BackwardSaved.apply(gradient, *ctx.saved_tensors[1:], ctx.activation, ctx.layout) if by_dy else None,
            None,
            _by_x(ctx, gradient) if by_x else None,
            None,
            None,
        )

    @staticmethod
    def jvp(ctx, dy_tangent, _, x_tangent, *__):
        tangents = []
        if dy_tangent is not None:
            tangents.append(BackwardSaved.apply(dy_tangent, *ctx.saved_tensors[1:], ctx.activation, ctx.layout))
        if x_tangent is not None:
            tangents.append(_by_x(ctx, x_tangent))
        return sum(tangents[1:], tangents[0])


def _by_x(ctx, factor):
    dy, mask, x = ctx.saved_tensors
    return factor * dy * _kept_curvature(mask, x, ctx.activation, ctx.layout)


def _kept_curvature(mask: Tensor, x: Tensor, activation: int, layout: int) -> Tensor:
    """keep σ''(x), from PyTorch's operations, so that it has derivatives in turn."""
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
    ACTIVATIONS["sigmoid"]: _sigmoid_curvature,
    ACTIVATIONS["tanh"]: _tanh_curvature,
    ACTIVATIONS["gelu"]: _gelu_curvature,
    ACTIVATIONS["silu"]: _silu_curvature,
}


def _forward_gradient(mask, x, key, p, activation, first, layout):
    if activation == RELU:
        return Backward, (mask,), (layout,)
    return BackwardSaved, (mask, x), (activation, layout)


def _rrelu_gradient(mask, x, key, *parameters):
    return RReluBackward, (mask, key), parameters


Forward = _drawing(operators.forward, _forward_gradient)
RReluForward = _drawing(operators.rrelu_forward, _rrelu_gradient)


# The same, in the least time, for where no transformation asks for more.


class QuickForward(Function):
    """Without the mask among the results, and without forward mode and vmap. Without a key one is drawn."""

    @staticmethod
    def forward(ctx, x, key, p, activation, first, layout):
        with below_autograd():
            if key is None:
                y, mask = operators.draw_forward(x, p, activation, first, layout)
            else:
                y, mask = operators.forward(x, key, p, activation, first, layout)
        ctx.activation, ctx.layout = activation, layout
        if activation == RELU:
            ctx.save_for_backward(mask)
        else:
            ctx.save_for_backward(mask, x)
        return y

    @staticmethod
    def backward(ctx, dy):
        return _quick_gradient(ctx, dy), None, None, None, None, None


class ForwardInPlace(Function):
    """Marks x as overwritten, after PyTorch's own checks that it may be. Whoever calls it writes then: a refusal comes
    before anything is written."""

    @staticmethod
    def forward(ctx, x, mask, layout):
        ctx.activation, ctx.layout = RELU, layout
        ctx.mark_dirty(x)
        ctx.save_for_backward(mask)
        return x

    @staticmethod
    def backward(ctx, dy):
        return _quick_gradient(ctx, dy), None, None


def _quick_gradient(ctx, dy):
    function, operator, parameters = Backward, operators.backward, (ctx.layout,)
    if ctx.activation != RELU:
        function, operator, parameters = BackwardSaved, operators.backward_saved, (ctx.activation, ctx.layout)
    saved = ctx.saved_tensors  # a checkpoint computes them again, with gradients
    if torch.is_grad_enabled() or not is_plain(dy):
        return function.apply(dy, *saved, *parameters)
    with below_autograd():
        return operator(dy, *saved, *parameters)


def _where_needed(operator, function):
    """The function with derivatives, where any are asked for. Compiled code asks for none, and calls often."""

    def kernel(*arguments):
        asked = torch.is_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in arguments)
        if asked or forward_ad._current_level >= 0:
            return function(*arguments)
        with below_autograd():
            return operator(*arguments)

    return kernel


def _drawn_forward(x, p, activation, first, layout):
    return Forward.apply(x, draw_key(x), p, activation, first, layout)


for operator, function in (
    (operators.forward, Forward.apply),
    (operators.draw_forward, _drawn_forward),
    (operators.backward, Backward.apply),
    (operators.backward_saved, BackwardSaved.apply),
    (operators.rrelu_forward, RReluForward.apply),
    (operators.rrelu_backward, RReluBackward.apply),
):
    operators.LIBRARY.impl(operator, _where_needed(operator, function), "Autograd")
    # Where torch.func's transforms begin: what their interpreters would do with an operator of C++, whose derivatives
    # they take apart themselves, is not for a `Function`.
    operators.LIBRARY.impl(operator, function, "FuncTorchDynamicLayerFrontMode")


def _over(x, mask, key, p, first, layout):
    if torch.is_grad_enabled() and x.requires_grad or forward_ad._current_level >= 0:
        y, new_mask = Forward.apply(x, key, p, RELU, first, layout)
        x.copy_(y)
        mask.copy_(new_mask)
        return
    with below_autograd():
        operators.forward_(x, mask, key, p, first, layout)
    for written in (x, mask):
        if not written.is_inference():
            torch.autograd.graph.increment_version(written)


operators.LIBRARY.impl(operators.forward_, _over, "Autograd")
