"""Forward passes in the least time, for plain tensors, where nobody looks on and no transformation asks for more."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

from .._activations import CODES
from . import _operators as operators
from ._derivatives import RELU, Backward, below_autograd, forward_gradient
from ._keys import draw_forward_
from ._layout import CONTIGUOUS, layout_of
from ._plain import PLAIN, is_plain

# Without the layers of Python around them, each of which costs as much as an allocation.
_draw, _draw_without_mask, _backward = (
    getattr(torch.ops.drop_activation, name).default._op for name in ("_draw", "_draw_without_mask", "_backward")
)
_is_compiling = torch.compiler.is_compiling
_are_transforms_active = torch._C._are_functorch_transforms_active
_dispatch_modes, _function_modes = torch._C._len_torch_dispatch_stack, torch._C._len_torch_function_stack
_tracing_state, _is_grad_enabled = torch._C._get_tracing_state, torch.is_grad_enabled


def drawn(x: Tensor, p: float, activation: str) -> Tensor | None:
    """y with a key that is drawn for it; None where this is not the way, or an argument is wrong."""
    if _is_compiling() or type(x) not in PLAIN or type(activation) is not str or type(p) is not float or not 0 < p < 1:
        return None
    if _function_modes():  # which would see each question
        with torch._C.DisableTorchFunction():
            return _drawn(x, p, activation)
    return _drawn(x, p, activation)


def _drawn(x, p, activation):
    if (
        not x.is_cpu
        or x.dtype not in operators.DTYPES
        or _are_transforms_active()
        or forward_ad._current_level >= 0
        or _dispatch_modes()
        or _tracing_state() is not None
        or x.is_nested
        or x.layout is not torch.strided
    ):
        return None
    code, layout = CODES.get(activation), CONTIGUOUS if x.is_contiguous() else layout_of(x)
    if code is None:
        return None
    if x.requires_grad and _is_grad_enabled():
        return _DrawnRelu.apply(x, p, layout) if code == RELU else Forward.apply(x, None, p, code, 0, layout)
    return _draw_without_mask(x, p, layout) if code == RELU else _draw(x, p, code, layout)[0]


class _DrawnRelu(Function):
    @staticmethod
    def forward(ctx, x, p, layout):
        y, mask = _draw(x, p, RELU, layout)
        ctx.save_for_backward(mask)
        ctx.layout = layout
        return y

    @staticmethod
    def backward(ctx, dy):
        (mask,) = ctx.saved_tensors  # a checkpoint computes it again, with gradients
        if _is_grad_enabled() or not is_plain(dy):
            return Backward.apply(dy, mask, ctx.layout), None, None
        return _backward(dy, mask, ctx.layout), None, None


def forward(x, key, p, activation, first, layout):
    """y and the mask, without derivatives, on any device. Without a key one is drawn."""
    with below_autograd():
        if key is None:
            return operators.draw_forward(x, p, activation, first, layout)
        return operators.forward(x, key, p, activation, first, layout)


def forward_(x, mask, key, p, first, layout):
    """ReLU over x, likewise."""
    with below_autograd():
        if key is None:
            draw_forward_(x, mask, p, first, layout)
        else:
            operators.forward_(x, mask, key, p, first, layout)


class Forward(Function):
    """Returns y alone, and has neither forward mode nor vmap."""

    @staticmethod
    def forward(ctx, *arguments):
        y, mask = forward(*arguments)
        _keep(ctx, mask, *arguments)
        return y

    @staticmethod
    def backward(ctx, dy):
        return _gradient(ctx, dy), None, None, None, None, None


class ForwardInPlace(Function):
    """Over an x that PyTorch lets be overwritten: that is asked after this is done."""

    @staticmethod
    def forward(ctx, x, key, p, first, layout):
        mask = operators.empty_mask(x)
        forward_(x, mask, key, p, first, layout)
        ctx.mark_dirty(x)
        _keep(ctx, mask, x, None, None, RELU, None, layout)
        return x

    @staticmethod
    def backward(ctx, dy):
        return _gradient(ctx, dy), None, None, None, None


def _keep(ctx, mask, *arguments):
    ctx.function, saved, ctx.parameters = forward_gradient(mask, *arguments)
    ctx.save_for_backward(*saved)


def _gradient(ctx, dy):
    saved = ctx.saved_tensors
    if _is_grad_enabled() or not is_plain(dy):
        return ctx.function.apply(dy, *saved, *ctx.parameters)
    with below_autograd():
        return ctx.function.operator(dy, *saved, *ctx.parameters)


def _without_layers(function: type[Function]) -> None:
    """The engine calls `apply` of the class that PyTorch makes for a Function's backward pass, which asks what else the
    Function may have."""
    function._backward_cls.apply = function.backward


_without_layers(_DrawnRelu)
