"""A trained model without this package."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ._children import put_child
from ._modules import DropActivation, RReLU
from ._quantization import FUSED_WITH_RELU, is_fused_with_relu
from ._standard import standard
from ._unfuse import check_layers, unfuse_layers
from ._watched import is_watched, unwatch


def fold(model: nn.Module, *example: Any) -> nn.Module:
    """Makes a model in evaluation mode one of PyTorch's modules alone, for good: nn.LeakyReLU in the place of
    DropActivation with ReLU and of RReLU, the mixture of the identity and σ in the place of the others. What is saved
    then is loaded without this package.

    In a model that `replace_relu` has swapped, ReLUs that its code calls as functions have no module to put another in
    its place. Whether there are such calls is known when the model has run: call it once, or give `example`, the
    arguments of such a call. A model that makes some is folded as `fold(torch.fx.symbolic_trace(model))`, or exported.

    A layer with a batch normalisation or a bias in it becomes nn.BatchNorm, or a sum, and its activation, where a graph
    of torch.fx calls it, as in a model that `fuse_batch_norm` has made. One that other code calls is folded as above.

    Returns:
        The model, or what takes its place if it is itself such a module.

    Raises:
        TypeError: A module is in training mode.
        ValueError: The model's code calls ReLU or a layer with a batch normalisation or a bias in it, or has not run yet;
            a module has another forward than this package's. Nothing was changed then.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a module, got a {type(model).__name__}")
    replaced = {m: standard(m) for m in model.modules() if isinstance(m, (DropActivation, RReLU))}
    check_layers(model)
    if example:
        with torch.no_grad():
            model(*example)
    for name, module in model.named_modules():
        if is_fused_with_relu(module) and any(child in replaced for child in module.children()):
            got = f"{name!r} (a {type(module).__name__}), which {FUSED_WITH_RELU}"
            raise ValueError(f"model must have no module that is fused for quantization, got {got}")
    watched = [(name, module) for name, module in model.named_modules() if is_watched(module)]
    for name, module in watched:
        record, called = module._drop_activation, f"{name!r} (a {type(module).__name__})"
        if record.called:
            raise ValueError(
                f"ReLUs must be modules, as in fold(torch.fx.symbolic_trace(model)), got module {called}, whose code "
                "calls ReLU, which only this package replaces"
            )
        if not record.ran:
            raise ValueError(
                "model must have run since replace_relu, so that it is known whether its code calls ReLU, got module "
                f"{called}, which has not: call the model once, or give fold the arguments of a call"
            )
    for _, module in watched:
        unwatch(module)
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child in replaced:
                put_child(parent, name, replaced[child])
    unfuse_layers(model)
    return replaced.get(model, model)
