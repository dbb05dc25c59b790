"""The simulations of the theory part find what is so, and find out what is not."""

import pytest

from experiments import theory


def test_equation_15_is_what_the_paper_says():
    assert theory.shift_ratio(0.95) == pytest.approx(0.9377, abs=5e-5)
    assert theory.shift_ratio(0) == theory.shift_ratio(1) == 1
    assert 0.8 < min(theory.shift_ratio(i / 1000) for i in range(1001)) < 0.82
    assert theory.dropout_shift_ratio(0.5) == pytest.approx(0.4054, abs=1e-4)


def test_the_simulation_tells_the_penalty_from_the_printed_one():
    for p in (0.2, 0.8):
        found = theory.loss_over_masks(p, 4_000)
        rows = {k: {"mean": i.mean, "half": i.half, "predicted": predicted} for k, (i, predicted) in found.items()}
        assert theory.within(rows["5.1"])
        assert not theory.within(rows["printed"])


def test_the_simulated_ratio_is_equation_15():
    for p in (0.0, 0.5, 0.95):
        interval, predicted = theory.ratio_of_variances(p, 40)
        assert theory.within({"mean": interval.mean, "half": interval.half, "predicted": predicted})
        assert not theory.within({"mean": interval.mean, "half": interval.half, "predicted": predicted + 0.1})


def test_verdicts_are_the_rows():
    def row(name, predicted):
        return {"property": name, "p": 0.5, "mean": 1.0, "half": 0.1, "predicted": predicted}

    rows = [row("5.1", 1.05), row("5.1", 0.95), row("5.2", 1.0), row("printed", 1.05), row("printed", 2.0)]
    report = theory.report(rows)
    assert "| Property 5.1 without cross terms | 2 of 2 | holds |" in report
    assert "| Property 5.1, equation 10 as printed | 1 of 2 | does not hold |" in report
