"""The activations σ, one row each: who adds one adds a row, and nothing else in this package.

A name is that of the function in torch.nn.functional as well. This module needs no PyTorch.
"""

from __future__ import annotations

import math
from typing import Any, Callable, NamedTuple


class Row(NamedTuple):
    #: DACT_ACTIVATION_ of the C interface.
    code: int
    #: The name of the class in torch.nn.
    module: str
    #: σ'' of a tensor, by operations that have derivatives in turn. None where σ' is a step, as ReLU's is, which the
    #: mask says: then the backward pass takes no x.
    curvature: Callable[[Any], Any] | None


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


TABLE = {
    "relu": Row(0, "ReLU", None),
    "sigmoid": Row(1, "Sigmoid", _sigmoid),
    "tanh": Row(2, "Tanh", _tanh),
    "gelu": Row(3, "GELU", _gelu),
    "silu": Row(4, "SiLU", _silu),
}

ACTIVATIONS = tuple(TABLE)
CODES = {name: row.code for name, row in TABLE.items()}


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
