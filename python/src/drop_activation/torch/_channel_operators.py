"""The operators with a batch normalisation in them, and their derivatives of the first order.

Each is a function of its arguments alone. Where `mean` and `variance` are given, these are the statistics; else they are
those of x, and are returned. Statistics, weight and bias have a value for each channel. y, mask and dx are in the
layout of x: its memory format if it is dense, else contiguous.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from .. import _library as library
from .._activations import CODES
from .._library import Key, Pass, Tensors
from ._layout import CONTIGUOUS, dense, empty_like, layout_of
from ._operators import DTYPES, LIBRARY, empty_mask

_SCHEMAS = (
    "batch_norm(Tensor x, Tensor? residual, Tensor? weight, Tensor? bias, Tensor? mean, Tensor? variance, Tensor key, "
    "float eps, float p, int activation) -> (Tensor, Tensor, Tensor, Tensor)",
    "batch_norm_backward(Tensor dy, Tensor mask, Tensor x, Tensor? residual, Tensor? weight, Tensor? bias, Tensor mean, "
    "Tensor variance, bool of_x, float eps, float p, int activation) -> (Tensor, Tensor, Tensor, Tensor)",
)
for schema in _SCHEMAS:
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))

#: y, the mask, and mean and biased variance of x or copies of those that were given.
batch_norm = torch.ops.drop_activation.batch_norm.default
#: dx, dr (empty without a residual), and the gradients of weight and bias. `of_x`: the statistics are those of x.
batch_norm_backward = torch.ops.drop_activation.batch_norm_backward.default

_RELU = CODES["relu"]
_forward_on_cpu, _backward_on_cpu = (
    getattr(torch.ops.drop_activation, name).default._op for name in ("_batch_norm", "_batch_norm_backward")
)
_NAMES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16", torch.float64: "float64"}


def real_of(x: Tensor) -> torch.dtype:
    """The type of the arithmetic."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


# ---- Checks, for the operators may be called by anybody.


def _check_x(x: Tensor) -> None:
    if x.dtype not in DTYPES:
        raise TypeError(f"x must have dtype {' or '.join(map(str, DTYPES))}, got {x.dtype}")
    if x.dim() < 2:
        raise ValueError(f"x must have a batch and channels, so two dimensions or more, got {x.dim()}")


def _check_like(name: str, tensor: Tensor | None, other_name: str, other: Tensor) -> None:
    if tensor is None:
        return
    for what, given, expected in (
        ("dtype", tensor.dtype, other.dtype),
        ("shape", tuple(tensor.shape), tuple(other.shape)),
        ("device", tensor.device, other.device),
    ):
        if given != expected:
            raise ValueError(f"{name} must have the {what} of {other_name}, {expected}, got {given}")


def _check_vectors(x: Tensor, **vectors: Tensor | None) -> None:
    for name, vector in vectors.items():
        if vector is None:
            continue
        if not vector.dtype.is_floating_point:
            raise TypeError(f"{name} must have a floating-point dtype, got {vector.dtype}")
        if vector.shape != (x.shape[1],):
            shape = tuple(vector.shape)
            raise ValueError(f"{name} must have shape {(x.shape[1],)}, a value for each channel of x, got {shape}")
        if vector.device != x.device:
            raise ValueError(f"{name} must be on the device of x, {x.device}, got {vector.device}")


def _check_numbers(eps: float, p: float) -> None:
    if not 0 < eps < float("inf"):
        raise ValueError(f"eps must be positive and finite, got {eps}")
    if not 0 <= p <= 1:
        raise ValueError(f"p must be in [0, 1], got {p}")


def _check_forward(x, residual, weight, bias, mean, variance, key, eps, p) -> None:
    _check_x(x)
    _check_like("residual", residual, "x", x)
    _check_vectors(x, weight=weight, bias=bias, mean=mean, variance=variance)
    if (mean is None) != (variance is None):
        raise ValueError("mean and variance must be given both or not at all, got one of them")
    if key.dtype != torch.int64 or key.numel() != 1:
        raise ValueError(f"key must be one torch.int64, got dtype {key.dtype}, {key.numel()} elements")
    if key.device.type != "cpu" and key.device != x.device:
        raise ValueError(f"key must be on the CPU or on the device of x, {x.device}, got {key.device}")
    _check_numbers(eps, p)


