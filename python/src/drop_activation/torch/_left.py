"""What was found in a model and stays as it was, and why."""

from __future__ import annotations

import inspect
from typing import NamedTuple

from torch import nn

from . import _other_names as other_names
from ._batch_norm import _BatchNormDropActivation
from ._bias import BiasDropActivation
from ._quantization import FUSED_WITH_RELU, is_fused_with_relu


class Left(NamedTuple):
    """What was found and not replaced."""

    #: The name of the module, or of the module whose code made the call.
    name: str
    reason: str


def reason_left(module: nn.Module) -> str | None:
    """Why the module cannot be another one, if it computes ReLU or what is like it."""
    if isinstance(module, (_BatchNormDropActivation, BiasDropActivation)):
        return f"{type(module).__name__} has an activation in it, which keeps its p of {module.p}"
    if isinstance(module, nn.ReLU6):
        return "ReLU6 is bounded above, and so another function than ReLU"
    if other_names.is_module(module):
        return f"{type(module).__name__}: {other_names.REASON.replace('call relu', 'use nn.ReLU')}"
    if is_fused_with_relu(module):
        return f"{type(module).__name__} {FUSED_WITH_RELU}"
    if isinstance(module, nn.RNNBase) and module.mode == "RNN_RELU" or (
        isinstance(module, nn.RNNCell) and module.nonlinearity == "relu"
    ):
        return f"{type(module).__name__} computes ReLU inside of its cell"
    if inspect.isgeneratorfunction(module.forward) or inspect.iscoroutinefunction(module.forward):
        return "its forward is a generator or asynchronous, whose code runs later: it is watched within other modules alone"
    return None
