"""The activations by their definitions, from the table of all tests. All else goes by `drop_activation.ACTIVATIONS`."""

import json
import math
import pathlib

import numpy as np

_NAMES = {"exp": np.exp, "fabs": np.fabs, "pi": math.pi, "sqrt": np.sqrt, "tanh": np.tanh, "erfc": np.vectorize(math.erfc)}
_TABLE = json.loads((pathlib.Path(__file__).parents[2] / "tests/data/activations.json").read_text())


def _definition(function):
    return eval(f"lambda x: {function['formula']}", _NAMES)


#: σ and σ' of an array of float64.
DEFINITIONS = {
    "relu": (lambda x: np.maximum(x, 0), lambda x: (x > 0).astype(float)),
    **{name: (_definition(row["value"]), _definition(row["derivative"])) for name, row in _TABLE.items()},
}
