"""Which tensors may take the shortest way."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad

PLAIN = (Tensor, torch.nn.Parameter)


def is_plain(x: Tensor) -> bool:
    """Whether x is a tensor of PyTorch's own that no transformation of torch.func, forward mode or dispatch mode looks
    at."""
    return (
        type(x) in PLAIN
        and forward_ad._current_level < 0
        and not torch._C._are_functorch_transforms_active()
        and not torch._C._len_torch_dispatch_stack()
    )
