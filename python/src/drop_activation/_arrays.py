"""The caller's arrays: where they lie, what they hold, and whether a pass can take them as they are."""

from __future__ import annotations

import ctypes
from ctypes import c_char_p, c_int32, c_int64, c_uint8, c_uint16, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class View:
    """An array's memory. It is valid while `owner` lives."""

    name: str
    address: int
    dtype: str
    shape: tuple[int, ...]
    read_only: str | None  # what it is, if it may not be written
    owner: Any

    @property
    def size(self) -> int:
        size = 1
        for extent in self.shape:
            size *= extent
        return size


def view(name: str, array: Any) -> View:
    """Looks at an array without a copy.

    Raises:
        TypeError: It is no array.
        ValueError: It is not contiguous, or not in this machine's memory.
    """
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"{name} must be an array without a mask, such as {name}.data, got a masked array")
    if isinstance(array, np.ndarray):
        return _numpy(name, np.ndarray.view(array, np.ndarray))  # what a subclass says of itself may not be so
    if hasattr(array, "__dlpack__") and hasattr(array, "__dlpack_device__"):
        return _dlpack(name, array)
    kind = type(array).__name__
    raise TypeError(f"{name} must be a numpy array or an object with __dlpack__, got a {kind}")


def _numpy(name: str, array: np.ndarray) -> View:
    if not array.flags.c_contiguous:
        raise _not_contiguous(name, array.shape, array.strides, "numpy.ascontiguousarray")
    if not array.dtype.isnative:
        raise TypeError(f"{name} must have this machine's byte order, got dtype {array.dtype.str!r}")
    address = array.__array_interface__["data"][0]
    read_only = None if array.flags.writeable else "a read-only array"
    return View(name, address, array.dtype.name, array.shape, read_only, array)


def _not_contiguous(name, shape, strides, remedy):
    return ValueError(
        f"{name} must be C-contiguous, as {remedy} makes it, got shape {tuple(shape)} and strides {tuple(strides)}"
    )


def empty_like(like: View) -> np.ndarray:
    """A new numpy array of a view's type and shape."""
    if like.dtype != "bfloat16":
        return np.empty(like.shape, like.dtype)
    try:
        from ml_dtypes import bfloat16
    except ImportError:
        raise TypeError(
            f"out must be given where {like.name} is bfloat16, which numpy has only with ml_dtypes, got None"
        ) from None
    return np.empty(like.shape, bfloat16)


# DLPack (https://dmlc.github.io/dlpack/latest/c_api.html), both forms of it. NumPy's own reader knows no bfloat16.


class _Device(ctypes.Structure):
    _fields_ = [("type", c_int32), ("id", c_int32)]


class _DataType(ctypes.Structure):
    _fields_ = [("code", c_uint8), ("bits", c_uint8), ("lanes", c_uint16)]


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", c_void_p),
        ("device", _Device),
        ("ndim", c_int32),
        ("dtype", _DataType),
        ("shape", ctypes.POINTER(c_int64)),
        ("strides", ctypes.POINTER(c_int64)),
        ("byte_offset", c_uint64),
    ]


class _Managed(ctypes.Structure):
    _fields_ = [("tensor", _Tensor), ("context", c_void_p), ("deleter", c_void_p)]


class _ManagedVersioned(ctypes.Structure):
    _fields_ = [
        ("major", c_uint32),
        ("minor", c_uint32),
        ("context", c_void_p),
        ("deleter", c_void_p),
        ("flags", c_uint64),
        ("tensor", _Tensor),
    ]


_FORMS = {b"dltensor": _Managed, b"dltensor_versioned": _ManagedVersioned}
_READ_ONLY = 1
_CPU = 1
_DTYPES = {
    (2, 16): "float16",
    (2, 32): "float32",
    (2, 64): "float64",
    (4, 16): "bfloat16",
    (1, 32): "uint32",
    (0, 32): "int32",
}

_get_name = ctypes.pythonapi.PyCapsule_GetName
_get_name.restype, _get_name.argtypes = c_char_p, [ctypes.py_object]
_get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_get_pointer.restype, _get_pointer.argtypes = c_void_p, [ctypes.py_object, c_char_p]


def _dlpack(name: str, array: Any) -> View:
    kind, _ = array.__dlpack_device__()
    if kind != _CPU:
        raise ValueError(
            f"{name} must be on the CPU (DLPack's device type {_CPU}), got type {int(kind)}. "
            "For PyTorch's CUDA tensors there is drop_activation.torch"
        )
    try:
        capsule = array.__dlpack__(max_version=(1, 0))
    except TypeError:  # made before DLPack 1.0
        capsule = array.__dlpack__()
    form = _get_name(capsule)
    if form not in _FORMS:
        raise TypeError(f"{name} must return a DLPack capsule called one of {sorted(_FORMS)}, got {form!r}")
    # The capsule is not marked as used, so that it frees what it holds when it goes: it is the view's owner.
    managed = ctypes.cast(_get_pointer(capsule, form), ctypes.POINTER(_FORMS[form])).contents
    versioned = form == b"dltensor_versioned"
    if versioned and managed.major != 1:
        raise TypeError(f"{name} must return DLPack of version 1 or older, got {managed.major}.{managed.minor}")
    tensor = managed.tensor
    dtype = tensor.dtype
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    if tensor.strides:
        strides, expected = [tensor.strides[i] for i in range(tensor.ndim)], 1
        for extent, stride in zip(reversed(shape), reversed(strides)):
            if extent != 1 and stride != expected and 0 not in shape:
                raise _not_contiguous(name, shape, strides, "contiguous() or the like")
            expected *= extent
    known = _DTYPES.get((dtype.code, dtype.bits)) if dtype.lanes == 1 else None
    held = known or f"DLPack type {dtype.code} of {dtype.bits} bits"
    read_only = None
    if not versioned:  # JAX's arrays, which never change, come so
        read_only = f"a {type(array).__name__}, whose DLPack is older than 1.0 and does not say whether it is"
    elif managed.flags & _READ_ONLY:
        read_only = "a read-only array"
    return View(name, (tensor.data or 0) + tensor.byte_offset, held, shape, read_only, capsule)
