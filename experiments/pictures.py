"""The pictures of docs/paper.md, drawn from the results."""

import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from . import activations
from . import regression as regressions
from . import theory as theories

# Equal results give equal files.
plt.rcParams.update({"svg.hashsalt": "drop-activation", "svg.fonttype": "none", "font.size": 9})


def _save(figure, path: pathlib.Path) -> None:
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def theory(rows: list[dict], path: pathlib.Path) -> None:
    figure, (loss, ratio) = plt.subplots(1, 2, figsize=(9, 3.5))
    of = {name: [row for row in rows if row["property"] == name] for name in theories.NAMES}
    for axes, name in ((loss, "5.1"), (ratio, "5.2")):
        p, mean, half = (np.array([row[what] for row in of[name]]) for what in ("p", "mean", "half"))
        axes.errorbar(p, mean, half, fmt=".", label="simulated")
        axes.set_xlabel("p")
    for name, words in (("5.1", "without cross terms"), ("printed", "equation 10 as printed")):
        loss.plot([row["p"] for row in of[name]], [row["predicted"] for row in of[name]], label=words)
    fine = np.linspace(0, 1, 200)
    ratio.plot(fine, [theories.shift_ratio(p) for p in fine], label="equation 15")
    ratio.plot(fine[1:], [theories.dropout_shift_ratio(p) for p in fine[1:]], label="ReLU, dropout keeping p")
    loss.set_title("Property 5.1: mean training loss")
    ratio.set_title("Property 5.2: shift ratio")
    for axes in (loss, ratio):
        axes.legend()
    _save(figure, path)


def regression(rows: list[dict], path: pathlib.Path) -> None:
    figure, all_axes = plt.subplots(1, 2, figsize=(9, 3.5))
    for axes, function in zip(all_axes, regressions.FUNCTIONS):
        axes.plot(regressions.GRID, regressions.FUNCTIONS[function](regressions.GRID), label="truth")
        for activation in regressions.ARMS:
            (row,) = (r for r in rows if (r["function"], r["activation"], r["seed"]) == (function, activation, 0))
            axes.plot(regressions.GRID, row["curve"], label=activations.title(activation))
        axes.plot(*regressions.points(function, 0), "k*", label="training points")
        axes.set_title(function)
        axes.legend()
    _save(figure, path)


def differences(shown: list, path: pathlib.Path) -> None:
    """Comparisons with ReLU, which have intervals; one that lacks pairs is grey."""
    figure, axes = plt.subplots(figsize=(7, 0.9 + 0.28 * len(shown)))
    for i, c in enumerate(reversed(shown)):
        axes.errorbar(c.interval.mean, i, xerr=c.interval.half, fmt="o", color="C0" if c.complete else "0.6", capsize=3)
    axes.axvline(0, color="k", linewidth=0.8)
    axes.set_yticks(range(len(shown)))
    axes.set_yticklabels([f"{c.cell.label}, {activations.title(c.a)}" for c in reversed(shown)])
    axes.set_xlabel("test error less ReLU's (points); 95 % intervals; grey: pairs are missing")
    _save(figure, path)
