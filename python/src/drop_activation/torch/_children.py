"""Putting another module in the place of a module's child."""

from __future__ import annotations

from torch import nn


def is_compiled(module: nn.Module) -> bool:
    """Whether it is what torch.compile makes around a module: it has that one's attributes, and calls it as it was."""
    return type(module).__module__.startswith("torch._dynamo.")


def put_child(parent: nn.Module, name: str, child: nn.Module) -> None:
    parent._modules[name] = child
    if is_compiled(parent):
        parent._initialize()
