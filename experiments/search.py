"""What was looked at before the plan was made: searches for schedules, and pilots for the number of seeds.

Both are measured on validation images, and with seeds that no rung counts.
"""

import textwrap

import numpy as np

from . import table
from .activations import title
from .plan import Rung
from .results import Results
from .stats import Interval, deviation_bound, pairs_needed

#: The difference of test errors, in points, that the rungs are to tell apart, and how surely they are to find it.
DIFFERENCE, POWER = 0.3, 0.8
#: A training error, in percent, below which a network counts as one that fits its training data.
FITTED = 0.5


def report(rung: Rung, results: Results) -> str:
    """The errors of each schedule, which of them is the rule's choice, and how many pairs their scatter asks for."""
    rows, best = [], None
    for cell in rung.cells:
        of = {a: table.values(results, cell, a) for a in cell.activations}
        if not all(of.values()):
            continue
        worst = max(table.values(results, cell, "relu", "train_error"))
        mean = sum(sum(v) / len(v) for v in of.values()) / len(of)
        errors = [Interval.of(v).text() for v in of.values()]
        rows.append([cell.label, str(min(map(len, of.values()))), f"{worst:.2f}", *errors])
        if worst < FITTED and (best is None or mean < best[0]):
            best = mean, cell.label
    names = [f"{title(a)} (%)" for a in rung.cells[0].activations]
    text = f"{rung.title[0].upper()}{rung.title[1:]}; errors on validation images:\n\n"
    text += table.markdown(["schedule", "seeds", "ReLU's highest training error (%)", *names], rows)
    text += (
        f"\nChosen: {best[1]}.\n" if best else "\nReLU fits its training images with none of them.\n" if rows else ""
    )
    return text + _scatter(rung, results)


def _scatter(rung, results) -> str:
    """The standard deviation of paired differences, of all schedules about one mean, and the pairs that it takes."""
    arms = [(cell, a) for cell in rung.cells for a in cell.activations if a != "relu"]
    differences = [x - y for cell, a in arms for x, y in table.pairs(results, cell, a, "relu")]
    freedom = len(differences) - 1
    if freedom < 3:
        return ""
    deviation = float(np.std(differences, ddof=1))
    bound = deviation_bound(deviation, freedom)
    pairs, more = (pairs_needed(d, DIFFERENCE, power=POWER) for d in (deviation, bound))
    text = (
        f"Differences scatter by {deviation:.2f} points from pair to pair ({freedom} degrees of freedom; with 80 % at "
        f"most {bound:.2f}): {DIFFERENCE} points take {pairs} pairs (at most {more})."
    )
    return textwrap.fill(text, 120) + "\n"
