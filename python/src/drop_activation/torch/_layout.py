"""In which order a tensor's elements are counted: as they lie in memory, where that has no holes."""

from __future__ import annotations

import torch

_FORMATS = (torch.contiguous_format, torch.channels_last, torch.channels_last_3d)


def layout_of(x: torch.Tensor) -> int:
    """The index of the memory format in which x is dense; of the contiguous one if there is none."""
    if x.is_contiguous():
        return 0
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return 1
    if x.dim() == 5 and x.is_contiguous(memory_format=torch.channels_last_3d):
        return 2
    return 0


def is_dense(x: torch.Tensor) -> bool:
    return x.is_contiguous(memory_format=_FORMATS[layout_of(x)])


def dense(x: torch.Tensor, layout: int) -> torch.Tensor:
    """x itself if it lies in this order, else a copy that does."""
    return x.contiguous(memory_format=_FORMATS[layout])


def empty_like(x: torch.Tensor, layout: int) -> torch.Tensor:
    return torch.empty_like(x, memory_format=_FORMATS[layout])
