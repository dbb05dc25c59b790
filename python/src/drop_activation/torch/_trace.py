"""A model's graph by torch.fx, where the graph says all that the model's code does, in training and in evaluation."""

from __future__ import annotations

import inspect
import itertools
import operator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.fx.node import map_arg
from torch.fx.proxy import Attribute

from ._batch_norm import _BatchNormDropActivation
from ._bias import BiasDropActivation
from ._modules import DropActivation, RReLU
from ._nodes import is_number, is_relu, owner_of
from ._swap import has_hooks

#: Functions that are told the mode, and the modules that have it themselves.
_TOLD = {
    F.dropout: nn.Dropout,
    F.dropout1d: nn.Dropout1d,
    F.dropout2d: nn.Dropout2d,
    F.dropout3d: nn.Dropout3d,
    F.alpha_dropout: nn.AlphaDropout,
    F.feature_alpha_dropout: nn.FeatureAlphaDropout,
}
_OURS = (DropActivation, RReLU, BiasDropActivation, _BatchNormDropActivation)


class Traced(NamedTuple):
    graph: fx.Graph
    #: What the graph reads by a name that the model has not.
    constants: dict[str, object]
    #: Calls of functions that are told the mode of the module whose code they are in, each with a module that does it.
    told: dict[fx.Node, nn.Module]


def trace(model: nn.Module) -> Traced:
    """The model stays as it is.

    Raises:
        ValueError: torch.fx cannot trace the model, or the graph would not be what its code does.
    """
    leaves: set[nn.Module] = set()
    while True:
        try:
            (now, constants), (training, others), (evaluation, more) = _in_each_mode(model, leaves)
        except Exception as error:
            raise _refusal(model, error) from error
        nodes = list(itertools.zip_longest(now.nodes, training.nodes, evaluation.nodes))
        different = next((of for of in nodes if not _agree(of, model)), None)
        if different is None:
            break
        owner = model.get_submodule(owner_of(next(filter(None, different[1:]))))
        calls = (node for graph in (training, evaluation) for node in graph.nodes)
        if (
            owner in leaves
            or owner._modules
            or any(is_relu(node, model) and model.get_submodule(owner_of(node)) is owner for node in calls)
        ):
            raise _refusal(model, _difference(different[1:]))
        leaves.add(owner)  # its own code is called in its own mode, such as what drops whole paths
    if not constants.keys() == others.keys() == more.keys() or not all(
        _same(constants[name], others[name]) and _same(constants[name], more[name]) for name in constants
    ):
        raise _refusal(model, "its code makes a tensor that is another one in each call")
    now._tracer_cls = fx.Tracer  # a saved graph needs not this package's
    told = {of[0]: _module_told(of[0], model) for of in nodes if _mode_told(of[1]) != _mode_told(of[2])}
    return Traced(now, constants, told)


def _refusal(model: nn.Module, reason: object) -> ValueError:
    return ValueError(
        f"model must be one that torch.fx can trace, got a {type(model).__name__}: {reason}; "
        "replace_relu takes any model and leaves batch normalisations as they are"
    )


def _in_each_mode(model: nn.Module, leaves: set[nn.Module]) -> list[tuple[fx.Graph, dict[str, object]]]:
    """The graphs as the model is, in training and in evaluation."""
    state = {m: vars(m).copy() for m in model.modules() if not isinstance(m, torch.jit.ScriptModule)}
    versions = {name: (t, _version(t)) for name, t in itertools.chain(model.named_parameters(), model.named_buffers())}
    buffers = [(buffer, _version(buffer), buffer.clone()) for buffer in model.buffers()]
    graphs = []
    try:
        for mode in (None, True, False):
            for module in state if mode is not None else ():
                vars(module)["training"] = mode
            graph = _Tracer(leaves).trace(model)
            graphs.append((graph, {name: value for name, value in vars(model).items() if name not in state[model]}))
            for module, attributes in state.items():  # torch.fx puts constants there, and a model what it likes
                vars(module).clear()
                vars(module).update(attributes)
        for name, (tensor, version) in versions.items():
            if _version(tensor) != version:
                raise ValueError(f"its code writes to {name}")
    finally:
        for module, attributes in state.items():
            vars(module).clear()
            vars(module).update(attributes)
        with torch.no_grad():
            for buffer, version, value in buffers:
                if _version(buffer) != version:
                    buffer.copy_(value)
    return graphs


