"""DTensor: the mask is that of the whole tensor, however it is sharded."""

from __future__ import annotations

import math
import sys
from typing import Callable

import torch
from torch import Tensor


def is_dtensor(x: object) -> bool:
    loaded = sys.modules.get("torch.distributed.tensor")  # else there is none
    return loaded is not None and isinstance(x, loaded.DTensor)


def over_shards(x: Tensor, key: Tensor | None, function: Callable[[Tensor, Tensor, int], Tensor]) -> Tensor:
    """Applies function(local tensor, key, first) to the shards of the DTensor x.

    A shard of the outermost dimension has a part of the mask by itself, if it begins at a multiple of 32 elements; any
    other tensor is gathered first, and its result is sharded as x is. A key that is not given is drawn by the first
    process of the mesh, so that replicas agree.
    """
    from torch.distributed.tensor import DTensor, Replicate, distribute_tensor

    mesh = x.device_mesh
    everywhere = [Replicate()] * mesh.ndim
    if key is None:
        key = torch.randint(2**63 - 1, (1,), dtype=torch.int64, device=x.device)
        key = distribute_tensor(key, mesh, everywhere).to_local()
    elif is_dtensor(key):
        key = key.redistribute(placements=everywhere).to_local()
    first = _first(x)
    if first is None:
        whole = x.redistribute(placements=everywhere)
        y = function(whole.to_local(), key, 0)
        placements = [Replicate() if placement.is_partial() else placement for placement in x.placements]
        return DTensor.from_local(y, mesh, everywhere, run_check=False).redistribute(placements=placements)
    y = function(x.to_local(), key, first)
    return DTensor.from_local(y, mesh, x.placements, run_check=False, shape=x.shape, stride=x.stride())


def by_element(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Applies a function of each element to the shards of the DTensor x."""
    from torch.distributed.tensor import DTensor, Replicate

    placements = [Replicate() if placement.is_partial() else placement for placement in x.placements]
    x = x.redistribute(placements=placements)
    y = function(x.to_local())
    return DTensor.from_local(y, x.device_mesh, placements, run_check=False, shape=x.shape, stride=x.stride())


def _first(x) -> int | None:
    """The index of the local shard's first element, if its elements follow each other in the whole tensor and begin
    where a word of the mask does, on every process."""
    from torch.distributed.tensor import Shard

    inner = math.prod(x.shape[1:])
    parts, part = 1, 0
    for i, placement in enumerate(x.placements):
        if placement.is_replicate():
            continue
        if type(placement) is not Shard or placement.dim != 0 or x.dim() == 0:
            return None
        parts, part = parts * x.device_mesh.size(i), part * x.device_mesh.size(i) + x.device_mesh.get_local_rank(i)
    rows, rest = divmod(x.shape[0], parts) if x.dim() else (1, 0)
    if parts > 1 and (rest or rows * inner % 32):
        return None
    return part * rows * inner
