"""The operators that PyTorch knows: each a function of its arguments alone, the key of its mask included.

Their kernels are the library's (c/src/torch.rs), registered here; derivatives are in `_derivatives`. `layout` is the
order in which elements are counted (`_layout`), `activation` a code of its table, `first` a pattern of 64 bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ._layout import empty_like
from ._register import register_kernels

LIBRARY = torch.library.Library("drop_activation", "FRAGMENT")

_SCHEMAS = (
    "forward(Tensor x, Tensor key, float p, int activation, SymInt first, int layout) -> (Tensor, Tensor)",
    "draw_forward(Tensor x, float p, int activation, SymInt first, int layout) -> (Tensor, Tensor)",
    "forward_(Tensor(a!) x, Tensor(b!) mask, Tensor key, float p, SymInt first, int layout) -> ()",
    "backward(Tensor dy, Tensor mask, int layout) -> Tensor",
    "backward_saved(Tensor dy, Tensor mask, Tensor x, int activation, int layout) -> Tensor",
    "rrelu_forward(Tensor x, Tensor key, float lower, float upper, SymInt first, int layout) -> (Tensor, Tensor)",
    "draw_rrelu_forward(Tensor x, float lower, float upper, SymInt first, int layout) -> (Tensor, Tensor, Tensor)",
    "rrelu_backward(Tensor dy, Tensor mask, Tensor key, float lower, float upper, SymInt first, int layout) -> Tensor",
    "philox_key(Tensor seed, Tensor offset) -> Tensor",
)
#: For `_quick` alone: on the CPU, and without derivatives or what else a tensor may ask of an operator.
_QUICK_SCHEMAS = (
    "_draw(Tensor x, float p, int activation, int layout) -> (Tensor, Tensor)",
    "_draw_without_mask(Tensor x, float p, int layout) -> Tensor",
    "_backward(Tensor dy, Tensor mask, int layout) -> Tensor",
    # `given` says which optional tensors are there: the first is in the place of the others. See `_batch_norm_operators`
    # and `_bias_operators`.
    "_batch_norm(Tensor x, Tensor residual, Tensor weight, Tensor bias, Tensor mean, Tensor variance, Tensor key, "
    "int given, float eps, float p, int activation, int layout) -> (Tensor, Tensor, Tensor, Tensor)",
    "_batch_norm_backward(Tensor dy, Tensor mask, Tensor x, Tensor residual, Tensor weight, Tensor bias, Tensor mean, "
    "Tensor variance, int given, float eps, float p, int activation, int layout, bool of_x, bool of_residual) -> "
    "(Tensor, Tensor, Tensor, Tensor)",
    "_bias(Tensor x, Tensor residual, Tensor bias, Tensor key, int given, int dim, float p, int activation, int layout) -> "
    "(Tensor, Tensor)",
    "_bias_backward(Tensor dy, Tensor mask, Tensor x, Tensor residual, Tensor bias, int given, int dim, float p, "
    "int activation, int layout) -> (Tensor, Tensor)",
)
#: For `_keys` alone, on CUDA. RReLU's third result is its key on the GPU; the first has it on the CPU. The others draw
#: it where the generator of a captured graph stands: seed and offset are on the GPU, and `moved`, on the CPU, is added.
_CUDA_SCHEMAS = (
    "_rrelu_forward_storing_key(Tensor x, Tensor key, float lower, float upper, SymInt first, int layout) -> "
    "(Tensor, Tensor, Tensor)",
    "_forward_at(Tensor x, Tensor seed, Tensor offset, Tensor moved, float p, int activation, SymInt first, "
    "int layout) -> (Tensor, Tensor)",
    "_forward_at_(Tensor(a!) x, Tensor(b!) mask, Tensor seed, Tensor offset, Tensor moved, float p, SymInt first, "
    "int layout) -> ()",
    "_rrelu_forward_at(Tensor x, Tensor seed, Tensor offset, Tensor moved, float lower, float upper, SymInt first, "
    "int layout) -> (Tensor, Tensor, Tensor)",
)
for schema in (*_SCHEMAS, *_QUICK_SCHEMAS, *_CUDA_SCHEMAS):
    random = (torch.Tag.nondeterministic_seeded,) if schema.startswith(("draw_", "_draw", "_batch_norm(", "_bias(")) else ()
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag, *random))
for name in (schema.split("(", 1)[0] for schema in _QUICK_SCHEMAS):
    LIBRARY.impl(name, torch.library.fallthrough_kernel, "Autograd")
register_kernels()

forward = torch.ops.drop_activation.forward.default
#: With a key drawn by PyTorch's generator for x's device, the one that `randint` would draw: one call for both. On CUDA
#: `_keys` implements it.
draw_forward = torch.ops.drop_activation.draw_forward.default
#: ReLU over x, which is dense in this layout.
forward_ = torch.ops.drop_activation.forward_.default
#: ReLU's.
backward = torch.ops.drop_activation.backward.default
backward_saved = torch.ops.drop_activation.backward_saved.default
rrelu_forward = torch.ops.drop_activation.rrelu_forward.default
#: With a key drawn as by `draw_forward`, which is the third result, on x's device.
draw_rrelu_forward = torch.ops.drop_activation.draw_rrelu_forward.default
rrelu_forward_storing_key = torch.ops.drop_activation._rrelu_forward_storing_key.default
forward_at = torch.ops.drop_activation._forward_at.default
forward_at_ = torch.ops.drop_activation._forward_at_.default
rrelu_forward_at = torch.ops.drop_activation._rrelu_forward_at.default
rrelu_backward = torch.ops.drop_activation.rrelu_backward.default
#: The key that a GPU's generator of this seed and offset draws, on the CPU.
philox_key = torch.ops.drop_activation.philox_key.default
ALL = (
    forward,
    draw_forward,
    forward_,
    backward,
    backward_saved,
    rrelu_forward,
    draw_rrelu_forward,
    rrelu_backward,
    philox_key,
)

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def empty_mask(x: Tensor) -> Tensor:
    return torch.empty((x.numel() + 31) // 32, dtype=torch.int32, device=x.device)


def check_mask(name: str, mask: Tensor, x: Tensor) -> None:
    words = ((x.numel() + 31) // 32,)
    if mask.dtype != torch.int32 or mask.shape != words or not mask.is_contiguous() or mask.device != x.device:
        raise ValueError(
            f"{name} must be torch.int32, shape {words}, contiguous, on {x.device}, for the {x.numel()} elements of x, "
            f"got dtype {mask.dtype}, shape {tuple(mask.shape)}, device {mask.device}"
        )


# What they return for fake and meta tensors, whose shapes may be symbols.


def _check_device(name: str, tensor: Tensor, x: Tensor) -> None:
    if tensor.device != x.device:
        raise ValueError(f"{name} must be on the device of the tensor, {x.device}, got {tensor.device}")


def _check_key_device(key: Tensor, x: Tensor) -> None:
    if key.device not in (x.device, torch.device("cpu")):
        raise ValueError(f"key must be on the CPU or on x's device, {x.device}, got {key.device}")


@torch.library.register_fake(forward, lib=LIBRARY)
def _(x, key, p, activation, first, layout):
    _check_key_device(key, x)
    return empty_like(x, layout), empty_mask(x)


@torch.library.register_fake(draw_forward, lib=LIBRARY)
def _(x, p, activation, first, layout):
    return empty_like(x, layout), empty_mask(x)


@torch.library.register_fake(forward_, lib=LIBRARY)
def _(x, mask, key, p, first, layout):
    _check_device("mask", mask, x)
    _check_key_device(key, x)


@torch.library.register_fake(backward, lib=LIBRARY)
def _(dy, mask, layout):
    _check_device("mask", mask, dy)
    return empty_like(dy, layout)


@torch.library.register_fake(backward_saved, lib=LIBRARY)
def _(dy, mask, x, activation, layout):
    _check_device("mask", mask, dy)
    _check_device("x", x, dy)
    return empty_like(dy, layout)


@torch.library.register_fake(rrelu_forward, lib=LIBRARY)
def _(x, key, lower, upper, first, layout):
    _check_key_device(key, x)
    return empty_like(x, layout), empty_mask(x)


@torch.library.register_fake(draw_rrelu_forward, lib=LIBRARY)
def _(x, lower, upper, first, layout):
    return empty_like(x, layout), empty_mask(x), torch.empty(1, dtype=torch.int64, device=x.device)


@torch.library.register_fake(rrelu_backward, lib=LIBRARY)
def _(dy, mask, key, lower, upper, first, layout):
    _check_device("mask", mask, dy)
    _check_key_device(key, dy)
    return empty_like(dy, layout)


@torch.library.register_fake(philox_key, lib=LIBRARY)
def _(seed, offset):
    return torch.empty_like(seed)
