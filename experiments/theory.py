"""Properties 5.1 and 5.2 by simulation with the operation itself, on the paper's terms: one hidden layer, and
independent standard normal inputs.

Property 5.1 does not hold as it is printed. With u the negative part of W1 x, which a dropped ReLU lets pass, the mean
over masks adds p (1 - p) sum_j |W2_j|^2 u_j^2 to the loss at inference, where W2_j is the column of hidden unit j: the
units are dropped independently, so that there are no cross terms. The paper's appendix derives that too, as a trace;
its next line, and equation 10, have p (1 - p) |sum_j W2_j u_j|^2 instead.
"""

import json
import math
import pathlib

import torch
from drop_activation.torch import drop_activation

from . import results, seeds, table
from .stats import Interval

INPUTS, HIDDEN, OUTPUTS, SAMPLES = 10, 64, 5, 8
#: Masks for each p of Property 5.1; ratios, each of so many inputs, for Property 5.2.
MASKS, RATIOS, INPUTS_EACH = 20_000, 200, 2_000
GRID = [i / 20 for i in range(21)]
#: The intervals hold for all p at once with 95 %.
LEVEL = 1 - 0.05 / len(GRID)
NAMES = {
    "5.2": "Property 5.2, equation 15",
    "5.1": "Property 5.1 without cross terms",
    "printed": "Property 5.1, equation 10 as printed",
}


def shift_ratio(p: float) -> float:
    """Equation 15."""
    return ((0.5 - 0.5 / math.pi) * p * p - p + 1) / (1 - 0.5 * p - 0.5 / math.pi * p * p)


def dropout_shift_ratio(keep: float) -> float:
    """The same for ReLU and then dropout that keeps with probability `keep`, by the same reckoning: in training the
    layer's output has the variance 1/(2 keep) - 1/(2 pi) for each squared weight."""
    return (0.5 - 0.5 / math.pi) / (0.5 / keep - 0.5 / math.pi)


def loss_over_masks(p: float, masks: int = MASKS) -> dict[str, tuple[Interval, float]]:
    """The training loss averaged over masks (expression 9), with its prediction without cross terms and as printed."""
    generator = seeds.generator("theory", "loss")
    x, y, first, second = (
        torch.randn(shape, dtype=torch.float64, generator=generator)
        for shape in ((SAMPLES, INPUTS), (SAMPLES, OUTPUTS), (INPUTS, HIDDEN), (HIDDEN, OUTPUTS))
    )
    hidden, second = x @ first / math.sqrt(INPUTS), second / math.sqrt(HIDDEN)
    output = drop_activation(hidden, p, training=False) @ second
    at_inference = (output - y).square().sum()
    printed = at_inference + (1 - p) / p * (hidden @ second - output).square().sum()
    added = (hidden.clamp(max=0).square() * second.square().sum(1)).sum()
    torch.manual_seed(seeds.seed("theory", "masks", p))
    losses = [
        (drop_activation(hidden.expand(100, -1, -1), p) @ second - y).square().sum((1, 2)) for _ in range(masks // 100)
    ]
    interval = Interval.of(torch.cat(losses).numpy(), LEVEL)
    return {"5.1": (interval, (at_inference + p * (1 - p) * added).item()), "printed": (interval, printed.item())}


def ratio_of_variances(p: float, ratios: int = RATIOS) -> tuple[Interval, float]:
    """The simulated ratio, and equation 15."""
    generator = seeds.generator("theory", "ratio")
    weights = torch.randn(HIDDEN, dtype=torch.float64, generator=generator)
    torch.manual_seed(seeds.seed("theory", "ratio masks", p))
    found = []
    for _ in range(ratios):
        x = torch.randn(INPUTS_EACH, HIDDEN, dtype=torch.float64, generator=generator)
        test, train = ((drop_activation(x, p, training=training) @ weights).var() for training in (False, True))
        found.append((test / train).item())
    return Interval.of(found, LEVEL), shift_ratio(p)


def measure(folder: pathlib.Path = results.FOLDER) -> None:
    """Writes theory.json: for each property, p, the simulated mean, half its interval, and what is predicted."""
    rows = []
    for p in GRID:
        found = {"5.2": ratio_of_variances(p)}
        if p > 0:  # equation 10 divides by it
            found |= loss_over_masks(p)
        rows += [
            {"property": name, "p": p, "mean": i.mean, "half": i.half, "predicted": predicted}
            for name, (i, predicted) in found.items()
        ]
    (folder / "theory.json").write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")


def read(folder: pathlib.Path) -> list[dict]:
    return json.loads((folder / "theory.json").read_text())


def within(row: dict) -> bool:
    """Whether the prediction is in the simulation's interval, which without randomness (p is 0 or 1) is a point."""
    return abs(row["mean"] - row["predicted"]) <= max(row["half"], 1e-9 * abs(row["predicted"]))


def _count(rows, name):
    found = [within(row) for row in rows if row["property"] == name]
    return sum(found), len(found), "holds" if all(found) else "does not hold"


def report(rows: list[dict]) -> str:
    lines = []
    for name, words in NAMES.items():
        inside, count, verdict = _count(rows, name)
        lines.append([words, f"{inside} of {count}", verdict])
    return table.markdown(["prediction", "values within the simulation's intervals", "so it"], lines)


def summary(rows: list[dict]) -> list[str]:
    lines = []
    for name, words in NAMES.items():
        inside, count, verdict = _count(rows, name)
        lines.append(f"{words}: {verdict} ({inside} of {count} values are within the simulation's intervals)")
    return lines
