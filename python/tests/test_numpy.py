"""The operations on arrays, against the vectors of the mask stream and the definitions in numpy."""

import subprocess
import sys
import threading
import time

import ml_dtypes
import numpy as np
import pytest
from activations import DEFINITIONS
from conftest import unpacked

import drop_activation as da

KEY = {"seed": 7, "offset": 3}
DTYPES = [np.float16, np.float32, np.float64, ml_dtypes.bfloat16]


def arrays(dtype, n=5003):
    """x and dy, of numbers that every type holds exactly, x with zeros."""
    i = np.arange(n)
    return ((i * 37 % 97 - 48) / 16).astype(dtype), ((i * 29 % 61 - 30) / 8).astype(dtype)


def assert_close(got, expected):
    # Terms of order 1, each rounded, σ' before its product with dy; in float64 σ is within 8 ulp.
    tolerance = max(2 * float(ml_dtypes.finfo(got.dtype).eps), 1e-14)
    np.testing.assert_allclose(got.astype(float), expected, rtol=tolerance, atol=tolerance)


def test_keep_words_are_the_vectors(vectors):
    assert vectors["keep"]
    for vector in vectors["keep"]:
        expected = np.array([int(word, 16) for word in vector["keep_words"]], np.uint32)
        key = int(vector["seed"]), int(vector["offset"]), int(vector["first"])
        words = da.keep_mask(32 * len(expected), vector["p"], *key)
        assert words.dtype == np.uint32
        np.testing.assert_array_equal(words, expected)


