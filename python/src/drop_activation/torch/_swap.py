"""nn.ReLU made DropActivation, and back: with its hooks, mode and `inplace`, and whatever else was put on it."""

from __future__ import annotations

from types import FunctionType

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from ._fused import Fused
from ._modules import DropActivation, ReplacedReLU


def drop_activation_of(relu: nn.ReLU, p: float, fused: Fused = True) -> DropActivation:
    module = ReplacedReLU.__new__(ReplacedReLU)
    module.__dict__ = relu.__dict__.copy()
    module.p, module.activation, module.fused, module.replaces_relu = p, "relu", fused, nn.ReLU
    return module


def relu_of(module: DropActivation) -> nn.ReLU:
    relu = nn.ReLU.__new__(nn.ReLU)
    relu.__dict__ = module.__dict__.copy()
    del relu.p, relu.activation, relu.fused, relu.replaces_relu
    return relu


def replaced_by(module: nn.Module | None) -> object:
    """What this module has replaced, if it has: nn.ReLU or a function."""
    return vars(module).get("replaces_relu") if module is not None else None


#: What nn.Module does, and a class or a single module may do otherwise.
METHODS = {
    name
    for name, value in vars(nn.Module).items()
    if isinstance(value, FunctionType) and (name == "__call__" or not name.startswith("__"))
}


def has_hooks(module: nn.Module) -> bool:
    return any(value for name, value in vars(module).items() if name.endswith("_hooks"))


def is_plain_module(module: nn.Module) -> bool:
    """Whether a call of it is what its class says, and nothing else."""
    return not has_hooks(module) and not METHODS & vars(module).keys() and not is_parametrized(module)
