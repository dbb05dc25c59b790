"""Drop-Activation for JAX: functions of arrays, with derivatives, under jit, grad, vmap, scan and shard_map.

    y = drop_activation(x, step, p=0.95, seed=42)   # training; another offset for each call
    y = infer(x, p=0.95)                            # inference

They call the library's functions for apache/tvm-ffi by jax-tvm-ffi (`pip install drop-activation[jax]`). The offset may
be traced, so that one compiled step draws another mask at each call; all else of the key is static. The masks are those
of `drop_activation.forward`.

Under vmap, each element of the batch is a call of its own, with its own offset if offsets are mapped, one after the
other. Second derivatives and forward mode are refused by JAX, as for every `custom_vjp`. An array that is sharded over
devices is gathered first, and the result is sharded again where the mesh's axes are explicit; JAX refuses a vmap over a
dimension that is sharded so. Within `jax.shard_map` nothing is gathered: each shard is a call of its own, and should
have an offset of its own, since the same offset gives each the same mask.

`jax.export` takes these functions for unstable until it is told not to check them, by
`jax.export.DisabledSafetyCheck.custom_call("drop_activation.forward")` and so on for the names that its error lists.
"""

from __future__ import annotations

from functools import partial
from typing import SupportsFloat, SupportsIndex

import jax
import jax.numpy as jnp
import jax_tvm_ffi
import numpy as np
import tvm_ffi

from . import _library as library
from . import _operations as operations
from ._operations import LOWER, UPPER

__all__ = ["drop_activation", "forward", "infer", "rrelu", "rrelu_infer"]

#: Name, and what follows the arrays that are read and the ones that are written.
_TARGETS = {
    "forward": ("p", "activation", "seed", "first"),
    "backward": (),
    "backward_saved": ("activation",),
    "infer": ("p", "activation"),
    "infer_backward": ("p", "activation"),
    "rrelu_forward": ("lower", "upper", "seed", "first"),
    "rrelu_backward": ("lower", "upper", "seed", "first"),
    "rrelu_infer": ("lower", "upper"),
    "rrelu_infer_backward": ("lower", "upper"),
}


#: An older one refuses the functions that jax-tvm-ffi makes, and with them its whole CPU backend.
_OLDEST_JAX = (0, 9, 1)


def _register() -> None:
    if jax.__version_info__ < _OLDEST_JAX:
        oldest = ".".join(map(str, _OLDEST_JAX))
        raise ImportError(f"drop_activation.jax: JAX must be {oldest} or newer, got {jax.__version__}")
    module = tvm_ffi.load_module(library.path())
    for name, numbers in _TARGETS.items():
        order = ["args", "rets", *(f"attrs.{number}" for number in numbers)]
        function = module.get_function(f"dact_{name}")
        for platform in ("cpu", "gpu"):
            jax_tvm_ffi.register_ffi_target(f"drop_activation.{name}", function, order, platform)


# JAX refuses a name that it has, and `importlib.reload` comes here again, with the names of the first time.
if "_registered" not in globals():
    _register()
_registered = True


def _call(name: str, results, x, *arrays, **numbers):
    call = jax.ffi.ffi_call(f"drop_activation.{name}", results, vmap_method="sequential")
    # JAX takes what is called so for the same on every device, and for unsharded.
    return jax.tree.map(lambda result: _vary(_shard_like(result, x), _varying(x)), call(x, *arrays, **numbers))


def _shard_like(result, x):
    """The result, sharded as x is if that is part of x's type, and if the result is an array like x and no mask."""
    sharding = jax.typeof(x).sharding
    if result.shape != x.shape or all(axis is None for axis in sharding.spec):
        return result
    return jax.sharding.reshard(result, sharding)


def _varying(x) -> frozenset:
    """The axes of a mesh along which the values of x vary, within a `jax.shard_map` that checks that."""
    kind = jax.typeof(x)
    return kind.manual_axis_type.varying if hasattr(kind, "manual_axis_type") else kind.vma  # as older JAX calls it


def _vary(x, axes: frozenset):
    return jax.lax.pcast(x, tuple(axes - _varying(x)), to="varying")


def _alike(x, offset):
    """Both, varying where either does, as y will. JAX sums the gradient along the axes where x did not."""
    axes = _varying(x) | _varying(offset)
    return _vary(x, axes), _vary(offset, axes)


