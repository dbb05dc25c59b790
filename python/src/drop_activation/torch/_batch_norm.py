"""Batch normalisation and Drop-Activation in one module, with a residual between the two if there is one."""

from __future__ import annotations

from typing import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from .._activations import CODES
from . import _composed
from ._channel_checks import check_like
from ._channel_derivatives import norms as operators
from ._functions import check_parameters, drop_activation
from ._keys import draw_key
from ._layout import layout_of
from ._modules import leaf, unscriptable
from ._quick_channels import batch_norm as quick_batch_norm


class _BatchNormDropActivation(_NormBase):
    """nn.BatchNorm's parameters and buffers, by the names that it has for them."""

    _dimensions: tuple[int, ...]
    #: How a residual that the passes refuse is added, where one may come: `fuse_batch_norm` knows no shapes.
    _add: Callable[[Tensor, object], Tensor] | None = None
    #: Whether there is a sum with a residual in any case: PyTorch refuses to add None.
    _sum = False

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        p: float = 0.95,
        *,
        affine: bool = True,
        track_running_stats: bool = True,
        activation: str = "relu",
        frozen: bool = False,
        device=None,
        dtype=None,
    ):
        if isinstance(p, bool):  # as nn.BatchNorm's fourth argument is
            raise TypeError(f"p must be a number, got {p}; affine is given by its name")
        check_parameters(p, activation)
        if not 0 < eps < float("inf"):
            raise ValueError(f"eps must be positive and finite, got {eps}")
        if momentum is not None and not 0 <= momentum <= 1:
            raise ValueError(f"momentum must be in [0, 1] or None, got {momentum}")
        if frozen and not track_running_stats:
            raise ValueError("frozen must be False where track_running_stats is, got True")
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype)
        self.p, self.activation, self.frozen = float(p), activation, frozen

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """
        Args:
            x: Of shape (batch, num_features, ...): float16, bfloat16, float32 or float64.
            residual: Of x's shape, dtype and device; added after the normalisation.
        """
        if isinstance(x, Proxy):
            return leaf(self, x) if residual is None else leaf(self, x, residual)
        if self._sum and residual is None:
            raise TypeError("residual must be a tensor, got None")
        if self._add is not None and _is_for_composition(x, residual):
            z = _BatchNorm.forward(self, x)
            z = z if residual is None else self._add(z, residual)
            return drop_activation(z, self.p, self.activation, self.training)
        self._check(x, residual)
        running = self.frozen or not self.training
        running = running and self.running_mean is not None
        if not self.training:
            mean, variance = (self.running_mean, self.running_var) if running else (None, None)
            z = F.batch_norm(x, mean, variance, self.weight, self.bias, not running, 0.0, self.eps)
            return _composed.evaluation(z if residual is None else z + residual, self.p, self.activation)
        count = x.numel() // max(x.shape[1], 1)
        if not running and count == 1:
            raise ValueError(f"x must have more than one value for each channel in training, got shape {tuple(x.shape)}")
        mean, variance = (self.running_mean, self.running_var) if running else (None, None)
        tensors = x, residual, self.weight, self.bias, mean, variance
        quick = quick_batch_norm(*tensors, self.eps, self.p, self.activation)
        if quick is None:
            y, mean, variance = self._train(*tensors)
        else:
            y, mean, variance = quick
        if not running and self.running_mean is not None:
            self._move(mean, variance, count)
        return y

    def _train(self, *tensors: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        x, *_ = tensors
        # With p of 0 or 1 nothing is drawn, so that other random numbers stay what they are.
        key = draw_key(x) if 0 < self.p < 1 else torch.zeros(1, dtype=torch.int64)
        parameters = self.eps, self.p, CODES[self.activation], layout_of(x)
        y, _, mean, variance = operators.batch_norm(*tensors, key, *parameters)
        return y, mean, variance

    @torch.no_grad()
    def _move(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """The running statistics, by those of a batch."""
        self.num_batches_tracked.add_(1)
        unbiased = count / (count - 1)
        for running, of_batch, factor in ((self.running_mean, mean, 1), (self.running_var, variance, unbiased)):
            if self.momentum is None:
                share = 1 / self.num_batches_tracked.to(mean.dtype)
                running.copy_((1 - share) * running + share * factor * of_batch)
            else:
                running.mul_(1 - self.momentum).add_(of_batch, alpha=self.momentum * factor)

    def _check_input_dim(self, x: Tensor) -> None:
        self._check(x, None)

    def _check(self, x: Tensor, residual: Tensor | None) -> None:
        if not isinstance(x, Tensor):
            raise TypeError(f"x must be a tensor, got a {type(x).__name__}")
        if x.dim() not in self._dimensions:
            expected = " or ".join(map(str, self._dimensions))
            raise ValueError(f"x must have {expected} dimensions, got {x.dim()}")
        if x.shape[1] != self.num_features:
            raise ValueError(f"x must have {self.num_features} channels, got {x.shape[1]}")
        if residual is not None and not isinstance(residual, Tensor):
            raise TypeError(f"residual must be a tensor or None, got a {type(residual).__name__}")
        check_like("residual", residual, "x", x)

    def __prepare_scriptable__(self) -> nn.Module:
        raise unscriptable(self)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, p={self.p}, activation={self.activation!r}" + (
            ", frozen=True" if self.frozen else ""
        )


def _is_for_composition(x: Tensor, residual: object) -> bool:
    """Whether there are no images, or the residual is added as PyTorch adds it: broadcast, and with its dtype's rules."""
    if not isinstance(x, Tensor) or x.numel() and residual is None:
        return False
    like = isinstance(residual, Tensor) and residual.shape == x.shape and residual.dtype == x.dtype
    return not x.numel() or not like or residual.layout is not torch.strided


class BatchNormDropActivation1d(_BatchNormDropActivation):
    """nn.BatchNorm1d and DropActivation in one, over (batch, num_features) or (batch, num_features, length). All that
    `BatchNormDropActivation2d` says of nn.BatchNorm2d holds here for nn.BatchNorm1d."""

    _dimensions = (2, 3)


class BatchNormDropActivation2d(_BatchNormDropActivation):
    """nn.BatchNorm2d and DropActivation in one: y of `forward(x, residual=None)` is DropActivation's of
    BatchNorm2d(x) + residual, with fewer passes over memory. Checkpoints of nn.BatchNorm2d load into it, and its own into
    nn.BatchNorm2d.

    In evaluation mode it is made of PyTorch's own operations. It has no second derivatives. In training it refuses a
    batch without elements, which has no statistics: nn.BatchNorm2d counts it, and leaves its own as they are.

    It is not a subclass of nn.BatchNorm2d, and what goes by the class passes over it:
    `torch.optim.swa_utils.update_bn` moves none of its statistics (of each layer call `reset_running_stats()` and set
    `momentum` to None for the while, then call the model in training mode over the data, under `torch.no_grad()`), and
    `nn.SyncBatchNorm.convert_sync_batchnorm`, which would lose the activation, leaves it with the statistics of its own
    process (convert a model of nn.BatchNorm2d, and give it to `replace_relu`).

    Args:
        num_features, eps, momentum, affine, track_running_stats, device, dtype: As for nn.BatchNorm2d.
        p, activation: As for `DropActivation`.
        frozen: Whether the running statistics are used, and kept, in training too.
    """

    _dimensions = (4,)
