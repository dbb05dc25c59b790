"""The functional form."""

from __future__ import annotations

import torch
from torch import Tensor

from .._operations import LOWER, UPPER, activation_code, index, real
from . import _operators as operators
from ._launch import check_dtype
from ._layout import is_dense


def drop_activation(
    x: Tensor,
    p: float = 0.95,
    activation: str = "relu",
    training: bool = True,
    inplace: bool = False,
    *,
    key: Tensor | None = None,
    first: int = 0,
) -> Tensor:
    """Drop-Activation: σ(x) with probability p for each element, else x; at inference (1 - p) x + p σ(x).

    Args:
        x: float16, bfloat16, float32 or float64, on the CPU or on CUDA.
        p: The probability of keeping σ, 0 <= p <= 1.
        activation: "relu", "sigmoid", "tanh", "gelu" or "silu".
        training: Whether to draw a mask.
        inplace: Whether y may take x's memory, for ReLU in training. What x holds afterwards is not specified.
        key: One int64, on x's device or the CPU, that names the mask: equal keys, equal masks on every device. Drawn by
            the generator of x's device if it is not given. A CUDA graph reads a key on the GPU at each replay; one on
            the CPU is captured as it is.
        first: The global index of x's element 0, a multiple of 32, if x is a shard of a larger tensor.
    """
    check_parameters(p, activation)
    check_dtype(x)
    if not training:
        return operators.infer(x, float(p), activation)
    first = index("first", first)
    key = _key(x, key)
    if inplace and activation == "relu" and not torch.compiler.is_compiling() and is_dense(x):
        return operators.ForwardInPlace.apply(x, key, float(p), first)
    return operators.forward(x, key, float(p), activation, first)[0]


def rrelu(
    x: Tensor,
    lower: float = LOWER,
    upper: float = UPPER,
    training: bool = True,
    *,
    key: Tensor | None = None,
    first: int = 0,
) -> Tensor:
    """RReLU: negative elements times a slope uniform in [lower, upper), at inference times the mean.

    Args:
        x: float16, bfloat16, float32 or float64, on the CPU or on CUDA.
        lower, upper: 0 < lower <= upper <= 1.
        training: Whether to draw slopes.
        key, first: As in `drop_activation`.
    """
    check_slopes(lower, upper)
    check_dtype(x)
    if not training:
        return operators.rrelu_infer(x, float(lower), float(upper))
    return operators.rrelu_forward(x, _key(x, key), float(lower), float(upper), index("first", first))[0]


def check_parameters(p: float, activation: str) -> None:
    activation_code(activation)
    if not 0 <= real("p", p) <= 1:
        raise ValueError(f"p is {p}; allowed is 0 <= p <= 1")


def check_slopes(lower: float, upper: float) -> None:
    if not 0 < real("lower", lower) <= real("upper", upper) <= 1:
        raise ValueError(f"lower is {lower}, upper is {upper}; allowed is 0 < lower <= upper <= 1")


def _key(x: Tensor, key: Tensor | None) -> Tensor:
    """Drawn where x is, so that nothing waits for a GPU and each replay of a CUDA graph draws another."""
    if key is None:
        return torch.randint(2**63 - 1, (1,), dtype=torch.int64, device=x.device)
    if key.dtype != torch.int64 or key.numel() != 1 or key.device not in (x.device, torch.device("cpu")):
        raise ValueError(
            f"key has dtype {key.dtype}, {key.numel()} elements, device {key.device}; "
            f"allowed is one torch.int64 on the CPU or on x's device, {x.device}"
        )
    return key
