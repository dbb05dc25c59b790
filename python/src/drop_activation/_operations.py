"""The operations on arrays."""

from __future__ import annotations

import operator
from typing import Any, Protocol, SupportsFloat, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from . import _library as library
from ._activations import code_of
from ._arrays import View
from ._call import Call, floats as _floats
from ._library import Key, Pass


class SupportsDLPack(Protocol):
    """An array of another library."""

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any: ...

    def __dlpack_device__(self) -> tuple[Any, Any]: ...


Array = NDArray[Any] | SupportsDLPack

#: RReLU's bounds in the paper.
LOWER = 1 / 8
UPPER = 1 / 3


def keep_mask(
    n: SupportsIndex, p: SupportsFloat, seed: SupportsIndex, offset: SupportsIndex, first: SupportsIndex = 0
) -> NDArray[np.uint32]:
    """The keep bits of n elements by themselves: those that `forward` draws with the same p and key.

    Args:
        n: Elements.
        p: The probability of keeping the nonlinearity, 0 <= p <= 1.
        seed, offset: The key, each from 0 to 2**64 - 1.
        first: The global index of element 0, a multiple of 32.

    Returns:
        ceil(n / 32) words, with unused bits zero.
    """
    n = index("n", n, np.iinfo(np.intp).max)
    key = _key(seed, offset, first)
    words = np.empty((n + 31) // 32, np.uint32)
    library.cpu_keep_mask(real("p", p), key, n, words.ctypes.data)
    return words


def forward(
    x: Array,
    p: SupportsFloat = 0.95,
    *,
    seed: SupportsIndex,
    offset: SupportsIndex,
    first: SupportsIndex = 0,
    activation: str = "relu",
    out: Array | None = None,
) -> tuple[Any, NDArray[np.uint32]]:
    """Training forward, the paper's equation 3: y = σ(x) where σ is kept, else x.

    Args:
        x: Any shape.
        p: The probability of keeping the nonlinearity, 0 <= p <= 1.
        seed, offset: The key, each from 0 to 2**64 - 1; another offset for each call.
        first: The global index of element 0, a multiple of 32.
        activation: The name of σ, one of `ACTIVATIONS`.
        out: Where y goes, of x's shape and type; may be x.

    Returns:
        y and the mask that `backward` takes: pass bits for ReLU, keep bits for the others.
    """
    pass_ = _pass(library.FORWARD, p, activation, _key(seed, offset, first))
    x_view = _floats("x", x)
    mask = np.empty((x_view.size + 31) // 32, np.uint32)
    return _run(pass_, x_view, out, mask=mask), mask


def forward_without_mask(
    x: Array,
    p: SupportsFloat = 0.95,
    *,
    seed: SupportsIndex,
    offset: SupportsIndex,
    first: SupportsIndex = 0,
    out: Array | None = None,
) -> Any:
    """`forward` with ReLU for a caller that keeps y: no mask is stored, and `backward_from_output` goes with it."""
    return _run(_pass(library.FORWARD_WITHOUT_MASK, p, "relu", _key(seed, offset, first)), _floats("x", x), out)


def backward(
    dy: Array,
    mask: Array,
    x: Array | None = None,
    *,
    p: SupportsFloat = 0.95,
    activation: str = "relu",
    out: Array | None = None,
) -> Any:
    """Training backward: dx = dy σ'(x) where σ was kept, else dy.

    Args:
        dy: The gradient of y.
        mask: What `forward` returned.
        x: The input of `forward`. ReLU needs none; the others do.
        p, activation: As in `forward`.
        out: Where dx goes, of dy's shape and type; may be dy or x.

    Returns:
        dx.
    """
    pass_ = _pass(library.BACKWARD, p, activation)
    if x is None and activation != "relu":
        raise ValueError(f"x must be the input of the forward pass, which the backward pass of {activation} needs, got None")
    return _run(pass_, _floats("dy", dy), out, saved=None if x is None else ("x", x), mask=mask)


def backward_from_output(dy: Array, y: Array, *, out: Array | None = None) -> Any:
    """ReLU's training backward without a mask: dx = 0 where y is 0, else dy.

    Differs from `backward` only where x was exactly 0 and σ was dropped.
    """
    return _run(_pass(library.BACKWARD_FROM_OUTPUT, 1, "relu"), _floats("dy", dy), out, saved=("y", y))


def infer(x: Array, p: SupportsFloat = 0.95, *, activation: str = "relu", out: Array | None = None) -> Any:
    """Inference forward, the paper's equation 5: y = (1 - p) x + p σ(x); for ReLU the Leaky ReLU of slope 1 - p.

    Args:
        x: Any shape.
        p: The probability of keeping the nonlinearity, 0 <= p <= 1.
        activation: The name of σ, one of `ACTIVATIONS`.
        out: Where y goes, of x's shape and type; may be x.

    Returns:
        y.
    """
    return _run(_pass(library.INFER, p, activation), _floats("x", x), out)


def infer_backward(
    dy: Array, x: Array, p: SupportsFloat = 0.95, *, activation: str = "relu", out: Array | None = None
) -> Any:
    """Inference backward: dx = dy ((1 - p) + p σ'(x)). `out` may be dy or x."""
    return _run(_pass(library.INFER_BACKWARD, p, activation), _floats("dy", dy), out, saved=("x", x))


def rrelu_forward(
    x: Array,
    lower: SupportsFloat = LOWER,
    upper: SupportsFloat = UPPER,
    *,
    seed: SupportsIndex,
    offset: SupportsIndex,
    first: SupportsIndex = 0,
    out: Array | None = None,
) -> tuple[Any, NDArray[np.uint32]]:
    """RReLU's training forward, the paper's equation 6: y = x where x >= 0, else U x, U uniform in [lower, upper).

    Returns:
        y and the mask of signs that `rrelu_backward` takes.
    """
    pass_ = _rrelu(library.RRELU_FORWARD, lower, upper, _key(seed, offset, first))
    x_view = _floats("x", x)
    mask = np.empty((x_view.size + 31) // 32, np.uint32)
    return _run(pass_, x_view, out, mask=mask), mask


def rrelu_backward(
    dy: Array,
    mask: Array,
    lower: SupportsFloat = LOWER,
    upper: SupportsFloat = UPPER,
    *,
    seed: SupportsIndex,
    offset: SupportsIndex,
    first: SupportsIndex = 0,
    out: Array | None = None,
) -> Any:
    """RReLU's training backward: dx = dy where x >= 0, else U dy, with U drawn again from the forward pass's key."""
    return _run(
        _rrelu(library.RRELU_BACKWARD, lower, upper, _key(seed, offset, first)), _floats("dy", dy), out, mask=mask
    )


def rrelu_infer(
    x: Array, lower: SupportsFloat = LOWER, upper: SupportsFloat = UPPER, *, out: Array | None = None
) -> Any:
    """RReLU's inference forward: y = x where x >= 0, else (lower + upper)/2 x."""
    return _run(_rrelu(library.RRELU_INFER, lower, upper), _floats("x", x), out)


def rrelu_infer_backward(
    dy: Array, x: Array, lower: SupportsFloat = LOWER, upper: SupportsFloat = UPPER, *, out: Array | None = None
) -> Any:
    """RReLU's inference backward: dx = dy where x >= 0, else (lower + upper)/2 dy. `out` may be dy or x."""
    return _run(_rrelu(library.RRELU_INFER_BACKWARD, lower, upper), _floats("dy", dy), out, saved=("x", x))


def relu_forward(x: Array, *, out: Array | None = None) -> Any:
    """Plain ReLU: y = 0 where x <= 0, else x."""
    return _run(Pass(library.RELU_FORWARD), _floats("x", x), out)


def relu_backward(dy: Array, y: Array, *, out: Array | None = None) -> Any:
    """Plain ReLU's backward from its output: dx = 0 where y <= 0, else dy. `out` may be dy or y."""
    return _run(Pass(library.RELU_BACKWARD), _floats("dy", dy), out, saved=("y", y))


def index(name: str, value: SupportsIndex, most: int = 2**64 - 1) -> int:
    try:
        value = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got a {type(value).__name__}") from None
    if not 0 <= value <= most:
        raise ValueError(f"{name} must be from 0 to {most}, got {value}")
    return value


def real(name: str, value: SupportsFloat) -> float:
    try:
        if not isinstance(value, (str, bytes)):
            return float(value)
    except TypeError:
        pass
    except OverflowError:
        raise ValueError(f"{name} must be a number that a float can hold, got one beyond the largest") from None
    raise TypeError(f"{name} must be a number, got a {type(value).__name__}")


def _key(seed: SupportsIndex, offset: SupportsIndex, first: SupportsIndex) -> Key:
    return Key(index("seed", seed), index("offset", offset), index("first", first), None)


def _pass(kind: int, p: SupportsFloat, activation: str, key: Key | None = None) -> Pass:
    return Pass(kind, code_of(activation), real("p", p), key=key)


def _rrelu(kind: int, lower: SupportsFloat, upper: SupportsFloat, key: Key | None = None) -> Pass:
    return Pass(kind, slopes=(real("lower", lower), real("upper", upper)), key=key)


#: For a pass that has no mask: None would be a caller's mistake.
_NO_MASK = object()


def _run(pass_: Pass, given: View, out: Any, saved: tuple[str, Any] | None = None, mask: Any = _NO_MASK) -> Any:
    """Runs a pass from `given` to `out`, or to a new array, and returns that."""
    call = Call(pass_, given)
    if saved:
        call.tensor("saved", *saved)
    if mask is not _NO_MASK:
        call.mask(mask)
    result = call.output(out)
    call.run()
    return result
