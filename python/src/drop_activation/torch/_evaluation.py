"""Evaluation mode, from PyTorch's own operations: what is compiled, exported or traced knows nothing of this package.

Under ReLU it is a Leaky ReLU of slope 1 - p, under the others the mixture of the identity and σ.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SIGMA = {"relu": torch.relu, "sigmoid": torch.sigmoid, "tanh": torch.tanh, "gelu": F.gelu, "silu": F.silu}
_NARROW = (torch.float16, torch.bfloat16)


def drop_activation(x: Tensor, p: float, activation: str, inplace: bool = False) -> Tensor:
    """(1 - p) x + p σ(x): σ itself for p = 1 and the identity for p = 0, where an infinity times zero would be a NaN."""
    if activation == "relu":
        if p == 1:
            # ReLU under a name by which no swapped model calls it, and with its derivative.
            return torch.threshold_(x, 0, 0) if inplace else torch.threshold(x, 0, 0)
        return F.leaky_relu(x, 1 - p, inplace)
    sigma = SIGMA[activation]
    if p == 1:
        return sigma(x)
    if p == 0:
        return x.clone()
    if x.dtype in _NARROW:  # rounded once
        wide = x.float()
        return ((1 - p) * wide + p * sigma(wide)).to(x.dtype)
    return (1 - p) * x + p * sigma(x)


def rrelu(x: Tensor, lower: float, upper: float) -> Tensor:
    return F.leaky_relu(x, (lower + upper) / 2)
