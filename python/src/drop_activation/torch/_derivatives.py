"""Derivatives of the operators, in both directions and of any order, and how they are mapped over a batch.

The Jacobian of every operator is diagonal, so that forward mode is the backward pass applied to the tangent. Elements
of a mask have no derivatives.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

from .._activations import CODES, curvature
from . import _operators as operators
from ._functionalize import where_transforms_begin
from ._keys import draw_key
from ._layout import in_order

RELU = CODES["relu"]
#: σ'' by σ's code.
_CURVATURES = {code: curvature(name) for name, code in CODES.items() if name != "relu"}
below_autograd = torch._C._AutoDispatchBelowAutograd


class Mapped(Function):
    @classmethod
    def vmap(cls, info, in_dims, *arguments):
        """One call for each sample: each has a mask of its own, or what its key says."""
        results = []
        for i in range(info.batch_size):
            sample = [a if dim is None else a.select(dim, i) for a, dim in zip(arguments, in_dims)]
            results.append(cls.operator(*sample))
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        return tuple(map(torch.stack, zip(*results))), (0,) * len(results[0])


def _linear(operator, tensors: int):
    """The Function of an operator that is linear in its first argument, has its own transpose, and no derivative by
    the `tensors` that come next."""

    class Linear(Mapped):
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

    Linear.operator = operator
    return Linear


def _drawing(operator, gradient):
    """The Function of an operator that draws a mask and returns y, that, and what else it draws. `gradient` returns, for
    what was drawn and the arguments, what `forward_gradient` does."""

    class Drawing(Mapped):
        @staticmethod
        def forward(*arguments):
            with below_autograd():
                return operator(*arguments)

        @staticmethod
        def setup_context(ctx, inputs, output):
            _, *drawn = output
            ctx.mark_non_differentiable(*drawn)
            ctx.gradient, saved, ctx.parameters = gradient(*drawn, *inputs)
            ctx.drawn = (None,) * len(drawn)
            ctx.others = (None,) * (len(inputs) - 1)
            ctx.save_for_backward(*saved)
            ctx.save_for_forward(*saved)

        @staticmethod
        def backward(ctx, dy, *_):
            return ctx.gradient.apply(dy, *ctx.saved_tensors, *ctx.parameters), *ctx.others

        @staticmethod
        def jvp(ctx, x_tangent, *_):
            return ctx.gradient.apply(x_tangent, *ctx.saved_tensors, *ctx.parameters), *ctx.drawn

    Drawing.operator = operator
    return Drawing


#: ReLU's.
Backward = _linear(operators.backward, tensors=1)
RReluBackward = _linear(operators.rrelu_backward, tensors=2)


class BackwardSaved(Mapped):
    """The others', which depends on x as well."""

    operator = operators.backward_saved

    @staticmethod
    def forward(*arguments):
        with below_autograd():
            return operators.backward_saved(*arguments)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *saved, ctx.activation, ctx.layout = inputs
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)

    @staticmethod
    def backward(ctx, gradient):
        by_dy, _, by_x, *_ = ctx.needs_input_grad
        return (
            BackwardSaved.by_dy(ctx, gradient) if by_dy else None,
            None,
            BackwardSaved.by_x(ctx, gradient) if by_x else None,
            None,
            None,
        )

    @staticmethod
    def jvp(ctx, dy_tangent, _, x_tangent, *__):
        if x_tangent is None:
            return BackwardSaved.by_dy(ctx, dy_tangent)
        by_x = BackwardSaved.by_x(ctx, x_tangent)
        return by_x if dy_tangent is None else BackwardSaved.by_dy(ctx, dy_tangent) + by_x

    @staticmethod
    def by_dy(ctx, factor):
        _, mask, x = ctx.saved_tensors
        return BackwardSaved.apply(factor, mask, x, ctx.activation, ctx.layout)

    @staticmethod
    def by_x(ctx, factor):
        dy, mask, x = ctx.saved_tensors
        return factor * dy * _kept_curvature(mask, x, ctx.activation, ctx.layout)


def _kept_curvature(mask: Tensor, x: Tensor, activation: int, layout: int) -> Tensor:
    """keep σ''(x), from PyTorch's operations, so that it has derivatives in turn."""
    bits = torch.arange(32, dtype=torch.int32, device=mask.device)
    keep = in_order(((mask.unsqueeze(1) >> bits) & 1).flatten(), x, layout).bool()
    return torch.where(keep, _CURVATURES[activation](x), torch.zeros((), dtype=x.dtype, device=x.device))


def forward_gradient(mask, x, key, p, activation, first, layout):
    """The Function of the backward pass, the tensors that it takes after dy, and its other parameters."""
    if activation == RELU:
        return Backward, (mask,), (layout,)
    return BackwardSaved, (mask, x), (activation, layout)


def _rrelu_gradient(mask, x, key, *parameters):
    return RReluBackward, (mask, key), parameters


def _draw_gradient(mask, x, *parameters):
    return forward_gradient(mask, x, None, *parameters)


def _draw_rrelu_gradient(mask, key, x, *parameters):
    return RReluBackward, (mask, key), parameters


Forward = _drawing(operators.forward, forward_gradient)
DrawForward = _drawing(operators.draw_forward, _draw_gradient)
RReluForward = _drawing(operators.rrelu_forward, _rrelu_gradient)
DrawRReluForward = _drawing(operators.draw_rrelu_forward, _draw_rrelu_gradient)


def where_needed(operator, function):
    """The function with derivatives, where any are asked for. Compiled code asks for none, and calls often."""

    def kernel(*arguments):
        asked = torch.is_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in arguments)
        if asked or forward_ad._current_level >= 0:
            return function(*arguments)
        with below_autograd():
            return operator(*arguments)

    return kernel


# With a key drawn apart, for which vmap's `randomness` decides.


def _drawn_forward(x, *parameters):
    return operators.forward(x, draw_key(x), *parameters)


def _drawn_rrelu_forward(x, *parameters):
    key = draw_key(x)
    return *operators.rrelu_forward(x, key, *parameters), key


_TRANSFORMED = {operators.draw_forward: _drawn_forward, operators.draw_rrelu_forward: _drawn_rrelu_forward}

for operator, function in (
    (operators.forward, Forward.apply),
    (operators.draw_forward, DrawForward.apply),
    (operators.backward, Backward.apply),
    (operators.backward_saved, BackwardSaved.apply),
    (operators.rrelu_forward, RReluForward.apply),
    (operators.draw_rrelu_forward, DrawRReluForward.apply),
    (operators.rrelu_backward, RReluBackward.apply),
):
    operators.LIBRARY.impl(operator, where_needed(operator, function), "Autograd")
    # Where torch.func's transforms begin: what their interpreters would do with an operator of C++, whose derivatives
    # they take apart themselves, is not for a `Function`.
    transformed = where_transforms_begin(operator, _TRANSFORMED.get(operator, function))
    operators.LIBRARY.impl(operator, transformed, "FuncTorchDynamicLayerFrontMode")


def _over(x, mask, key, p, first, layout):
    if torch.is_grad_enabled() and x.requires_grad or forward_ad._current_level >= 0:
        operators.check_mask("mask", mask, x)
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