@pytest.mark.parametrize("activation", da.ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_drop_activation_is_its_definition(dtype, activation):
    x, dy = arrays(dtype)
    wide, wide_dy = x.astype(float), dy.astype(float)
    (sigma, derivative), p, n = DEFINITIONS[activation], 0.75, x.size
    keep = unpacked(da.keep_mask(n, p, **KEY, first=64), n)

    y, mask = da.forward(x, p, **KEY, first=64, activation=activation)
    assert y.dtype == x.dtype and mask.dtype == np.uint32 and mask.shape == ((n + 31) // 32,)
    assert_close(y, np.where(keep, sigma(wide), wide))
    np.testing.assert_array_equal(unpacked(mask, n), ~(keep & (wide <= 0)) if activation == "relu" else keep)

    dx = da.backward(dy, mask, None if activation == "relu" else x, p=p, activation=activation)
    assert_close(dx, np.where(keep, wide_dy * derivative(wide), wide_dy))
    assert_close(da.infer(x, p, activation=activation), (1 - p) * wide + p * sigma(wide))
    expected = wide_dy * ((1 - p) + p * derivative(wide))
    assert_close(da.infer_backward(dy, x, p, activation=activation), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_others_are_their_definitions(dtype):
    x, dy = arrays(dtype)
    wide, wide_dy = x.astype(float), dy.astype(float)
    keep = unpacked(da.keep_mask(x.size, 0.75, **KEY), x.size)
    y = da.forward_without_mask(x, 0.75, **KEY)
    assert_close(y, np.where(keep & (wide <= 0), 0, wide))
    assert_close(da.backward_from_output(dy, y), np.where(y.astype(float) == 0, 0, wide_dy))

    y = da.relu_forward(x)
    assert_close(y, np.maximum(wide, 0))
    assert_close(da.relu_backward(dy, y), np.where(wide > 0, wide_dy, 0))

    y, mask = da.rrelu_forward(x, 0.25, 0.5, **KEY)
    np.testing.assert_array_equal(unpacked(mask, x.size), wide >= 0)
    ones = np.ones_like(x)
    slopes = da.rrelu_backward(ones, mask, 0.25, 0.5, **KEY).astype(float)
    negative = wide < 0
    assert (slopes[~negative] == 1).all() and 0.249 < slopes[negative].min() < 0.26
    assert 0.49 < slopes[negative].max() <= 0.5
    eps = float(ml_dtypes.finfo(x.dtype).eps)
    np.testing.assert_allclose(y.astype(float), wide * slopes, rtol=2 * max(eps, 1e-7))
    assert_close(da.rrelu_infer(x, 0.25, 0.5), np.where(negative, 0.375 * wide, wide))
    assert_close(da.rrelu_infer_backward(dy, x, 0.25, 0.5), np.where(negative, 0.375 * wide_dy, wide_dy))


def test_shards_get_their_part_of_the_mask():
    x, _ = arrays(np.float32, 320)
    whole, mask = da.forward(x, 0.5, **KEY)
    for first in (0, 32, 288):
        part, part_mask = da.forward(x[first:], 0.5, **KEY, first=first)
        np.testing.assert_array_equal(part, whole[first:])
        np.testing.assert_array_equal(part_mask, mask[first // 32 :])


def test_in_place_is_the_same():
    x, dy = arrays(np.float32)
    y, mask = da.forward(x, **KEY)
    over = x.copy()
    result, _ = da.forward(over, **KEY, out=over)
    assert result is over
    np.testing.assert_array_equal(over, y)
    dx = da.backward(dy, mask)
    over = dy.copy()
    assert da.backward(over, mask, out=over) is over
    np.testing.assert_array_equal(over, dx)
    # dx may take the place of the saved tensor.
    expected, over = da.infer_backward(dy, x, activation="gelu"), x.copy()
    da.infer_backward(dy, over, activation="gelu", out=over)
    np.testing.assert_array_equal(over, expected)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (2, 3, 5)])
def test_any_shape(shape):
    x = np.full(shape, -1, np.float32)
    y, mask = da.forward(x, 1, **KEY)
    assert y.shape == shape and mask.shape == ((x.size + 31) // 32,)
    assert (y == 0).all() and da.backward(x, mask).shape == shape
    assert da.infer(x, 0).shape == shape


def test_special_values():
    x = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0], np.float32)
    y, mask = da.forward(x, 1, **KEY)
    assert np.isnan(y[0]) and y[1] == np.inf and not np.signbit(y[2:]).any() and (y[2:] == 0).all()
    np.testing.assert_array_equal(unpacked(mask, 5), [True, True, False, False, False])
    np.testing.assert_array_equal(da.backward(np.full(5, np.inf, np.float32), mask)[2:], [0, 0, 0])


class Exporter:
    """An array of somebody else's."""

    def __init__(self, array, device=(1, 0), version=True):
        self.array, self.device, self.version = array, device, version

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, **kwargs):
        if kwargs and not self.version:
            raise TypeError("no such arguments")
        return self.array.__dlpack__(**kwargs)


@pytest.mark.parametrize("version", [True, False])
def test_dlpack_without_a_copy(version):
    x, _ = arrays(np.float32)
    expected, expected_mask = da.forward(x, **KEY)
    given = x.copy()
    y, mask = da.forward(Exporter(given, version=version), **KEY)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(mask, expected_mask)
    with pytest.raises(ValueError, match=r"x must be C-contiguous.*got shape \(2502,\)"):
        da.infer(Exporter(given[::2], version=version))
    with pytest.raises(ValueError, match="x must be on the CPU.*got type 2.*drop_activation.torch"):
        da.infer(Exporter(given, device=(2, 0)))


says_what_may_be_written = pytest.mark.skipif(
    np.lib.NumpyVersion(np.__version__) < "2.1.0", reason="SKIPPED: NumPy before 2.1 has no DLPack 1.0"
)


@says_what_may_be_written
def test_dlpack_that_may_be_written_is_an_output():
    x, _ = arrays(np.float32)
    expected, expected_mask = da.forward(x, **KEY)
    out = np.zeros_like(x)
    to = Exporter(out)
    y, mask = da.forward(Exporter(x), **KEY, out=to)
    assert y is to
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(mask, expected_mask)


def test_dlpack_that_does_not_say_whether_it_may_be_written_is_no_output():
    x = np.full(100, -1, np.float32)
    out = Exporter(x, version=False)
    words = "out must be writable, got a Exporter, whose DLPack is older than 1.0 and does not say whether it is"
    for given in [x, out]:
        with pytest.raises(ValueError, match=words):
            da.infer(given, 0.5, out=out)
    assert (x == -1).all()


@says_what_may_be_written
def test_dlpack_that_may_not_be_written_is_no_output():
    x = np.full(100, -1, np.float32)
    x.flags.writeable = False
    with pytest.raises(ValueError, match="out must be writable, got a read-only array"):
        da.infer(np.ones(100, np.float32), 0.5, out=Exporter(x))
    assert (x == -1).all()


def test_a_tensor_of_pytorchs_is_an_output():
    torch = pytest.importorskip("torch", reason="SKIPPED: PyTorch is not installed")
    x = torch.full((100,), -1.0)
    assert da.infer(x, 0.5, out=x) is x
    assert (x == -0.5).all()


X = np.ones(100, np.float32)
READ_ONLY = np.ones(100, np.float32)
READ_ONLY.flags.writeable = False


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: da.infer([1.0]), TypeError, ["x must be a numpy array or an object with __dlpack__", "got a list"]),
        (lambda: da.infer(np.ones(3, np.int32)), TypeError, ["x must have dtype float32", "got int32"]),
        (lambda: da.infer(X.astype(">f4")), TypeError, ["x must have this machine's byte order", "got dtype '>f4'"]),
        (lambda: da.infer(np.ma.array(X)), TypeError, ["x must be", "got a masked array"]),
        (lambda: da.infer(X[::2]), ValueError, ["x must be C-contiguous", "numpy.ascontiguousarray", "got shape (50,) and strides (8,)"]),
        (lambda: da.infer(X.reshape(4, 25).T), ValueError, ["x must be C-contiguous", "got shape (25, 4)"]),
        (lambda: da.infer(np.frombuffer(bytes(9), np.uint8)[1:].view(np.float32)), ValueError, ["(x) must be at a multiple of 4", "got 0x"]),
        (lambda: da.infer(X, 1.5), ValueError, ["p ", "1.5"]),
        (lambda: da.infer(X, float("nan")), ValueError, ["p ", "NaN"]),
        (lambda: da.infer(X, "0.5"), TypeError, ["p must be a number, got a str"]),
        (lambda: da.infer(X, None), TypeError, ["p must be a number, got a NoneType"]),
        (lambda: da.infer(X, 10**400), ValueError, ["p must be a number that a float can hold"]),
        (lambda: da.infer(X, activation="elu"), ValueError, ["activation must be one of relu, sigmoid", "got 'elu'"]),
        (lambda: da.infer(X, activation=1), TypeError, ["activation must be", "got a int"]),
        (lambda: da.infer(X, out=READ_ONLY), ValueError, ["out must be writable"]),
        (lambda: da.infer(X, out=X[:50]), ValueError, ["out must have the shape of x, (100,), got (50,)"]),
        (lambda: da.infer(X, out=np.ones(100)), TypeError, ["out must have the dtype of x, float32, got float64"]),
        (lambda: da.infer(np.ones(101, np.float32)[:100], out=3), TypeError, ["out must be", "got a int"]),
        (lambda: overlapping(), ValueError, ["output (y)", "must not overlap", "input (x)"]),
        (lambda: da.forward(X, seed=-1, offset=0), ValueError, ["seed must be from 0 to 18446744073709551615, got -1"]),
        (lambda: da.forward(X, seed=0, offset=2**64), ValueError, ["offset must be", "got 18446744073709551616"]),
        (lambda: da.forward(X, seed=0, offset=1.5), TypeError, ["offset must be an integer, got a float"]),
        (lambda: da.forward(X, seed=0, offset=0, first=5), ValueError, ["first ", " 5", "of 32"]),
        (lambda: da.forward(X, seed=0, offset=0, first=2**64 - 64), ValueError, ["first", "100 elements"]),
        (lambda: da.backward(X, np.zeros(4, np.int64)), TypeError, ["mask must have dtype uint32, got int64"]),
        (lambda: da.backward(X, np.zeros(3, np.uint32)), ValueError, ["mask must have shape (4,), for the 100 elements of dy, got (3,)"]),
        (lambda: da.backward(X, np.zeros(8, np.uint32)[::2]), ValueError, ["mask must be C-contiguous", "got shape (4,) and strides (8,)"]),
        (lambda: da.backward(X, None, activation="relu"), TypeError, ["mask must be", "got a NoneType"]),
        (lambda: da.backward(X, np.zeros(4, np.uint32), activation="gelu"), ValueError, ["x must be", "gelu", "got None"]),
        (lambda: da.infer_backward(X, X[:50]), ValueError, ["x must have the shape of dy, (100,), got (50,)"]),
        (lambda: da.rrelu_infer(X, 0, 1), ValueError, ["lower = 0", "0 < lower <= upper <= 1"]),
        (lambda: da.keep_mask(-1, 0.5, 0, 0), ValueError, ["n must be from 0", "got -1"]),
        (lambda: da.keep_mask(1.5, 0.5, 0, 0), TypeError, ["n must be an integer, got a float"]),
    ],
)
def test_mistakes_are_named(call, error, words):
    before = X.copy()
    with pytest.raises(error) as caught:
        call()
    assert all(word in str(caught.value) for word in words), str(caught.value)
    np.testing.assert_array_equal(X, before)


