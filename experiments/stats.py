"""What a sample of differences says."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import stats


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean, and how far the interval of Student's t reaches to either side; nothing from a single value."""

    mean: float
    half: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float], level: float = 0.95) -> "Interval":
        values = np.asarray(values, float)
        half = None
        if len(values) > 1:
            half = float(stats.t.ppf(0.5 + level / 2, len(values) - 1) * stats.sem(values))
        return cls(float(values.mean()), half, len(values))

    def verdict(self) -> str:
        """Of a difference of errors a - b: whether a is better."""
        if self.half is None:
            return "one seed"
        if self.mean + self.half < 0:
            return "better"
        return "worse" if self.mean - self.half > 0 else "not told apart"

    def direction(self, than: float = 0.0) -> str:
        """The same without judging, against any number."""
        words = {"better": "lower", "worse": "higher"}
        verdict = dataclasses.replace(self, mean=self.mean - than).verdict()
        return words.get(verdict, verdict)

    def text(self, digits: int = 2) -> str:
        return f"{self.mean:.{digits}f}" + ("" if self.half is None else f" ± {self.half:.{digits}f}")


def pairs_needed(deviation: float, difference: float, level: float = 0.95, power: float = 0.8) -> int:
    """The least number of pairs whose t test, at that level, finds a true mean difference with that probability, if the
    differences of pairs have that standard deviation."""
    for count in range(2, 10_000):
        critical = stats.t.ppf(0.5 + level / 2, count - 1)
        shift = difference / deviation * math.sqrt(count)
        found = stats.nct.sf(critical, count - 1, shift) + stats.nct.cdf(-critical, count - 1, shift)
        if found >= power:
            return count
    raise ValueError(f"deviation must be one for which 10,000 pairs show {difference}, got {deviation}")


def deviation_bound(deviation: float, freedom: int, level: float = 0.8) -> float:
    """What the true deviation exceeds with a probability of 1 - level only, if that one was estimated: a pilot is
    small."""
    return float(deviation * math.sqrt(freedom / stats.chi2.ppf(1 - level, freedom)))


def sign_test(lower: int, count: int) -> float:
    """How likely fair coins are to fall as unevenly, to either side."""
    return float(stats.binomtest(lower, count).pvalue)