def _like(x):
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def _mask_of(x):
    return jax.ShapeDtypeStruct(((x.size + 31) // 32,), jnp.uint32)


def _floats(name: str, x):
    # JAX makes one array of several in a list or a tuple.
    if not (isinstance(x, (float, int, complex)) or hasattr(x, "__jax_array__") or hasattr(x, "__array__")):
        raise TypeError(f"{name} must be an array, got a {type(x).__name__}")
    # JAX names no argument where it refuses an array of NumPy's.
    if not isinstance(x, np.ndarray):
        x = jnp.asarray(x)
    elif not x.dtype.isnative:
        raise TypeError(f"{name} must have this machine's byte order, got dtype {x.dtype.str!r}")
    if x.dtype.name not in library.DTYPES:
        raise TypeError(f"{name} must have dtype {' or '.join(library.DTYPES)}, got {x.dtype.name}")
    return jnp.asarray(x)


def _words_of(offset):
    """An offset as two words, the low one first."""
    if isinstance(offset, (np.ndarray, jax.Array)):
        if offset.dtype.name == "uint32" and offset.shape == (2,):
            return jnp.asarray(offset, jnp.uint32)
        if offset.shape != () or not jnp.issubdtype(offset.dtype, jnp.integer):
            raise TypeError(
                "offset must be one integer, or two uint32, the low one first, "
                f"got dtype {offset.dtype.name}, shape {offset.shape}"
            )
    # NumPy's are numbers here, since JAX without 64-bit types would cut them off.
    if not isinstance(offset, jax.Array):
        number = operations.index("offset", offset)
        return jnp.array([number & 0xFFFFFFFF, number >> 32], jnp.uint32)
    if offset.dtype.itemsize == 8:
        return jax.lax.bitcast_convert_type(offset, jnp.uint32)
    if jnp.issubdtype(offset.dtype, jnp.unsignedinteger):
        return jnp.stack([offset.astype(jnp.uint32), jnp.uint32(0)])
    # The bits of a negative number go on, as those of a wider type do.
    return jnp.stack([offset.astype(jnp.int32), jnp.right_shift(offset.astype(jnp.int32), 31)]).astype(jnp.uint32)


def _signed(number: int) -> np.int64:
    """The integer of the same 64 bits that attributes and tvm-ffi can hold."""
    return np.uint64(number).astype(np.int64)


# What the functions with derivatives take after their arrays: hashable, and checked.


def _static(**arguments) -> None:
    for name, value in arguments.items():
        if isinstance(value, jax.core.Tracer):
            raise TypeError(
                f"{name} must be static: a value that is known when this is traced, as with static_argnames or a "
                f"closure, got a traced {value.aval.str_short()}"
            )


def _drop_activation(p, seed, first, activation) -> tuple:
    _static(p=p, seed=seed, first=first, activation=activation)
    seed, first = operations.index("seed", seed), operations.index("first", first)
    # Refused here, where the caller's line is, and not when the compiled program runs.
    operations.forward(np.empty(0, np.float32), p, seed=seed, offset=0, first=first, activation=activation)
    return (
        ("p", np.float64(p)),
        ("activation", activation),
        ("seed", _signed(seed)),
        ("first", _signed(first)),
    )


def _slopes(lower, upper) -> tuple:
    _static(lower=lower, upper=upper)
    operations.rrelu_infer(np.empty(0, np.float32), lower, upper)
    return (("lower", np.float64(lower)), ("upper", np.float64(upper)))


def _only(attributes: tuple, *names: str) -> dict:
    return {name: value for name, value in attributes if name in names}


def forward(
    x,
    offset,
    *,
    p: SupportsFloat = 0.95,
    seed: SupportsIndex,
    first: SupportsIndex = 0,
    activation: str = "relu",
):
    """As `drop_activation`, with the mask: (y, mask), those of `drop_activation.forward`."""
    return _trained(*_alike(_floats("x", x), _words_of(offset)), _drop_activation(p, seed, first, activation))


def drop_activation(
    x,
    offset,
    *,
    p: SupportsFloat = 0.95,
    seed: SupportsIndex,
    first: SupportsIndex = 0,
    activation: str = "relu",
):
    """Training, the paper's equation 3: y = σ(x) where σ is kept, else x.

    One bit per element is kept for the gradient, and x if σ is not ReLU.

    Args:
        x: Any shape; float32, float16, bfloat16, or float64.
        offset: Of the key, another one for each call, from 0 to 2**64 - 1: an integer, an array of no dimensions that
            holds one, or an array of two uint32, the low one first, such as `jax.random.bits(key, (2,), "uint32")`.
            An array of JAX's may be traced, and its value is not looked at: a negative number counts from 2**64, so
            that -1 is 2**64 - 1 in each type.
        p: The probability of keeping the nonlinearity, 0 <= p <= 1.
        seed: Of the key, from 0 to 2**64 - 1.
        first: The global index of element 0, a multiple of 32.
        activation: The name of σ, one of `drop_activation.ACTIVATIONS`.

    Returns:
        y.

    Raises:
        TypeError, ValueError: When it is traced; the text names the argument, what was given and what is allowed.
    """
    return forward(x, offset, p=p, seed=seed, first=first, activation=activation)[0]


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _trained(x, offset, attributes):
    return _trained_forward(x, offset, attributes)[0]


def _trained_forward(x, offset, attributes):
    y, mask = _call("forward", (_like(x), _mask_of(x)), x, offset, **dict(attributes))
    return (y, mask), (mask, None if dict(attributes)["activation"] == "relu" else x)


def _trained_backward(attributes, saved, cotangents):
    (mask, x), (dy, _) = saved, cotangents
    if x is None:
        return _call("backward", _like(dy), dy, mask), None
    return _call("backward_saved", _like(dy), dy, mask, x, **_only(attributes, "activation")), None


_trained.defvjp(_trained_forward, _trained_backward)


def infer(x, *, p: SupportsFloat = 0.95, activation: str = "relu"):
    """Inference, the paper's equation 5: y = (1 - p) x + p σ(x)."""
    attributes = _only(_drop_activation(p, 0, 0, activation), "p", "activation")
    return _inferred(_floats("x", x), tuple(attributes.items()))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _inferred(x, attributes):
    return _call("infer", _like(x), x, **dict(attributes))


def _inferred_backward(attributes, x, dy):
    return (_call("infer_backward", _like(dy), dy, x, **dict(attributes)),)


_inferred.defvjp(lambda x, attributes: (_inferred(x, attributes), x), _inferred_backward)


def rrelu(
    x,
    offset,
    lower: SupportsFloat = LOWER,
    upper: SupportsFloat = UPPER,
    *,
    seed: SupportsIndex,
    first: SupportsIndex = 0,
):
    """RReLU in training, the paper's equation 6: y = x where x >= 0, else U x, U uniform in [lower, upper). One bit per
    element is kept for the gradient. The key is as for `drop_activation`."""
    key = _only(_drop_activation(1, seed, first, "relu"), "seed", "first")
    return _rrelu(*_alike(_floats("x", x), _words_of(offset)), (*_slopes(lower, upper), *key.items()))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _rrelu(x, offset, attributes):
    return _rrelu_forward(x, offset, attributes)[0]


def _rrelu_forward(x, offset, attributes):
    y, mask = _call("rrelu_forward", (_like(x), _mask_of(x)), x, offset, **dict(attributes))
    return y, (mask, offset)


def _rrelu_backward(attributes, saved, dy):
    mask, offset = saved
    return _call("rrelu_backward", _like(dy), dy, mask, offset, **dict(attributes)), None


_rrelu.defvjp(_rrelu_forward, _rrelu_backward)


def rrelu_infer(x, lower: SupportsFloat = LOWER, upper: SupportsFloat = UPPER):
    """RReLU at inference: y = x where x >= 0, else (lower + upper)/2 x."""
    return _rrelu_inferred(_floats("x", x), _slopes(lower, upper))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _rrelu_inferred(x, attributes):
    return _call("rrelu_infer", _like(x), x, **dict(attributes))


def _rrelu_inferred_backward(attributes, x, dy):
    return (_call("rrelu_infer_backward", _like(dy), dy, x, **dict(attributes)),)


_rrelu_inferred.defvjp(lambda x, attributes: (_rrelu_inferred(x, attributes), x), _rrelu_inferred_backward)
