"""Drop-Activation in the place of the ReLUs of a model that was written without it."""

from __future__ import annotations

from typing import Iterator, Literal, overload

import torch
from torch import nn

from . import _recompute as _recompute
from . import _script as _script
from ._children import is_compiled, put_child
from ._functions import check_parameters
from ._fuse_batch_norm import FusedModel, fuse_batch_norm
from ._fused import Fused, check_fused
from ._intercept import Record
from ._left import Left, reason_left
from ._modules import DropActivation, ReplacedReLU, RReLU
from ._swap import drop_activation_of, relu_of, replaced_by
from ._transformer import FLAG, calls_relu, computes_relu
from ._watched import is_watched, unwatch, watch


class Replaced:
    """What `replace_relu` has replaced and left, by the names of `model.named_modules()`.

    `modules, functional, left = replaced` takes it apart. What a model's code calls is known when it has been called:
    `functional` and `left` say what happened up to the moment in which they are asked, in eager mode.
    """

    def __init__(self, modules: tuple[str, ...], left: tuple[Left, ...], records: list[Record]):
        self._modules, self._left, self._records = modules, left, records

    @property
    def modules(self) -> tuple[str, ...]:
        """The nn.ReLU modules, which are DropActivation modules now."""
        return self._modules

    @property
    def functional(self) -> tuple[str, ...]:
        """The modules whose own code has called ReLU as a function, method or operator and got Drop-Activation."""
        return tuple(record.name for record in self._records if record.called)

    @property
    def left(self) -> tuple[Left, ...]:
        """What is ReLU, or nearly, and stays as it was, with the reason."""
        called = (Left(record.name, f"{call}: {why}") for record in self._records for call, why in record.left.items())
        return (*self._left, *called)

    def __iter__(self) -> Iterator[tuple]:
        return iter((self.modules, self.functional, self.left))

    def __repr__(self) -> str:
        return f"Replaced(modules={self.modules}, functional={self.functional}, left={self.left})"


@overload
def replace_relu(model: nn.Module, p: float = 0.95, fused: Fused = True, *, fuse: Literal[False] = False) -> Replaced: ...


@overload
def replace_relu(model: nn.Module, p: float = 0.95, fused: Literal[True] = True, *, fuse: Literal[True]) -> FusedModel: ...


def replace_relu(model: nn.Module, p: float = 0.95, fused: Fused = True, *, fuse: bool = False) -> Replaced | FusedModel:
    """Puts Drop-Activation in the place of every ReLU of a model: nn.ReLU modules, and what the model's code calls as a
    function, method or operator while the model or one of its modules runs.

    nn.ReLU modules become DropActivation modules that keep their hooks, their mode and `inplace`. isinstance still says
    that they are nn.ReLU; `type(module) is nn.ReLU` does not, and code that asks so sees others. The others stay the
    objects that they are, of a subclass that catches the calls, also in what a checkpoint computes again; names,
    parameters and signatures stay as they are. A call in training mode of the module whose code makes it is
    Drop-Activation in training, another one in evaluation. A model that was swapped before gets the new p.

    A module runs when it or its `forward` is called. Another method, as in `model.loss(x)`, is a part of that where
    `forward` calls it; called from outside, what it computes by ReLU itself stays ReLU, and its modules are swapped.

    Args:
        model: Any module that is not itself nn.ReLU.
        p: The probability of keeping ReLU, 0 <= p <= 1.
        fused: False for training made of PyTorch's own operations, "auto" for what moves less, as in
            `drop_activation`.
        fuse: Whether a ReLU behind a batch normalisation, with or without a sum between the two, is to become one module
            with it: then this is `fuse_batch_norm(model, p)`, which traces the model and leaves it as it is.

    Returns:
        What was replaced, and what was found and left, by name; with `fuse`, the new model too.
    """
    check_parameters(p, "relu")
    check_fused(fused)
    if fuse:
        if fused is not True:
            raise ValueError(f"fused must be True where fuse is, got {fused!r}")
        return fuse_batch_norm(model, p)
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a module, got a {type(model).__name__}")
    if type(model) is nn.ReLU:
        raise TypeError("model must be a module that contains ReLUs, got one that is itself a ReLU: use DropActivation instead")
    p = float(p)
    swapped, left, records, new, script = [], [], [], {}, "\0"
    for name, parent in list(model.named_modules()):
        if isinstance(parent, torch.jit.ScriptModule):
            if not name.startswith(script):  # not its parts as well
                left += [Left(name, reason) for reason in _reason_left_in_script(parent)]
                script = f"{name}."
            continue
        if calls_relu(parent):
            # So it is found by its name, as in a layer that was given a module.
            put_child(parent, "activation", _swapped_function(vars(parent).pop("activation"), p, fused, parent.training))
        for child_name, child in list(parent._modules.items()):
            # A module that occurs twice stays one module.
            if type(child) is nn.ReLU:
                if child not in new:
                    new[child] = drop_activation_of(child, p, fused)
                put_child(parent, child_name, new[child])
            elif replaced_by(child) is not None:
                child.p, child.fused = p, fused
            else:
                continue
            swapped.append(f"{name}.{child_name}" if name else child_name)
        reason = reason_left(parent)
        if reason:
            left.append(Left(name, reason))
        if is_watched(parent):
            parent._drop_activation.p, parent._drop_activation.fused = p, fused
            for call in _calls_in_graphs(parent):
                call.p, call.fused = p, fused
        elif not reason and not is_compiled(parent) and (parent is model or _has_code_of_its_own(parent)):
            watch(parent, Record(name, p, fused))
        if is_watched(parent):
            records.append(parent._drop_activation)
            parent._drop_activation.name = name
            if computes_relu(parent):
                parent._drop_activation.changed[FLAG] = getattr(parent, FLAG)
                setattr(parent, FLAG, 0)
    return Replaced(tuple(swapped), tuple(left), records)


