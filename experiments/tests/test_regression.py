"""Figure 3, small."""

import numpy as np

from experiments import regression


def test_it_fits_and_is_paired():
    for function in regression.FUNCTIONS:
        relu, ours, one = (
            regression.fit(function, a, 3, steps=150, widths=(64, 32))
            for a in ("relu", "drop-activation 0.9", "drop-activation 1")
        )
        for found in (relu, ours):
            assert found["losses"][1] < 0.8 * found["losses"][0] and np.isfinite(found["test"])
        assert relu["losses"] == one["losses"] != ours["losses"]
        assert regression.fit(function, "relu", 4, steps=1, widths=(64, 32))["losses"][0] != relu["losses"][0]


def test_the_tables_are_the_rows():
    def rows(tests):
        for function in regression.FUNCTIONS:
            for activation, errors in zip(regression.ARMS, tests):
                for seed, error in enumerate(errors):
                    yield {"function": function, "activation": activation, "seed": seed, "train": 1.0, "test": error}

    better = list(rows(([3.0, 4.0, 5.0], [2.0, 3.1, 3.9])))
    assert regression.summary(better) == [f"{f}: -1.000 ± 0.248, better" for f in regression.FUNCTIONS]
    assert "with 3 of 3 seeds (0.250)" in regression.report(better)
    assert "not told apart" in regression.report(list(rows(([3.0, 4.0, 5.0], [2.0, 9.0, 3.9]))))
