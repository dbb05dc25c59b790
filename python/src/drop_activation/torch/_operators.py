"""The operators that PyTorch knows: each a function of its arguments alone, the key of its mask included."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _library as library
from .._library import Pass
from ._launch import key_of, run
from ._layout import dense, empty_like, layout_of

_DEVICES = ("cpu", "cuda")


def _operator(name: str, mutates_args: tuple[str, ...] = ()):
    return torch.library.custom_op(f"drop_activation::{name}", mutates_args=mutates_args, device_types=_DEVICES)


def _empty_mask(x: Tensor) -> Tensor:
    return torch.empty((x.numel() + 31) // 32, dtype=torch.int32, device=x.device)


def _op(kind: int, p: float, activation: str, key=None) -> Pass:
    return Pass(kind, library.ACTIVATIONS[activation], p, key=key)


# Drop-Activation in training


@_operator("forward")
def forward(x: Tensor, key: Tensor, p: float, activation: str, first: int) -> tuple[Tensor, Tensor]:
    layout = layout_of(x)
    x = dense(x, layout)
    y, mask = empty_like(x, layout), _empty_mask(x)
    run(_op(library.FORWARD, p, activation, key_of(key, x, first)), x, y, mask=mask)
    return y, mask


@forward.register_fake
def _(x, key, p, activation, first):
    return empty_like(x, layout_of(x)), _empty_mask(x)


@_operator("forward_", mutates_args=("x",))
def forward_(x: Tensor, key: Tensor, p: float, first: int) -> Tensor:
    """ReLU over x, which is dense."""
    mask = _empty_mask(x)
    run(_op(library.FORWARD, p, "relu", key_of(key, x, first)), x, x, mask=mask)
    return mask


@forward_.register_fake
def _(x, key, p, first):
    return _empty_mask(x)


@_operator("backward")
def backward(dy: Tensor, mask: Tensor, x: Tensor | None, p: float, activation: str, layout: int) -> Tensor:
    """`layout` is that of the forward pass's x, which ReLU has not kept."""
    dy = dense(dy, layout)
    dx = empty_like(dy, layout)
    run(_op(library.BACKWARD, p, activation), dy, dx, saved=None if x is None else dense(x, layout), mask=mask)
    return dx


@backward.register_fake
def _(dy, mask, x, p, activation, layout):
    return empty_like(dy, layout)


def _save_forward(ctx, inputs, output):
    x, _, ctx.p, ctx.activation, _ = inputs
    ctx.layout = layout_of(x)
    ctx.save_for_backward(output[1], None if ctx.activation == "relu" else x)


def _forward_gradient(ctx, dy, _):
    mask, x = ctx.saved_tensors
    return backward(dy, mask, x, ctx.p, ctx.activation, ctx.layout), None, None, None, None


forward.register_autograd(_forward_gradient, setup_context=_save_forward)


def _save_backward(ctx, inputs, output):
    _, mask, x, ctx.p, ctx.activation, ctx.layout = inputs
    if x is not None:
        ctx.activation = None
    ctx.save_for_backward(mask)


def _backward_gradient(ctx, gradient):
    """ReLU's backward pass is linear in dy, and its own transpose."""
    if ctx.activation is None:
        raise NotImplementedError("the second derivative is there for relu alone")
    (mask,) = ctx.saved_tensors
    return backward(gradient, mask, None, ctx.p, ctx.activation, ctx.layout), None, None, None, None, None


backward.register_autograd(_backward_gradient, setup_context=_save_backward)


class ForwardInPlace(torch.autograd.Function):
    """ReLU over x. PyTorch's operators that write their arguments have no gradients of their own."""

    @staticmethod
    def forward(ctx, x, key, p, first):
        ctx.p, ctx.layout = p, layout_of(x)
        mask = forward_(x, key, p, first)
        ctx.mark_dirty(x)
        ctx.save_for_backward(mask)
        return x

    @staticmethod
    def backward(ctx, dy):
        (mask,) = ctx.saved_tensors
        return backward(dy, mask, None, ctx.p, "relu", ctx.layout), None, None, None


# Drop-Activation at inference


@_operator("infer")
def infer(x: Tensor, p: float, activation: str) -> Tensor:
    layout = layout_of(x)
    x = dense(x, layout)
    y = empty_like(x, layout)
    run(_op(library.INFER, p, activation), x, y)
    return y


