"""docs/paper.md: its tables and verdicts are made from the results and the plan, so that they cannot differ.

Each stands between a line that names it and one that ends it. A rung's verdicts are said when it has all the seeds that
the plan gives it, and before that how many it has.
"""

import dataclasses
import pathlib
import re
from typing import Any, Iterator

from . import activations, pictures as drawing, plan, regression, search, table, theory
from .plan import Cell, Rung
from .results import Results
from .stats import Interval

BLOCK = re.compile(r"<!-- generated from experiments/results: (\S+) -->\n.*?<!-- end -->\n", re.S)
PAPERS = "drop-activation 0.95"


def page(text: str, folder: pathlib.Path, file: pathlib.Path = plan.FILE) -> str:
    """The page as it should be."""
    rungs = plan.rungs(file)

    def block(match):
        name = match[1]
        return f"<!-- generated from experiments/results: {name} -->\n\n{_content(name, folder, rungs)}\n<!-- end -->\n"

    return BLOCK.sub(block, text)


def _content(name, folder, rungs) -> str:
    if name == "summary":
        return _summary(folder, rungs)
    if name == "ladder":
        return _ladder(folder, rungs)
    if name in ("theory", "regression"):
        part = {"theory": theory, "regression": regression}[name]
        return part.report(part.read(folder))
    if name not in rungs:
        raise ValueError(f"block {name} of the page is no rung; there are {', '.join(rungs)}")
    rung = rungs[name]
    stored = Results(folder, name)
    if rung.level in ("pilot", "search"):
        return search.report(rung, stored)
    return report(rung, stored)


