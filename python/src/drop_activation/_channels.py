"""The passes over channels on arrays: docs/fused.md says what they compute.

An element belongs to a channel by its index along one axis, `axis`. A vector has a value for each channel, of dtype
float64 for arrays of float64 and float32 for all others.
"""

from __future__ import annotations

import math
import operator
from typing import Any, SupportsFloat, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from . import _library as library
from ._arrays import view
from ._call import Call, floats
from ._library import Pass
from ._operations import Array, _key, _pass

_SOURCES = {"given": library.DZ_GIVEN, "training": library.DZ_TRAINING, "inference": library.DZ_INFERENCE}


def statistics(x: Array, *, axis: SupportsIndex = 1) -> tuple[NDArray[Any], NDArray[Any]]:
    """Mean and biased variance of each channel, without cancellation.

    Returns:
        Two vectors.
    """
    call = _Call("x", x, axis, Pass(library.STATISTICS))
    mean, variance = call.result(0), call.result(1)
    call.run()
    return mean, variance


def fused_forward(
    x: Array,
    p: SupportsFloat = 0.95,
    *,
    seed: SupportsIndex,
    offset: SupportsIndex,
    first: SupportsIndex = 0,
    scale: Array | None = None,
    shift: Array | None = None,
    residual: Array | None = None,
    axis: SupportsIndex = 1,
    activation: str = "relu",
    out: Array | None = None,
) -> tuple[Any, NDArray[np.uint32]]:
    """Training forward on z = scale x + shift + residual: y = σ(z) where σ is kept, else z.

    Args:
        x: Any shape that has the axis.
        p, seed, offset, first, activation: As in `forward`.
        scale, shift: Vectors; absent they are 1 and 0.
        residual: Of x's shape and type.
        axis: Which axis of x has the channels.
        out: Where y goes, of x's shape and type; may be x.

    Returns:
        y and the mask that `fused_sums` and `fused_backward` take.
    """
    call = _Call("x", x, axis, _pass(library.FUSED_FORWARD, p, activation, _key(seed, offset, first)))
    call.z(scale, shift, residual)
    mask = np.empty((call.given.size + 31) // 32, np.uint32)
    call.tensors.mask = mask.ctypes.data
    result = call.output(out)
    call.run()
    return result, mask


def fused_infer(
    x: Array,
    p: SupportsFloat = 0.95,
    *,
    scale: Array | None = None,
    shift: Array | None = None,
    residual: Array | None = None,
    axis: SupportsIndex = 1,
    activation: str = "relu",
    out: Array | None = None,
) -> Any:
    """Inference forward on the z of `fused_forward`: y = (1 - p) z + p σ(z)."""
    call = _Call("x", x, axis, _pass(library.FUSED_INFER, p, activation))
    call.z(scale, shift, residual)
    result = call.output(out)
    call.run()
    return result


def fused_sums(
    dy: Array,
    mask: Array | None = None,
    x: Array | None = None,
    *,
    source: str = "training",
    p: SupportsFloat = 0.95,
    activation: str = "relu",
    scale: Array | None = None,
    shift: Array | None = None,
    residual: Array | None = None,
    mean: Array | None = None,
    axis: SupportsIndex = 1,
    out: Array | None = None,
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """The sums of a backward pass for each channel.

    Args:
        dy: The gradient of y.
        mask: What `fused_forward` returned, for "training".
        x, scale, shift, residual: As given to `fused_forward`, where dz depends on z: for "inference", and in training
            with another activation than ReLU. x also where `mean` is given.
        source: Where dz comes from: "training", "inference", or "given" for dz = dy.
        mean: A vector that x is taken relative to.
        out: Where dz goes, the gradient of the residual, of dy's shape and type, if it is wanted; may be dy.

    Returns:
        The sums of dz, and those of dz (x - mean) if a mean is given.
    """
    call = _Call("dy", dy, axis, _pass(library.FUSED_SUMS, p, activation))
    call.gradient(source, mask, x, scale, shift, residual)
    call.vectors(mean=mean)
    first = call.result(0)
    second = call.result(1) if mean is not None else None
    if out is not None:
        call.output(out)
    call.run()
    return first, second


def fused_backward(
    dy: Array,
    mask: Array | None = None,
    x: Array | None = None,
    *,
    source: str = "training",
    p: SupportsFloat = 0.95,
    activation: str = "relu",
    scale: Array | None = None,
    shift: Array | None = None,
    residual: Array | None = None,
    alpha: Array | None = None,
    beta: Array | None = None,
    gamma: Array | None = None,
    mean: Array | None = None,
    axis: SupportsIndex = 1,
    out: Array | None = None,
) -> Any:
    """Backward, elementwise: dx = alpha dz + (beta (x - mean) + gamma).

    Args:
        dy, mask, x, source, scale, shift, residual: As in `fused_sums`. x also where `beta` is given.
        alpha: A vector; absent it is 1.
        beta, gamma, mean: Vectors, all or none of them.
        out: Where dx goes, of dy's shape and type; may be dy.

    Returns:
        dx.
    """
    call = _Call("dy", dy, axis, _pass(library.FUSED_BACKWARD, p, activation))
    call.gradient(source, mask, x, scale, shift, residual)
    call.vectors(alpha=alpha, beta=beta, gamma=gamma, mean=mean)
    result = call.output(out)
    call.run()
    return result


class _Call(Call):
    """One on an array with channels, along one of its axes."""

    def __init__(self, name: str, array: Any, axis: SupportsIndex, pass_: Pass):
        super().__init__(pass_, floats(name, array))
        shape = self.given.shape
        known = f"axis must be an axis of {name}, which has {len(shape)} of them, got"
        try:
            axis = operator.index(axis)
        except TypeError:
            raise TypeError(f"{known} a {type(axis).__name__}") from None
        if not -len(shape) <= axis < len(shape):
            raise ValueError(f"{known} {axis}")
        axis %= len(shape)
        pass_.channels = shape[axis]
        # How nothing is laid out makes no difference, but an inner extent of 0 is refused.
        pass_.inner = math.prod(shape[axis + 1 :]) if self.given.size else 1
        self.real = "float64" if self.given.dtype == "float64" else "float32"

    def result(self, i: int) -> NDArray[Any]:
        vector = np.empty(self.pass_.channels, self.real)
        self.tensors.results[i] = vector.ctypes.data
        return vector

    def vectors(self, **vectors: Any) -> None:
        for name, array in vectors.items():
            if array is None:
                continue
            seen = view(name, array)
            if seen.dtype != self.real:
                expected = f"{self.real}, for {self.given.name} of {self.given.dtype}"
                raise TypeError(f"{name} must have dtype {expected}, got {seen.dtype}")
            if seen.shape != (self.pass_.channels,):
                expected = (self.pass_.channels,)
                raise ValueError(f"{name} must have shape {expected}, a value for each channel, got {seen.shape}")
            self.keep(name, seen)

    def z(self, scale: Any, shift: Any, residual: Any) -> None:
        self.vectors(scale=scale, shift=shift)
        if residual is not None:
            self.tensor("residual", "residual", residual)

    def gradient(self, source: str, mask: Any, x: Any, scale: Any, shift: Any, residual: Any) -> None:
        known = f"source must be one of {', '.join(_SOURCES)}, got"
        if not isinstance(source, str):
            raise TypeError(f"{known} a {type(source).__name__}")
        if source not in _SOURCES:
            raise ValueError(f"{known} {source!r}")
        self.pass_.dz = _SOURCES[source]
        if source == "training":
            self.mask(mask)
        if x is not None:
            self.tensor("saved", "x", x)
        self.z(scale, shift, residual)