@infer.register_fake
def _(x, p, activation):
    return empty_like(x, layout_of(x))


@_operator("infer_backward")
def infer_backward(dy: Tensor, x: Tensor, p: float, activation: str) -> Tensor:
    layout = layout_of(x)
    dy = dense(dy, layout)
    dx = empty_like(dy, layout)
    run(_op(library.INFER_BACKWARD, p, activation), dy, dx, saved=dense(x, layout))
    return dx


@infer_backward.register_fake
def _(dy, x, p, activation):
    return empty_like(dy, layout_of(x))


def _save_infer(ctx, inputs, output):
    x, ctx.p, ctx.activation = inputs
    # y has ReLU's signs as x has, and mostly the next layer keeps it anyway.
    ctx.save_for_backward(output if ctx.activation == "relu" else x)


def _infer_gradient(ctx, dy):
    (x,) = ctx.saved_tensors
    return infer_backward(dy, x, ctx.p, ctx.activation), None, None


infer.register_autograd(_infer_gradient, setup_context=_save_infer)


# RReLU


def _rrelu(kind: int, lower: float, upper: float, key=None) -> Pass:
    return Pass(kind, slopes=(lower, upper), key=key)


@_operator("rrelu_forward")
def rrelu_forward(x: Tensor, key: Tensor, lower: float, upper: float, first: int) -> tuple[Tensor, Tensor]:
    layout = layout_of(x)
    x = dense(x, layout)
    y, mask = empty_like(x, layout), _empty_mask(x)
    run(_rrelu(library.RRELU_FORWARD, lower, upper, key_of(key, x, first)), x, y, mask=mask)
    return y, mask


@rrelu_forward.register_fake
def _(x, key, lower, upper, first):
    return empty_like(x, layout_of(x)), _empty_mask(x)


@_operator("rrelu_backward")
def rrelu_backward(
    dy: Tensor, mask: Tensor, key: Tensor, lower: float, upper: float, first: int, layout: int
) -> Tensor:
    dy = dense(dy, layout)
    dx = empty_like(dy, layout)
    run(_rrelu(library.RRELU_BACKWARD, lower, upper, key_of(key, dy, first)), dy, dx, mask=mask)
    return dx


@rrelu_backward.register_fake
def _(dy, mask, key, lower, upper, first, layout):
    return empty_like(dy, layout)


def _save_rrelu(ctx, inputs, output):
    x, key, ctx.lower, ctx.upper, ctx.first = inputs
    ctx.layout = layout_of(x)
    ctx.save_for_backward(output[1], key)


def _rrelu_gradient(ctx, dy, _):
    mask, key = ctx.saved_tensors
    dx = rrelu_backward(dy, mask, key, ctx.lower, ctx.upper, ctx.first, ctx.layout)
    return dx, None, None, None, None


rrelu_forward.register_autograd(_rrelu_gradient, setup_context=_save_rrelu)


@_operator("rrelu_infer")
def rrelu_infer(x: Tensor, lower: float, upper: float) -> Tensor:
    layout = layout_of(x)
    x = dense(x, layout)
    y = empty_like(x, layout)
    run(_rrelu(library.RRELU_INFER, lower, upper), x, y)
    return y


@rrelu_infer.register_fake
def _(x, lower, upper):
    return empty_like(x, layout_of(x))


@_operator("rrelu_infer_backward")
def rrelu_infer_backward(dy: Tensor, x: Tensor, lower: float, upper: float) -> Tensor:
    layout = layout_of(x)
    dy = dense(dy, layout)
    dx = empty_like(dy, layout)
    run(_rrelu(library.RRELU_INFER_BACKWARD, lower, upper), dy, dx, saved=dense(x, layout))
    return dx


@rrelu_infer_backward.register_fake
def _(dy, x, lower, upper):
    return empty_like(dy, layout_of(x))


def _save_rrelu_infer(ctx, inputs, output):
    x, ctx.lower, ctx.upper = inputs
    ctx.save_for_backward(x)


def _rrelu_infer_gradient(ctx, dy):
    (x,) = ctx.saved_tensors
    return rrelu_infer_backward(dy, x, ctx.lower, ctx.upper), None, None


rrelu_infer.register_autograd(_rrelu_infer_gradient, setup_context=_save_rrelu_infer)
