"""In which order a tensor's elements are counted: as they lie in memory, where that has no holes."""

from __future__ import annotations

import torch

_FORMATS = (torch.contiguous_format, torch.channels_last, torch.channels_last_3d)
CONTIGUOUS = 0


def layout_of(x: torch.Tensor) -> int:
    """The index of the memory format in which x is dense; of the contiguous one if there is none.

    Raises:
        TypeError: Its elements are not in one piece of memory with strides.
    """
    if x.layout is not torch.strided or x.is_nested:
        kind = "a nested one" if x.is_nested else f"layout {x.layout}"
        raise TypeError(f"x must be a dense tensor, of layout torch.strided, got {kind}")
    if x.is_contiguous() or x.dim() not in (4, 5):
        return CONTIGUOUS
    layout = x.dim() - 3
    # Inside of vmap nothing is known of the memory of one sample.
    if torch._C._functorch.is_batchedtensor(x) or not x.is_contiguous(memory_format=_FORMATS[layout]):
        return CONTIGUOUS
    return layout


def check_layout(x: torch.Tensor, layout: int) -> None:
    if layout not in (CONTIGUOUS, *((x.dim() - 3,) if x.dim() in (4, 5) else ())):
        allowed = "0, 1 for 4 dimensions (channels last) or 2 for 5"
        raise ValueError(f"layout must be {allowed}, got {layout} for {x.dim()} dimensions of x")


def is_dense(x: torch.Tensor, layout: int) -> bool:
    return x.is_contiguous(memory_format=_FORMATS[layout])


def dense(x: torch.Tensor, layout: int) -> torch.Tensor:
    """x itself if it lies in this order, else a copy that does."""
    return x.contiguous(memory_format=_FORMATS[layout])


def empty_like(x: torch.Tensor, layout: int) -> torch.Tensor:
    return torch.empty_like(x, memory_format=_FORMATS[layout])


def in_order(flat: torch.Tensor, x: torch.Tensor, layout: int) -> torch.Tensor:
    """The first elements of `flat`, in the shape of x, whose elements are counted in this order."""
    flat = flat[: x.numel()]
    if layout == CONTIGUOUS:
        return flat.reshape(x.shape)
    batch, channels, *extents = x.shape
    return flat.reshape(batch, *extents, channels).movedim(-1, 1)
