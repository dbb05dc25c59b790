"""The functional form."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import Proxy

from .._activations import CODES, code_of
from .._operations import LOWER, UPPER, index, real
from . import _composed
from . import _operators as operators
from . import _quick as quick
from ._derivatives import RELU
from ._fused import Fused, check_fused, composition_moves_less
from ._keys import draw_key, key_on_cpu, recomputes
from ._layout import is_dense, layout_of
from ._plain import PLAIN, is_plain
from ._sharded import by_element, is_dtensor, over_shards


def drop_activation(
    x: Tensor,
    p: float = 0.95,
    activation: str = "relu",
    training: bool = True,
    inplace: bool = False,
    *,
    key: Tensor | None = None,
    first: int = 0,
    fused: Fused = True,
) -> Tensor:
    """Drop-Activation: σ(x) with probability p for each element, else x; in evaluation (1 - p) x + p σ(x).

    Args:
        x: float16, bfloat16, float32 or float64, on the CPU or on CUDA.
        p: The probability of keeping σ, 0 <= p <= 1. With 0 or 1 nothing is drawn, in training as in evaluation.
        activation: The name of σ, one of `drop_activation.ACTIVATIONS`.
        training: Whether to draw a mask. Without one it is made of PyTorch's own operations: leaky_relu for ReLU.
        inplace: Whether y is written over x, for ReLU alone, whose backward pass needs no x. As for
            `torch.relu_`, an x that may not be overwritten is refused.
        key: One int64, on x's device or the CPU, that names the mask: equal keys, equal masks on every device. Drawn by
            the generator of x's device if it is not given. A CUDA graph reads a key on the GPU at each replay; one on
            the CPU is captured as it is.
        first: The global index of x's element 0, a multiple of 32, if x is a shard of a larger tensor. A DTensor's
            shards need none.
        fused: False for training made of PyTorch's own operations, which torch.compile fuses with their neighbours. It
            keeps a byte for each element instead of a bit, and its mask is another on each device: no key names it.
            "auto" is False on CUDA under torch.compile, unless `key` or `first` is given, and else True.
    """
    if training and key is None and fused is True and not inplace and type(first) is int and first == 0:
        y = quick.drawn(x, p, activation)
        if y is not None:
            return y
    if type(x) in PLAIN and not torch.compiler.is_compiling() and torch._C._len_torch_function_stack():
        with torch._C.DisableTorchFunction():  # a mode would see each question
            return _drop_activation(x, p, activation, training, inplace, key, first, fused)
    return _drop_activation(x, p, activation, training, inplace, key, first, fused)


def _drop_activation(x, p, activation, training, inplace, key, first, fused):
    known = type(activation) is str and activation in CODES
    if type(p) is not float or not 0 <= p <= 1 or inplace or not known or fused is not True:
        check_parameters(p, activation, inplace)
        check_fused(fused)
    if not isinstance(x, Tensor) or x.dtype not in operators.DTYPES:
        if isinstance(x, Proxy):
            rest = {"inplace": inplace, "key": key, "first": first, "fused": fused}
            return x.tracer.create_proxy("call_function", drop_activation, (x, p, activation, training), rest)
        check_tensor(x)
    if inplace and not torch.compiler.is_compiling() and x.is_inference() and not torch.is_inference_mode_enabled():
        raise RuntimeError("x must be overwritten in inference mode alone, in which it was made")  # as PyTorch, but first
    p = float(p)
    if not training or p in (0, 1):  # nothing is drawn, so that other random numbers stay what they are
        if is_dtensor(x):
            y = by_element(x, lambda x: _composed.evaluation(x, p, activation))
            return x.copy_(y) if inplace else y
        return _composed.evaluation(x, p, activation, inplace)
    named = key is not None or first != 0  # a mask that only the operator has
    if fused is not True and not (fused == "auto" and (named or not _composes(x))):
        if named:
            raise ValueError("fused must be True where key or first is given, got False")
        y = _composed.composed(x, p, activation)
        return x.copy_(y) if inplace else y
    if is_dtensor(x):
        y = over_shards(x, key, lambda x, key, at: drop_activation(x, p, activation, key=key, first=first + at))
        return x.copy_(y) if inplace else y
    if key is not None:
        check_key(key, x)
    first, layout = _first(first) if first else 0, layout_of(x)
    compiled = torch.compiler.is_compiling()
    recorded = compiled or torch._C._get_tracing_state() is not None
    if not inplace and not recorded and is_plain(x):
        if key is None and x.is_cuda:
            key = key_on_cpu(x)  # else the operator draws it
        if torch.is_grad_enabled() and x.requires_grad:
            return quick.Forward.apply(x, key, p, CODES[activation], first, layout)
        return quick.forward(x, key, p, CODES[activation], first, layout)[0]
    if compiled and key is None and not recomputes():
        y = operators.draw_forward(x, p, CODES[activation], first, layout)[0]
        return x.copy_(y) if inplace else y
    if inplace and not recorded:
        return _over(x, key, p, first, layout)
    y = operators.forward(x, draw_key(x) if key is None else key, p, CODES[activation], first, layout)[0]
    return x.copy_(y) if inplace else y


def _composes(x: Tensor) -> bool:
    return composition_moves_less(x.device.type, torch.compiler.is_compiling()) and not is_dtensor(x)


def _over(x: Tensor, key: Tensor | None, p: float, first: int, layout: int) -> Tensor:
    differentiated = torch.is_grad_enabled() and x.requires_grad
    if (
        not is_plain(x)  # what a dispatch mode sees may be kept, and not change afterwards
        or x.is_inference()
        or not is_dense(x, layout)
        or differentiated and (x.is_leaf or x._is_view())
    ):
        key = draw_key(x) if key is None else key
        return x.copy_(operators.forward(x, key, p, RELU, first, layout)[0])  # with PyTorch's rules for whatever x is
    if differentiated:
        return quick.ForwardInPlace.apply(x, key, p, first, layout)
    quick.forward_(x, operators.empty_mask(x), key, p, first, layout)
    torch.autograd.graph.increment_version(x)
    return x


def rrelu(
    x: Tensor,
    lower: float = LOWER,
    upper: float = UPPER,
    training: bool = True,
    *,
    key: Tensor | None = None,
    first: int = 0,
) -> Tensor:
    """RReLU: negative elements times a slope uniform in [lower, upper), in evaluation times the mean.

    Args:
        x: float16, bfloat16, float32 or float64, on the CPU or on CUDA.
        lower, upper: 0 < lower <= upper <= 1.
        training: Whether to draw slopes. Without it is PyTorch's leaky_relu.
        key, first: As in `drop_activation`.
    """
    check_slopes(lower, upper)
    if isinstance(x, Proxy):
        rest = {"key": key, "first": first}
        return x.tracer.create_proxy("call_function", rrelu, (x, lower, upper, training), rest)
    check_tensor(x)
    lower, upper = float(lower), float(upper)
    if not training:
        if is_dtensor(x):
            return by_element(x, lambda x: _composed.rrelu_evaluation(x, lower, upper))
        return _composed.rrelu_evaluation(x, lower, upper)
    if is_dtensor(x):
        return over_shards(x, key, lambda x, key, at: rrelu(x, lower, upper, key=key, first=first + at))
    parameters = lower, upper, _first(first), layout_of(x)
    if key is None and torch.compiler.is_compiling() and not recomputes():
        return operators.draw_rrelu_forward(x, *parameters)[0]
    if key is None and x.is_cuda and is_plain(x):
        return operators.draw_rrelu_forward(x, *parameters)[0]
    if key is None:
        key = draw_key(x)
    else:
        check_key(key, x)
    return operators.rrelu_forward(x, key, *parameters)[0]


def check_parameters(p: float, activation: str, inplace: bool = False) -> None:
    code_of(activation)
    if not 0 <= real("p", p) <= 1:
        raise ValueError(f"p must be in [0, 1], got {p}")
    if inplace and activation != "relu":
        raise ValueError(f"inplace must be False for {activation}, whose backward pass needs x, got True")


def check_slopes(lower: float, upper: float) -> None:
    if not 0 < real("lower", lower) <= real("upper", upper) <= 1:
        raise ValueError(f"lower and upper must be 0 < lower <= upper <= 1, got lower = {lower}, upper = {upper}")


def check_tensor(x: Tensor, name: str = "x") -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor, got a {type(x).__name__}")
    if x.dtype not in operators.DTYPES:
        raise TypeError(f"{name} must have dtype {' or '.join(map(str, operators.DTYPES))}, got {x.dtype}")


def _first(first: int) -> int:
    """PyTorch's integers have a sign, the index of an element has none: the same 64 bits."""
    if isinstance(first, torch.SymInt):
        return first
    first = index("first", first)
    if first % 32:
        raise ValueError(f"first must be a multiple of 32, the elements of a mask word, got {first}")
    return first if first < 2**63 else first - 2**64


def check_key(key: Tensor, x: Tensor) -> None:
    if not isinstance(key, Tensor):
        raise TypeError(f"key must be a tensor of one torch.int64, got a {type(key).__name__}")
    if key.dtype != torch.int64 or key.numel() != 1 or key.device not in (x.device, torch.device("cpu")):
        raise ValueError(
            f"key must be one torch.int64 on the CPU or on x's device, {x.device}, got dtype {key.dtype}, "
            f"{key.numel()} elements, device {key.device}"
        )
