"""From PyTorch's tensors to a call of the library."""

from __future__ import annotations

import functools

import torch

from .. import _library as library
from .._library import Key, Pass, Tensors

DTYPES = {torch.float32: 1, torch.float16: 2, torch.bfloat16: 3, torch.float64: 4}


@functools.cache
def _kernels(device: int) -> library.Cuda:
    return library.Cuda(device)


def check_dtype(x: torch.Tensor) -> None:
    if x.dtype not in DTYPES:
        raise TypeError(f"x has dtype {x.dtype}; allowed are {', '.join(map(str, DTYPES))}")


def key_of(key: torch.Tensor, x: torch.Tensor, first: int) -> Key:
    """The key whose offset is what the tensor `key` holds. In the memory of a GPU it is read by the kernel."""
    if key.dtype != torch.int64 or key.numel() != 1 or key.device not in (x.device, torch.device("cpu")):
        raise ValueError(
            f"key has dtype {key.dtype}, {key.numel()} elements, device {key.device}; "
            f"allowed is one torch.int64 on the CPU or on the device of the tensor, {x.device}"
        )
    first &= 2**64 - 1
    if key.is_cuda:
        return Key(0, 0, first, key.data_ptr())
    return Key(0, key.item() & (2**64 - 1), first, None)


def run(
    pass_: Pass,
    input: torch.Tensor,
    output: torch.Tensor,
    saved: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
) -> None:
    """Runs a pass over tensors that lie in memory in the same order."""
    tensors = Tensors(
        DTYPES[input.dtype],
        input.numel(),
        input.data_ptr(),
        output.data_ptr(),
        saved.data_ptr() if saved is not None else 0,
        mask.data_ptr() if mask is not None else 0,
    )
    if input.is_cuda:
        device = input.device.index
        _kernels(device).run(torch.cuda.current_stream(device).cuda_stream, pass_, tensors)
    else:
        library.cpu_run(pass_, tensors)
