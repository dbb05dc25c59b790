"""A bias and Drop-Activation in one, with a residual between the two if there is one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from .._activations import CODES
from . import _composed
from ._channel_derivatives import biases as operators
from ._functions import check_key, check_parameters, check_tensor
from ._keys import draw_key
from ._layout import layout_of
from ._modules import leaf, unscriptable
from ._quick_channels import bias_ as quick_bias


def bias_drop_activation(
    x: Tensor,
    bias: Tensor,
    residual: Tensor | None = None,
    p: float = 0.95,
    activation: str = "relu",
    training: bool = True,
    *,
    dim: int = 1,
    key: Tensor | None = None,
) -> Tensor:
    """`drop_activation` of x + bias + residual, by one pass over memory forward and one backward, which gives the gradient
    of the bias too. In training the sum is not rounded to x's dtype before the activation. It has no second derivatives.

    Args:
        x: float16, bfloat16, float32 or float64, on the CPU or on CUDA.
        bias: A value for each channel, of any floating-point dtype, on x's device.
        residual: Of x's shape, dtype and device.
        p, activation: As for `drop_activation`.
        training: Whether to draw a mask. Without one it is made of PyTorch's own operations.
        dim: Which dimension of x has the channels. It is 1 for images and for rows of features, and -1 for features of
            tokens, of shape (batch, tokens, features).
        key: As for `drop_activation`.

    Returns:
        y, of x's shape and dtype.
    """
    check_parameters(p, activation)
    if isinstance(x, Proxy):
        arguments, rest = (x, bias, residual, p, activation, training), {"dim": dim, "key": key}
        return x.tracer.create_proxy("call_function", bias_drop_activation, arguments, rest)
    check_tensor(x)
    layout = layout_of(x)
    if not isinstance(bias, Tensor):
        raise TypeError(f"bias must be a tensor, got a {type(bias).__name__}")
    if residual is not None and not isinstance(residual, Tensor):
        raise TypeError(f"residual must be a tensor or None, got a {type(residual).__name__}")
    dim, p = operators.check(x, residual, bias, dim), float(p)
    if not training:
        z = x + bias.view([-1 if i == dim else 1 for i in range(x.dim())])
        return _composed.evaluation(z if residual is None else z + residual, p, activation).to(x.dtype)
    if key is not None:
        check_key(key, x)
    y = quick_bias(x, residual, bias, key, p, activation, dim)
    if y is not None:
        return y
    if key is None:
        # With p of 0 or 1 nothing is drawn, so that other random numbers stay what they are.
        key = draw_key(x) if 0 < p < 1 else torch.zeros(1, dtype=torch.int64)
    return operators.bias_(x, residual, bias, key, p, CODES[activation], dim, layout)[0]


class BiasDropActivation(nn.Module):
    """A bias and DropActivation in one: y of `forward(x, residual=None)` is DropActivation's of x + bias + residual, with
    fewer passes over memory. It stands behind a layer without a bias of its own, as nn.Linear(..., bias=False). It has no
    second derivatives.

    Args:
        num_features: The number of channels.
        p, activation: As for `DropActivation`.
        dim: Which dimension of x has the channels: 1 as for batch normalisation, or -1 for tokens of features.
        device, dtype: The bias's, which begins as zeros.
    """

    def __init__(
        self, num_features: int, p: float = 0.95, activation: str = "relu", *, dim: int = 1, device=None, dtype=None
    ):
        super().__init__()
        check_parameters(p, activation)
        self.num_features, self.dim, self.p, self.activation = num_features, dim, float(p), activation
        self.bias = nn.Parameter(torch.empty(num_features, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """
        Args:
            x: With num_features channels: float16, bfloat16, float32 or float64.
            residual: Of x's shape, dtype and device; added before the activation.
        """
        if isinstance(x, Proxy):
            return leaf(self, x) if residual is None else leaf(self, x, residual)
        return bias_drop_activation(x, self.bias, residual, self.p, self.activation, self.training, dim=self.dim)

    def __prepare_scriptable__(self) -> nn.Module:
        raise unscriptable(self)

    def extra_repr(self) -> str:
        return f"{self.num_features}, p={self.p}, activation={self.activation!r}, dim={self.dim}"
