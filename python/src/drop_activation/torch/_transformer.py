"""nn.TransformerEncoderLayer: in evaluation mode it computes its activation inside of one fused operation, if a flag says
that this is ReLU or GELU. The flag goes by what the activation was when the layer was made."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

from ._modules import DropActivation, RReLU

FLAG = "activation_relu_or_gelu"


def computes_relu(module: nn.Module) -> bool:
    return isinstance(module, nn.TransformerEncoderLayer) and getattr(module, FLAG) == 1


def calls_relu(module: nn.Module) -> bool:
    """Whether it has the function for its activation."""
    layers = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
    return isinstance(module, layers) and vars(module).get("activation") in (F.relu, torch.relu)


def _leave_fused_operation(parent: nn.Module, name: str, child: nn.Module | None) -> None:
    """Called by PyTorch whenever a module is made a part of another one."""
    if isinstance(child, (DropActivation, RReLU)) and isinstance(parent, nn.TransformerEncoderLayer):
        setattr(parent, FLAG, 0)


register_module_module_registration_hook(_leave_fused_operation)
