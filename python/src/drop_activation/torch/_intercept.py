"""Calls of ReLU, however they are spelled, caught while a module's own code runs.

A `TorchFunctionMode` sees every call of PyTorch's functions, methods and operators, whoever makes it and by whatever
name. `running` puts one on for a module's call; within it the innermost module whose code runs decides on p and on
training or evaluation.
"""

from __future__ import annotations

import functools
import sys
import threading
import types

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from . import _other_names as other_names
from ._functions import drop_activation
from ._fused import Fused
from ._modules import DropActivation
from ._operators import DTYPES
from ._own_derivative import REASON as _OWN_DERIVATIVE
from ._own_derivative import inside_function

_aten = torch.ops.aten
RELU = {F.relu, torch.relu, torch.Tensor.relu, _aten.relu, _aten.relu.default}
RELU_IN_PLACE = {torch.relu_, torch.Tensor.relu_, _aten.relu_, _aten.relu_.default}

_FUSED = "it computes ReLU inside of another operation"
_FUSED_NAMES = (
    "rnn_relu",
    "rnn_relu_cell",
    "_transformer_encoder_layer_fwd",
    "_addmm_activation",
    "cudnn_convolution_relu",
    "cudnn_convolution_add_relu",
    "miopen_convolution_relu",
    "miopen_convolution_add_relu",
)
#: What is ReLU, or nearly, and is left as it is. Found out when it is called.
_LEFT = {getattr(torch, name): _FUSED for name in _FUSED_NAMES if hasattr(torch, name)} | {
    F.relu6: "it is bounded above, and so another function than ReLU",
}
_WRITES_OUT = "it writes to a tensor that was given as `out`"
_QUANTIZED = "it computes ReLU on integers, inside of another operation"


class Record:
    """What is known of a module whose code is watched."""

    def __init__(self, name: str, p: float, fused: Fused):
        self.name, self.p, self.fused = name, p, fused
        #: Whether a ReLU was replaced while the module's code ran.
        self.called = False
        #: Whether the module's code has run, in eager mode.
        self.ran = False
        #: What was called and left: the name, and the reason.
        self.left: dict[str, str] = {}
        #: Attributes of the module that stood in the way, as they were.
        self.changed: dict[str, object] = {}


def _arguments(function, args, kwargs):
    """x, and whether it is to be overwritten."""
    x = args[0] if args else kwargs["input"] if "input" in kwargs else kwargs["self"]
    inplace = function in RELU_IN_PLACE or kwargs.get("inplace", len(args) > 1 and args[1])
    return x, bool(inplace)


def _reason_left(function, args, kwargs) -> str | None:
    if function in _LEFT:
        return _LEFT[function]
    if function in other_names.CALLS:
        return other_names.REASON if other_names.is_relu(function, args, kwargs) else None
    if isinstance(function, (torch._ops.OpOverload, torch._ops.OpOverloadPacket)):
        name = str(function)
        if name.startswith("aten.relu") and "out" in kwargs:
            return _WRITES_OUT
        return _QUANTIZED if name.startswith("quantized.") and "relu" in name else None
    return None


def _replacement(owner: nn.Module, x: torch.Tensor, inplace: bool) -> torch.Tensor:
    record = owner._drop_activation
    return drop_activation(x, record.p, "relu", owner.training, inplace, fused=record.fused)


class Intercept(TorchFunctionMode):
    """For the module `owner`. torch.compile looks into it, and must find nothing to remember."""

    def __init__(self, owner: nn.Module):
        super().__init__()
        self.owner = owner

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if torch.compiler.is_compiling():
            return self._compiled(function, args, kwargs or {})
        if function in _NOTABLE or type(function) not in _ORDINARY:
            called, result = self._notable(function, args, kwargs or {})
            if called:
                return result
        return self._plain(function, args, kwargs or {})

    def _plain(self, function, args, kwargs):
        # It is not in force within the function. In what torch.compile leaves to Python it may be in force unrecorded.
        recorded, _thread.mode = _thread.mode, None
        try:
            return function(*args, **kwargs)
        finally:
            _thread.mode = recorded

    def _compiled(self, function, args, kwargs):
        if function in RELU or function in RELU_IN_PLACE:
            x, inplace = _arguments(function, args, kwargs)
            if x.dtype in DTYPES and "out" not in kwargs and not _inside_function_when_compiled():
                return _replacement(self.owner, x, inplace)
        if function is checkpoint or isinstance(function, torch._ops.HigherOrderOperator):
            if args and _is_region(args[0]):
                return resumed(self.owner, args[0])(*args[1:], **kwargs)
            args = [resumed(self.owner, a) if isinstance(a, _FUNCTIONS) else a for a in args]
            with Intercept(self.owner):
                pass  # torch.compile lets a branch enter a mode if one was entered before it
        return function(*args, **kwargs)

    def _notable(self, function, args, kwargs) -> tuple[bool, object]:
        """Whether it was called here, and the result."""
        owner = self.owner
        record = owner._drop_activation
        if (function in RELU or function in RELU_IN_PLACE) and "out" not in kwargs:
            x, inplace = _arguments(function, args, kwargs)
            if isinstance(x, torch.fx.Proxy):
                return True, _traced_by_fx(owner, x, inplace)
            if isinstance(x, torch.Tensor) and x.dtype not in DTYPES:
                record.left.setdefault("relu", _QUANTIZED if x.is_quantized else f"x has dtype {x.dtype}")
                return False, None
            if not torch.is_grad_enabled() and inside_function(running.__code__):
                record.left.setdefault("relu", _OWN_DERIVATIVE)
                return False, None
            record.called = True
            return True, _replacement(owner, x, inplace)
        if isinstance(function, torch._ops.HigherOrderOperator):
            # It calls functions of the model, without this mode.
            args = [resumed(owner, a) if isinstance(a, _FUNCTIONS) else a for a in args]
            return True, self._plain(function, args, kwargs)
        if function in other_names.MAKES:
            result = self._plain(function, args, kwargs)
            other_names.note(function, args, result)
            return True, result
        name = getattr(function, "__name__", str(function))
        name = name.strip("_") if name.startswith("__") else name.lstrip("_")
        reason = None if name in record.left else _reason_left(function, args, kwargs)
        if reason:
            record.left[name] = reason
        return False, None


