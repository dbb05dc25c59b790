"""Calls that are ReLU by their arguments: a leaky, random or given slope of 0, the larger of x and 0, x where it is
positive.

They are not replaced, since a call of such a function may be ReLU today and another function in the next epoch, but
named in what is left. They are recognised without waiting for a GPU: a tensor there is known to be zero, or to say
where x is positive, if it was made so while the model's code ran, by a function that says so. What is not recognised:
zeros and signs that are kept from before or made otherwise ((x > 0).float(), torch.sign), and arithmetic that amounts
to ReLU (x / 2 + x.abs() / 2).
"""

from __future__ import annotations

import threading
import weakref
from math import inf

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from ._operators import DTYPES
from ._plain import is_plain

REASON = "with these arguments it is ReLU under another name; call relu to have it replaced"


def _forms(*names: str) -> set:
    """All functions, methods and operators of these names, those that overwrite x too."""
    owners = torch, Tensor, F, torch._C._nn, torch.ops.aten
    spelled = [form for name in names for form in (name, f"{name}_")]
    found = {getattr(owner, form) for owner in owners for form in spelled if hasattr(owner, form)}
    packets = [form for form in found if isinstance(form, torch._ops.OpOverloadPacket)]
    return found | {getattr(packet, overload) for packet in packets for overload in packet.overloads()}


_LEAKY = _forms("leaky_relu")
_PRELU = _forms("prelu")
_RRELU = _forms("rrelu")
_HARDTANH = _forms("hardtanh")
_CLAMP = _forms("clamp", "clip", "clamp_min")
_THRESHOLD = _forms("threshold")
_MAXIMUM = _forms("maximum", "fmax", "max")
_MUL = _forms("mul", "multiply")
_WHERE = _forms("where")
_WHERE_METHOD = {Tensor.where}
_FILL = _forms("masked_fill") | {Tensor.__setitem__}
_POSITIVE = _forms("gt", "ge", "greater", "greater_equal")
_NEGATIVE = _forms("lt", "le", "less", "less_equal")
_ZEROS = _forms("zeros", "zeros_like", "new_zeros")

#: What makes what is recognised later.
MAKES = _POSITIVE | _NEGATIVE | _ZEROS
CALLS = _LEAKY | _PRELU | _RRELU | _HARDTANH | _CLAMP | _THRESHOLD | _MAXIMUM | _MUL | _WHERE | _FILL


def is_relu(function, args, kwargs) -> bool:
    """Whether this call, of one of `CALLS`, is ReLU of a tensor that has an activation."""
    given = lambda i, name, default=None: args[i] if len(args) > i else kwargs.get(name, default)
    x = given(0, "input", kwargs.get("self"))
    if function in _WHERE:
        where, yes, no = (given(0, "condition"), x := given(1, "input", kwargs.get("self")), given(2, "other"))
        if function in _WHERE_METHOD:
            where, yes = given(1, "condition"), given(0, "input")
        return (
            _is_taken(yes) and _says(where, True, yes) and _is_zero(no)
            or _is_taken(no) and _says(where, False, no) and _is_zero(yes)
        )  # fmt: skip
    if function in _MUL:
        other = given(1, "other")
        return _is_taken(x) and _says(other, True, x) or _is_taken(other) and _says(x, True, other)
    if function in _MAXIMUM:
        other = given(1, "other")
        if not isinstance(other, Tensor):  # max has other meanings
            return False
        return _is_taken(x) and _is_zero(other, x) or _is_taken(other) and _is_zero(x, other)
    if not _is_taken(x):
        return False
    if function in _FILL:
        return _says(given(1, "mask"), False, x) and _is_zero(given(2, "value"))
    if function in _LEAKY:
        return _is_zero(given(1, "negative_slope", 0.01))
    if function in _PRELU:  # a slope that learns is one of another function in the next step
        weight = given(1, "weight")
        return isinstance(weight, Tensor) and not weight.requires_grad and _is_zero(weight)
    if function in _RRELU:
        return _is_zero(given(1, "lower", 1 / 8)) and _is_zero(given(2, "upper", 1 / 3))
    if function in _HARDTANH:
        return _is_zero(given(1, "min_val", -1)) and given(2, "max_val", 1) == inf
    if function in _THRESHOLD:
        return _is_zero(given(1, "threshold")) and _is_zero(given(2, "value"))
    most = given(2, "max")
    return _is_zero(given(1, "min")) and (most is None or type(most) is float and most == inf)


def is_module(module: nn.Module) -> bool:
    """Whether it is a module of PyTorch's that is ReLU with these parameters."""
    return (
        type(module) is nn.LeakyReLU and module.negative_slope == 0
        or type(module) is nn.RReLU and (module.lower, module.upper) == (0, 0)
        or type(module) is nn.Hardtanh and (module.min_val, module.max_val) == (0, inf)
        or type(module) is nn.Threshold and (module.threshold, module.value) == (0, 0)
    )  # fmt: skip


class _Known(threading.local):
    def __init__(self):
        #: By a tensor: its version, and if it says where another one is positive or not, which, and that one.
        self.of = WeakIdKeyDictionary()


_known = _Known()


def note(function, args, result) -> None:
    """After a call of one of `MAKES`."""
    if not isinstance(result, Tensor) or not is_plain(result) or result.is_inference():
        return
    if function in _ZEROS:
        _known.of[result] = result._version, None, None
    elif len(args) == 2 and _is_taken(args[0]) and not args[0].is_inference() and _is_zero(args[1]):
        x = args[0]
        _known.of[result] = result._version, function in _POSITIVE, (weakref.ref(x), x._version)


def _found(tensor):
    if not isinstance(tensor, Tensor) or tensor.is_inference():
        return None
    known = _known.of.get(tensor)
    return known if known is not None and known[0] == tensor._version else None


def _says(where: object, positive: bool, x: Tensor) -> bool:
    """Whether `where` says where x is positive, or where it is not."""
    known = _found(where)
    if known is None or known[1] is not positive:
        return False
    of, version = known[2]
    return of() is x and not x.is_inference() and x._version == version


def _is_zero(value: object, x: Tensor | None = None) -> bool:
    """Whether it is zero, and with x not what makes a larger tensor than x."""
    if type(value) in (int, float):
        return value == 0
    if not isinstance(value, Tensor) or x is not None and value.dim() > x.dim():
        return False
    known = _found(value)
    if known is not None and known[1] is None:
        return True
    return value.is_cpu and is_plain(value) and value.numel() > 0 and not value.any()


def _is_taken(x: object) -> bool:
    return isinstance(x, Tensor) and x.dtype in DTYPES
