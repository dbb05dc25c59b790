"""Drop-Activation in the place of the ReLUs of a model that was written without it."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
import types
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from ._functions import check_parameters, drop_activation
from ._modules import DropActivation

_RELU = {F.relu, torch.relu, torch.Tensor.relu}
_RELU_IN_PLACE = {F.relu_, torch.relu_, torch.Tensor.relu_}
_NAMES = {"relu", "relu_"}


class Replaced(NamedTuple):
    """What `replace_relu` has swapped, by the names that `model.named_modules()` gives."""

    #: The nn.ReLU modules, which are DropActivation modules now.
    modules: tuple[str, ...]
    #: The modules whose own code calls ReLU as a function or method: the calls are Drop-Activation's now.
    functional: tuple[str, ...]


def replace_relu(model: nn.Module, p: float = 0.95) -> Replaced:
    """Puts Drop-Activation in the place of every ReLU of a model: nn.ReLU modules, and calls of relu as a function or
    a method in the modules' code and in the functions that it calls by name. Those of the model keep their training
    mode; weights and the names of parameters stay as they are.

    Returns:
        What was swapped.
    """
    check_parameters(p, "relu")
    if isinstance(model, nn.ReLU):
        raise TypeError("model is itself a ReLU; allowed are modules that contain some. Use DropActivation instead")
    modules, functional, new = [], [], {}
    for name, parent in model.named_modules():
        for child_name, child in parent._modules.items():
            if type(child) is nn.ReLU:
                # A module that occurs twice stays one module.
                if child not in new:
                    new[child] = DropActivation(p, inplace=child.inplace).train(child.training)
                parent._modules[child_name] = new[child]
                modules.append(f"{name}.{child_name}" if name else child_name)
        if _calls_relu(type(parent)):
            parent.__class__ = _watched(type(parent), float(p))
            functional.append(name)
    return Replaced(tuple(modules), tuple(functional))


class _Functional(TorchFunctionMode):
    """Makes calls of ReLU those of Drop-Activation."""

    def __init__(self, p: float, training: bool):
        super().__init__()
        self.p, self.training = p, training

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in _RELU or function in _RELU_IN_PLACE:
            x = args[0] if args else kwargs["input"]
            inplace = function in _RELU_IN_PLACE or kwargs.get("inplace", len(args) > 1 and args[1])
            return drop_activation(x, self.p, "relu", self.training, inplace)
        return function(*args, **kwargs)


@functools.cache
def _watched(cls: type, p: float) -> type:
    """A class that does what `cls` does, with Drop-Activation for the ReLUs in its code."""

    def forward(self, *args, **kwargs):
        with _Functional(p, self.training):
            return cls.forward(self, *args, **kwargs)

    forward.__doc__ = cls.forward.__doc__
    return type(cls.__name__, (cls,), {"forward": forward, "__module__": cls.__module__, "__doc__": cls.__doc__})


@functools.cache
def _calls_relu(cls: type) -> bool:
    """Whether ReLU is called in the code of a module's class. PyTorch's own modules are known not to, but for
    those that take it as a parameter."""
    own = [
        base for base in cls.__mro__ if not base.__module__.startswith(("torch.nn.", "drop_activation.", "builtins"))
    ]
    seen = set()
    return any(
        _mentions(member, seen)
        for base in own
        for member in vars(base).values()
        if isinstance(member, types.FunctionType)
    )


def _mentions(function: types.FunctionType, seen: set) -> bool:
    if function in seen or (function.__module__ or "").partition(".")[0] in ("torch", "drop_activation"):
        return False
    seen.add(function)
    names, codes = set(), [function.__code__]
    while codes:
        code = codes.pop()
        names.update(code.co_names)
        codes += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    called = (function.__globals__.get(name) for name in names)
    return (
        bool(names & _NAMES)
        and _is_a_call(function, names)
        or any(_mentions(other, seen) for other in called if isinstance(other, types.FunctionType))
    )


def _is_a_call(function: types.FunctionType, names: set) -> bool:
    """Not the attribute self.relu, which is a module of its own."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return True
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            target = node.func
            if isinstance(target, ast.Name) and target.id in _NAMES:
                return True
            if isinstance(target, ast.Attribute) and target.attr in _NAMES:
                of_self = isinstance(target.value, ast.Name) and target.value.id == "self"
                if not of_self:
                    return True
    return False
