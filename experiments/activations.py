"""The nonlinearities that are compared, by the names that a plan gives them."""

from drop_activation.torch import DropActivation, RReLU
from torch import nn


def make(name: str) -> nn.Module:
    """relu; rrelu, with slopes from 1/8 to 1/3 (the paper's section 4.1.1); drop-activation P; relu+dropout RATE."""
    kind, _, number = name.partition(" ")
    if kind in ("relu", "rrelu") and not number:
        return nn.ReLU() if kind == "relu" else RReLU(1 / 8, 1 / 3)
    if kind == "drop-activation":
        return DropActivation(float(number))
    if kind == "relu+dropout":
        return nn.Sequential(nn.ReLU(), nn.Dropout(float(number)))
    raise ValueError(f"activation must be relu, rrelu, drop-activation P or relu+dropout RATE, got {name!r}")


def title(name: str) -> str:
    """The name as tables have it."""
    kind, _, number = name.partition(" ")
    titles = {
        "relu": "ReLU",
        "rrelu": "RReLU",
        "drop-activation": f"Drop-Activation({number})",
        "relu+dropout": f"ReLU + dropout({number})",
    }
    return titles[kind]


def replace(network: nn.Module, name: str) -> nn.Module:
    """Puts the activation in the place of every nn.ReLU of the network."""
    for parent in list(network.modules()):
        for child_name, child in list(parent.named_children()):
            if type(child) is nn.ReLU:
                setattr(parent, child_name, make(name))
    return network
