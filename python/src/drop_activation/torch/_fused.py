"""Training by one operator, or made of PyTorch's own operations: which of the two."""

from __future__ import annotations

from typing import Literal, Union

#: True: the operator. False: the composition. "auto": by `composition_moves_less`.
Fused = Union[bool, Literal["auto"]]


def composition_moves_less(device: str, compiling: bool) -> bool:
    """Whether a training step moves fewer bytes if it is composed.

    That is so where a compiler that fuses kernels has a batch normalisation before it, for 16 bits 19 bytes for each
    element and not 24.25; alone the operator moves fewer, 8.25 and not 12. On the CPU the composition is slower by what
    its random numbers cost, compiled or not.
    """
    return device == "cuda" and compiling


def check_fused(fused: Fused) -> None:
    """
    Raises:
        TypeError, ValueError: It is something else.
    """
    if isinstance(fused, bool) or fused == "auto":
        return
    if isinstance(fused, str):
        raise ValueError(f"fused must be True, False or 'auto', got {fused!r}")
    raise TypeError(f"fused must be True, False or 'auto', got a {type(fused).__name__}")
