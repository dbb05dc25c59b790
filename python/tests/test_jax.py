"""drop_activation.jax on the CPU, held to the package's functions of NumPy arrays."""

import importlib
import os
import subprocess
import sys

import numpy as np
import pytest

import drop_activation
from drop_activation import ACTIVATIONS

os.environ.setdefault("JAX_PLATFORMS", "cpu")
jax = pytest.importorskip("jax", reason="SKIPPED: JAX is not installed")
pytest.importorskip("jax_tvm_ffi", reason="SKIPPED: jax-tvm-ffi is not installed")
import jax.numpy as jnp  # noqa: E402

import drop_activation.jax as ours  # noqa: E402

SEED = 2**64 - 3


def normal(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_training_is_numpys(activation, dtype):
    x = jnp.asarray(normal(7, 33)).astype(dtype)
    dy = jnp.asarray(normal(7, 33, seed=2)).astype(dtype)
    key = {"seed": SEED, "first": 64}
    y, mask = drop_activation.forward(np.asarray(x), 0.75, offset=5, activation=activation, **key)

    @jax.jit
    def step(x, dy, offset):
        def training(x):
            return ours.drop_activation(x, offset, p=0.75, activation=activation, **key)

        y, back = jax.vjp(training, x)
        return y, *back(dy), *ours.forward(x, offset, p=0.75, activation=activation, **key)

    given, dx, again, bits = step(x, dy, 5)
    np.testing.assert_array_equal(np.asarray(given), y)
    np.testing.assert_array_equal(np.asarray(again), y)
    np.testing.assert_array_equal(np.asarray(bits), mask)
    expected = drop_activation.backward(np.asarray(dy), mask, np.asarray(x), activation=activation)
    np.testing.assert_array_equal(np.asarray(dx), expected)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_inference_is_numpys(activation):
    x, dy = normal(300), normal(300, seed=2)
    y, back = jax.vjp(jax.jit(lambda x: ours.infer(x, p=0.75, activation=activation)), x)
    np.testing.assert_array_equal(np.asarray(y), drop_activation.infer(x, 0.75, activation=activation))
    expected = drop_activation.infer_backward(dy, x, 0.75, activation=activation)
    np.testing.assert_array_equal(np.asarray(back(dy)[0]), expected)


def test_rrelu_is_numpys():
    x, dy = normal(300), normal(300, seed=2)
    y, mask = drop_activation.rrelu_forward(x, 0.25, 0.5, seed=SEED, offset=9)
    given, back = jax.vjp(lambda x: ours.rrelu(x, 9, 0.25, 0.5, seed=SEED), x)
    np.testing.assert_array_equal(np.asarray(given), y)
    expected = drop_activation.rrelu_backward(dy, mask, 0.25, 0.5, seed=SEED, offset=9)
    np.testing.assert_array_equal(np.asarray(back(dy)[0]), expected)
    given, back = jax.vjp(lambda x: ours.rrelu_infer(x, 0.25, 0.5), x)
    np.testing.assert_array_equal(np.asarray(given), drop_activation.rrelu_infer(x, 0.25, 0.5))
    expected = drop_activation.rrelu_infer_backward(dy, x, 0.25, 0.5)
    np.testing.assert_array_equal(np.asarray(back(dy)[0]), expected)


@pytest.mark.parametrize(
    "offset, number",
    [
        (2**63 + 5, 2**63 + 5),
        (np.int32(5), 5),
        (jnp.uint32(2**32 - 1), 2**32 - 1),
        (jnp.array([7, 5], jnp.uint32), 0x500000007),
        (np.int64(0x500000007), 0x500000007),
    ],
)
def test_an_offset_is_one_integer_or_two_words(offset, number):
    x = normal(1000)
    _, mask = drop_activation.forward(x, 0.5, seed=1, offset=number)
    np.testing.assert_array_equal(np.asarray(ours.forward(x, offset, p=0.5, seed=1)[1]), mask)


INTEGERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("dtype", INTEGERS)
def test_an_offset_of_each_integer_type_is_numpys(dtype, x64):
    x, most = normal(1000), int(np.iinfo(dtype).max)
    expected = drop_activation.forward(x, 0.5, seed=1, offset=most)[1]
    kinds = [most, np.dtype(dtype).type(most), np.array(most, dtype), np.array(most, np.dtype(dtype).newbyteorder())]
    with jax.enable_x64(True):
        array = jnp.array(most, dtype)
    with jax.enable_x64(x64):
        for offset in [*kinds, array]:
            mask = ours.forward(x, offset, p=0.5, seed=1)[1]
            np.testing.assert_array_equal(np.asarray(mask), expected, err_msg=repr(offset))
        if array.dtype.itemsize < 8 or x64:
            traced = jax.jit(lambda offset: ours.forward(x, offset, p=0.5, seed=1)[1])(array)
            np.testing.assert_array_equal(np.asarray(traced), expected)


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("kind", [np.int8, np.int32, np.int64])
def test_a_negative_offset_is_refused_where_it_is_looked_at(kind, x64):
    with jax.enable_x64(x64):
        for offset in [-3, kind(-3), np.array(-3, kind)]:
            with pytest.raises(ValueError, match="offset must be from 0 to 18446744073709551615, got -3"):
                ours.drop_activation(normal(3), offset, seed=1)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64"])
def test_a_negative_offset_of_jaxs_counts_from_two_to_the_64(dtype):
    x = normal(1000)
    expected = drop_activation.forward(x, 0.5, seed=1, offset=2**64 - 3)[1]
    with jax.enable_x64(dtype == "int64"):
        offset = jnp.array(-3, dtype)
        for draw in [ours.forward, jax.jit(ours.forward, static_argnames=("p", "seed"))]:
            np.testing.assert_array_equal(np.asarray(draw(x, offset, p=0.5, seed=1)[1]), expected)


@pytest.mark.parametrize("kind", [int, np.uint64, np.array])
def test_a_seed_and_a_first_of_64_bits_are_not_cut_off(kind):
    x, seed, first = normal(1000), 2**40 + 5, 2**40 + 64
    mask = ours.forward(x, 7, p=0.5, seed=kind(seed), first=kind(first))[1]
    expected = drop_activation.forward(x, 0.5, seed=seed, offset=7, first=first)[1]
    np.testing.assert_array_equal(np.asarray(mask), expected)


def test_one_compiled_step_draws_a_mask_for_each_offset():
    x, traces = normal(1000), []

    @jax.jit
    def step(x, offset):
        traces.append(offset)
        return ours.forward(x, offset, p=0.5, seed=1)[1]

    masks = np.stack([np.asarray(step(x, offset)) for offset in range(4)])
    expected = np.stack([drop_activation.forward(x, 0.5, seed=1, offset=offset)[1] for offset in range(4)])
    np.testing.assert_array_equal(masks, expected)
    assert len(traces) == 1
    _, scanned = jax.lax.scan(lambda _, offset: (None, step(x, offset)), None, jnp.arange(4))
    np.testing.assert_array_equal(np.asarray(scanned), expected)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_vmap_is_a_call_for_each_element(activation):
    xs, offsets = jnp.asarray(normal(3, 100)), jnp.arange(3)

    def slope(x, offset):
        return jax.grad(lambda x: (ours.drop_activation(x, offset, p=0.5, seed=1, activation=activation) ** 2).sum())(x)

    by_vmap = jax.vmap(slope)(xs, offsets)
    np.testing.assert_array_equal(np.asarray(by_vmap), np.stack([slope(x, i) for i, x in enumerate(xs)]))
    # Without offsets of their own all have the same mask.
    same = jax.jit(jax.vmap(slope, (0, None)))(xs, 7)
    np.testing.assert_array_equal(np.asarray(same), np.stack([slope(x, 7) for x in xs]))


def test_a_training_step_of_a_network_is_numpys():
    x, target, w1, w2 = normal(16, 20), normal(16, 4, seed=2), normal(20, 50, seed=3), normal(50, 4, seed=4)

    @jax.jit
    def step(weights, offset):
        def loss(weights):
            hidden = ours.drop_activation(x @ weights[0], offset, p=0.75, seed=8)
            return ((hidden @ weights[1] - target) ** 2).mean()

        gradients = jax.grad(loss)(weights)
        mask = ours.forward(x @ weights[0], offset, p=0.75, seed=8)[1]
        return [w - 0.01 * g for w, g in zip(weights, gradients)], mask

    weights = [w1, w2]
    for offset in range(3):
        got, bits = step(weights, offset)
        z = np.asarray(jnp.asarray(x) @ weights[0])
        hidden, mask = drop_activation.forward(z, 0.75, seed=8, offset=offset)
        np.testing.assert_array_equal(np.asarray(bits), mask)
        dout = 2 * (hidden @ weights[1] - target) / target.size
        dz = drop_activation.backward((dout @ weights[1].T).astype(np.float32), mask)
        expected = [weights[0] - 0.01 * (x.T @ dz), weights[1] - 0.01 * (hidden.T @ dout)]
        for ours_, numpys in zip(got, expected):
            np.testing.assert_allclose(np.asarray(ours_), numpys, rtol=1e-5, atol=1e-6)
        weights = [np.asarray(w) for w in got]
    assert not np.allclose(weights[0], w1)


def test_an_array_of_jaxs_is_read_and_not_written_by_numpys_functions():
    x = jnp.full(100, -1.0)
    assert (drop_activation.infer(x, 0.5) == -0.5).all()
    with pytest.raises(ValueError, match="out must be writable, got a ArrayImpl, whose DLPack is older than 1.0"):
        drop_activation.infer(np.asarray(x), 0.5, out=x)
    assert (np.asarray(x) == -1).all()


def test_no_elements_and_no_dimensions():
    assert ours.drop_activation(jnp.zeros((0, 3)), 0, p=0.5, seed=1).shape == (0, 3)
    assert jax.grad(lambda x: ours.infer(x, p=0.5))(jnp.float32(-2)) == 0.5


@pytest.mark.parametrize(
    "kind, words, arguments",
    [
        (ValueError, r"p must be in \[0, 1\], got 1.5", {"p": 1.5}),
        (ValueError, r"p must be in \[0, 1\], got NaN", {"p": float("nan")}),
        (TypeError, "x must have dtype float32 or .*, got int(32|64)", {"x": np.arange(3)}),
        (TypeError, "x must have dtype float32 or .*, got str32", {"x": np.array(["a"])}),
        (TypeError, "x must have this machine's byte order, got dtype '>f4'", {"x": np.ones(3, ">f4")}),
        (TypeError, "x must be an array, got a tuple", {"x": (jnp.ones(3), jnp.ones(3))}),
        (TypeError, "x must be an array, got a dict", {"x": {"x": jnp.ones(3)}}),
        (TypeError, "x must be an array, got a NoneType", {"x": None}),
        (TypeError, "x must be an array, got a str", {"x": "a"}),
        (ValueError, "seed must be from 0 to .*, got -1", {"seed": -1}),
        (ValueError, "offset must be from 0 to .*, got -1", {"offset": -1}),
        (TypeError, "offset must be one integer, .* got dtype float32, shape ()", {"offset": jnp.float32(1)}),
        (TypeError, "got dtype int32, shape .3,.", {"offset": jnp.arange(3)}),
        (TypeError, "offset must be one integer, .* got dtype int64, shape .1,.", {"offset": np.array([7])}),
        (TypeError, "offset must be one integer, .* got dtype float64, shape ()", {"offset": np.array(1.5)}),
        (TypeError, "offset must be an integer, got a float", {"offset": 1.5}),
        (TypeError, "seed must be an integer, got a float", {"seed": 1.5}),
        (ValueError, "first.*32", {"first": 1}),
        (ValueError, "activation must be one of relu, .* got 'elu'", {"activation": "elu"}),
    ],
)
def test_mistakes_are_refused_when_they_are_traced(kind, words, arguments):
    given = {"x": normal(3), "offset": 0, "p": 0.5, "seed": 0} | arguments
    with pytest.raises(kind, match=words):
        jax.make_jaxpr(lambda: ours.drop_activation(**given))()


@pytest.mark.parametrize(
    "name, function",
    [
        ("p", lambda value: ours.drop_activation(normal(3), 0, p=value, seed=1)),
        ("seed", lambda value: ours.forward(normal(3), 0, seed=value)),
        ("first", lambda value: ours.rrelu(normal(3), 0, seed=1, first=value)),
        ("p", lambda value: ours.infer(normal(3), p=value)),
        ("lower", lambda value: ours.rrelu_infer(normal(3), value)),
        ("upper", lambda value: ours.rrelu(normal(3), 0, 0.125, value, seed=1)),
    ],
)
@pytest.mark.parametrize("traced", [lambda f: jax.jit(f)(0), lambda f: jax.vmap(f)(jnp.arange(2))])
def test_what_is_static_is_refused_when_it_is_traced(name, function, traced):
    with pytest.raises(TypeError, match=rf"{name} must be static: .* got a traced int32\[\]"):
        traced(function)


def test_slopes_out_of_range_are_refused():
    with pytest.raises(ValueError, match="lower"):
        ours.rrelu(normal(3), 0, 0.5, 0.25, seed=1)
    with pytest.raises(ValueError, match="lower"):
        ours.rrelu_infer(normal(3), 0.5, 0.25)


def test_a_key_that_ends_within_the_array_is_refused_when_it_runs():
    with pytest.raises(jax.errors.JaxRuntimeError, match="first"):
        jax.block_until_ready(ours.forward(normal(64), 0, seed=1, first=2**64 - 32))


def test_the_mask_may_be_looked_at_within_what_is_differentiated():
    x, (y, mask) = jnp.asarray(normal(100)), drop_activation.forward(normal(100), 0.5, seed=1, offset=7)

    def loss(x):
        y, mask = ours.forward(x, 7, p=0.5, seed=1)
        return (y**2).sum(), mask

    gradient, given = jax.jit(jax.grad(loss, has_aux=True))(x)
    np.testing.assert_array_equal(np.asarray(given), mask)
    np.testing.assert_array_equal(np.asarray(gradient), drop_activation.backward(2 * y, mask))


def test_the_module_may_be_loaded_again():
    importlib.reload(ours)
    assert ours.infer(jnp.float32(-2), p=0.5) == -1


def test_an_older_jax_is_refused_before_anything_is_registered(monkeypatch):
    monkeypatch.setattr(jax, "__version_info__", (0, 9, 0, 1))
    monkeypatch.setattr(jax, "__version__", "0.9.0.1")
    monkeypatch.setattr("jax_tvm_ffi.register_ffi_target", None)
    with pytest.raises(ImportError, match="JAX must be 0.9.1 or newer, got 0.9.0.1"):
        ours._register()


def test_forward_mode_and_second_derivatives_are_refused():
    x = jnp.ones(3)
    training = lambda x: ours.drop_activation(x, 0, p=0.5, seed=1)  # noqa: E731
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(training, (x,), (x,))
    with pytest.raises(Exception, match="cannot be differentiated"):
        jax.grad(lambda x: jax.grad(lambda x: (training(x) ** 3).sum())(x).sum())(x)


def test_a_sharded_array_has_the_numbers_of_a_whole_one():
    """In a process of its own, since a machine's devices are counted once."""
    code = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import drop_activation.jax as ours
x = jnp.linspace(-3, 3, 1000).reshape(10, 100)
step = jax.jit(jax.value_and_grad(lambda x: (ours.drop_activation(x, 7, p=0.5, seed=1) ** 2).sum()))
expected = step(x)
sharded = jax.device_put(x, NamedSharding(Mesh(jax.devices(), "d"), PartitionSpec("d")))
assert len(sharded.sharding.device_set) == 2
value, gradient = step(sharded)
assert abs(value - expected[0]) < 1e-3, (value, expected[0])
assert (np.asarray(gradient) == np.asarray(expected[1])).all()
"""
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", code], env=os.environ | flags, check=True)


def test_where_shards_are_part_of_a_type_results_are_sharded_as_arrays_are():
    """In a process of its own, as the last."""
    code = """
from functools import partial
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, PartitionSpec as P
import drop_activation.jax as ours
x = jnp.linspace(-3, 3, 1000).reshape(10, 100)
training = partial(ours.drop_activation, p=0.5, seed=1)
drawing = [training, partial(training, activation="silu"), partial(ours.rrelu, seed=1)]
functions = [*drawing, lambda x, _: ours.infer(x, p=0.5), lambda x, _: ours.rrelu_infer(x)]
@partial(jax.jit, static_argnums=0)
def results(f, x):
    slope = jax.grad(lambda x: (f(x, 7) ** 2).sum())(x)
    return f(x, 7), slope, jax.lax.scan(lambda x, offset: (f(x, offset), None), x, jnp.arange(3))[0]
expected = [results(f, x) for f in functions]
with jax.set_mesh(jax.make_mesh((2, 2), ("a", "b"), axis_types=(AxisType.Explicit, AxisType.Explicit))):
    sharded = jax.device_put(x, P("a", "b"))
    for f, numbers in zip(functions, expected):
        for given, number in zip(results(f, sharded), numbers):
            assert jax.typeof(given) == jax.typeof(sharded), jax.typeof(given)
            np.testing.assert_array_equal(np.asarray(given), np.asarray(number))
"""
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", code], env=os.environ | flags, check=True)


def test_shard_map_is_a_call_for_each_shard():
    """In a process of its own, as the last."""
    code = """
from functools import partial
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, PartitionSpec as P
import drop_activation.jax as ours
x = jnp.linspace(-3, 3, 1000).reshape(20, 50)
mesh = Mesh(np.array(jax.devices()).reshape(2, 2), ("a", "b"))
training = partial(ours.drop_activation, p=0.5, seed=1)
drawing = [training, partial(training, activation="silu"), partial(ours.rrelu, seed=1)]
def slope(f, x, offset):
    return jax.grad(lambda x: (f(x, offset) ** 2).sum())(x)
for f in [*drawing, lambda x, _: ours.infer(x, p=0.5), lambda x, _: ours.rrelu_infer(x)]:
    shards = jnp.concatenate([slope(f, shard, 7) for shard in jnp.split(x, 2)])
    mapped = partial(jax.shard_map, mesh=mesh, in_specs=(P("a"), P()), out_specs=P("a"))
    for check in True, False:
        through = mapped(f, check_vma=check)
        np.testing.assert_array_equal(jax.jit(slope, static_argnums=0)(through, x, 7), shards)
    within = mapped(partial(slope, f))
    np.testing.assert_array_equal(jax.jit(within)(x, jnp.int32(7)), shards)
batch, rows = mapped(jax.vmap(training, (0, None))), jnp.stack([slope(training, row, 7) for row in x])
np.testing.assert_array_equal(slope(batch, x, 7), rows)
for f in drawing:
    # One x for two offsets: its gradient is the sum of two.
    specs = {"in_specs": (P("a"), P("b")), "out_specs": P(("a", "b"))}
    two = mapped(lambda x, offsets: f(x, offsets[0]), **specs)
    expected = [sum(slope(f, shard, offset) for offset in range(2)) for shard in jnp.split(x, 2)]
    np.testing.assert_allclose(slope(two, x, jnp.arange(2)), jnp.concatenate(expected), rtol=1e-6)
# What differs between shards is not taken for the same.
try:
    jax.shard_map(partial(training, offset=7), mesh=mesh, in_specs=P("a"), out_specs=P())(x)
except ValueError as error:
    assert "replication" in str(error), error
else:
    raise AssertionError("taken for the same on every device")
"""
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", code], env=os.environ | flags, check=True)
