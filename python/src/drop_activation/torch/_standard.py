"""Modules in evaluation mode, as modules of PyTorch alone."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

from torch import fx, nn

from .._activations import TABLE

if TYPE_CHECKING:
    from ._modules import DropActivation, RReLU

_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


def standard(module: DropActivation | RReLU) -> nn.Module:
    """What a module computes in evaluation mode: ReLU's is nn.LeakyReLU. It keeps the module's hooks.

    Raises:
        TypeError: The module is in training mode.
    """
    if module.training:
        raise TypeError(
            f"{module} is in training mode, where it draws a mask; outside of this package it can only be what it "
            "is in evaluation mode: call eval() first"
        )
    made = _rrelu(module) if not hasattr(module, "p") else _drop_activation(module.p, module.activation, module.inplace)
    for hooks in _HOOKS:
        getattr(made, hooks).update(getattr(module, hooks))
    return made.eval()


def _rrelu(module: RReLU) -> nn.Module:
    return nn.LeakyReLU((module.lower + module.upper) / 2)


def _drop_activation(p: float, activation: str, inplace: bool) -> nn.Module:
    if p == 0:
        return nn.Identity()
    if activation == "relu":
        return nn.ReLU(inplace) if p == 1 else nn.LeakyReLU(1 - p, inplace)
    sigma = getattr(nn, TABLE[activation].module)()
    return sigma if p == 1 else _mixture(p, sigma)


def _mixture(p: float, sigma: nn.Module) -> nn.Module:
    """(1 - p) x + p σ(x), in a class that PyTorch can load by itself."""
    graph, root = fx.Graph(), nn.Module()
    root.sigma = sigma
    x = graph.placeholder("x")
    kept = graph.call_function(operator.mul, (graph.call_module("sigma", (x,)), p))
    graph.output(graph.call_function(operator.add, (graph.call_function(operator.mul, (x, 1 - p)), kept)))
    return fx.GraphModule(root, graph)
