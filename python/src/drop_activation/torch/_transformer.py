"""nn.TransformerEncoderLayer: in evaluation mode it computes its activation inside of one fused operation, if a flag says
that this is ReLU or GELU. The flag goes by what the activation was when the layer was made."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

from ._modules import DropActivation, RReLU


def fast_paths(module: nn.Module) -> dict[str, object]:
    """The module's attributes that have it take the fused operation, and what keeps it from that."""
    if isinstance(module, nn.TransformerEncoderLayer) and module.activation_relu_or_gelu == 1:
        return {"activation_relu_or_gelu": 0}
    if isinstance(module, nn.TransformerEncoder) and getattr(module, "use_nested_tensor", False):
        if any(getattr(layer, "activation_relu_or_gelu", 2) != 2 for layer in module.layers):
            return {"use_nested_tensor": False}
    return {}


def _leave_fast_path(parent: nn.Module, name: str, child: nn.Module | None) -> None:
    """Called by PyTorch whenever a module is made a part of another one."""
    if isinstance(child, (DropActivation, RReLU)) and isinstance(parent, nn.TransformerEncoderLayer):
        parent.activation_relu_or_gelu = 0


register_module_module_registration_hook(_leave_fast_path)
