"""docs/paper.md: its tables and verdicts are made from the results and the plan, so that they cannot differ.

Each stands between a line that names it and one that ends it. A rung's verdicts are said when it has all the seeds that
the plan gives it, and before that how many it has.
"""

import collections
import dataclasses
import pathlib
import re
import textwrap
from collections.abc import Iterator

from . import activations, pictures, plan, regression, search, table, theory
from .plan import Cell, Rung
from .results import Results
from .stats import Interval

BLOCK = re.compile(r"<!-- generated from experiments/results: (\S+) -->\n.*?<!-- end -->\n", re.DOTALL)
PAPERS = "drop-activation 0.95"
#: The levels of the rungs that do not count.
SEARCHES = ("search", "pilot")


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
    if name == "rungs":
        return _rungs(folder, rungs)
    if name in ("theory", "regression"):
        part = {"theory": theory, "regression": regression}[name]
        return part.report(part.read(folder)) if _measured(name, folder) else "No results yet.\n"
    if name not in rungs:
        raise ValueError(f"block {name} of the page is no rung; there are {', '.join(rungs)}")
    rung = rungs[name]
    stored = Results(folder, name)
    if rung.level in SEARCHES:
        return search.report(rung, stored)
    return report(rung, stored)


def _measured(name, folder) -> bool:
    return (folder / f"{name}.json").exists()


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

    def verdict(self, direction: bool = False) -> str:
        """None before its time: a plan says with how many seeds it is spoken. Better or worse, or lower or higher."""
        if self.complete:
            return self.interval.direction() if direction else self.interval.verdict()
        return f"{self.interval.count if self.interval else 0} of {self.planned} pairs"

    def text(self, direction: bool = False) -> str:
        verdict = self.verdict(direction)
        return f"{self.interval.text()}: {verdict}" if self.interval else verdict


def compare(results: Results, cell: Cell, a: str, b: str, figure: str = "test_error") -> Comparison:
    interval = table.difference(results, cell, a, b, figure)
    return Comparison(cell, a, b, interval, len(cell.seeds))


def comparisons(rung: Rung, results: Results, b: str = "relu", figure: str = "test_error") -> Iterator[Comparison]:
    """Each other activation against one, in every cell."""
    for cell in rung.cells:
        for a in cell.activations:
            if a != b and b in cell.activations:
                yield compare(results, cell, a, b, figure)


def report(rung: Rung, results: Results) -> str:
    """How it is run, errors, and differences."""
    rows = []
    for cell in rung.cells:
        for a in cell.activations:
            errors = {f: table.values(results, cell, a, f) for f in ("test_error", "train_error", "running_error")}
            if not errors["test_error"]:
                continue
            texts = [Interval.of(values).text() for values in errors.values()]
            less = "" if a == "relu" else compare(results, cell, a, "relu").text()
            if rung.level == "gpu":
                texts.append(Interval.of(table.values(results, cell, a, "images_per_second")).text(0))
            rows.append([cell.label, activations.title(a), *texts, less])
    head = ["", "activation", "test error (%)", "training error (%)", "in training mode (%)"]
    head += [*(["images/s in training"] if rung.level == "gpu" else []), "test error less ReLU's"]
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
        [c.cell.label, c.text()]
        for c in comparisons(rung, results, "rrelu")
        if c.a == PAPERS and c.interval is not None
    ]
    return table.markdown(["", f"{activations.title(PAPERS)} less RReLU"], rows) if rows else ""


def _shift_ratios(rung, results):
    head = ["shift ratio at the end", "stage's output", "against 1", "before BN2", "against the prediction"]
    return table.markdown(head, _shift_ratio_rows(rung, results))


def _shift_ratio_rows(rung, results):
    """Of each activation, at both places, against 1 and against the prediction."""
    rows = []
    for cell in rung.cells:
        for a in cell.activations if cell.run.get("shift_ratio") else ():
            found = table.values(results, cell, a, "shift_ratios")
            if not found:
                continue
            texts = [activations.title(a)]
            for i, expected in enumerate((1.0, predicted_ratio(a))):
                interval = Interval.of([ratios[-1][i] for ratios in found])
                complete = len(found) == len(cell.seeds)
                verdict = interval.direction(expected) if complete else f"{len(found)} of {len(cell.seeds)} seeds"
                texts += [interval.text(3), f"{verdict} ({expected:.3f})"]
            rows.append(texts)
    return rows


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
    head = f"```sh\npython -m experiments run {rung.name}{device} --data DIR\n```\n\n"
    text = f"{run.data}, {images} training images"
    text += f", {100 * run.wrong_labels:.0f} % of their labels wrong" if run.wrong_labels else ""
    recipes = {run.recipe for run in runs}
    if len(recipes) == 1:
        text += f", {_recipe(run.recipe)}"
    text += f". Runs: {len(entries)} of {len(runs)}"
    if entries:
        seconds = sum(entry["seconds"] for entry in entries)
        machines = sorted({entry["machine"] for entry in entries})
        text += f", {seconds / 60:.0f} min in all; {'; '.join(machines)}"
    return head + textwrap.fill(text + ".", 120) + "\n"


