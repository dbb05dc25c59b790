"""Modules in evaluation mode, as modules of PyTorch alone."""

from __future__ import annotations

import operator

from torch import fx, nn

#: The classes of torch.nn by the lower-case name, which is that of an activation.
_CLASSES = {name.lower(): kind for name, kind in vars(nn).items() if isinstance(kind, type)}
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


def check_evaluation(module: nn.Module) -> None:
    if module.training:
        raise TypeError(
            f"the model must be in evaluation mode, in which its modules draw no masks, got {module} in training mode: "
            "call eval() first"
        )


def check_forward(what: str, module: nn.Module) -> None:
    """
    Raises:
        ValueError: A subclass, or somebody, has given a module of this package another forward.
    """
    if "forward" in vars(module) or not type(module).forward.__module__.startswith("drop_activation."):
        raise ValueError(f"{what} must have this package's forward, got {module} with its own")


def standard(module: nn.Module) -> nn.Module:
    """What a DropActivation or RReLU computes in evaluation mode: ReLU's is nn.LeakyReLU. It keeps the module's hooks.

    Raises:
        TypeError: The module is in training mode.
        ValueError: It has another forward.
    """
    check_evaluation(module)
    check_forward("what is folded", module)
    made = _rrelu(module) if not hasattr(module, "p") else _drop_activation(module.p, module.activation, module.inplace)
    for hooks in _HOOKS:
        getattr(made, hooks).update(getattr(module, hooks))
    return made.eval()


def _rrelu(module: nn.Module) -> nn.Module:
    return nn.LeakyReLU((module.lower + module.upper) / 2)


def _drop_activation(p: float, activation: str, inplace: bool) -> nn.Module:
    if p == 0:
        return nn.Identity()
    if activation == "relu":
        return nn.ReLU(inplace) if p == 1 else nn.LeakyReLU(1 - p, inplace)
    sigma = _CLASSES[activation]()
    return sigma if p == 1 else _mixture(p, sigma)


def _mixture(p: float, sigma: nn.Module) -> nn.Module:
    """(1 - p) x + p σ(x), in a class that PyTorch can load by itself."""
    graph, root = fx.Graph(), nn.Module()
    root.sigma = sigma
    x = graph.placeholder("x")
    kept = graph.call_function(operator.mul, (graph.call_module("sigma", (x,)), p))
    graph.output(graph.call_function(operator.add, (graph.call_function(operator.mul, (x, 1 - p)), kept)))
    return fx.GraphModule(root, graph)
