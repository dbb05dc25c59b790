"""The library's kernels in PyTorch, without a line of C++: it calls the C functions that LibTorch keeps stable for
extensions, and finds them here, in the LibTorch that Python has loaded."""

from __future__ import annotations

import ctypes
import pathlib
import sys

import torch

from .. import _library as library

_NAMES = {"win32": "{}.dll", "darwin": "lib{}.dylib"}


def register_kernels() -> None:
    """Registers the kernels, for operators that are defined.

    Raises:
        ImportError: This PyTorch has no such functions.
    """
    folder, name = pathlib.Path(torch.__file__).parent / "lib", _NAMES.get(sys.platform, "lib{}.so")
    files = [folder / name.format(part) for part in ("torch_cpu", "torch_cuda")]
    try:
        libtorch = [ctypes.CDLL(str(file)) for file in files if file.exists()]
        if not libtorch:
            raise OSError(f"{files[0]} is not there")
    except OSError as error:
        raise ImportError(f"drop_activation.torch needs LibTorch as a shared library: {error}") from error

    def find(symbol: bytes) -> int | None:
        for loaded in libtorch:
            try:
                return ctypes.cast(getattr(loaded, symbol.decode()), ctypes.c_void_p).value
            except AttributeError:
                pass
        return None

    try:
        library.torch_register(find)
    except RuntimeError as error:
        raise ImportError(
            f"drop_activation.torch needs PyTorch 2.10 or newer, and this is {torch.__version__}: {error}"
        ) from error
