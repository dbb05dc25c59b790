"""Forward passes in the least time, for plain tensors, where no transformation asks for more."""

from __future__ import annotations

import torch
from torch.autograd import Function

from . import _operators as operators
from ._derivatives import RELU, below_autograd, forward_gradient
from ._plain import is_plain


def forward(x, key, p, activation, first, layout):
    """y and the mask, without derivatives. Without a key one is drawn."""
    with below_autograd():
        if key is None:
            return operators.draw_forward(x, p, activation, first, layout)
        return operators.forward(x, key, p, activation, first, layout)


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
        with below_autograd():
            operators.forward_(x, mask, key, p, first, layout)
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
    saved = ctx.saved_tensors  # a checkpoint computes them again, with gradients
    if torch.is_grad_enabled() or not is_plain(dy):
        return ctx.function.apply(dy, *saved, *ctx.parameters)
    with below_autograd():
        return ctx.function.operator(dy, *saved, *ctx.parameters)
