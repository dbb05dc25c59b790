"""The library's passes over channels, for the operators that are made of them: on CUDA tensors, and what is left to do
without elements. What the CPU's native operators (c/src/torch) take is here too."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from .. import _library as library
from .._activations import CODES
from .._library import Key, Pass, Tensors
from ._layout import CONTIGUOUS
from ._operators import DTYPES

RELU = CODES["relu"]
_NAMES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16", torch.float64: "float64"}


def real_of(x: Tensor) -> torch.dtype:
    """The type of the arithmetic."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


# ---- For the CPU's native operators.


def present(instead: Tensor, *tensors: Tensor | None) -> list[Tensor]:
    """With another tensor in the place of each that is absent."""
    return [instead if tensor is None else tensor for tensor in tensors]


def given(*tensors: Tensor | None) -> int:
    """A bit for each that is."""
    return sum(1 << i for i, tensor in enumerate(tensors) if tensor is not None)


def known(vector: Tensor | None) -> Tensor | None:
    """Of a type that the library knows."""
    return vector if vector is None or vector.dtype in DTYPES else vector.float()


# ---- For CUDA tensors.


def on_channels(pass_: Pass, x: Tensor, layout: int, dim: int = 1) -> Pass:
    """With the channels of x, which are this dimension, as they lie in memory."""
    order = list(range(x.dim()))
    if layout != CONTIGUOUS:
        order.append(order.pop(1))
    pass_.channels = x.shape[dim]
    pass_.inner = max(math.prod(x.shape[i] for i in order[order.index(dim) + 1 :]), 1)
    return pass_


def run(pass_: Pass, input: Tensor, output: Tensor | None = None, results: tuple = (), **others: Tensor | None) -> None:
    if not input.numel() and pass_.kind != library.STATISTICS:
        for result in results:
            result.zero_()
        return
    tensors = Tensors(library.DTYPES[_NAMES[input.dtype]], input.numel(), input.data_ptr(), 0)
    if output is not None:
        tensors.output = output.data_ptr()
    for name, tensor in others.items():
        if tensor is not None:
            setattr(tensors, name, tensor.data_ptr())
    for i, result in enumerate(results):
        tensors.results[i] = result.data_ptr()
    _enqueue(pass_, tensors, input)


@functools.cache
def _kernels(device: int) -> library.Cuda:
    return library.Cuda(device)


def _enqueue(pass_: Pass, tensors: Tensors, x: Tensor) -> None:
    """On the current stream of x's device. Nothing waits: PyTorch's allocator gives the memory for sums, which is free
    again when this returns, to nothing but later work of that stream."""
    tensors.workspace_bytes = library.cuda_workspace_bytes(pass_, tensors)
    workspace = x.new_empty(tensors.workspace_bytes, dtype=torch.uint8)
    tensors.workspace = workspace.data_ptr()
    _kernels(x.get_device()).run(torch.cuda.current_stream(x.device).cuda_stream, pass_, tensors)


def key_of(key: Tensor) -> Key:
    """In the memory of a GPU it is read by the kernel."""
    if key.is_cuda:
        return Key(0, 0, 0, key.data_ptr())
    return Key(0, key.item() % 2**64, 0, None)


def real_vector(vector: Tensor | None, real: torch.dtype) -> Tensor | None:
    return None if vector is None else vector.to(real).contiguous()


def needed(tensor: Tensor | None, activation: int) -> Tensor | None:
    """What a backward pass needs of what z was computed from: nothing for ReLU, whose derivative is in the mask."""
    return None if activation == RELU else tensor
