"""Figure 3: twenty noisy points of a function on [0, 10], a fully connected network of widths 1000, 800 and 200, ReLU
against Drop-Activation. Its training is the mean over masks of a squared error, as in Property 5.1."""

import json
import pathlib
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from . import activations, results, seeds, table
from .stats import Interval, sign_test

WIDTHS, POINTS, SEEDS = (1000, 800, 200), 20, 20
#: The paper names neither an optimiser nor a number of steps: Adam at 0.001.
STEPS, RATE = 500, 1e-3
ARMS = ("relu", "drop-activation 0.95")
GRID = np.linspace(0, 10, 200)
#: The constants of the second are ours, too.
FUNCTIONS = {
    "x sin x": lambda x: x * np.sin(x),
    "piecewise constant": lambda x: np.select([x < 10 / 3, x < 20 / 3], [-3.0, 3.0], 0.0),
}


def points(function: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The same for both activations."""
    random = np.random.default_rng([seed, list(FUNCTIONS).index(function)])
    x = random.uniform(0, 10, POINTS)
    return x, FUNCTIONS[function](x) + random.standard_normal(POINTS)


def fit(function: str, activation: str, seed: int, steps: int = STEPS, widths=WIDTHS) -> dict[str, Any]:
    """Mean squared errors: on the noisy points at inference, and from the function without noise on a grid."""
    x, y = points(function, seed)
    torch.manual_seed(seeds.seed(seed, "weights"))
    layers, inputs = [], 1
    for width in widths:
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        inputs = width
    network = activations.replace(nn.Sequential(*layers, nn.Linear(inputs, 1)), activation)
    optimizer = torch.optim.Adam(network.parameters(), RATE)
    column, target = _column(x), torch.tensor(y, dtype=torch.float32).unsqueeze(1)
    torch.manual_seed(seeds.seed(seed, "masks"))
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (network(column) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    network.eval()
    with torch.no_grad():
        curve = network(_column(GRID)).squeeze(1).numpy().astype(float)
        train = (network(column) - target).square().mean().item()
    test = float(np.square(curve - FUNCTIONS[function](GRID)).mean())
    return {"train": train, "test": test, "losses": [losses[0], losses[-1]], "curve": curve.round(3).tolist()}


def _column(x):
    """[0, 10] as [-1, 1]."""
    return torch.tensor(x / 5 - 1, dtype=torch.float32).unsqueeze(1)


def measure(folder: pathlib.Path = results.FOLDER) -> None:
    """Writes regression.json, with the curves of the first seed."""
    runs = [(function, seed, activation) for seed in range(SEEDS) for function in FUNCTIONS for activation in ARMS]
    rows = []
    for function, seed, activation in tqdm(runs, "regression", disable=None):
        found = fit(function, activation, seed)
        if seed:
            del found["curve"]
        rows.append({"function": function, "activation": activation, "seed": seed, **found})
    (folder / "regression.json").write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")


def read(folder: pathlib.Path) -> list[dict]:
    return json.loads((folder / "regression.json").read_text())


def _errors(rows, function, activation, what="test"):
    found = [row for row in rows if (row["function"], row["activation"]) == (function, activation)]
    return np.array([row[what] for row in sorted(found, key=lambda row: row["seed"])])


def _differences(rows, function):
    return _errors(rows, function, ARMS[1]) - _errors(rows, function, ARMS[0])


def report(rows: list[dict]) -> str:
    """Means, and what does not trust in them."""
    means, ranks = [], []
    for function in FUNCTIONS:
        for activation in ARMS:
            train, test = (Interval.of(_errors(rows, function, activation, what)) for what in ("train", "test"))
            errors = _errors(rows, function, activation)
            less, lower = "", ""
            if activation != "relu":
                differences = _differences(rows, function)
                interval = Interval.of(differences)
                less = f"{interval.text(3)}: {interval.verdict()}"
                count = int((differences < 0).sum())
                lower = f"with {count} of {len(differences)} seeds ({sign_test(count, len(differences)):.3f})"
            name = activations.title(activation)
            means.append([function, name, train.text(3), test.text(3), less])
            ranks.append([function, name, f"{np.median(errors):.2f}", f"{errors.max():.2f}", lower])
    return (
        table.markdown(["function", "activation", "training error", "test error", "less ReLU's"], means)
        + "\n"
        + table.markdown(
            ["function", "activation", "median test error", "worst", "lower than ReLU's (sign test)"], ranks
        )
    )


def summary(rows: list[dict]) -> list[str]:
    lines = []
    for function in FUNCTIONS:
        interval = Interval.of(_differences(rows, function))
        lines.append(f"{function}: {interval.text(3)}, {interval.verdict()}")
    return lines
