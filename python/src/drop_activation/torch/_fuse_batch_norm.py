"""A model with its batch normalisations and the ReLUs behind them made one module each."""

from __future__ import annotations

import operator
from typing import Iterator, NamedTuple

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ._batch_norm import BatchNormDropActivation1d, BatchNormDropActivation2d, _BatchNormDropActivation
from ._functions import check_parameters
from ._left import Left, reason_left
from ._nodes import calls_of, is_in_place, is_relu, may_write, module_of, owner_of
from ._swap import drop_activation_of, is_plain_module, replaced_by
from ._trace import is_timm_norm, trace
from ._transformer import calls_relu
from ._watched import is_watched
from ._whole_graph import WholeGraphModule, add, put, whole_graph_of

_KINDS: dict[type, type[_BatchNormDropActivation]] = {
    nn.BatchNorm1d: BatchNormDropActivation1d,
    nn.BatchNorm2d: BatchNormDropActivation2d,
}
#: Sums, and how they are made of any two summands.
_SUMS = {operator.add: operator.add, torch.add: operator.add, "__iadd__": operator.iadd}


class FusedModel(NamedTuple):
    #: The model as a torch.fx.GraphModule. It shares parameters, buffers and what stays with the one that was given.
    model: fx.GraphModule
    #: The names of the batch normalisations that have their ReLU in them now.
    fused: list[str]
    #: Of these, those that have the sum with a residual in them too.
    with_residual: list[str]
    #: ReLUs that became DropActivation by itself or stay, and batch normalisations that stay, each with the reason.
    left: list[Left]


def fuse_batch_norm(model: nn.Module, p: float = 0.95) -> FusedModel:
    """Finds BatchNorm -> ReLU and BatchNorm -> sum -> ReLU, whatever way the model's code has of calling them, and
    makes BatchNormDropActivation of each. The other ReLUs become DropActivation, in the mode that they have, and in
    place where they are. What is not the same in one module (a batch normalisation with hooks, or in another mode than
    its ReLU; a sum before which something may be overwritten) stays apart.

    The model is traced by torch.fx, and is itself left as it is. Modules, parameters and buffers keep their names and
    order, but for the nn.ReLU modules that were fused. F.dropout that is told the mode becomes nn.Dropout. Attributes
    that are numbers stay what they are now, and arguments that are None or a truth value by default are that. What goes
    by nn.BatchNorm's class, such as `torch.optim.swa_utils.update_bn` and `nn.SyncBatchNorm.convert_sync_batchnorm`,
    passes over the fused modules: `BatchNormDropActivation2d` says what to do instead.

    Args:
        p: The probability of keeping the ReLU.

    Raises:
        ValueError: torch.fx cannot trace the model, or would lose what its code does: its graph is another one in
            training than in evaluation; it asks whether something is a tensor, draws random numbers of its own, sets
            attributes, writes to tensors that are no buffers, or has checkpoints, or parts without gradients or with
            another autocast; a module that is not PyTorch's has hooks, or a method of nn.Module of its own, such as
            `train`; `replace_relu` has swapped the model. The text has the reason and the way out.
    """
    check_parameters(p, "relu")
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a module, got a {type(model).__name__}")
    if any(is_watched(module) or replaced_by(module) is not None for module in model.modules()):
        raise ValueError("model must be one that replace_relu has not swapped: call restore_relu(model) first")
    traced = trace(model)
    fusion = _Fusion(whole_graph_of(model, traced), float(p))
    for node, dropout in traced.told.items():
        fusion.call(node, dropout, "dropout")
    fusion.run()
    return FusedModel(fusion.model, fusion.fused, fusion.with_residual, fusion.left)


_NO_NORM = "no batch normalisation before it"


