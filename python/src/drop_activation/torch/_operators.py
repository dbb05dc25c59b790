"""The operators that PyTorch knows: each a function of its arguments alone, the key of its mask included.

`layout` is the order in which elements are counted (`_layout`), `first` a 64-bit pattern. Derivatives are in
`_derivatives`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _library as library
from .._library import Pass
from ._launch import DTYPES, key_of, run
from ._layout import _FORMATS, dense, empty_like, is_dense

LIBRARY = torch.library.Library("drop_activation", "FRAGMENT")

_SCHEMAS = (
    "forward(Tensor x, Tensor key, float p, str activation, SymInt first, int layout) -> (Tensor, Tensor)",
    "forward_(Tensor(a!) x, Tensor(b!) mask, Tensor key, float p, SymInt first, int layout) -> ()",
    "backward(Tensor dy, Tensor mask, Tensor? x, float p, str activation, int layout) -> Tensor",
    "rrelu_forward(Tensor x, Tensor key, float lower, float upper, SymInt first, int layout) -> (Tensor, Tensor)",
    "rrelu_backward(Tensor dy, Tensor mask, Tensor key, float lower, float upper, SymInt first, int layout) -> Tensor",
)
for schema in _SCHEMAS:
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))

forward = torch.ops.drop_activation.forward.default
forward_ = torch.ops.drop_activation.forward_.default
backward = torch.ops.drop_activation.backward.default
rrelu_forward = torch.ops.drop_activation.rrelu_forward.default
rrelu_backward = torch.ops.drop_activation.rrelu_backward.default
ALL = (forward, forward_, backward, rrelu_forward, rrelu_backward)


def _kernel(operator):
    """The operator's code on real tensors, and what it gives for tensors without numbers."""

    def register(function):
        for key in ("CPU", "CUDA"):
            LIBRARY.impl(operator, function, key)
        return function

    return register


def _check(name: str, x: Tensor, layout: int) -> None:
    if x.dtype not in DTYPES:
        raise TypeError(f"{name} has dtype {x.dtype}; allowed are {', '.join(map(str, DTYPES))}")
    if not 0 <= layout < len(_FORMATS) or (layout and x.dim() != 3 + layout):
        raise ValueError(
            f"layout is {layout}, {name} has {x.dim()} dimensions; allowed are 0, 1 for 4 dimensions (channels last) "
            "and 2 for 5"
        )


def _check_mask(mask: Tensor, x: Tensor, name: str) -> None:
    words = (x.numel() + 31) // 32
    if mask.dtype != torch.int32 or mask.shape != (words,) or not mask.is_contiguous() or mask.device != x.device:
        raise ValueError(
            f"mask has dtype {mask.dtype}, shape {tuple(mask.shape)}, device {mask.device}; allowed is torch.int32, "
            f"shape {(words,)}, contiguous, on {x.device}, for the {x.numel()} elements of {name}"
        )


def _check_device(mask: Tensor, x: Tensor) -> None:
    """All that can be said of tensors whose shapes may be symbols."""
    if mask.device != x.device:
        raise ValueError(f"mask is on {mask.device}; allowed is the device of the tensor, {x.device}")


def _check_saved(x: Tensor | None, dy: Tensor, activation: str) -> None:
    if x is None:
        if activation != "relu":
            raise ValueError(f"x is None; the backward pass of {activation} needs the input of the forward pass")
    elif x.dtype != dy.dtype or x.shape != dy.shape or x.device != dy.device:
        raise ValueError(
            f"x has dtype {x.dtype}, shape {tuple(x.shape)}, device {x.device}; allowed are those of dy: "
            f"{dy.dtype}, {tuple(dy.shape)}, {dy.device}"
        )


def empty_mask(x: Tensor) -> Tensor:
    return torch.empty((x.numel() + 31) // 32, dtype=torch.int32, device=x.device)


def _op(kind: int, p: float, activation: str, key=None) -> Pass:
    if activation not in library.ACTIVATIONS:
        raise ValueError(f"activation is {activation!r}; allowed are {', '.join(library.ACTIVATIONS)}")
    return Pass(kind, library.ACTIVATIONS[activation], p, key=key)


def _rrelu(kind: int, lower: float, upper: float, key=None) -> Pass:
    return Pass(kind, slopes=(lower, upper), key=key)


@_kernel(forward)
def _(x, key, p, activation, first, layout):
    _check("x", x, layout)
    x = dense(x, layout)
    y, mask = empty_like(x, layout), empty_mask(x)
    run(_op(library.FORWARD, p, activation, key_of(key, x, first)), x, y, mask=mask)
    return y, mask


@torch.library.register_fake(forward, lib=LIBRARY)
def _(x, key, p, activation, first, layout):
    return empty_like(x, layout), empty_mask(x)


@_kernel(forward_)
def _(x, mask, key, p, first, layout):
    """ReLU over x, which is dense in this layout."""
    _check("x", x, layout)
    _check_mask(mask, x, "x")
    if not is_dense(x, layout):
        raise ValueError(
            f"x has shape {tuple(x.shape)} and strides {x.stride()}; allowed are tensors that are dense in layout "
            f"{layout}"
        )
    run(_op(library.FORWARD, p, "relu", key_of(key, x, first)), x, x, mask=mask)


@torch.library.register_fake(forward_, lib=LIBRARY)
def _(x, mask, key, p, first, layout):
    return None


@_kernel(backward)
def _(dy, mask, x, p, activation, layout):
    _check("dy", dy, layout)
    _check_mask(mask, dy, "dy")
    _check_saved(x, dy, activation)
    dy = dense(dy, layout)
    dx = empty_like(dy, layout)
    run(_op(library.BACKWARD, p, activation), dy, dx, saved=None if x is None else dense(x, layout), mask=mask)
    return dx


@torch.library.register_fake(backward, lib=LIBRARY)
def _(dy, mask, x, p, activation, layout):
    _check_device(mask, dy)
    return empty_like(dy, layout)


@_kernel(rrelu_forward)
def _(x, key, lower, upper, first, layout):
    _check("x", x, layout)
    x = dense(x, layout)
    y, mask = empty_like(x, layout), empty_mask(x)
    run(_rrelu(library.RRELU_FORWARD, lower, upper, key_of(key, x, first)), x, y, mask=mask)
    return y, mask


@torch.library.register_fake(rrelu_forward, lib=LIBRARY)
def _(x, key, lower, upper, first, layout):
    return empty_like(x, layout), empty_mask(x)


@_kernel(rrelu_backward)
def _(dy, mask, key, lower, upper, first, layout):
    _check("dy", dy, layout)
    _check_mask(mask, dy, "dy")
    dy = dense(dy, layout)
    dx = empty_like(dy, layout)
    run(_rrelu(library.RRELU_BACKWARD, lower, upper, key_of(key, dy, first)), dy, dx, mask=mask)
    return dx


@torch.library.register_fake(rrelu_backward, lib=LIBRARY)
def _(dy, mask, key, lower, upper, first, layout):
    _check_device(mask, dy)
    return empty_like(dy, layout)