def _check_backward(dy, mask, x, residual, weight, bias, mean, variance, eps, p) -> None:
    _check_x(x)
    _check_like("dy", dy, "x", x)
    _check_like("residual", residual, "x", x)
    _check_vectors(x, weight=weight, bias=bias, mean=mean, variance=variance)
    if mask.dtype != torch.int32 or mask.shape != ((x.numel() + 31) // 32,) or mask.device != x.device:
        raise ValueError(
            f"mask must be torch.int32 of shape {((x.numel() + 31) // 32,)} on {x.device}, for the {x.numel()} elements "
            f"of x, got dtype {mask.dtype}, shape {tuple(mask.shape)}, device {mask.device}"
        )
    _check_numbers(eps, p)


# ---- The CPU's kernels, which are the library's (c/src/torch/batch_norm.rs).


def forward_on_cpu(x, residual, weight, bias, mean, variance, key, eps, p, activation, layout):
    """y, the mask, mean and variance, without derivatives. Without a key one is drawn."""
    optional = residual, weight, bias, mean, variance, key
    return _forward_on_cpu(x, *_there(x, *optional), _given(residual, weight, bias, mean, key), eps, p, activation, layout)


def backward_on_cpu(
    dy, mask, x, residual, weight, bias, mean, variance, eps, p, activation, layout, of_x, of_residual
):
    """dx, dr if it is asked for, and the gradients of weight and bias. ReLU needs no residual."""
    given = _given(residual, weight, bias, mean)
    optional = _there(x, residual, weight, bias, mean, variance)
    return _backward_on_cpu(dy, mask, x, *optional, given, eps, p, activation, layout, of_x, of_residual)


def _there(x: Tensor, *tensors: Tensor | None) -> list[Tensor]:
    return [x if tensor is None else tensor for tensor in tensors]


def _given(*tensors: Tensor | None) -> int:
    """A bit for each that is."""
    return sum(1 << i for i, tensor in enumerate(tensors) if tensor is not None)


def _batch_norm_on_cpu(x, residual, weight, bias, mean, variance, key, eps, p, activation):
    _check_forward(x, residual, weight, bias, mean, variance, key, eps, p)
    if not x.numel():
        return _batch_norm(x, residual, weight, bias, mean, variance, key, eps, p, activation)
    weight, bias, mean, variance = (_known(vector) for vector in (weight, bias, mean, variance))
    return forward_on_cpu(x, residual, weight, bias, mean, variance, key, eps, p, activation, layout_of(x))


def _batch_norm_backward_on_cpu(dy, mask, x, residual, weight, bias, mean, variance, of_x, eps, p, activation):
    _check_backward(dy, mask, x, residual, weight, bias, mean, variance, eps, p)
    if not x.numel():
        return _batch_norm_backward(dy, mask, x, residual, weight, bias, mean, variance, of_x, eps, p, activation)
    weight, bias, mean, variance = (_known(vector) for vector in (weight, bias, mean, variance))
    return backward_on_cpu(
        dy,
        mask.contiguous(),
        x,
        residual,
        weight,
        bias,
        mean,
        variance,
        eps,
        p,
        activation,
        layout_of(x),
        of_x,
        residual is not None,
    )


def _known(vector: Tensor | None) -> Tensor | None:
    """Of a type that the library knows."""
    return vector if vector is None or vector.dtype in DTYPES else vector.float()


# ---- CUDA's kernels, and what is left to do without elements.


def _on_channels(pass_: Pass, x: Tensor, layout: int) -> Pass:
    """With the channels of x, which are its second dimension, as they lie in memory."""
    pass_.channels = x.shape[1]
    pass_.inner = 1 if layout != CONTIGUOUS else max(math.prod(x.shape[2:]), 1)
    return pass_


def _run(pass_: Pass, input: Tensor, output: Tensor | None = None, results: tuple = (), **others: Tensor | None) -> None:
    if not input.numel() and pass_.kind != library.STATISTICS:
        for result in results:
            result.zero_()
        return
    tensors = Tensors(library.DTYPES[_NAMES[input.dtype]], input.numel(), input.data_ptr(), 0)
    if output is not None:
        tensors.output = output.data_ptr()
    for name, tensor in others.items():
        if tensor is not None:
            setattr(tensors, name, tensor.data_ptr())
    for i, result in enumerate(results):
        tensors.results[i] = result.data_ptr()
    _enqueue(pass_, tensors, input)


@functools.cache
def _kernels(device: int) -> library.Cuda:
    return library.Cuda(device)


def _enqueue(pass_: Pass, tensors: Tensors, x: Tensor) -> None:
    """On the current stream of x's device. Nothing waits: PyTorch's allocator gives the memory for sums, which is free
    again when this returns, to nothing but later work of that stream."""
    tensors.workspace_bytes = library.cuda_workspace_bytes(pass_, tensors)
    workspace = x.new_empty(tensors.workspace_bytes, dtype=torch.uint8)
    tensors.workspace = workspace.data_ptr()
    _kernels(x.get_device()).run(torch.cuda.current_stream(x.device).cuda_stream, pass_, tensors)


def _key(key: Tensor) -> Key:
    """In the memory of a GPU it is read by the kernel."""
    if key.is_cuda:
        return Key(0, 0, 0, key.data_ptr())
    return Key(0, key.item() % 2**64, 0, None)


def _vector(vector: Tensor | None, real: torch.dtype) -> Tensor | None:
    return None if vector is None else vector.to(real).contiguous()


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


def _batch_norm(x, residual, weight, bias, mean, variance, key, eps, p, activation):
    _check_forward(x, residual, weight, bias, mean, variance, key, eps, p)
    layout, real = layout_of(x), real_of(x)
    x = dense(x, layout)
    residual = None if residual is None else dense(residual, layout)
    if mean is None:
        if not x.numel():
            raise ValueError(f"x must have elements to take statistics of, got shape {tuple(x.shape)}")
        mean, variance = x.new_empty(x.shape[1], dtype=real), x.new_empty(x.shape[1], dtype=real)
        _run(_on_channels(Pass(library.STATISTICS), x, layout), x, results=(mean, variance))
    else:
        mean, variance = mean.to(real, copy=True), variance.to(real, copy=True)
    scale = _scale(_inverse(variance, eps), weight, real)
    shift = _shift(scale, bias, mean)
    y, mask = empty_like(x, layout), empty_mask(x)
    pass_ = Pass(library.FUSED_FORWARD, activation, p, key=_key(key))
    _run(_on_channels(pass_, x, layout), x, y, residual=residual, scale=scale, shift=shift, mask=mask)
    return y, mask, mean, variance


def _batch_norm_backward(dy, mask, x, residual, weight, bias, mean, variance, of_x, eps, p, activation):
    _check_backward(dy, mask, x, residual, weight, bias, mean, variance, eps, p)
    layout, real = layout_of(x), real_of(x)
    x, dy, mask = dense(x, layout), dense(dy, layout), mask.contiguous()
    residual = None if residual is None else dense(residual, layout)
    mean = _vector(mean, real)
    inverse = _inverse(variance, eps)
    scale = _scale(inverse, weight, real)
    needs_z = activation != _RELU
    z = {"scale": scale, "shift": _shift(scale, bias, mean), "residual": residual} if needs_z else {}
    gradient, product = torch.empty_like(mean), torch.empty_like(mean)
    dr = x.new_empty(0) if residual is None else empty_like(x, layout)
    pass_ = _on_channels(Pass(library.FUSED_SUMS, activation, p), x, layout)
    pass_.dz = library.DZ_TRAINING
    output = None if residual is None else dr
    _run(pass_, dy, output, (gradient, product), saved=x, mask=mask, mean=mean, **z)

    rest = {}
    if of_x and x.numel():
        count, alpha = x.numel() // x.shape[1], _wide(scale)
        beta = torch.div((alpha * inverse).mul_(inverse).mul_(product), -count, out=torch.empty_like(scale))
        gamma = torch.div(alpha.mul_(gradient), -count, out=torch.empty_like(scale))
        rest = {"beta": beta, "gamma": gamma, "mean": mean}
    dx = empty_like(x, layout)
    pass_ = _on_channels(Pass(library.FUSED_BACKWARD, activation, p), x, layout)
    pass_.dz = library.DZ_TRAINING
    _run(pass_, dy, dx, saved=x, mask=mask, alpha=scale, **rest, **z)
    return dx, dr, torch.mul(inverse, product, out=torch.empty_like(product)), gradient


LIBRARY.impl(batch_norm, _batch_norm_on_cpu, "CPU")
LIBRARY.impl(batch_norm_backward, _batch_norm_backward_on_cpu, "CPU")
LIBRARY.impl(batch_norm, _batch_norm, "CUDA")
LIBRARY.impl(batch_norm_backward, _batch_norm_backward, "CUDA")


def _check_devices(x: Tensor, **tensors: Tensor | None) -> None:
    """With one meta tensor among others, PyTorch calls the functions below for all of them, and their results have no
    numbers."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f"{name} must have the device of x, {x.device}, got {tensor.device}")


@torch.library.register_fake(batch_norm, lib=LIBRARY)
def _(x, residual, weight, bias, mean, variance, key, eps, p, activation):
    _check_x(x)
    _check_vectors(x, weight=weight, bias=bias, mean=mean, variance=variance)
    _check_devices(x, residual=residual)
    statistics = [x.new_empty(x.shape[1], dtype=real_of(x)) for _ in range(2)]
    return empty_like(x, layout_of(x)), empty_mask(x), *statistics


@torch.library.register_fake(batch_norm_backward, lib=LIBRARY)
def _(dy, mask, x, residual, weight, bias, mean, variance, of_x, eps, p, activation):
    _check_vectors(x, weight=weight, bias=bias, mean=mean, variance=variance)
    _check_devices(x, dy=dy, mask=mask, residual=residual)
    dx = empty_like(x, layout_of(x))
    dr = x.new_empty(0) if residual is None else torch.empty_like(dx)
    gradients = [x.new_empty(x.shape[1], dtype=real_of(x)) for _ in range(2)]
    return dx, dr, *gradients


# ---- Derivatives.


def saved(residual: Tensor | None, activation: int) -> Tensor | None:
    """What a backward pass needs of it: nothing for ReLU, whose derivative is in the mask. There dy, which is like it, is
    in its place."""
    return None if activation == _RELU else residual


def gradients(dx, dr, of_weight, of_bias, with_residual, weight, bias):
    """Those of x, the residual, weight and bias, where there are these."""
    return (
        dx,
        dr if with_residual else None,
        None if weight is None else of_weight.to(weight.dtype),
        None if bias is None else of_bias.to(bias.dtype),
    )


def _save(ctx, inputs, output):
    x, residual, weight, bias, mean, _, _, ctx.eps, ctx.p, ctx.activation = inputs
    _, mask, *statistics = output
    ctx.mark_non_differentiable(mask, *statistics)
    ctx.of_x, ctx.with_residual = mean is None, residual is not None
    ctx.save_for_backward(mask, x, saved(residual, ctx.activation), weight, bias, *statistics)


def _backward(ctx, dy, *_):
    mask, x, residual, weight, bias, mean, variance = ctx.saved_tensors
    residual = dy if ctx.with_residual and residual is None else residual
    dx, dr, of_weight, of_bias = batch_norm_backward(
        dy, mask, x, residual, weight, bias, mean, variance, ctx.of_x, ctx.eps, ctx.p, ctx.activation
    )
    gradients_ = gradients(dx, dr, of_weight, of_bias, ctx.with_residual, weight, bias)
    return *gradients_, None, None, None, None, None, None


def _save_nothing(ctx, inputs, output):
    pass


def _no_second_derivative(ctx, *_):
    raise RuntimeError(
        "a batch normalisation with Drop-Activation in it has no second derivatives: "
        "use nn.BatchNorm and DropActivation, which have them"
    )


torch.library.register_autograd(batch_norm, _backward, setup_context=_save, lib=LIBRARY)
torch.library.register_autograd(batch_norm_backward, _no_second_derivative, setup_context=_save_nothing, lib=LIBRARY)
