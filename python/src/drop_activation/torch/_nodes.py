"""What a node of a torch.fx graph does: whether it is ReLU, whose code has the call, and whether it may write."""

from __future__ import annotations

import inspect
import operator

from torch import fx, nn

from ._intercept import RELU, RELU_IN_PLACE
from ._swap import is_plain_module


def owner_of(node: fx.Node) -> str:
    """The name of the module whose code has the call; of one that the graph calls, its own."""
    stack = node.meta.get("nn_module_stack")
    return next(reversed(stack.values()))[0] if stack else ""


def module_of(node, model: nn.Module) -> nn.Module | None:
    """The module that the node is a call of."""
    return model.get_submodule(node.target) if isinstance(node, fx.Node) and node.op == "call_module" else None


def calls_of(node: fx.Node) -> int:
    """How many calls there are of the module that the node calls."""
    return sum(other.op == "call_module" and other.target == node.target for other in node.graph.nodes)


def is_relu(node: fx.Node, model: nn.Module) -> bool:
    if node.op == "call_function":
        return node.target in RELU or node.target in RELU_IN_PLACE
    return type(module_of(node, model)) is nn.ReLU or node.op == "call_method" and node.target in ("relu", "relu_")


def is_in_place(relu: fx.Node) -> bool | fx.Node:
    """Of a call of ReLU that is not a module's."""
    if relu.target == "relu_" or relu.target in RELU_IN_PLACE:
        return True
    return relu.kwargs.get("inplace", len(relu.args) > 1 and relu.args[1])


_ARITHMETIC = {getattr(operator, name) for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "neg")}


def is_number(node: object) -> bool:
    """Whether it is made of numbers, a tensor's shape and its only element alone."""
    if not isinstance(node, fx.Node):
        return isinstance(node, (int, float))
    if node.op == "call_method":
        return node.target in ("size", "dim", "numel", "stride", "ndimension", "nelement", "item")
    if node.op != "call_function":
        return False
    if node.target is getattr:
        return node.args[1] in ("shape", "ndim")
    if node.target is operator.getitem:
        return is_number(node.args[0])
    return node.target is len or node.target in _ARITHMETIC and all(map(is_number, node.args))


def may_write(node: fx.Node, model: nn.Module) -> bool:
    """Whether the node may write over a tensor that others read."""
    if node.op == "call_module":
        module = module_of(node, model)
        own = type(module).__module__.startswith(("torch.nn.", "drop_activation."))
        in_place = any(getattr(part, "inplace", False) for part in module.modules())
        return in_place or not own or not is_plain_module(module)
    if node.op not in ("call_function", "call_method"):
        return False
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "_")
    if name.endswith("_") or "out" in node.kwargs:
        return True
    if node.op == "call_method":
        return bool(node.kwargs.get("inplace"))
    return not _is_of_pytorch(node.target) or _is_told_to_write(node)


def may_be_written(node: fx.Node) -> list[fx.Node]:
    """The arguments of a node that may write over what it may write over."""
    if node.op == "call_module" or node.op == "call_function" and not _is_of_pytorch(node.target):
        return node.all_input_nodes
    given = (*node.args[:1], *(node.kwargs.get(name) for name in ("input", "self", "out")))
    return [argument for argument in given if isinstance(argument, fx.Node)]


def _is_of_pytorch(function) -> bool:
    home = function.__module__ or "torch"  # what is built in has none
    return home.startswith(("torch", "_operator", "math", "builtins"))


def _is_told_to_write(node: fx.Node) -> bool:
    try:
        return bool(inspect.signature(node.target).bind(*node.args, **node.kwargs).arguments.get("inplace"))
    except (TypeError, ValueError):  # without a signature: what is built in says by its name that it writes
        return bool(node.kwargs.get("inplace"))
