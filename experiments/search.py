"""What was looked at before the plan was made: searches for schedules, and pilots for the number of seeds.

Both are measured on validation images, and with seeds that no rung counts.
"""

import numpy as np

from . import table
from .activations import title
from .plan import Rung
from .results import Results
from .stats import Interval, pairs_needed, upper_deviation

#: The difference of test errors, in points, that the rungs are to tell apart, and how surely they are to find it.
DIFFERENCE, POWER = 0.3, 0.8
#: A training error, in percent, below which a network counts as one that fits its training data.
FITTED = 0.5


def report(rung: Rung, results: Results) -> str:
    """The errors of each schedule, which of them is the rung's, and how many pairs its scatter asks for."""
    rows, best = [], None
    for cell in rung.cells:
        of = {a: table.values(rung, results, cell, a) for a in cell.activations}
        if not all(of.values()):
            continue
        worst = max(table.values(rung, results, cell, "relu", "train_error"))
        mean = sum(sum(v) / len(v) for v in of.values()) / len(of)
        errors = [Interval.of(v).text() for v in of.values()]
        needs = []
        for a in cell.activations:
            if a != "relu":
                differences = [x - y for x, y in table.pairs(rung, results, cell, a, "relu")]
                needs.append(_needs(differences))
        rows.append([cell.label, str(min(map(len, of.values()))), f"{worst:.2f}", *errors, *needs])
        if worst < FITTED and (best is None or mean < best[0]):
            best = mean, cell.label
    activations = [title(a) for a in rung.cells[0].activations]
    scatters = [f"deviation of {a} less ReLU: pairs" for a in activations if a != "ReLU"]
    head = ["schedule", "seeds", "ReLU's highest training error (%)", *activations, *scatters]
    chosen = f"\nLeast mean of the activations, among those that ReLU fits: {best[1]}.\n" if best else ""
    return table.markdown(head, rows) + chosen


def _needs(differences) -> str:
    """The standard deviation of the differences, an upper bound of it, and the pairs for both."""
    if len(differences) < 3:
        return "too few"
    deviation, upper = float(np.std(differences, ddof=1)), upper_deviation(differences)
    counts = [pairs_needed(d, DIFFERENCE, power=POWER) for d in (deviation, upper)]
    return f"{deviation:.2f} (at most {upper:.2f}, 80 %): {counts[0]} ({counts[1]})"
