"""The operators with a batch normalisation in them; derivatives are in `_channel_derivatives`.

Each is a function of its arguments alone. Where `mean` and `variance` are given, these are the statistics; else they are
those of x, and are returned. Statistics, weight and bias have a value for each channel. `layout` is the order in which
elements are counted and y, dx and dr lie (`_layout`).
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
    "batch_norm(Tensor x, Tensor? residual, Tensor? weight, Tensor? bias, Tensor? mean, Tensor? variance, Tensor key, "
    "float eps, float p, int activation, int layout) -> (Tensor, Tensor, Tensor, Tensor)",
    "batch_norm_backward(Tensor dy, Tensor mask, Tensor x, Tensor? residual, Tensor? weight, Tensor? bias, Tensor mean, "
    "Tensor variance, bool of_x, float eps, float p, int activation, int layout) -> (Tensor, Tensor, Tensor, Tensor)",
)
for schema in _SCHEMAS:
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))

#: y, the mask, and mean and biased variance of x or copies of those that were given.
batch_norm = torch.ops.drop_activation.batch_norm.default
#: dx, dr (empty without a residual), and the gradients of weight and bias. `of_x`: the statistics are those of x.
batch_norm_backward = torch.ops.drop_activation.batch_norm_backward.default

_forward_on_cpu, _backward_on_cpu = (
    getattr(torch.ops.drop_activation, name).default._op for name in ("_batch_norm", "_batch_norm_backward")
)


# ---- Checks.


def _check_x(x: Tensor) -> None:
    check_tensor(x)
    if x.dim() < 2:
        raise ValueError(f"x must have a batch and channels, so two dimensions or more, got {x.dim()}")


def _check_numbers(eps: float, p: float) -> None:
    if not 0 < eps < float("inf"):
        raise ValueError(f"eps must be positive and finite, got {eps}")
    check_p(p)


def _check_forward(x, residual, weight, bias, mean, variance, key, eps, p, layout) -> None:
    _check_x(x)
    check_like("residual", residual, "x", x)
    check_vectors(x, weight=weight, bias=bias, mean=mean, variance=variance)
    if (mean is None) != (variance is None):
        raise ValueError("mean and variance must be given both or not at all, got one of them")
    check_key(key, x)
    _check_numbers(eps, p)
    check_layout(x, layout)


def _check_backward(dy, mask, x, residual, weight, bias, mean, variance, eps, p, layout) -> None:
    _check_x(x)
    check_like("dy", dy, "x", x)
    check_like("residual", residual, "x", x)
    check_vectors(x, weight=weight, bias=bias, mean=mean, variance=variance)
    check_mask("mask", mask, x)
    _check_numbers(eps, p)
    check_layout(x, layout)


# ---- The CPU's kernels, which are the library's (c/src/torch/batch_norm.rs).


def forward_on_cpu(x, residual, weight, bias, mean, variance, key, eps, p, activation, layout):
    """y, the mask, mean and variance, without derivatives. Without a key one is drawn."""
    given = channels.given(residual, weight, bias, mean, key)
    optional = channels.present(x, residual, weight, bias, mean, variance, key)
    return _forward_on_cpu(x, *optional, given, eps, p, activation, layout)


def backward_on_cpu(
    dy, mask, x, residual, weight, bias, mean, variance, eps, p, activation, layout, of_x, of_residual
):
    """dx, dr if it is asked for, and the gradients of weight and bias. ReLU needs no residual."""
    given = channels.given(residual, weight, bias, mean)
    optional = channels.present(x, residual, weight, bias, mean, variance)
    return _backward_on_cpu(dy, mask, x, *optional, given, eps, p, activation, layout, of_x, of_residual)


def _batch_norm_on_cpu(x, residual, weight, bias, mean, variance, key, eps, p, activation, layout):
    _check_forward(x, residual, weight, bias, mean, variance, key, eps, p, layout)
    if not x.numel():
        return _batch_norm(x, residual, weight, bias, mean, variance, key, eps, p, activation, layout)
    weight, bias, mean, variance = (channels.known(vector) for vector in (weight, bias, mean, variance))
    return forward_on_cpu(x, residual, weight, bias, mean, variance, key, eps, p, activation, layout)


def _batch_norm_backward_on_cpu(dy, mask, x, residual, weight, bias, mean, variance, of_x, eps, p, activation, layout):
    _check_backward(dy, mask, x, residual, weight, bias, mean, variance, eps, p, layout)
    if not x.numel():
        return _batch_norm_backward(dy, mask, x, residual, weight, bias, mean, variance, of_x, eps, p, activation, layout)
    weight, bias, mean, variance = (channels.known(vector) for vector in (weight, bias, mean, variance))
    return backward_on_cpu(
        dy,
        mask,
        x,
        residual,
        weight,
        bias,
        mean,
        variance,
        eps,
        p,
        activation,
        layout,
        of_x,
        residual is not None,
    )


# ---- CUDA's kernels, and what is left to do without elements.


# On a GPU each operation on vectors is a launch: so few, and rounded where they are written.


def _wide(vector: Tensor) -> Tensor:
    """A copy in f64."""
    return vector.to(torch.float64, copy=True)


def _inverse(variance: Tensor, eps: float) -> Tensor:
    """1 / sqrt(variance + eps) in f64."""
    return _wide(variance).add_(eps).rsqrt_()


def _scale(inverse: Tensor, weight: Tensor | None, real: torch.dtype) -> Tensor:
    return inverse.to(real) if weight is None else torch.mul(inverse, weight, out=torch.empty_like(inverse, dtype=real))


def _shift(scale: Tensor, bias: Tensor | None, mean: Tensor) -> Tensor:
    # By the scale as it was rounded, so that x = mean becomes the bias.
    moved = _wide(mean).mul_(scale)
    return moved.neg_().to(scale.dtype) if bias is None else torch.sub(bias, moved, out=torch.empty_like(scale))


def _batch_norm(x, residual, weight, bias, mean, variance, key, eps, p, activation, layout):
    _check_forward(x, residual, weight, bias, mean, variance, key, eps, p, layout)
    x, real = dense(x, layout), real_of(x)
    residual = None if residual is None else dense(residual, layout)
    if mean is None:
        if not x.numel():
            raise ValueError(f"x must have elements to take statistics of, got shape {tuple(x.shape)}")
        mean, variance = x.new_empty(x.shape[1], dtype=real), x.new_empty(x.shape[1], dtype=real)
        run(on_channels(Pass(library.STATISTICS), x, layout), x, results=(mean, variance))
    else:
        mean, variance = mean.to(real, copy=True), variance.to(real, copy=True)
    scale = _scale(_inverse(variance, eps), weight, real)
    shift = _shift(scale, bias, mean)
    y, mask = empty_like(x, layout), empty_mask(x)
    pass_ = Pass(library.FUSED_FORWARD, activation, p, key=channels.key_of(key))
    run(on_channels(pass_, x, layout), x, y, residual=residual, scale=scale, shift=shift, mask=mask)
    return y, mask, mean, variance


def _batch_norm_backward(dy, mask, x, residual, weight, bias, mean, variance, of_x, eps, p, activation, layout):
    _check_backward(dy, mask, x, residual, weight, bias, mean, variance, eps, p, layout)
    x, dy, real = dense(x, layout), dense(dy, layout), real_of(x)
    residual = None if residual is None else dense(residual, layout)
    mean = channels.real_vector(mean, real)
    inverse = _inverse(variance, eps)
    scale = _scale(inverse, weight, real)
    needs_z = activation != RELU
    z = {"scale": scale, "shift": _shift(scale, bias, mean), "residual": residual} if needs_z else {}
    gradient, product = torch.empty_like(mean), torch.empty_like(mean)
    dr = x.new_empty(0) if residual is None else empty_like(x, layout)
    pass_ = on_channels(Pass(library.FUSED_SUMS, activation, p), x, layout)
    pass_.dz = library.DZ_TRAINING
    output = None if residual is None else dr
    run(pass_, dy, output, (gradient, product), saved=x, mask=mask, mean=mean, **z)

    rest = {}
    if of_x and x.numel():
        count, alpha = x.numel() // x.shape[1], _wide(scale)
        beta = torch.div((alpha * inverse).mul_(inverse).mul_(product), -count, out=torch.empty_like(scale))
        gamma = torch.div(alpha.mul_(gradient), -count, out=torch.empty_like(scale))
        rest = {"beta": beta, "gamma": gamma, "mean": mean}
    dx = empty_like(x, layout)
    pass_ = on_channels(Pass(library.FUSED_BACKWARD, activation, p), x, layout)
    pass_.dz = library.DZ_TRAINING
    run(pass_, dy, dx, saved=x, mask=mask, alpha=scale, **rest, **z)
    return dx, dr, torch.mul(inverse, product, out=torch.empty_like(product)), gradient


LIBRARY.impl(batch_norm, _batch_norm_on_cpu, "CPU")
LIBRARY.impl(batch_norm_backward, _batch_norm_backward_on_cpu, "CPU")
LIBRARY.impl(batch_norm, _batch_norm, "CUDA")
LIBRARY.impl(batch_norm_backward, _batch_norm_backward, "CUDA")


@torch.library.register_fake(batch_norm, lib=LIBRARY)
def _(x, residual, weight, bias, mean, variance, key, eps, p, activation, layout):
    _check_forward(x, residual, weight, bias, mean, variance, key, eps, p, layout)
    statistics = [x.new_empty(x.shape[1], dtype=real_of(x)) for _ in range(2)]
    return empty_like(x, layout), empty_mask(x), *statistics


@torch.library.register_fake(batch_norm_backward, lib=LIBRARY)
def _(dy, mask, x, residual, weight, bias, mean, variance, of_x, eps, p, activation, layout):
    check_vectors(x, weight=weight, bias=bias, mean=mean, variance=variance)
    check_devices("x", x, dy=dy, mask=mask, residual=residual)
    dx = empty_like(x, layout)
    dr = x.new_empty(0) if residual is None else empty_like(x, layout)
    gradients = [x.new_empty(x.shape[1], dtype=real_of(x)) for _ in range(2)]
    return dx, dr, *gradients


def gradients(dx, dr, of_weight, of_bias, with_residual, weight, bias):
    """Those of x, the residual, weight and bias, where there are these."""
    return (
        dx,
        dr if with_residual else None,
        None if weight is None else of_weight.to(weight.dtype),
        None if bias is None else of_bias.to(bias.dtype),
    )
