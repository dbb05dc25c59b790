"""Layers with a batch normalisation or a bias in them, in evaluation mode, as nodes of PyTorch's own in a graph."""

from __future__ import annotations

import inspect
import operator

from torch import fx, nn

from ._batch_norm import BatchNormDropActivation1d, _BatchNormDropActivation
from ._bias import BiasDropActivation
from ._modules import DropActivation
from ._nodes import module_of
from ._standard import check_evaluation, check_forward, standard
from ._swap import is_plain_module
from ._whole_graph import WholeGraphModule, add, set_class

_LAYERS = (_BatchNormDropActivation, BiasDropActivation)


def check_layers(model: nn.Module) -> None:
    """
    Raises:
        TypeError: A layer is in training mode.
        ValueError: A layer is not called by a graph alone, or has hooks, parametrizations or a forward of its own.
    """
    layers = {layer: name for name, layer in model.named_modules() if isinstance(layer, _LAYERS)}
    for layer in layers:
        check_evaluation(layer)
    #: The modules of the graphs that call a layer: what has it besides may call it too.
    within: dict[nn.Module, set[nn.Module]] = {layer: set() for layer in layers}
    for graph_module, _, layer in _calls(model):
        within[layer].update(graph_module.modules())
    for layer, name in layers.items():
        parents = {module for module in model.modules() if layer in module._modules.values()}
        if not within[layer] or parents - within[layer]:
            raise ValueError(
                "layers with a normalisation or a bias in them must be called by a graph alone, as in "
                f"fold(torch.fx.symbolic_trace(model)), got {name!r} (a {type(layer).__name__})"
            )
    for layer, name in layers.items():
        check_forward("what is folded", layer)
        if not is_plain_module(layer):
            raise ValueError(
                f"layers with a normalisation or a bias in them must have no hooks or parametrizations, got {name!r} with some"
            )


def unfuse_layers(model: nn.Module) -> None:
    made: dict[nn.Module, nn.Module] = {}
    for graph_module, node, layer in _calls(model):
        if layer not in made:
            made[layer] = _norm_of(layer) if isinstance(layer, _BatchNormDropActivation) else _bias_of(layer)
        _unfuse(graph_module, node, layer)
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            parent._modules[name] = made.get(child, child)
    for graph_module in list(model.modules()):
        if isinstance(graph_module, fx.GraphModule):
            if isinstance(graph_module, WholeGraphModule):
                set_class(graph_module, fx.GraphModule)  # what is saved is loaded without this package
            graph_module.recompile()


def _calls(model: nn.Module) -> list[tuple[fx.GraphModule, fx.Node, nn.Module]]:
    graphs = [module for module in model.modules() if isinstance(module, fx.GraphModule)]
    nodes = [(module, node, module_of(node, module)) for module in graphs for node in module.graph.nodes]
    return [(module, node, layer) for module, node, layer in nodes if isinstance(layer, _LAYERS)]


def _norm_of(layer: _BatchNormDropActivation) -> nn.Module:
    kind = nn.BatchNorm1d if isinstance(layer, BatchNormDropActivation1d) else nn.BatchNorm2d
    flags = {"affine": layer.affine, "track_running_stats": layer.track_running_stats, "device": "meta"}
    norm = kind(layer.num_features, layer.eps, layer.momentum, **flags)
    norm._parameters, norm._buffers = layer._parameters, layer._buffers
    return norm.eval()


def _bias_of(layer: BiasDropActivation) -> nn.Module:
    """The bias by its name, and nothing else."""
    holder = nn.Module()
    holder._parameters = layer._parameters
    return holder.eval()


def _unfuse(model: fx.GraphModule, node: fx.Node, layer: nn.Module) -> None:
    graph, target = model.graph, node.target
    given = inspect.signature(layer.forward).bind(*node.args, **node.kwargs).arguments
    x, residual = given["x"], given.get("residual")
    with graph.inserting_before(node):
        if isinstance(layer, BiasDropActivation):
            last = graph.call_method("movedim", (x, layer.dim, -1))
            z = graph.call_function(operator.add, (last, graph.create_node("get_attr", f"{target}.bias")))
            z = graph.call_method("movedim", (z, -1, layer.dim))
        else:
            z = graph.call_module(target, (x,))
        if residual is not None:
            z = graph.call_function(getattr(layer, "_add", None) or operator.add, (z, residual))
        activation = standard(DropActivation(layer.p, layer.activation).eval())
        path, _, name = target.rpartition(".")
        y = graph.call_module(add(model, path, f"{name}_activation", activation), (z,))
        if isinstance(layer, BiasDropActivation):  # whose parameters may have a wider type
            y = graph.call_method("type_as", (y, x))
    node.replace_all_uses_with(y)
    graph.erase_node(node)