# A rung's own tables.


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two activations in a cell: the difference of their errors, over the pairs there are of those that are planned."""

    cell: Cell
    a: str
    b: str
    interval: Interval | None
    planned: int

    @property
    def complete(self) -> bool:
        return self.interval is not None and self.interval.count >= self.planned

    def verdict(self) -> str:
        """None before its time: a plan says with how many seeds it is spoken."""
        if self.complete:
            return self.interval.verdict()
        return f"{self.interval.count if self.interval else 0} of {self.planned} pairs"

    def text(self) -> str:
        return f"{self.interval.text()}: {self.verdict()}" if self.interval else self.verdict()


def compare(rung: Rung, results: Results, cell: Cell, a: str, b: str, figure: str = "test_error") -> Comparison:
    interval = table.difference(rung, results, cell, a, b, figure)
    return Comparison(cell, a, b, interval, len(rung.seeds))


def comparisons(rung: Rung, results: Results, b: str = "relu") -> Iterator[Comparison]:
    """Each other activation against one, in every cell."""
    for cell in rung.cells:
        for a in cell.activations:
            if a != b and b in cell.activations:
                yield compare(rung, results, cell, a, b)


def report(rung: Rung, results: Results) -> str:
    """How it is run, errors, and differences."""
    entries = [entry for entry in results.by_name.values()]
    rows = []
    for cell in rung.cells:
        for a in cell.activations:
            errors = {f: table.values(rung, results, cell, a, f) for f in ("test_error", "train_error", "running_error")}
            if not errors["test_error"]:
                continue
            texts = [Interval.of(values).text() for values in errors.values()]
            less = "" if a == "relu" else compare(rung, results, cell, a, "relu").text()
            rows.append([cell.label, activations.title(a), *texts, less])
    head = ["", "activation", "test error (%)", "training error (%)", "in training mode (%)", "test error less ReLU's"]
    text = _making(rung, results) + "\n"
    if rows:
        text += table.markdown(head, rows)
    if any("rrelu" in cell.activations for cell in rung.cells) and rows:
        text += "\n" + _against_rrelu(rung, results)
    if any(cell.run.get("shift_ratio") for cell in rung.cells) and rows:
        text += "\n" + _shift_ratios(rung, results)
    return text


def _against_rrelu(rung, results):
    rows = [
        [c.cell.label, c.text()] for c in comparisons(rung, results, "rrelu") if c.a == PAPERS and c.interval is not None
    ]
    return table.markdown(["", f"{activations.title(PAPERS)} less RReLU"], rows)


def _shift_ratios(rung, results):
    """At the end of training, against 1 and against the prediction."""
    rows = []
    for cell in rung.cells:
        for a in cell.activations:
            found = table.values(rung, results, cell, a, "shift_ratios")
            if len(found) < 2:
                continue
            module, inner = (Interval.of([ratios[-1][i] for ratios in found]) for i in range(2))
            predicted = predicted_ratio(a)
            complete = len(found) == len(rung.seeds)
            verdicts = [
                f"{i.direction(value)}" if complete else f"{len(found)} of {len(rung.seeds)} seeds"
                for i, value in ((module, 1.0), (inner, predicted))
            ]
            rows.append(
                [activations.title(a), module.text(3), verdicts[0], inner.text(3), f"{predicted:.3f}", verdicts[1]]
            )
    head = ["shift ratio at the end", "stage's output", "against 1", "before BN2", "predicted", "against it"]
    return table.markdown(head, rows)


def predicted_ratio(activation: str) -> float:
    kind, _, number = activation.partition(" ")
    if kind == "drop-activation":
        return theory.shift_ratio(float(number))
    return theory.dropout_shift_ratio(1 - float(number)) if kind == "relu+dropout" else 1.0


def _making(rung: Rung, results: Results) -> str:
    """The command, what was run, and on what."""
    runs = [run for _, run in rung.runs()]
    entries = [results.by_name[run.name] for run in runs if run.name in results.by_name]
    run = runs[0]
    device = {"cpu": "", "gpu": " --device cuda --minutes 4", "full": " --device cuda"}.get(rung.level, "")
    images = f"{run.train_images:,}" if run.train_images else "all"
    text = f"```sh\npython -m experiments run {rung.name}{device} --data DIR\n```\n\n"
    text += f"{run.data}, {images} training images"
    text += f", {100 * run.wrong_labels:.0f} % of their labels wrong" if run.wrong_labels else ""
    recipes = {run.recipe for run in runs}
    if len(recipes) == 1:
        text += f", {_recipe(run.recipe)}"
    text += f". Runs: {len(entries)} of {len(runs)}"
    if entries:
        seconds = sum(entry["seconds"] for entry in entries)
        machines = sorted({entry["machine"] for entry in entries})
        text += f", {seconds / 60:.0f} min in all; {'; '.join(machines)}"
    return text + ".\n"


def _recipe(recipe) -> str:
    text = f"{recipe.epochs} epochs, batches of {recipe.batch}, learning rate {recipe.rate:g}"
    if recipe.milestones:
        text += f" times {recipe.factor:g} after epochs {', '.join(map(str, recipe.milestones))}"
    else:
        text += " and a cosine to zero"
    return text + f", weight decay {recipe.weight_decay:g}"


# All rungs.


def _ladder(folder, rungs) -> str:
    """For each rung the command, the time and the training errors."""
    rows = []
    for rung in rungs.values():
        stored = Results(folder, rung.name)
        runs = [run for _, run in rung.runs()]
        entries = [stored.by_name[run.name] for run in runs if run.name in stored.by_name]
        each = f"{sum(entry['seconds'] for entry in entries) / len(entries):.0f} s" if entries else "not measured"
        fitted = "" if not entries else _fitted(rung, stored)
        rows.append([f"`{rung.name}`", rung.level, rung.title, f"{len(entries)} of {len(runs)}", each, fitted])
    head = ["rung", "kind", "what", "runs", "a run takes", "ReLU's training errors (%)"]
    return table.markdown(head, rows)


def _fitted(rung, results):
    errors = [e for cell in rung.cells for e in table.values(rung, results, cell, "relu", "train_error")]
    return f"{min(errors):.2f} to {max(errors):.2f}" if errors else ""


def _summary(folder, rungs) -> str:
    """Each claim with what was found."""
    lines = ["- Properties 5.1 and 5.2"]
    lines += [f"  - {line}" for line in theory.summary(theory.read(folder))]
    lines.append("- Figure 3: Drop-Activation predicts better than ReLU")
    lines += [f"  - {line}" for line in regression.summary(regression.read(folder))]
    lines.append("- Figure 2 and Tables 1 to 6: Drop-Activation's test error is lower than ReLU's, and than RReLU's")
    found = {"better": 0, "worse": 0, "not told apart": 0}
    for rung in rungs.values():
        if rung.level in ("pilot", "search"):
            continue
        stored = Results(folder, rung.name)
        for c in comparisons(rung, stored):
            if c.interval is None or not c.a.startswith("drop-activation"):
                continue
            lines.append(f"  - `{rung.name}`, {c.cell.label}: {activations.title(c.a)} less ReLU {c.text()}")
            if c.complete:
                found[c.verdict()] += 1
    counted = ", ".join(f"{count} {verdict}" for verdict, count in found.items())
    lines.append(f"  - of the comparisons with ReLU that have all their seeds: {counted}")
    return "\n".join(lines) + "\n"


def pictures(folder: pathlib.Path, file: pathlib.Path = plan.FILE) -> None:
    """Draws them beside the results."""
    drawing.theory(theory.read(folder), folder / "theory.svg")
    drawing.regression(regression.read(folder), folder / "regression.svg")
    for rung in plan.rungs(file).values():
        stored = Results(folder, rung.name)
        if rung.level not in ("pilot", "search") and stored.by_name:
            drawing.differences(list(comparisons(rung, stored)), folder / f"{rung.name}.svg")
