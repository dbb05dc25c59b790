"""The shared library and its C interface (include/drop_activation.h), through ctypes.

ctypes releases the interpreter's lock during each call.
"""

from __future__ import annotations

import ctypes
import itertools
import pathlib
import sys
from ctypes import POINTER, byref, c_char_p, c_double, c_float, c_int32, c_size_t, c_uint32, c_uint64, c_void_p

ABI_VERSION = 1

FORWARD = 1
FORWARD_WITHOUT_MASK = 2
BACKWARD = 3
BACKWARD_FROM_OUTPUT = 4
INFER = 5
INFER_BACKWARD = 6
RRELU_FORWARD = 7
RRELU_BACKWARD = 8
RRELU_INFER = 9
RRELU_INFER_BACKWARD = 10
RELU_FORWARD = 11
RELU_BACKWARD = 12
FUSED_FORWARD = 13
FUSED_INFER = 14
STATISTICS = 15
FUSED_SUMS = 16
FUSED_BACKWARD = 17

DZ_GIVEN = 0
DZ_TRAINING = 1
DZ_INFERENCE = 2

DTYPES = {"float32": 1, "float16": 2, "bfloat16": 3, "float64": 4}

_OK = 0
_INVALID_ARGUMENT = 1


class Key(ctypes.Structure):
    """dact_key"""

    _fields_ = [("seed", c_uint64), ("offset", c_uint64), ("first", c_uint64), ("device_offset", c_void_p)]


class Pass(ctypes.Structure):
    """dact_pass"""

    _fields_ = [
        ("struct_size", c_uint32),
        ("kind", c_uint32),
        ("activation", c_uint32),
        ("reserved", c_uint32),
        ("p", c_double),
        ("lower", c_float),
        ("upper", c_float),
        ("key", Key),
        ("channels", c_size_t),
        ("inner", c_size_t),
        ("dz", c_uint32),
        ("reserved2", c_uint32),
    ]

    def __init__(
        self, kind: int, activation: int = 0, p: float = 0.0, slopes: tuple = (0.0, 0.0), key: Key | None = None
    ):
        lower, upper = slopes
        super().__init__(ctypes.sizeof(type(self)), kind, activation, 0, p, lower, upper, key or Key())


class Tensors(ctypes.Structure):
    """dact_tensors"""

    _fields_ = [
        ("struct_size", c_uint32),
        ("dtype", c_uint32),
        ("len", c_size_t),
        ("input", c_void_p),
        ("saved", c_void_p),
        ("output", c_void_p),
        ("mask", c_void_p),
        ("residual", c_void_p),
        ("scale", c_void_p),
        ("shift", c_void_p),
        ("mean", c_void_p),
        ("alpha", c_void_p),
        ("beta", c_void_p),
        ("gamma", c_void_p),
        ("results", c_void_p * 2),
        ("workspace", c_void_p),
        ("workspace_bytes", c_size_t),
    ]

    def __init__(self, dtype: int, length: int, input: int, output: int, saved: int = 0, mask: int = 0):
        super().__init__(ctypes.sizeof(type(self)), dtype, length, input, saved, output, mask)


#: Gives the address of the function of a name, or None.
FIND = ctypes.CFUNCTYPE(c_void_p, c_char_p)


def _load() -> ctypes.CDLL:
    name = {"win32": "drop_activation_c.dll", "darwin": "libdrop_activation_c.dylib"}
    path = pathlib.Path(__file__).with_name(name.get(sys.platform, "libdrop_activation_c.so"))
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise ImportError(f"drop_activation's library cannot be loaded: {error}") from error
    error_out = POINTER(c_void_p)
    signatures = {
        "dact_version": ([], c_char_p),
        "dact_activation_name": ([c_uint32], c_char_p),
        "dact_check_abi": ([c_uint32, error_out], c_int32),
        "dact_error_message": ([c_void_p], c_char_p),
        "dact_error_free": ([c_void_p], None),
        "dact_cpu_run": ([POINTER(Pass), POINTER(Tensors), error_out], c_int32),
        "dact_cpu_keep_mask": ([c_double, POINTER(Key), c_size_t, c_void_p, error_out], c_int32),
        "dact_cuda_available": ([POINTER(c_int32), error_out], c_int32),
        "dact_cuda_device_code": ([], c_char_p),
        "dact_cuda_open": ([c_int32, POINTER(c_void_p), error_out], c_int32),
        "dact_cuda_close": ([c_void_p], None),
        "dact_cuda_preload": ([c_void_p, error_out], c_int32),
        "dact_cuda_workspace_bytes": ([POINTER(Pass), POINTER(Tensors), POINTER(c_size_t), error_out], c_int32),
        "dact_cuda_run": ([c_void_p, c_void_p, POINTER(Pass), POINTER(Tensors), error_out], c_int32),
        "dact_torch_register": ([FIND, error_out], c_int32),
    }
    for name, (arguments, result) in signatures.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, result
    return library


_c = _load()


def _call(function, *arguments) -> None:
    """Calls, and makes a failure an exception with the library's message."""
    error = c_void_p()
    status = function(*arguments, byref(error))
    if status == _OK:
        return
    message = _c.dact_error_message(error).decode()
    _c.dact_error_free(error)
    raise (ValueError if status == _INVALID_ARGUMENT else RuntimeError)(message)


try:
    _call(_c.dact_check_abi, ABI_VERSION)
except RuntimeError as error:
    raise ImportError(str(error)) from error


def path() -> str:
    """Where the library lies."""
    return _c._name


def version() -> str:
    return _c.dact_version().decode()


def activation_names() -> tuple[str, ...]:
    """The activations, in the order of their codes."""
    return tuple(name.decode() for name in iter(map(_c.dact_activation_name, itertools.count()).__next__, None))


def device_code() -> str:
    return _c.dact_cuda_device_code().decode()


def cpu_run(pass_: Pass, tensors: Tensors) -> None:
    _call(_c.dact_cpu_run, byref(pass_), byref(tensors))


def cpu_keep_mask(p: float, key: Key, length: int, words: int) -> None:
    _call(_c.dact_cpu_keep_mask, p, byref(key), length, words)


class Cuda:
    """The kernels on one device, all loaded."""

    def __init__(self, device: int):
        self._handle = c_void_p()
        _call(_c.dact_cuda_open, device, byref(self._handle))
        _call(_c.dact_cuda_preload, self._handle)

    def run(self, stream: int, pass_: Pass, tensors: Tensors) -> None:
        """Enqueues on the stream and returns."""
        _call(_c.dact_cuda_run, self._handle, stream, byref(pass_), byref(tensors))


def cuda_workspace_bytes(pass_: Pass, tensors: Tensors) -> int:
    """How much device memory `Cuda.run` needs at `tensors.workspace`."""
    needed = c_size_t()
    _call(_c.dact_cuda_workspace_bytes, byref(pass_), byref(tensors), byref(needed))
    return needed.value


def torch_register(find) -> None:
    """Registers the kernels of PyTorch's operators, by LibTorch's functions, whose addresses `find` returns."""
    _call(_c.dact_torch_register, FIND(find))


def cuda_device_count() -> int:
    """How many CUDA devices there are.

    Raises:
        RuntimeError: There is none; the text says why.
    """
    devices = c_int32()
    _call(_c.dact_cuda_available, byref(devices))
    return devices.value
