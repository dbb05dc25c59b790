"""The passes over channels on arrays, against numpy's own operations with the same mask."""

import numpy as np
import pytest
from conftest import unpacked

import drop_activation as da

KEY = {"seed": 3, "offset": 4}
SHAPES = [((64, 5), 1), ((6, 5, 7, 9), 1), ((6, 7, 9, 5), -1), ((5, 300), 0)]
TOLERANCE = {"float16": 2e-3, "float32": 1e-5, "float64": 1e-13}


def case(shape, axis, dtype):
    random = np.random.default_rng(1)
    x, r, dy = (random.normal(size=shape).astype(dtype) for _ in range(3))
    real = "float64" if dtype == "float64" else "float32"
    vectors = [random.normal(size=shape[axis]).astype(real) for _ in range(6)]
    wide = [1] * len(shape)
    wide[axis] = -1
    return x, r, dy, vectors, [v.astype("float64").reshape(wide) for v in vectors]


def near(given, expected, dtype):
    scale = max(1.0, np.abs(expected).max())
    assert np.abs(given.astype("float64") - expected).max() <= TOLERANCE[dtype] * scale


@pytest.mark.parametrize("shape, axis", SHAPES)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_passes_are_numpy_s(shape, axis, dtype, activation):
    x, r, dy, vectors, wide = case(shape, axis, dtype)
    scale, shift, mean, alpha, beta, gamma = vectors
    others = tuple(i for i in range(len(shape)) if i != axis % len(shape))
    z = wide[0] * x.astype("float64") + wide[1] + r
    value = np.maximum(z, 0) if activation == "relu" else np.tanh(z)
    slope = (z > 0).astype("float64") if activation == "relu" else 1 - np.tanh(z) ** 2
    neighbours = {"scale": scale, "shift": shift, "residual": r, "axis": axis, "activation": activation}
    # Where z is near 0, its rounding decides what ReLU does.
    clear = np.abs(z) > TOLERANCE[dtype]

    y, mask = da.fused_forward(x, 0.7, **KEY, **neighbours)
    keep = da.keep_mask(x.size, 0.7, **KEY)
    kept = unpacked(keep, x.size).reshape(shape)
    near(y, np.where(kept, value, z), dtype)
    bits = unpacked(mask, x.size).reshape(shape)
    assert ((bits == (~kept | (z > 0) if activation == "relu" else kept)) | ~clear).all()
    near(da.fused_infer(x, 0.7, **neighbours), 0.3 * z + 0.7 * value, dtype)

    given = (bits if activation == "relu" else np.where(kept, slope, 1)) * dy.astype("float64")
    dr = np.empty_like(dy)
    s1, s2 = da.fused_sums(dy, mask, x, p=0.7, mean=mean, out=dr, **neighbours)
    near(dr, given, dtype)
    near(s1, given.sum(others), dtype)
    near(s2, (given * (x - wide[2])).sum(others), dtype)
    assert da.fused_sums(dy, mask, x, p=0.7, **neighbours)[1] is None
    dx = da.fused_backward(dy, mask, x, p=0.7, alpha=alpha, beta=beta, gamma=gamma, mean=mean, **neighbours)
    near(dx, wide[3] * given + wide[4] * (x - wide[2]) + wide[5], dtype)
    dx = da.fused_backward(dy, None, x, source="inference", p=0.7, **neighbours)
    near(np.where(clear, dx, 0), np.where(clear, dy * (0.3 + 0.7 * slope), 0), dtype)
    near(da.fused_backward(dy, source="given", alpha=alpha, axis=axis), wide[3] * dy, dtype)

    got = da.statistics(x, axis=axis)
    near(got[0], x.astype("float64").mean(others), dtype)
    near(got[1], x.astype("float64").var(others), dtype)


def test_a_mean_far_from_zero_leaves_the_variance_its_digits():
    x = (1000 + np.random.default_rng(2).normal(size=(4096, 3))).astype("float32")
    mean, variance = da.statistics(x)
    assert np.abs(mean / x.astype("float64").mean(0) - 1).max() < 1e-7
    assert np.abs(variance / x.astype("float64").var(0) - 1).max() < 1e-5