def _version(tensor: torch.Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


class _Tracer(fx.Tracer):
    """It refuses what a graph has no words for."""

    def __init__(self, leaves: set[nn.Module]):
        super().__init__()
        self._leaves, self._contexts = leaves, _contexts()

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        # timm's batch normalisations have their activation in them, as its pre-activation ResNets use them.
        known = isinstance(module, _OURS) or is_timm_norm(module) or module in self._leaves
        return known or super().is_leaf_module(module, name)

    def trace(self, root: nn.Module, concrete_args=None) -> fx.Graph:
        self._check("", root)
        if "forward" in vars(root):
            raise ValueError("it has a forward of its own beside its class's")
        return super().trace(root, concrete_args)

    def call_module(self, module: nn.Module, forward, args, kwargs):
        name = self.path_of_module(module)
        if not self.is_leaf_module(module, name):
            self._check(name, module)
        return super().call_module(module, forward, args, kwargs)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def create_node(self, *args, **kwargs) -> fx.Node:
        for (name, before), now in zip(self._contexts.items(), _contexts().values()):
            if now != before:
                raise ValueError(f"its code changes {name} from {before} to {now}")
        return super().create_node(*args, **kwargs)

    def _check(self, name: str, module: nn.Module) -> None:
        if has_hooks(module):
            raise ValueError(f"its module {name!r} (a {type(module).__name__}) has hooks")


class _InPlace:
    """torch.fx makes `x + y` of `x += y`, which others that have x do not see. For numbers it is."""

    def __getattr__(self, name: str):
        return _Attribute(self, name)

    def __setattr__(self, name: str, value: object) -> None:
        if name not in ("tracer", "node", "root", "attr", "_node"):
            raise ValueError(f"its code sets {name} of a tensor")
        object.__setattr__(self, name, value)


class _Proxy(_InPlace, fx.Proxy):
    pass


class _Attribute(_InPlace, Attribute):
    pass


def _in_place(name: str):
    method, out_of_place = f"__i{name}__", getattr(operator, f"__{name}__")

    def call(self: fx.Proxy, other):
        if is_number(self.node):
            return out_of_place(self, other)
        return self.tracer.create_proxy("call_method", method, (self, other), {})

    return method, call


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor", "lshift", "rshift"):
    setattr(_InPlace, *_in_place(_name))


def is_timm_norm(module: nn.Module) -> bool:
    kind = type(module)
    of_timm = kind.__module__.startswith("timm.") and kind.__name__ == "BatchNormAct2d"
    return of_timm and isinstance(module, nn.BatchNorm2d)


def _contexts() -> dict[str, object]:
    contexts = {"gradients being enabled": torch.is_grad_enabled(), "inference mode": torch.is_inference_mode_enabled()}
    for device in ("cpu", "cuda"):
        contexts[f"autocast on {device}"] = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
    return contexts


def _agree(nodes: tuple[fx.Node | None, ...], model: nn.Module) -> bool:
    """Whether the nodes as the model is, in training and in evaluation are one, but for the mode that they are told."""
    if None in nodes or any(_without_mode(node) != _without_mode(nodes[0]) for node in nodes):
        return False
    now, training, evaluation = map(_mode_told, nodes)
    if now is training is evaluation:
        return True
    mode = model.get_submodule(owner_of(nodes[0])).training
    return (now, training, evaluation) == (mode, True, False) and isinstance(_arguments(nodes[0])["p"], (int, float))


def _without_mode(node: fx.Node) -> tuple:
    arguments = _arguments(node)
    given = (node.args, node.kwargs) if arguments is None else {**arguments, "training": None}
    return node.op, node.target, owner_of(node), map_arg(given, lambda other: other.name)


def _arguments(node: fx.Node) -> dict[str, object] | None:
    """Of a function that is told the mode."""
    if node.op != "call_function" or node.target not in _TOLD:
        return None
    bound = inspect.signature(node.target).bind(*node.args, **node.kwargs)
    bound.apply_defaults()
    return bound.arguments


def _mode_told(node: fx.Node) -> object:
    arguments = _arguments(node)
    return arguments and arguments["training"]


def _module_told(node: fx.Node, model: nn.Module) -> nn.Module:
    arguments = _arguments(node)
    return _TOLD[node.target](arguments["p"], arguments["inplace"]).train(arguments["training"])


def _same(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return one is other or type(one) is type(other)


def _difference(nodes: tuple[fx.Node | None, ...]) -> str:
    one, other = ("nothing" if node is None else f"{node.name}{node.args}" for node in nodes)
    where = owner_of(next(filter(None, nodes)))
    return f"in the code of module {where!r} its graph has {one} in training and {other} in evaluation"
