"""Modules that `torch.ao.quantization` has fused: its `convert` goes by their class, and not by what they hold."""

from __future__ import annotations

from torch import nn

FUSED_WITH_RELU = "is fused for quantization, which makes ReLU of it again; fold the model before its modules are fused"


def is_fused_with_relu(module: nn.Module) -> bool:
    kind = type(module)
    return kind.__module__.startswith("torch.ao.nn.intrinsic.") and "ReLU" in kind.__name__