@pytest.mark.parametrize("shape", [(0, 3, 2), (4, 3, 0), (0, 3, 0), (4, 3, 5, 0)])
def test_nothing_has_nothing(shape):
    x = np.empty(shape, "float32")
    y, mask = da.fused_forward(x, **KEY, scale=np.ones(3, "float32"), residual=x)
    assert y.shape == shape and mask.shape == (0,)
    assert da.fused_infer(x).shape == da.fused_backward(x, mask).shape == shape
    s1, s2 = da.fused_sums(x, mask, x, mean=np.ones(3, "float32"))
    assert s1.tolist() == s2.tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="shape must have an element in each channel"):
        da.statistics(x)


X = np.ones((4, 3, 2), "float32")
MASK = da.fused_forward(X, **KEY)[1]
V = np.ones(3, "float32")


@pytest.mark.parametrize(
    "call, kind, words",
    [
        (lambda: da.fused_forward(X, **KEY, axis=3), ValueError, ["axis must be", "3 of them", "got 3"]),
        (lambda: da.fused_infer(X, axis=1.0), TypeError, ["axis must be an axis of x", "3 of them", "got a float"]),
        (lambda: da.fused_sums(X, MASK, axis=None), TypeError, ["axis must be an axis of dy", "got a NoneType"]),
        (lambda: da.statistics(X, axis=(1,)), TypeError, ["axis must be an axis of x", "got a tuple"]),
        (lambda: da.statistics(X[0, 0, 0, ...], axis=0), ValueError, ["axis must be an axis of x", "0 of them", "got 0"]),
        (lambda: da.fused_forward(X, **KEY, scale=V[:2]), ValueError, ["scale must have shape (3,)", "got (2,)"]),
        (lambda: da.fused_forward(X, **KEY, shift=V.astype("float64")), TypeError, ["shift must have dtype float32", "float64"]),
        (lambda: da.fused_forward(X, **KEY, residual=X[:2]), ValueError, ["residual must have the shape of x", "(2, 3, 2)"]),
        (lambda: da.fused_forward(X, 1.5, **KEY), ValueError, ["p must be in [0, 1]", "1.5"]),
        (lambda: da.fused_forward(X, **KEY, out=X[:2]), ValueError, ["out must have the shape of x"]),
        (lambda: da.fused_sums(X, MASK, source="none"), ValueError, ["source must be one of given", "'none'"]),
        (lambda: da.fused_sums(X, MASK, source=["given"]), TypeError, ["source must be one of given", "got a list"]),
        (lambda: da.fused_backward(X, MASK, source=None), TypeError, ["source must be one of", "got a NoneType"]),
        (lambda: da.fused_sums(X, MASK[:0]), ValueError, ["mask must have shape (1,)", "24 elements"]),
        (lambda: da.fused_sums(X, MASK, mean=V), ValueError, ["tensors.saved (x) must be", "got NULL"]),
        (lambda: da.fused_sums(X, source="inference"), ValueError, ["tensors.saved (x) must be", "got NULL"]),
        (lambda: da.fused_sums(X, MASK, activation="gelu"), ValueError, ["tensors.saved (x) must be", "got NULL"]),
        (lambda: da.fused_backward(X, MASK, X, beta=V, gamma=V), ValueError, ["mean must be given for this pass, got none"]),
        (lambda: da.fused_backward(X, MASK, X, gamma=V, mean=V), ValueError, ["beta must be given for this pass, got none"]),
        (lambda: da.statistics(X[:0]), ValueError, ["shape must have an element in each channel"]),
        (lambda: da.statistics(X.astype("int32")), TypeError, ["x must have dtype", "int32"]),
    ],
)
def test_mistakes_are_named(call, kind, words):
    with pytest.raises(kind) as error:
        call()
    for word in words:
        assert word in str(error.value)
