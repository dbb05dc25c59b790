"""A model's graph by torch.fx, where the graph says all that the model's code does, in training and in evaluation."""

from __future__ import annotations

import inspect
import itertools
import operator
import sys
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.fx.node import map_arg
from torch.fx.proxy import Attribute
from torch.nn.modules.module import _has_any_global_hook

from ._batch_norm import _BatchNormDropActivation
from ._bias import BiasDropActivation
from ._contexts import contexts, surroundings
from ._modules import DropActivation, RReLU
from ._nodes import is_number, is_relu, may_be_written, may_write, owner_of
from ._swap import has_hooks
from ._unchanged import Unchanged

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
            raise refusal(model, error) from error
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
            raise refusal(model, _difference(different[1:]))
        leaves.add(owner)  # its own code is called in its own mode, such as what drops whole paths
    if not constants.keys() == others.keys() == more.keys() or not all(
        _same(constants[name], others[name]) and _same(constants[name], more[name]) for name in constants
    ):
        raise refusal(model, "its code makes a tensor that is another one in each call")
    now._tracer_cls = fx.Tracer  # a saved graph needs not this package's
    told = {of[0]: _module_told(of[0], model) for of in nodes if _mode_told(of[1]) != _mode_told(of[2])}
    return Traced(now, constants, told)


def refusal(model: nn.Module, reason: object) -> ValueError:
    return ValueError(
        f"model must be one that torch.fx can trace, got a {type(model).__name__}: {reason}; "
        "replace_relu takes any model and leaves batch normalisations as they are"
    )


def _in_each_mode(model: nn.Module, leaves: set[nn.Module]) -> list[tuple[fx.Graph, dict[str, object]]]:
    """The graphs as the model is, in training and in evaluation."""
    unchanged, graphs = Unchanged(model), []
    try:
        for mode in (None, True, False):
            if mode is not None:
                unchanged.set_mode(mode)
            with surroundings(common=mode is not False):
                graph = _Tracer(leaves).trace(model)
            constants = unchanged.take_added({node.target for node in graph.nodes if node.op == "get_attr"})
            _check_constants(graph, constants, model)
            unchanged.check(mode)
            unchanged.restore()
            graphs.append((graph, constants))
    finally:
        unchanged.restore()
    return graphs


def _check_constants(graph: fx.Graph, constants: dict[str, object], model: nn.Module) -> None:
    """
    Raises:
        ValueError: What was computed once would have to be computed in each call.
    """
    if any(isinstance(value, torch.Tensor) and value.requires_grad for value in constants.values()):
        raise ValueError("its code reads parameters otherwise than as attributes of their modules")
    read_each_time = {name for name, _ in itertools.chain(model.named_parameters(), model.named_buffers())}
    for node in graph.nodes:
        if may_write(node, model):
            read = (of.target for of in may_be_written(node) if of.op == "get_attr")
            if not read_each_time.issuperset(read):
                raise ValueError(f"its code writes to a tensor that is no buffer and not of its input, in {node.name}")


class _Tracer(fx.Tracer):
    """It refuses what a graph has no words for."""

    proxy_buffer_attributes = True  # so that what is computed from a buffer is computed in each call

    def __init__(self, leaves: set[nn.Module]):
        super().__init__()
        self._leaves, self._contexts = leaves, contexts()
        #: Why not, where code may have caught the error and gone on.
        self._refused: Exception | None = None

    def refuse(self, error: str | Exception):
        self._refused = ValueError(error) if isinstance(error, str) else error
        raise self._refused

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        # timm's batch normalisations have their activation in them, as its pre-activation ResNets use them.
        known = isinstance(module, _OURS) or is_timm_norm(module) or module in self._leaves
        return known or super().is_leaf_module(module, name)

    def trace(self, root: nn.Module, concrete_args=None) -> fx.Graph:
        if _has_any_global_hook():
            raise ValueError("there are hooks of all modules")
        self._check("", root)
        if "forward" in vars(root):
            raise ValueError("it has a forward of its own beside its class's")
        graph = super().trace(root, concrete_args)
        if self._refused is not None:
            raise self._refused
        return graph

    def to_bool(self, obj: fx.Proxy) -> bool:
        try:
            return super().to_bool(obj)
        except fx.proxy.TraceError as error:
            self.refuse(error)

    def iter(self, obj: fx.Proxy):
        try:
            return super().iter(obj)
        except fx.proxy.TraceError as error:
            self.refuse(error)

    def call_module(self, module: nn.Module, forward, args, kwargs):
        name = self.path_of_module(module)
        if not self.is_leaf_module(module, name):
            self._check(name, module)
        return super().call_module(module, forward, args, kwargs)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def create_node(self, *args, **kwargs) -> fx.Node:
        now = contexts()
        changed = next((name for name, before in self._contexts.items() if now[name] != before), None)
        if changed is not None:
            self.refuse(f"its code changes {changed}")
        return super().create_node(*args, **kwargs)

    def _proxy_placeholder(self, name, *others):
        """An argument that is None or a truth value by default is that: a proxy is not, and code asks by `is`."""
        proxy = super()._proxy_placeholder(name, *others)
        (default,) = proxy.node.args or (0,)
        if isinstance(default, fx.Node):
            raise ValueError(f"its argument {name} is a tensor by default")
        if default is not None and not isinstance(default, bool):
            return proxy
        same = self.create_proxy("call_function", operator.eq, (proxy, default), {})  # what is saved is traced again
        text = f"{name} must be {default}, as it was when fuse_batch_norm traced the model"
        self.create_proxy("call_function", torch._assert, (same, text), {})
        return default

    def _check(self, name: str, module: nn.Module) -> None:
        if has_hooks(module):
            self.refuse(f"its module {name!r} (a {type(module).__name__}) has hooks")


#: What code names that asks whether something is a tensor.
_TENSORS = {"Tensor", "Parameter"}


class _InPlace:
    """torch.fx makes `x + y` of `x += y`, which others that have x do not see. For numbers it is."""

    @property
    def __class__(self):
        """What isinstance asks for. It says no, which is right of lists and tuples alone."""
        frame = sys._getframe(1)
        while frame.f_code.co_name == "__instancecheck__":  # of nn.Parameter
            frame = frame.f_back
        if _TENSORS & set(frame.f_code.co_names) and not frame.f_globals.get("__name__", "").startswith("torch."):
            self.tracer.refuse(f"its code, {frame.f_code.co_name}, asks whether what it computes with is a tensor")
        return type(self)

    def __getattr__(self, name: str):
        return _Attribute(self, name)

    def __len__(self) -> int:
        try:
            return super().__len__()
        except RuntimeError as error:
            self.tracer.refuse(error)

    def __setattr__(self, name: str, value: object) -> None:
        if name not in ("tracer", "node", "root", "attr", "_node"):
            self.tracer.refuse(f"its code sets {name} of a tensor")
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
        return one.dtype == other.dtype and (one.is_meta and one.shape == other.shape or torch.equal(one, other))
    return one is other or type(one) is type(other)


def _difference(nodes: tuple[fx.Node | None, ...]) -> str:
    one, other = ("nothing" if node is None else f"{node.name}{node.args}" for node in nodes)
    where = owner_of(next(filter(None, nodes)))
    return f"in the code of module {where!r} its graph has {one} in training and {other} in evaluation"
