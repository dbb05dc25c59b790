"""The operators with a bias before the activation; derivatives are in `_channel_derivatives`.

Each is a function of its arguments alone. The channels, of which each has a value of the bias, are dimension `dim` of x.
`layout` is the order in which elements are counted and y and dx lie (`_layout`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _library as library
from .._library import Pass
from . import _channels as channels
from ._channel_checks import check_devices, check_like, check_p, check_vectors
from ._channels import RELU, on_channels, real_of, run
from ._functions import check_key, check_tensor
from ._layout import check_layout, dense, empty_like
from ._operators import LIBRARY, check_mask, empty_mask

_SCHEMAS = (
    "bias(Tensor x, Tensor? residual, Tensor bias, Tensor key, float p, int activation, int dim, int layout) -> "
    "(Tensor, Tensor)",
    "bias_backward(Tensor dy, Tensor mask, Tensor? x, Tensor? residual, Tensor? bias, float p, int activation, int dim, "
    "int layout) -> (Tensor, Tensor)",
)
for schema in _SCHEMAS:
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))

#: y and the mask.
bias_ = torch.ops.drop_activation.bias.default
#: dx, which is the gradient of a residual too, and the gradient of the bias. ReLU needs neither x, residual nor bias.
bias_backward = torch.ops.drop_activation.bias_backward.default

_forward_on_cpu, _backward_on_cpu = (
    getattr(torch.ops.drop_activation, name).default._op for name in ("_bias", "_bias_backward")
)


# ---- Checks.


def dim_of(x: Tensor, dim: int) -> int:
    """Counted from 0."""
    if not isinstance(dim, int):
        raise TypeError(f"dim must be an integer, got a {type(dim).__name__}")
    if not -x.dim() <= dim < x.dim():
        raise IndexError(f"dim must be one of the {x.dim()} dimensions of x, -{x.dim()} <= dim < {x.dim()}, got {dim}")
    return dim % x.dim()


def check(x: Tensor, residual: Tensor | None, bias: Tensor, dim: int) -> int:
    """The dimension, counted from 0."""
    check_like("residual", residual, "x", x)
    dim = dim_of(x, dim)
    check_vectors(x, dim, bias=bias)
    return dim


def _check_forward(x, residual, bias, key, p, dim, layout) -> int:
    check_tensor(x)
    dim = check(x, residual, bias, dim)
    check_key(key, x)
    check_p(p)
    check_layout(x, layout)
    return dim


def _check_backward(dy, mask, x, residual, bias, p, activation, dim, layout) -> int:
    check_tensor(dy, "dy")
    check_mask("mask", mask, dy)
    check_like("x", x, "dy", dy)
    check_like("residual", residual, "dy", dy)
    dim = dim_of(dy, dim)
    check_vectors(dy, dim, bias=bias)
    if activation != RELU and (x is None or bias is None):
        raise ValueError("x and bias must be given where the activation is not ReLU, got None")
    check_p(p)
    check_layout(dy, layout)
    return dim


# ---- The CPU's kernels, which are the library's (c/src/torch/bias.rs).


def forward_on_cpu(x, residual, bias, key, p, activation, dim, layout):
    """y and the mask, without derivatives. Without a key one is drawn."""
    given = channels.given(residual, key)
    residual, key = channels.present(x, residual, key)
    return _forward_on_cpu(x, residual, bias, key, given, dim, p, activation, layout)


def backward_on_cpu(dy, mask, x, residual, bias, p, activation, dim, layout):
    """dx and the gradient of the bias."""
    given = channels.given(residual, x)
    return _backward_on_cpu(dy, mask, *channels.present(dy, x, residual, bias), given, dim, p, activation, layout)


def _bias_on_cpu(x, residual, bias, key, p, activation, dim, layout):
    at = _check_forward(x, residual, bias, key, p, dim, layout)
    if not x.numel():
        return _bias(x, residual, bias, key, p, activation, dim, layout)
    return forward_on_cpu(x, residual, channels.known(bias), key, p, activation, at, layout)


def _bias_backward_on_cpu(dy, mask, x, residual, bias, p, activation, dim, layout):
    at = _check_backward(dy, mask, x, residual, bias, p, activation, dim, layout)
    if not dy.numel():
        return _bias_backward(dy, mask, x, residual, bias, p, activation, dim, layout)
    return backward_on_cpu(dy, mask, x, residual, channels.known(bias), p, activation, at, layout)


# ---- CUDA's kernels, and what is left to do without elements.


def _bias(x, residual, bias, key, p, activation, dim, layout):
    dim = _check_forward(x, residual, bias, key, p, dim, layout)
    x = dense(x, layout)
    residual = None if residual is None else dense(residual, layout)
    shift = channels.real_vector(bias, real_of(x))
    y, mask = empty_like(x, layout), empty_mask(x)
    pass_ = on_channels(Pass(library.FUSED_FORWARD, activation, p, key=channels.key_of(key)), x, layout, dim)
    run(pass_, x, y, residual=residual, shift=shift, mask=mask)
    return y, mask


def _bias_backward(dy, mask, x, residual, bias, p, activation, dim, layout):
    dim = _check_backward(dy, mask, x, residual, bias, p, activation, dim, layout)
    dy, z = dense(dy, layout), {}
    if activation != RELU:
        residual = None if residual is None else dense(residual, layout)
        z = {"saved": dense(x, layout), "residual": residual, "shift": channels.real_vector(bias, real_of(dy))}
    dx, gradient = empty_like(dy, layout), dy.new_empty(dy.shape[dim], dtype=real_of(dy))
    pass_ = on_channels(Pass(library.FUSED_SUMS, activation, p), dy, layout, dim)
    pass_.dz = library.DZ_TRAINING
    # What the sums' pass writes is dz, and dx is that.
    run(pass_, dy, dx, (gradient,), mask=mask, **z)
    return dx, gradient


LIBRARY.impl(bias_, _bias_on_cpu, "CPU")
LIBRARY.impl(bias_backward, _bias_backward_on_cpu, "CPU")
LIBRARY.impl(bias_, _bias, "CUDA")
LIBRARY.impl(bias_backward, _bias_backward, "CUDA")


@torch.library.register_fake(bias_, lib=LIBRARY)
def _(x, residual, bias, key, p, activation, dim, layout):
    _check_forward(x, residual, bias, key, p, dim, layout)
    return empty_like(x, layout), empty_mask(x)


@torch.library.register_fake(bias_backward, lib=LIBRARY)
def _(dy, mask, x, residual, bias, p, activation, dim, layout):
    check_devices("dy", dy, mask=mask, x=x, residual=residual, bias=bias)
    return empty_like(dy, layout), dy.new_empty(dy.shape[dim_of(dy, dim)], dtype=real_of(dy))


def gradients(dx, of_bias, with_residual):
    """Those of x, the residual and the bias, which PyTorch rounds to the bias's dtype."""
    return dx, dx if with_residual else None, of_bias