class _Fusion:
    def __init__(self, model: WholeGraphModule, p: float):
        self.model, self.p = model, p
        self.fused: list[str] = []
        self.with_residual: list[str] = []
        self.left: list[Left] = []
        #: Why batch normalisations stay, whatever is behind them, by name.
        self.reasons: dict[str, str] = {}

    def run(self) -> None:
        graph = self.model.graph
        for node in list(graph.nodes):
            module = module_of(node, self.model)
            if type(module) is nn.Identity and is_plain_module(module):  # timm's, where nothing is dropped
                node.replace_all_uses_with(_x(node))
                graph.erase_node(node)
            elif is_timm_norm(module):
                self._take_timm_norm(node, module)
        relus = [node for node in graph.nodes if is_relu(node, self.model)]
        modules = {module_of(node, self.model) for node in relus} - {None}
        for relu in relus:
            self._take_relu(relu)
        called = {module_of(node, self.model) for node in graph.nodes}
        for module in modules:
            put(self.model, module, drop_activation_of(module, self.p) if module in called else None)
        for name in dict.fromkeys(node.target for node in graph.nodes if node.op == "call_module"):
            module = self.model.get_submodule(name)
            if isinstance(module, _BatchNorm):
                other = None if type(module) in _KINDS else _other_kind(module)
                self.left.append(Left(name, self.reasons.get(name) or other or "no ReLU behind it alone"))
            elif name not in self.fused:
                self.left += _left_in(name, module)
        graph.lint()
        self.model.recompile()

    def call(self, node: fx.Node, module: nn.Module, name: str) -> None:
        """Makes the node a call of the module, which becomes a part of the one whose code it was, for its mode."""
        target = add(self.model, owner_of(node), name, module)
        node.op, node.target, node.args, node.kwargs = "call_module", target, (_x(node),), {}

    def _take_timm_norm(self, node: fx.Node, module: nn.Module) -> None:
        if not (type(module.act) is nn.ReLU and type(module.drop) is nn.Identity):
            return
        if (calls := calls_of(node)) > 1:
            reason = f"{node.target} is called {calls} times"
        elif all(map(is_plain_module, (module.act, module.drop))):
            reason = _reason_against(module, module.act.training)
        else:
            reason = "its ReLU has hooks"
        if reason:
            self.reasons[node.target] = reason
        else:
            self._fuse(node, operator.add)

    def _take_relu(self, relu: fx.Node) -> None:
        module, z, inplace = module_of(relu, self.model), _x(relu), False
        mode = (self.model.get_submodule(owner_of(relu)) if module is None else module).training
        if module is None:
            inplace = is_in_place(relu)
        if isinstance(inplace, fx.Node):
            self.left.append(Left(relu.name, "whether it is in place is known when it runs, and it stays ReLU"))
            return
        norm, total, reason = self._pair(z, mode)
        if norm is not None and module is not None and not is_plain_module(module):
            self.reasons[norm.target] = reason = f"its ReLU, {relu.target}, has hooks, or a forward of its own"
            norm = None
        if norm is None:
            self.left.append(Left(relu.name if module is None else relu.target, reason))
            if module is None:
                self.call(relu, drop_activation_of(nn.ReLU(inplace).train(mode), self.p), "drop_activation")
            else:  # it becomes DropActivation where it is
                relu.args, relu.kwargs = (z,), {}
            return
        x = _x(norm)
        if total is None:
            self._fuse(norm, operator.add)
            norm.args, norm.kwargs = (x,), {}
            relu.replace_all_uses_with(norm)
            self.model.graph.erase_node(relu)
            return
        self._fuse(norm, _SUMS[total.target], with_sum=True)
        self.with_residual.append(norm.target)
        residual = next(of for of in total.args if of is not norm)
        with self.model.graph.inserting_before(total):
            fused = self.model.graph.call_module(norm.target, (x, residual))
        fused.meta = norm.meta.copy()
        relu.replace_all_uses_with(fused)
        for node in (relu, total, norm):
            self.model.graph.erase_node(node)

    def _pair(self, z: object, mode: bool) -> tuple[fx.Node | None, fx.Node | None, str]:
        """A batch normalisation to fuse with the ReLU of z, and the sum between them if there is one; else why not."""
        norm, reason = self._norm(z, mode)
        if norm is not None or not _is_sum(z):
            return norm, None, reason
        for candidate, residual in (z.args, z.args[::-1]):
            norm, of_this = self._norm(candidate, mode)
            if norm is not None:
                of_this = self._reason_against_sum(norm, z, residual)
                if of_this is None:
                    return norm, z, ""
            if of_this != _NO_NORM:
                reason = of_this
        return None, None, reason

    def _norm(self, node: object, mode: bool) -> tuple[fx.Node | None, str]:
        """The node, if it is the call of a batch normalisation that can be fused; else why not."""
        module = module_of(node, self.model)
        if not isinstance(module, _BatchNorm):
            return None, _NO_NORM
        if type(module) not in _KINDS:
            return None, _other_kind(module)
        if len(node.users) > 1:
            return None, f"{node.target} has other users too"
        if (calls := calls_of(node)) > 1:
            return None, f"{node.target} is called {calls} times"
        reason = _reason_against(module, mode)
        if reason:
            self.reasons[node.target] = reason
            return None, f"{node.target}: {reason}"
        return node, ""

    def _reason_against_sum(self, norm: fx.Node, total: fx.Node, residual: fx.Node) -> str | None:
        if len(total.users) > 1:
            return "the sum before it has other users too"
        if _SUMS[total.target] is operator.iadd and norm is not total.args[0]:
            return f"the sum with {norm.target} is written over its residual"
        written = set(map(id, module_of(norm, self.model).buffers()))
        node = norm.next
        while node is not total:  # the batch normalisation is moved to the sum
            if may_write(node, self.model):
                return f"{node.name}, between {norm.target} and the sum behind it, may write over what is read"
            if any(of.op == "get_attr" and id(self._tensor(of)) in written for of in node.all_input_nodes):
                return f"{node.name}, between {norm.target} and the sum behind it, reads its running statistics"
            node = node.next
        return None

    def _tensor(self, node: fx.Node) -> object:
        """What the node reads."""
        path, _, name = node.target.rpartition(".")
        return getattr(self.model.get_submodule(path), name)

    def _fuse(self, node: fx.Node, add, with_sum: bool = False) -> None:
        norm = module_of(node, self.model)
        kind = _KINDS.get(type(norm), BatchNormDropActivation2d)  # timm's is one of nn.BatchNorm2d
        flags = {"affine": norm.affine, "track_running_stats": norm.track_running_stats, "device": "meta"}
        fused = kind(norm.num_features, norm.eps, norm.momentum, self.p, **flags).train(norm.training)
        fused._parameters, fused._buffers = norm._parameters.copy(), norm._buffers.copy()
        fused._add, fused._sum = add, with_sum
        put(self.model, norm, fused)
        self.fused.append(node.target)


