"""The passes over channels against docs/fused.md, followed literally and slowly: every bit must be the same.

Nothing here knows how the library computes. Where the text says fma, the C library's is called.
"""

import ctypes
import ctypes.util

import numpy as np
import pytest
from conftest import unpacked

import drop_activation as da

C = ctypes.CDLL(ctypes.util.find_library("m"))
C.fmaf.restype, C.fmaf.argtypes = ctypes.c_float, [ctypes.c_float] * 3
C.fma.restype, C.fma.argtypes = ctypes.c_double, [ctypes.c_double] * 3
FMA = {np.dtype("float32"): np.frompyfunc(C.fmaf, 3, 1), np.dtype("float64"): np.frompyfunc(C.fma, 3, 1)}


def fma(a, b, c):
    real = np.asarray(c).dtype
    return np.asarray(FMA[real](a, b, c)).astype(real)


def halved(accumulators, take_up):
    """Section 4: for s = 16, 8, 4, 2, 1, accumulator i takes up i + s, where that one has taken anything at all."""
    for s in (16, 8, 4, 2, 1):
        for i in range(s):
            if accumulators[i + s] is not None:
                accumulators[i] = take_up(accumulators[i], accumulators[i + s])
    return accumulators[0]


def summed(elements, accumulated, take_up, group_of, group_takes):
    """Section 4 for one channel: chunks of 1024 in 32 accumulators, then groups of chunks in f64."""
    groups = [None] * 32
    for k in range(0, len(elements[0]), 1024):
        chunk = [e[k : k + 1024] for e in elements]
        taken = [[e[a::32] for e in chunk] for a in range(32)]
        result = halved([accumulated(*t) if len(t[0]) else None for t in taken], take_up)
        g = k // 1024 % 32
        groups[g] = group_of(result) if groups[g] is None else group_takes(groups[g], result)
    return halved(groups, group_takes)


def f64(values):
    return tuple(np.float64(v) for v in values)


def sums(dz, centred):
    real = dz.dtype.type

    def accumulated(dzs, xs):
        s1 = s2 = real(0)
        for d, x in zip(dzs, xs, strict=True):
            s1, s2 = s1 + d, fma(d, x, s2)[()]
        return s1, s2

    def add(a, b):
        return tuple(i + j for i, j in zip(a, b, strict=True))

    s = summed((dz, centred), accumulated, add, lambda r: add(f64((0, 0)), f64(r)), lambda g, r: add(g, f64(r)))
    return [real(v) for v in s]


def statistics(x):
    real = x.dtype.type

    def accumulated(xs):
        n, k, s, q = real(len(xs)), xs[0], real(0), real(0)
        for v in xs[1:]:
            d = v - k
            s, q = s + d, fma(d, d, q)[()]
        d = s / n
        m = fma(-s, d, q)[()]
        return n, k, d, (m if m != m else max(m, real(0)))

    def take_up(a, b):
        (na, ka, da_, ma), (nb, kb, db, mb) = a, b
        w, e = nb / (na + nb), (kb - ka) + (db - da_)
        return na + nb, ka, fma(e, w, da_)[()], fma(e * e, na * w, ma + mb)[()]

    n, k, d, m = summed((x,), accumulated, take_up, f64, lambda g, r: take_up(g, f64(r)))
    return real(k + d), real(m / n)


def channels(array, axis):
    """A channel's elements in memory order, for each channel."""
    return np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)


def same(given, expected):
    expected = np.asarray(expected, given.dtype)
    assert given.shape == expected.shape
    assert given.tobytes() == expected.tobytes()


SHAPES = [
    ((1, 1), 1),
    ((33, 17), 1),
    ((1, 64), 1),
    ((1100, 3), 1),
    ((5, 3, 7, 7), 1),
    ((3, 2, 45, 46), 1),
    ((2, 56, 56, 1), 3),
    # 33 chunks and 65: two and three in a group.
    ((33 * 1024 - 5, 1), 1),
    ((65, 1, 1023), 1),
]


def case(shape, axis, dtype, about=0.0):
    random = np.random.default_rng(shape)
    x, r, dy = (random.normal(at, size=shape).astype(dtype) for at in (about, 0, 0))
    real = "float64" if dtype == "float64" else "float32"
    vectors = [random.normal(size=shape[axis]).astype(real) for _ in range(6)]
    wide = [1] * len(shape)
    wide[axis] = -1
    return x, r, dy, vectors, [v.reshape(wide) for v in vectors], np.dtype(real)


@pytest.mark.parametrize("shape, axis", SHAPES)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("about", [0.0, 1000.0])
def test_statistics(shape, axis, dtype, about):
    x, *_, real = case(shape, axis, dtype, about)
    mean, variance = da.statistics(x, axis=axis)
    expected = [statistics(c) for c in channels(x.astype(real), axis)]
    same(mean, [e[0] for e in expected])
    same(variance, [e[1] for e in expected])


@pytest.mark.parametrize("shape, axis", SHAPES)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_relu_forward_and_backward(shape, axis, dtype):
    x, r, dy, vectors, wide, real = case(shape, axis, dtype)
    neighbours = {"scale": vectors[0], "shift": vectors[1], "residual": r, "axis": axis}
    xs, rs, dys = (t.astype(real) for t in (x, r, dy))
    z = fma(wide[0], xs, wide[1]) + rs

    y, mask = da.fused_forward(x, 0.8, seed=5, offset=6, **neighbours)
    keep = unpacked(da.keep_mask(x.size, 0.8, seed=5, offset=6), x.size).reshape(shape).astype(bool)
    passed = ~(keep & (z <= 0))
    same(y, np.where(passed, z, 0).astype(dtype))
    assert (unpacked(mask, x.size).reshape(shape) == passed).all()
    same(da.fused_infer(x, 0.8, **neighbours), np.where(z <= 0, real.type(1 - np.float64(0.8)) * z, z).astype(dtype))

    dz = np.where(passed, dys, real.type(0))
    mean, alpha, beta, gamma = wide[2:]
    centred = xs - mean
    dr = np.empty_like(dy)
    s1, s2 = da.fused_sums(dy, mask, x, p=0.8, mean=vectors[2], out=dr, axis=axis)
    same(dr, dz.astype(dtype))
    expected = [sums(*c) for c in zip(channels(dz, axis), channels(centred, axis), strict=True)]
    same(s1, [e[0] for e in expected])
    same(s2, [e[1] for e in expected])
    given = {"mean": vectors[2], "alpha": vectors[3], "beta": vectors[4], "gamma": vectors[5]}
    dx = da.fused_backward(dy, mask, x, p=0.8, axis=axis, **given)
    same(dx, fma(alpha, dz, fma(beta, centred, gamma)).astype(dtype))
