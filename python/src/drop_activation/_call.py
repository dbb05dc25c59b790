"""A call of the library on arrays: a pass, and its arrays as they are given one by one, each of them checked."""

from __future__ import annotations

from typing import Any

from . import _library as library
from ._arrays import View, empty_like, view
from ._library import Pass, Tensors


class Call:
    """It keeps what it has addresses of."""

    def __init__(self, pass_: Pass, given: View):
        self.pass_, self.given = pass_, given
        self.tensors = Tensors(library.DTYPES[given.dtype], given.size, given.address, 0)
        self._kept: list[View] = []

    def run(self) -> None:
        library.cpu_run(self.pass_, self.tensors)

    def output(self, out: Any) -> Any:
        """Where the pass writes: `out`, or a new array."""
        result = empty_like(self.given) if out is None else out
        to = _like("out", result, self.given)
        if to.read_only:
            raise ValueError(f"out must be writable, got {to.read_only}")
        self.keep("output", to)
        return result

    def tensor(self, field: str, name: str, array: Any) -> None:
        """An array like the one that the call is on."""
        self.keep(field, _like(name, array, self.given))

    def mask(self, mask: Any) -> None:
        self.keep("mask", _words(mask, self.given))

    def keep(self, field: str, seen: View) -> None:
        self._kept.append(seen)
        setattr(self.tensors, field, seen.address)


def floats(name: str, array: Any) -> View:
    seen = view(name, array)
    if seen.dtype not in library.DTYPES:
        raise TypeError(f"{name} must have dtype {' or '.join(library.DTYPES)}, got {seen.dtype}")
    return seen


def _like(name: str, array: Any, other: View) -> View:
    """An array of another one's shape and type."""
    seen = floats(name, array)
    if seen.dtype != other.dtype:
        raise TypeError(f"{name} must have the dtype of {other.name}, {other.dtype}, got {seen.dtype}")
    if seen.shape != other.shape:
        raise ValueError(f"{name} must have the shape of {other.name}, {other.shape}, got {seen.shape}")
    return seen


def _words(mask: Any, other: View) -> View:
    seen = view("mask", mask)
    if seen.dtype != "uint32":
        raise TypeError(f"mask must have dtype uint32, got {seen.dtype}")
    expected = ((other.size + 31) // 32,)
    if seen.shape != expected:
        raise ValueError(
            f"mask must have shape {expected}, for the {other.size} elements of {other.name}, got {seen.shape}"
        )
    return seen