def _x(node: fx.Node) -> object:
    return node.args[0] if node.args else node.kwargs["input"]


def _left_in(name: str, module: nn.Module) -> Iterator[Left]:
    """ReLUs within a module that the graph calls."""
    for path, part in module.named_modules(prefix=name):
        reason = reason_left(part)
        if type(part) is nn.ReLU or calls_relu(part):
            reason = "it is called within a module of PyTorch's: replace_relu takes it, in the fused model too"
        if reason:
            yield Left(path, reason)


def _is_sum(node: object) -> bool:
    return (
        isinstance(node, fx.Node)
        and node.op in ("call_function", "call_method")
        and node.target in _SUMS
        and not node.kwargs
        and len(node.args) == 2
        and all(isinstance(of, fx.Node) for of in node.args)
        and node.args[0] is not node.args[1]
    )


def _reason_against(norm: nn.Module, mode: bool) -> str | None:
    """Why the batch normalisation cannot be made one with a ReLU that is in this mode."""
    if not is_plain_module(norm):
        return "it has hooks, a parametrization, or a forward or train of its own"
    tensors = [norm.affine == (norm._parameters.get(name) is not None) for name in ("weight", "bias")]
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    tensors += [norm.track_running_stats == (norm._buffers.get(name) is not None) for name in statistics]
    if not all(tensors):
        return "it lacks some of its parameters or buffers, or has some that it does not use"
    if not 0 < norm.eps < float("inf") or norm.momentum is not None and not 0 <= norm.momentum <= 1:
        return f"its eps of {norm.eps} or momentum of {norm.momentum} is one that only PyTorch's takes"
    if norm.training != mode:
        modes = ("training", "evaluation") if norm.training else ("evaluation", "training")
        return f"it is in {modes[0]} mode, and its ReLU in {modes[1]} mode"
    return None


def _other_kind(module: nn.Module) -> str:
    return f"a {type(module).__name__}, which is not fused"
