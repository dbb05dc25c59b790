"""Functions that torch.jit.script has compiled: no mode sees what they call.

In the code of a watched module the Python function is called that it was made of, as torch.compile does; where there is
none it is left, and named.
"""

from __future__ import annotations

import functools

import torch

from ._intercept import current_owner

_LEFT = "TorchScript is compiled, and its calls of ReLU cannot be caught"


def _has_relu(function: torch.jit.ScriptFunction) -> bool:
    known = getattr(function, "_drop_activation_has_relu", None)
    if known is None:
        known = function._drop_activation_has_relu = "aten::relu" in str(function.inlined_graph)
    return known


def _catch_script_functions() -> None:
    compiled = torch.jit.ScriptFunction.__call__

    @functools.wraps(compiled)
    def call(self, *args, **kwargs):
        owner = current_owner()
        if owner is None or not _has_relu(self):
            return compiled(self, *args, **kwargs)
        source = getattr(self, "_torchdynamo_inline", None)
        if source is not None:
            return source(*args, **kwargs)
        owner._drop_activation.left.setdefault(self.name, _LEFT)
        return compiled(self, *args, **kwargs)

    torch.jit.ScriptFunction.__call__ = call


_catch_script_functions()