#: What has to be looked at, and the types of functions of which nothing else has.
_NOTABLE = RELU | RELU_IN_PLACE | other_names.CALLS | other_names.MAKES | set(_LEFT)
_ORDINARY = set(map(type, (F.softmax, torch.add, torch.Tensor.add, torch.Tensor.shape.__get__)))
_FUNCTIONS = (types.FunctionType, types.MethodType, functools.partial, nn.Module)


class _Thread(threading.local):
    #: The mode that is in force.
    mode: Intercept | None = None


_thread = _Thread()


def running(owner: nn.Module, function, args, kwargs):
    """Calls `function`, a part of the owner's code."""
    if getattr(owner, "_drop_activation", None) is None:
        return function(*args, **kwargs)
    if torch.compiler.is_compiling():
        with Intercept(owner):
            return function(*args, **kwargs)
    owner._drop_activation.ran = True
    mode = _thread.mode
    if mode is None:
        _thread.mode = mode = Intercept(owner)
        try:
            with mode:
                return function(*args, **kwargs)
        finally:
            _thread.mode = None
    outer, mode.owner = mode.owner, owner
    try:
        return function(*args, **kwargs)
    finally:
        mode.owner = outer


@torch._dynamo.assume_constant_result
def _inside_function_when_compiled() -> bool:
    return inside_function(running.__code__, compiled=True)


def resumed(owner: nn.Module, function):
    """`function`, for a time when the owner's call is over or suspended."""
    if isinstance(function, functools.partial):  # some ask for one
        return functools.partial(resumed(owner, function.func), *function.args, **function.keywords)

    def call(*args, **kwargs):
        return running(owner, function, args, kwargs)

    return call


def _is_region(function) -> bool:
    """Whether it is one of torch.compiler.nested_compile_region: without this mode torch.compile would look into it."""
    return hasattr(function, "__marked_compile_region_config__")


def current_owner() -> nn.Module | None:
    """The module whose code runs in this thread."""
    return _thread.mode.owner if _thread.mode else None


def _traced_by_fx(owner: nn.Module, x: torch.fx.Proxy, inplace: bool):
    """In a graph a call becomes that of a module, whose mode is that of the graph's module when it runs."""
    name = "drop_activation_" if inplace else "drop_activation"
    module = getattr(owner, name, None)
    if not isinstance(module, DropActivation):
        module = DropActivation(owner._drop_activation.p, "relu", inplace, owner._drop_activation.fused)
        module.train(owner.training)
        owner.add_module(name, module)
    owner._drop_activation.called = True
    path = x.tracer.path_of_module(owner)
    return x.tracer.create_proxy("call_module", f"{path}.{name}" if path else name, (x,), {})


def _let_compile_intercept_relu_():
    """torch.compile asks a list that leaves out all functions of this form which modes it has to ask."""
    listed = torch.overrides.get_overridable_functions()[torch]
    if torch.relu_ not in listed:
        listed.append(torch.relu_)
    dynamo = sys.modules.get("torch._dynamo.variables.torch")
    if dynamo is not None:
        dynamo.get_overridable_functions().add(torch.relu_)


def _leave_to_python(function):
    """Around code that torch.compile leaves to Python the mode is in force in Python. There torch.compile would make
    its method a graph by itself, and take the branch that is for graphs."""
    dynamo = torch._C._dynamo.eval_frame
    skip = dynamo._FrameExecStrategy(dynamo._FrameAction.SKIP, dynamo._FrameAction.DEFAULT)
    dynamo.set_code_exec_strategy(function.__code__, skip)


_let_compile_intercept_relu_()
_leave_to_python(Intercept.__torch_function__)
_leave_to_python(Intercept._plain)
