"""A model with its batch normalisations and the ReLUs behind them made one module each."""

from __future__ import annotations

import operator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import fx, nn

from ._batch_norm import BatchNormDropActivation1d, BatchNormDropActivation2d, _BatchNormDropActivation
from ._functions import check_parameters
from ._modules import DropActivation
from ._left import Left

_KINDS: dict[type, type[_BatchNormDropActivation]] = {
    nn.BatchNorm1d: BatchNormDropActivation1d,
    nn.BatchNorm2d: BatchNormDropActivation2d,
}
_RELUS = {F.relu, F.relu_, torch.relu, torch.relu_}
_RELU_METHODS = {"relu", "relu_"}
_SUMS = {operator.add, operator.iadd, torch.add}


class FusedModel(NamedTuple):
    #: The model as a torch.fx.GraphModule. It shares its parameters and buffers with the one that was given.
    model: fx.GraphModule
    #: The names of the batch normalisations that have their ReLU in them now.
    fused: list[str]
    #: Of these, those that have the sum with a residual in them too.
    with_residual: list[str]
    #: ReLUs that became DropActivation by itself, and batch normalisations that stay, each with the reason.
    left: list[Left]


def fuse_batch_norm(model: nn.Module, p: float = 0.95) -> FusedModel:
    """Finds BatchNorm -> ReLU and BatchNorm -> sum -> ReLU, whatever way the model's code has of calling them, and makes
    BatchNormDropActivation of each. The other ReLUs become DropActivation.

    The model is traced by torch.fx, and is itself left as it is. Its state_dict keeps its keys.

    Args:
        p: The probability of keeping the ReLU.

    Raises:
        ValueError: torch.fx cannot trace the model; the text has its reason.
    """
    check_parameters(p, "relu")
    try:
        tracer = _Tracer()
        graph_module = fx.GraphModule(model, tracer.trace(model), type(model).__name__)
    except Exception as error:
        raise ValueError(
            f"model must be one that torch.fx can trace, got a {type(model).__name__}: {error}; "
            "replace_relu takes any model and leaves batch normalisations as they are"
        ) from error
    modules = dict(graph_module.named_modules())
    graph, fused, with_residual, left = graph_module.graph, [], [], []
    for node in list(graph.nodes):  # such as what timm puts where nothing is dropped
        if node.op == "call_module" and type(modules[node.target]) is nn.Identity:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    for relu in list(graph.nodes):
        if relu.op == "call_module" and _has_relu(modules[relu.target]):
            if (calls := _calls_of(relu)) > 1:
                left.append(Left(relu.target, f"{relu.target} is called {calls} times"))
            else:
                graph_module.set_submodule(relu.target, _fused_of(modules[relu.target], p))
                modules = dict(graph_module.named_modules())
                fused.append(relu.target)
            continue
        if not _is_relu(relu, modules):
            continue
        z, residual = relu.args[0] if relu.args else relu.kwargs["input"], None
        norm, reason = _norm_of(z, modules)
        if norm is None and _is_sum(z):
            for candidate, other in (z.args[:2], z.args[1::-1]):
                of_sum, reason_of_sum = _norm_of(candidate, modules)
                if of_sum is not None and len(z.users) == 1:
                    norm, residual = of_sum, other
                    break
                reason = reason_of_sum if reason_of_sum != _NO_NORM else reason
        with graph.inserting_before(relu):
            if norm is None:
                left.append(Left(relu.target if relu.op == "call_module" else relu.name, reason))
                # A module of the model's own, for its mode.
                graph_module.add_submodule(f"drop_activation_{len(left)}", DropActivation(p))
                new = graph.call_module(f"drop_activation_{len(left)}", (z,))
            else:
                target = norm.target
                graph_module.set_submodule(target, _fused_of(modules[target], p))
                modules = dict(graph_module.named_modules())
                new = graph.call_module(target, (norm.args[0],) if residual is None else (norm.args[0], residual))
                fused.append(target)
                with_residual.extend([target] if residual is not None else [])
        relu.replace_all_uses_with(new)
        for node in dict.fromkeys((relu, z, norm) if norm is not None else (relu,)):
            if not node.users:
                graph.erase_node(node)
    for name, module in modules.items():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            left.append(Left(name, "no ReLU behind it alone" if type(module) in _KINDS else _other_kind(module)))
    graph.lint()
    graph_module.recompile()
    return FusedModel(graph_module, fused, with_residual, left)


class _Tracer(fx.Tracer):
    """It takes timm's batch normalisations with an activation in them, as its pre-activation ResNets have, for one call."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return _has_relu(module) or super().is_leaf_module(module, name)


def _has_relu(module: nn.Module) -> bool:
    """Whether it is timm's BatchNormAct2d with a ReLU, and nothing between the two."""
    kind = type(module)
    if not (isinstance(module, nn.BatchNorm2d) and kind.__module__.startswith("timm.") and kind.__name__ == "BatchNormAct2d"):
        return False
    return type(module.act) is nn.ReLU and type(module.drop) is nn.Identity


_NO_NORM = "no batch normalisation before it"


def _is_relu(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return type(modules[node.target]) is nn.ReLU
    return node.op == "call_function" and node.target in _RELUS or node.op == "call_method" and node.target in _RELU_METHODS


def _is_sum(node) -> bool:
    return (
        isinstance(node, fx.Node)
        and node.op == "call_function"
        and node.target in _SUMS
        and not node.kwargs
        and len(node.args) == 2
        and all(isinstance(of, fx.Node) for of in node.args)
    )


def _norm_of(node, modules: dict[str, nn.Module]) -> tuple[fx.Node | None, str]:
    """The batch normalisation that the node is a call of, if it can be fused; else why not."""
    if not isinstance(node, fx.Node) or node.op != "call_module":
        return None, _NO_NORM
    module = modules[node.target]
    if not isinstance(module, nn.modules.batchnorm._BatchNorm):
        return None, _NO_NORM
    if type(module) not in _KINDS:
        return None, _other_kind(module)
    if len(node.users) > 1:
        return None, f"{node.target} has other users too"
    if (calls := _calls_of(node)) > 1:
        return None, f"{node.target} is called {calls} times"
    return node, ""


def _calls_of(node: fx.Node) -> int:
    """How many calls there are of the module that the node calls."""
    return sum(other.op == "call_module" and other.target == node.target for other in node.graph.nodes)


def _other_kind(module: nn.Module) -> str:
    return f"a {type(module).__name__}, which is not fused"


def _fused_of(norm: nn.Module, p: float) -> _BatchNormDropActivation:
    """With the parameters and buffers themselves."""
    kind = _KINDS.get(type(norm), BatchNormDropActivation2d)  # timm's is one of nn.BatchNorm2d
    flags = {"affine": norm.affine, "track_running_stats": norm.track_running_stats}
    fused = kind(norm.num_features, norm.eps, norm.momentum, p, **flags)
    fused.weight, fused.bias = norm.weight, norm.bias
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        setattr(fused, name, getattr(norm, name))
    return fused.train(norm.training)
