"""The modules."""

from __future__ import annotations

from torch import Tensor, nn
from torch.fx import Proxy

from .._operations import LOWER, UPPER
from ._functions import check_parameters, check_slopes, drop_activation, rrelu
from ._fused import Fused, check_fused
from ._quick import drawn
from ._standard import check_forward, standard


def leaf(module: nn.Module, x: Proxy, *others: Proxy) -> Proxy:
    """What torch.fx does with PyTorch's own modules: the graph calls the module, whose mode may still change.

    Raises:
        ValueError: It has hooks of its forward pass, or another forward around this package's. torch.fx has called them
            now, and the graph would again.
    """
    if module._forward_hooks or module._forward_pre_hooks:
        raise ValueError(f"a module that torch.fx traces must have no hooks of its forward pass, got {module} with some")
    check_forward("a module that torch.fx traces", module)
    return x.tracer.create_proxy("call_module", x.tracer.path_of_module(module), (x, *others), {})


def unscriptable(module: nn.Module) -> TypeError:
    return TypeError(
        f"{type(module).__name__} cannot be scripted: its residual is optional. Use torch.jit.trace or torch.export, "
        "or in evaluation mode drop_activation.torch.fold(torch.fx.symbolic_trace(model)) first"
    )


class DropActivation(nn.Module):
    """Takes the place of an activation: σ(x) with probability p for each element, else x; in evaluation mode
    (1 - p) x + p σ(x).

    Args:
        p: The probability of keeping σ, 0 <= p <= 1.
        activation: The name of σ, one of `drop_activation.ACTIVATIONS`.
        inplace: Whether y is written over x, in training and evaluation; for ReLU alone, which needs no x afterwards.
        fused: False for training made of PyTorch's own operations, "auto" for what moves less, as in
            `drop_activation`.
    """

    def __init__(self, p: float = 0.95, activation: str = "relu", inplace: bool = False, fused: Fused = True):
        super().__init__()
        check_parameters(p, activation, inplace)
        check_fused(fused)
        self.p, self.activation, self.inplace, self.fused = float(p), activation, inplace, fused

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.fused is True and not self.inplace:
            y = drawn(x, self.p, self.activation)
            if y is not None:
                return y
        if isinstance(x, Proxy):
            return leaf(self, x)
        return drop_activation(x, self.p, self.activation, self.training, self.inplace, fused=self.fused)

    def __prepare_scriptable__(self) -> nn.Module:
        return standard(self)

    def extra_repr(self) -> str:
        return f"p={self.p}, activation={self.activation!r}" + (
            (", inplace=True" if self.inplace else "") + ("" if self.fused is True else f", fused={self.fused!r}")
        )


class ReplacedReLU(DropActivation, nn.ReLU):
    """What `replace_relu` makes of nn.ReLU. It stays one to code that asks for its class with isinstance."""


class RReLU(nn.Module):
    """nn.RReLU with one bit per element for the backward pass, and slopes that are the same on every device.

    Args:
        lower, upper: Slopes are uniform in [lower, upper), 0 < lower <= upper <= 1.
    """

    def __init__(self, lower: float = LOWER, upper: float = UPPER):
        super().__init__()
        check_slopes(lower, upper)
        self.lower, self.upper = float(lower), float(upper)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, Proxy):
            return leaf(self, x)
        return rrelu(x, self.lower, self.upper, self.training)

    def __prepare_scriptable__(self) -> nn.Module:
        return standard(self)

    def extra_repr(self) -> str:
        return f"lower={self.lower}, upper={self.upper}"
