"""The activations σ, as the library has them. A new one needs nothing in this package; a row of `_CURVATURES` makes its
second derivatives faster.

A name is that of the function in torch.nn.functional as well. This module loads no PyTorch.
"""

from __future__ import annotations

import math
from typing import Any, Callable

from ._library import activation_names


def _sigmoid(x):
    s = x.sigmoid()
    return s * (1 - s) * (1 - 2 * s)


def _tanh(x):
    t = x.tanh()
    return -2 * t * (1 - t * t)


def _gelu(x):
    return (2 - x * x) * (-0.5 * x * x).exp() / math.sqrt(2 * math.pi)


def _silu(x):
    s = x.sigmoid()
    return s * (1 - s) * (2 + x * (1 - 2 * s))


_CURVATURES = {"sigmoid": _sigmoid, "tanh": _tanh, "gelu": _gelu, "silu": _silu}

ACTIVATIONS = activation_names()
#: DACT_ACTIVATION_ of the C interface.
CODES = {name: code for code, name in enumerate(ACTIVATIONS)}


def curvature(name: str) -> Callable[[Any], Any]:
    """σ'' of a tensor, by operations of PyTorch that have derivatives in turn. Not for ReLU, whose σ' is a step."""
    return _CURVATURES.get(name) or derived_curvature(name)


def derived_curvature(name: str) -> Callable[[Any], Any]:
    """The same from PyTorch's own derivatives of σ."""
    import torch

    sigma = getattr(torch.nn.functional, name)
    slope = torch.func.grad(lambda x: sigma(x).sum())
    return torch.func.grad(lambda x: slope(x).sum())


def code_of(activation: str) -> int:
    """
    Raises:
        TypeError, ValueError: It is no name of an activation.
    """
    if isinstance(activation, str) and activation in CODES:
        return CODES[activation]
    known = f"activation must be one of {', '.join(ACTIVATIONS)}, got"
    if isinstance(activation, str):
        raise ValueError(f"{known} {activation!r}")
    raise TypeError(f"{known} a {type(activation).__name__}")