def _recipe(recipe) -> str:
    text = f"{recipe.epochs} epochs, batches of {recipe.batch}, learning rate {recipe.rate:g}"
    if recipe.milestones:
        text += f" times {recipe.factor:g} after epochs {', '.join(map(str, recipe.milestones))}"
    else:
        text += " and a cosine to zero"
    return text + f", weight decay {recipe.weight_decay:g}"


# All rungs.


def _rungs(folder, rungs) -> str:
    """The sections of the rungs that count and have results."""
    sections = []
    for rung in rungs.values():
        stored = Results(folder, rung.name)
        if rung.level in SEARCHES or not any(run.name in stored.by_name for _, run in rung.runs()):
            continue
        section = f"### `{rung.name}`: {rung.title}\n\n{rung.about}{report(rung, stored)}"
        if _pictured(rung, stored):
            section += f"\n![{rung.name}](../experiments/results/{rung.name}.svg)\n"
        sections.append(section)
    return "\n".join(sections)


def _pictured(rung, results) -> list[Comparison]:
    """The comparisons that have an interval."""
    return [c for c in comparisons(rung, results) if c.interval and c.interval.half is not None]


def _ladder(folder, rungs) -> str:
    """For each rung the command, the time and the training errors."""
    rows = []
    for rung in rungs.values():
        stored = Results(folder, rung.name)
        runs = [run for _, run in rung.runs()]
        entries = [stored.by_name[run.name] for run in runs if run.name in stored.by_name]
        each = _takes(entries) if entries else f"expected: {rung.expected}"
        fitted = "" if not entries else _fitted(rung, stored)
        rows.append([f"`{rung.name}`", rung.level, rung.title, f"{len(entries)} of {len(runs)}", each, fitted])
    head = ["rung", "kind", "what", "runs", "a run takes", "ReLU's training errors (%)"]
    return table.markdown(head, rows)


def _takes(entries):
    """Of a thread's own time, where that was measured; else by the clock, of a core that others shared."""
    seconds = [entry["result"]["cpu_seconds"] for entry in entries if "cpu_seconds" in entry["result"]]
    if seconds:
        return f"{sum(seconds) / len(seconds):.0f} s"
    return f"{sum(entry['seconds'] for entry in entries) / len(entries):.0f} s, shared"


def _fitted(rung, results):
    errors = [e for cell in rung.cells for e in table.values(results, cell, "relu", "train_error")]
    return f"{min(errors):.2f} to {max(errors):.2f}" if errors else ""


def _summary(folder, rungs) -> str:
    """Each claim with what was found."""
    lines = []
    for part, claim in ((theory, "Properties 5.1 and 5.2"), (regression, "Figure 3: it predicts better than ReLU")):
        name = part.__name__.rpartition(".")[2]
        lines += _claim(claim, part.summary(part.read(folder)) if _measured(name, folder) else [])
    against_relu = [c for c in _counted(folder, rungs, "relu") if c.a.startswith("drop-activation")]
    against_rrelu = [c for c in _counted(folder, rungs, "rrelu") if c.a == PAPERS]
    training = [c for c in _counted(folder, rungs, "relu", "running_error") if c.a == PAPERS]
    lines += _claim("Figure 2, Tables 1 to 6: its test error is lower than ReLU's", _said(against_relu))
    lines += _claim("Tables 1 and 2: it is lower than RReLU's", _said(against_rrelu))
    lines += _claim("Figure 4: its training error, in training mode, is higher than ReLU's", _said(training, True))
    ratios = [row for rung in rungs.values() for row in _shift_ratio_rows(rung, Results(folder, rung.name))]
    lines += _claim("Figure 6: the shift ratio ends at 1", [f"{row[0]}: {row[1]}, {row[2]}" for row in ratios])
    return "\n".join(lines) + "\n"


def _claim(claim, found):
    return [f"- {claim}", *(f"  - {line}" for line in found or ["no results yet"])]


def _counted(folder, rungs, b, figure="test_error") -> Iterator[Comparison]:
    """Every comparison with results, once: rungs may have some in common."""
    seen = set()
    for rung in rungs.values():
        if rung.level in SEARCHES:
            continue
        for c in comparisons(rung, Results(folder, rung.name), b, figure):
            name = c.cell.of(c.a, 0).name
            if c.interval is not None and name not in seen:
                seen.add(name)
                yield c


def _said(comparisons: list[Comparison], direction=False) -> list[str]:
    """A line for each, and how often which verdict."""
    lines = [
        f"{c.cell.label}: {activations.title(c.a)} less {activations.title(c.b)} {c.text(direction)}"
        for c in comparisons
    ]
    counts = collections.Counter(c.verdict(direction) for c in comparisons if c.complete)
    if counts:
        said = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))
        lines.append(f"of the {counts.total()} that have all their pairs: {said}")
    return lines


def draw(folder: pathlib.Path, file: pathlib.Path = plan.FILE) -> None:
    """Draws them beside the results."""
    for part, picture in ((theory, pictures.theory), (regression, pictures.regression)):
        name = part.__name__.rpartition(".")[2]
        if _measured(name, folder):
            picture(part.read(folder), folder / f"{name}.svg")
    for rung in plan.rungs(file).values():
        stored = Results(folder, rung.name)
        if rung.level not in SEARCHES and (shown := _pictured(rung, stored)):
            pictures.differences(shown, folder / f"{rung.name}.svg")
