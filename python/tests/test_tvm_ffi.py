"""The library's functions for apache/tvm-ffi, called through its own runtime."""

import numpy as np
import pytest

import drop_activation
from drop_activation import ACTIVATIONS
from drop_activation import _library as library

tvm_ffi = pytest.importorskip("tvm_ffi", reason="SKIPPED: apache-tvm-ffi is not installed")

N = 1000


@pytest.fixture(scope="module")
def module():
    return tvm_ffi.load_module(library.path())


@pytest.fixture
def x():
    return np.random.default_rng(1).normal(size=N).astype(np.float32)


def empty_mask(n=N):
    return np.zeros((n + 31) // 32, np.uint32)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_a_training_step_is_numpys(activation, dtype, module, x):
    x = x.astype(dtype).reshape(10, 100)
    expected, expected_mask = drop_activation.forward(x, 0.75, seed=3, offset=7, first=32, activation=activation)
    y, mask, dx = np.zeros_like(x), empty_mask(), np.zeros_like(x)
    module.dact_forward(x, 7, y, mask, 0.75, activation, 3, 32)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(mask, expected_mask)
    module.dact_backward_saved(y, mask, x, dx, activation)
    np.testing.assert_array_equal(dx, drop_activation.backward(y, mask, x, activation=activation))


def test_offsets_may_be_in_tensors(module, x):
    _, expected = drop_activation.forward(x, 0.5, seed=0, offset=0x500000007)
    for offset in (np.array([7, 5], np.uint32), np.array([0x500000007], np.int64)):
        y, mask = np.zeros_like(x), empty_mask()
        module.dact_forward(x, offset, y, mask, 0.5, "relu", 0, 0)
        np.testing.assert_array_equal(mask, expected)


def test_pytorchs_tensors_are_taken_where_they_lie(module, x):
    torch = pytest.importorskip("torch", reason="SKIPPED: PyTorch is not installed")
    given = torch.from_numpy(x).bfloat16()
    y, mask = torch.zeros_like(given), torch.zeros((N + 31) // 32, dtype=torch.int32)
    module.dact_forward(given, 7, y, mask, 0.5, "relu", 3, 0)
    _, expected = drop_activation.forward(given.float().numpy(), 0.5, seed=3, offset=7)
    np.testing.assert_array_equal(mask.numpy().view(np.uint32), expected)
    kept = np.unpackbits(expected.view(np.uint8), bitorder="little", count=N).astype(bool)
    assert torch.equal(y, torch.where(torch.from_numpy(kept), given, 0))


@pytest.mark.parametrize(
    "kind, words, arguments",
    [
        (ValueError, "p must be in .0, 1., got 1.5", {"p": 1.5}),
        (TypeError, "x must have dtype float32, .* got dtype int32", {"x": np.zeros(N, np.int32)}),
        (ValueError, "x must be contiguous, row-major, got .* strides .2.", {"x": np.zeros(2 * N, "f4")[::2]}),
        (ValueError, "mask must have .* shape .32.,.* got dtype uint32, shape .31.", {"mask": empty_mask(N - 32)}),
        (TypeError, "y must be like x, .* got dtype float64", {"y": np.zeros(N)}),
        (TypeError, "x must be a tensor, got None", {"x": None}),
        (TypeError, "seed must be an integer of 64 bits, got", {"seed": 2**64 - 1}),
        (ValueError, "selu", {"activation": "selu"}),
    ],
)
def test_mistakes_are_pythons_errors(kind, words, arguments, module, x):
    given = {"x": x, "offset": 0, "y": np.zeros_like(x), "mask": empty_mask(), "p": 0.5, "activation": "relu"}
    given |= {"seed": 0, "first": 0} | arguments
    with pytest.raises(kind, match=words):
        module.dact_forward(*given.values())
    assert not given["y"].any()


def test_too_few_arguments_are_counted(module, x):
    with pytest.raises(TypeError, match="there must be 2 arguments, x, y, got 1"):
        module.dact_relu_forward(x)
