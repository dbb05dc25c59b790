"""What is made of PyTorch's own operations: compiled, exported or traced it knows nothing of this package.

That is evaluation mode, under ReLU a Leaky ReLU of slope 1 - p, under the others the mixture of the identity and σ;
and, for who asks for it, training.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .._activations import ACTIVATIONS
from ._plain import PLAIN


def relu(x: Tensor, inplace: bool = False) -> Tensor:
    """PyTorch's own, past a swapped model that would catch the call."""
    kind = type(x)
    if kind not in PLAIN and kind.__torch_function__ is not torch._C._disabled_torch_function_impl:
        return torch.threshold_(x, 0, 0) if inplace else torch.threshold(x, 0, 0)  # a subclass sees every call
    with torch._C.DisableTorchFunction():
        return torch.relu_(x) if inplace else torch.relu(x)


SIGMA = {name: getattr(F, name) for name in ACTIVATIONS} | {"relu": relu}
_NARROW = (torch.float16, torch.bfloat16)


def evaluation(x: Tensor, p: float, activation: str, inplace: bool = False) -> Tensor:
    """(1 - p) x + p σ(x). For p = 1 it is σ itself, for p = 0 the identity: infinity times zero would be NaN."""
    if p == 0 and not inplace:
        return x.clone()
    if activation == "relu":
        return relu(x, inplace) if p == 1 else F.leaky_relu(x, 1 - p, inplace)
    sigma = SIGMA[activation]
    if p == 1:
        return sigma(x)
    if x.dtype in _NARROW:  # rounded once
        wide = x.float()
        return ((1 - p) * wide + p * sigma(wide)).to(x.dtype)
    return (1 - p) * x + p * sigma(x)


def composed(x: Tensor, p: float, activation: str) -> Tensor:
    """Training, with a mask of PyTorch's generator."""
    keep = torch.rand(x.shape, device=x.device) < p
    return torch.where(keep, SIGMA[activation](x), x)


def rrelu_evaluation(x: Tensor, lower: float, upper: float) -> Tensor:
    return F.leaky_relu(x, (lower + upper) / 2)
