"""Whether code changes the model that it belongs to, and the model as it was."""

from __future__ import annotations

import itertools
from collections import OrderedDict, deque

import torch
from torch import nn

_CONTAINERS = (list, dict, OrderedDict, set, deque)


class Unchanged:
    """A model's attributes, what the containers among these hold, and the values of its tensors."""

    def __init__(self, model: nn.Module):
        self.model = model
        self._attributes = {m: vars(m).copy() for m in model.modules() if not isinstance(m, torch.jit.ScriptModule)}
        named = itertools.chain(model.named_parameters(), model.named_buffers())
        self._versions = {name: (tensor, _version(tensor)) for name, tensor in named}
        self._buffers = [(buffer, _version(buffer), buffer.clone()) for buffer in model.buffers()]
        self._contents = [
            (module, name, value, value.copy())
            for module, attributes in self._attributes.items()
            for name, value in attributes.items()
            if type(value) in _CONTAINERS
        ]

    def set_mode(self, training: bool) -> None:
        """Of all modules, up to `restore`."""
        for module in self._attributes:
            vars(module)["training"] = training

    def take_added(self, names: set[str]) -> dict[str, object]:
        """Attributes of these names that the model did not have. They are its no more."""
        added = {name: value for name, value in vars(self.model).items() if name not in self._attributes[self.model]}
        added = {name: value for name, value in added.items() if name in names}
        for name in added:
            del vars(self.model)[name]
        return added

    def check(self, training: bool | None) -> None:
        """
        Args:
            training: The mode that was set, if one was.

        Raises:
            ValueError: The model was changed otherwise.
        """
        names = {module: name for name, module in self.model.named_modules()}
        for module, before in self._attributes.items():
            now = vars(module)
            if training is not None:
                before = {**before, "training": training}
            for name in sorted(before.keys() | now.keys()):
                if name not in before or name not in now or before[name] is not now[name]:
                    raise ValueError(f"its code sets {_path(names[module], name)}")
        for module, name, value, before in self._contents:
            if not _same(value, before):
                raise ValueError(f"its code changes {_path(names[module], name)}")
        for name, (tensor, version) in self._versions.items():
            if _version(tensor) != version:
                raise ValueError(f"its code writes to {name}")

    def restore(self) -> None:
        for module, attributes in self._attributes.items():
            vars(module).clear()
            vars(module).update(attributes)
        for _, _, value, before in self._contents:
            if not _same(value, before):
                value.clear()
                getattr(value, "update" if hasattr(value, "update") else "extend")(before)
        with torch.no_grad():
            for buffer, version, value in self._buffers:
                if _version(buffer) != version:
                    buffer.copy_(value)


def _path(module: str, name: str) -> str:
    return f"{module}.{name}" if module else name


def _version(tensor: torch.Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _same(one, other) -> bool:
    """Whether two containers hold the same objects, in the same order."""
    items = [of.items() if isinstance(of, dict) else of for of in (one, other)]
    flat = [list(itertools.chain.from_iterable(of)) if isinstance(one, dict) else list(of) for of in items]
    return len(flat[0]) == len(flat[1]) and all(a is b for a, b in zip(*flat))