def restore_relu(model: nn.Module) -> tuple[str, ...]:
    """Undoes `replace_relu`: nn.ReLU modules again, and nothing that catches calls. Give it the model that was given
    there: a part of a swapped model stays a part of it, whose calls are caught while the whole runs.

    Returns:
        The names of the modules that are nn.ReLU, or a function, again.
    """
    names, old = [], {}
    for name, parent in list(model.named_modules()):
        if is_watched(parent):
            unwatch(parent)
        for child_name, child in list(parent._modules.items()):
            relu = replaced_by(child)
            if relu is not None:
                if relu is nn.ReLU and child not in old:
                    old[child] = relu_of(child)
                if child in old:
                    put_child(parent, child_name, old[child])
                else:  # a function
                    delattr(parent, child_name)
                    setattr(parent, child_name, relu)
                names.append(f"{name}.{child_name}" if name else child_name)
    return tuple(names)


def _swapped_function(relu, p: float, fused: Fused, training: bool) -> DropActivation:
    module = DropActivation(p, fused=fused).train(training)
    module.replaces_relu = relu
    return module


def _calls_in_graphs(module: nn.Module) -> list[DropActivation]:
    """The modules that torch.fx was given for this one's calls."""
    own = (module._modules.get(name) for name in ("drop_activation", "drop_activation_"))
    return [call for call in own if isinstance(call, DropActivation)]


_PYTORCH = "torch.nn.modules."


def _has_code_of_its_own(module: nn.Module) -> bool:
    """Whether code that is not PyTorch's may call ReLU in it: PyTorch's modules call what they are given."""
    if type(module) in (DropActivation, ReplacedReLU, RReLU, nn.ReLU):
        return False
    return (
        not type(module).__module__.startswith(_PYTORCH)
        or isinstance(module, (nn.TransformerEncoder, nn.TransformerEncoderLayer))
        or "forward" in vars(module)
        or bool(module._forward_hooks or module._forward_pre_hooks)
        or any(callable(value) and not isinstance(value, type) for value in vars(module).values())
    )


def _reason_left_in_script(module: torch.jit.ScriptModule) -> list[str]:
    if "aten::relu" not in str(getattr(module, "inlined_graph", "aten::relu")):
        return []
    return ["TorchScript is compiled, and its calls of ReLU cannot be caught"]