class Liar(np.ndarray):
    """Of another shape, type and place than it says."""

    shape = property(lambda self: (1 << 40,))
    dtype = property(lambda self: np.dtype(np.float64))
    flags = property(lambda self: READ_ONLY.flags)
    __array_interface__ = property(lambda self: {"data": (64, False)})

    def view(self, *_):
        return self


def test_a_subclass_is_what_it_is_and_not_what_it_says():
    liar = np.ndarray.view(X.copy() - 3, Liar)
    y = da.infer(liar, 0.75)
    assert type(y) is np.ndarray
    np.testing.assert_array_equal(y, (X - 3) / 4)
    da.infer(X - 7, 0.5, out=liar)
    np.testing.assert_array_equal(np.ndarray.view(liar, np.ndarray), (X - 7) / 2)
    with pytest.raises(ValueError, match=r"mask must have shape \(7,\).*got \(4,\)"):
        da.backward(np.ones(200, np.float32), np.ndarray.view(np.zeros(4, np.uint32), Liar))


def overlapping():
    memory = np.ones(101, np.float32)
    return da.infer(memory[:100], out=memory[1:])


def test_the_interpreter_goes_on_meanwhile():
    # No thread is made to give the interpreter's lock away, and this one does so in the call alone: only if the call
    # gives it away does the other thread count between the two looks.
    x, counts, stop = np.ones(1 << 22, np.float64), [0], threading.Event()

    def count():
        while not stop.is_set():
            counts[0] += 1
            time.sleep(0)

    da.infer(x, activation="gelu", out=x)  # what is imported at the first call is imported
    thread, interval = threading.Thread(target=count), sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        thread.start()
        counted = 0
        for _ in range(50):
            before = counts[0]
            da.infer(x, activation="gelu", out=x)
            counted = counts[0] - before
            if counted:
                break
    finally:
        stop.set()
        sys.setswitchinterval(interval)
        thread.join()
    assert counted


def test_importing_needs_no_torch():
    code = "import sys, drop_activation; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
