"""What the operators over channels check of their tensors, for they may be called by anybody."""

from __future__ import annotations

from torch import Tensor


def check_like(name: str, tensor: Tensor | None, other_name: str, other: Tensor) -> None:
    if tensor is None:
        return
    for what, given, expected in (
        ("dtype", tensor.dtype, other.dtype),
        ("shape", tuple(tensor.shape), tuple(other.shape)),
        ("device", tensor.device, other.device),
    ):
        if given != expected:
            raise ValueError(f"{name} must have the {what} of {other_name}, {expected}, got {given}")


def check_vectors(x: Tensor, dim: int = 1, **vectors: Tensor | None) -> None:
    """Each has a value for each channel, which are dimension `dim` of x."""
    for name, vector in vectors.items():
        if vector is None:
            continue
        if not vector.dtype.is_floating_point:
            raise TypeError(f"{name} must have a floating-point dtype, got {vector.dtype}")
        if vector.shape != (x.shape[dim],):
            shape = tuple(vector.shape)
            raise ValueError(f"{name} must have shape {(x.shape[dim],)}, a value for each channel of x, got {shape}")
        if vector.device != x.device:
            raise ValueError(f"{name} must be on the device of x, {x.device}, got {vector.device}")


def check_devices(other_name: str, other: Tensor, /, **tensors: Tensor | None) -> None:
    """With one meta tensor among others, PyTorch calls what is registered for these for all of them, and the results have
    no numbers."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.device != other.device:
            raise ValueError(f"{name} must have the device of {other_name}, {other.device}, got {tensor.device}")


def check_p(p: float) -> None:
    if not 0 <= p <= 1:
        raise ValueError(f"p must be in [0, 1], got {p}")
