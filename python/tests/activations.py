"""The activations by their definitions: the one table of the tests. All else goes by `drop_activation.ACTIVATIONS`."""

import math

import numpy as np

import drop_activation as da

_phi = np.vectorize(lambda x: math.erfc(-x / math.sqrt(2)) / 2)


def _logistic(x):
    return 1 / (1 + np.exp(-x))


#: σ and σ' of an array of float64.
DEFINITIONS = {
    "relu": (lambda x: np.maximum(x, 0), lambda x: (x > 0).astype(float)),
    "sigmoid": (_logistic, lambda x: _logistic(x) * (1 - _logistic(x))),
    "tanh": (np.tanh, lambda x: 1 / np.cosh(x) ** 2),
    "gelu": (lambda x: x * _phi(x), lambda x: _phi(x) + x * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)),
    "silu": (lambda x: x * _logistic(x), lambda x: _logistic(x) * (1 + x * (1 - _logistic(x)))),
}
assert tuple(DEFINITIONS) == da.ACTIVATIONS, "each activation has a row here"
