"""Intervals and verdicts by hand and against published tables."""

import pytest

from experiments.stats import Interval, deviation_bound, pairs_needed, sign_test


def test_an_interval_is_that_of_the_tables():
    found = Interval.of([1, 2, 3, 4, 5])
    assert (found.mean, found.count) == (3, 5)
    assert found.half == pytest.approx(2.776 * 0.5**0.5, abs=1e-3)
    assert Interval.of([7]).half is None
    assert Interval.of([7]).text(1) == "7.0" and found.text() == "3.00 ± 1.96"


def test_a_verdict_needs_an_interval_without_zero():
    def verdict(mean, half):
        return Interval(mean, half, 3).verdict()

    assert verdict(-2, 1) == "better" and verdict(2, 1) == "worse"
    assert verdict(-1, 1) == verdict(0.5, 1) == "not told apart"
    assert verdict(-2, None) == "one seed"
    assert Interval(0.7, 0.1, 3).direction(1) == "lower" and Interval(0.95, 0.1, 3).direction(1) == "not told apart"


def test_pairs_are_those_of_cohens_tables():
    """The t test of paired differences, two-sided at 5 %, power 80 %: effects of 0.2, 0.5 and 0.8 deviations."""
    assert [pairs_needed(1, effect) for effect in (0.2, 0.5, 0.8)] == [199, 34, 15]
    assert pairs_needed(0.6, 0.3) == 34


def test_the_bound_of_a_deviation_is_the_chi_squared_tables():
    assert deviation_bound(3, 4) == pytest.approx(3 * (4 / 1.649) ** 0.5, abs=1e-3)


def test_signs_are_fair_coins():
    assert sign_test(5, 5) == pytest.approx(2 / 32) and sign_test(1, 4) == pytest.approx(10 / 16)
