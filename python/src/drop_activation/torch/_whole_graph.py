"""A torch.fx.GraphModule with all modules, parameters and buffers of a model, in their order."""

from __future__ import annotations

from torch import Tensor, fx, nn
from torch.fx.graph_module import reduce_graph_module

from ._nodes import owner_of
from ._swap import METHODS
from ._trace import Traced, refusal

_HELD = ("_parameters", "_buffers", "_non_persistent_buffers_set", "_modules")
#: What a module may do in its own way without a loss: the graph does the first, and the others load and describe it.
_FREE = {"forward", "load_state_dict", "_load_from_state_dict", "extra_repr", "_get_name"}
#: What fx.GraphModule does, and the one that takes its place does too.
_OF_GRAPHS = {"__call__", "_replicate_for_data_parallel"}


class WholeGraphModule(fx.GraphModule):
    """fx.GraphModule has of its root what the graph reads, in the order in which it does: then an optimiser's state, or
    an average of models, would be matched with other parameters."""

    def __init__(self, root: nn.Module, graph: fx.Graph, class_name: str = "GraphModule"):
        super().__init__(root, graph, class_name)
        _hold(self, root)

    def _deepcopy_init(self):
        return WholeGraphModule.__init__

    def __copy__(self):
        return WholeGraphModule(self, self.graph, type(self).__name__)

    def __reduce__(self):
        _, arguments = super().__reduce__()
        return _loaded, arguments


def _hold(module: nn.Module, root: nn.Module) -> None:
    vars(module).update({name: vars(root)[name].copy() for name in _HELD}, _version=root._version)


def _loaded(body: dict, import_block: str) -> WholeGraphModule:
    root = nn.Module()
    vars(root).update({name: body[name] for name in (*_HELD, "_version")})
    module = reduce_graph_module(body, import_block)
    _hold(module, root)
    set_class(module, WholeGraphModule)
    return module


def set_class(module: fx.GraphModule, cls: type[fx.GraphModule]) -> None:
    """Each GraphModule has a class of its own, below this one."""
    type(module).__bases__ = (cls,)


def whole_graph_of(model: nn.Module, traced: Traced) -> WholeGraphModule:
    """With modules of its own where the graph has what their code did, and the model's where it calls them.

    Raises:
        ValueError: A module whose code is in the graph does more than nn.Module does, besides `forward`.
    """
    called = {model.get_submodule(node.target) for node in traced.graph.nodes if node.op == "call_module"}
    inside = called | {model.get_submodule(owner_of(node)) for node in traced.graph.nodes}
    root = _emptied(model, called, inside, made := {})
    for name, module in model.named_modules():
        own = _own_method(module)
        if module in made and own is not None:
            raise refusal(model, f"its module {name!r} (a {type(module).__name__}) has a {own} of its own")
    for node in traced.graph.nodes:
        if node.op == "get_attr":
            path, _, name = node.target.rpartition(".")
            holder = root.get_submodule(path)
            if not hasattr(holder, name):
                value = traced.constants[name] if name in traced.constants else getattr(model.get_submodule(path), name)
                if isinstance(value, Tensor):
                    holder.register_buffer(name, value, persistent=False)
                else:
                    setattr(holder, name, value)
    return WholeGraphModule(root, traced.graph, type(model).__name__)


def _own_method(module: nn.Module) -> str | None:
    """One that the module that takes its place would not have."""
    names = METHODS - _FREE - (_OF_GRAPHS if isinstance(module, fx.GraphModule) else set())
    own = (name for name in sorted(names) if getattr(type(module), name) is not getattr(nn.Module, name))
    return next(own, min(names & vars(module).keys(), default=None))


def _emptied(module: nn.Module, called: set[nn.Module], inside: set[nn.Module], made: dict) -> nn.Module:
    """A module that holds the same, and has no code; and so are those within whose code is in the graph."""
    made[module] = holder = nn.Module()
    holder.training = module.training
    _hold(holder, module)
    for name, part in module._modules.items():
        if part is not None and part not in called and any(inner in inside for inner in part.modules()):
            holder._modules[name] = made.get(part) or _emptied(part, called, inside, made)
    return holder


def put(model: WholeGraphModule, old: nn.Module, new: nn.Module | None) -> None:
    """Puts another module, or none, in the place of one that the graph calls, under each of its names."""
    for holder in model.modules():
        if holder is model or type(holder) is nn.Module:
            for name, part in list(holder._modules.items()):
                if part is old:
                    if new is None:
                        del holder._modules[name]
                    else:
                        holder._modules[name] = new


def add(model: WholeGraphModule, path: str, name: str, module: nn.Module) -> str:
    """Adds a module to the one of this path by a name that begins so. Returns its whole name."""
    holder, number = model.get_submodule(path), 1
    while hasattr(holder, f"{name}_{number}"):
        number += 1
    holder.add_module(f"{name}_{number}", module)
    return f"{path}.{name}_{number}" if path else f"{name}_{number}"
