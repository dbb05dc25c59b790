"""The rungs of plan.toml: what is compared, with how many seeds, decided before the runs."""

import dataclasses
import itertools
import pathlib
import tomllib
from typing import Any, Iterator

from .config import Run

FILE = pathlib.Path(__file__).with_name("plan.toml")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One place of a rung's table: runs that differ in activation and seed alone."""

    label: str
    #: The fields of a run that all have.
    run: dict[str, Any]
    activations: tuple[str, ...]

    def of(self, activation: str, seed: int) -> Run:
        return Run.of(**self.run, activation=activation, seed=seed)


@dataclasses.dataclass(frozen=True)
class Rung:
    name: str
    title: str
    #: "pilot" and "search" choose schedules and the number of seeds, on validation images; "cpu", "gpu" and "full" count.
    level: str
    seeds: range
    cells: tuple[Cell, ...]

    def runs(self) -> Iterator[tuple[Cell, Run]]:
        """Seed by seed, so that what was measured when it is interrupted can be compared."""
        for seed, cell in itertools.product(self.seeds, self.cells):
            for activation in cell.activations:
                yield cell, cell.of(activation, seed)


def rungs(file: pathlib.Path = FILE) -> dict[str, Rung]:
    """All rungs by name, in the order in which they are to be run."""
    plan = tomllib.loads(file.read_text())
    return {rung["name"]: _rung(plan, rung) for rung in plan["rung"]}


def _rung(plan, rung) -> Rung:
    cells = []
    for cell in rung["cells"]:
        fields = plan["level"][rung["level"]] | rung.get("run", {}) | cell.get("run", {})
        for what in ("network", "recipe"):
            if isinstance(fields[what], str):
                fields[what] = plan[what][fields[what]]
        fields["recipe"] = fields["recipe"] | fields.pop("recipe_changes", {})
        activations = tuple(cell.get("activations", rung["activations"]))
        cells.append(Cell(cell["label"], fields, activations))
    first = rung.get("first_seed", 0)
    return Rung(rung["name"], rung["title"], rung["level"], range(first, first + rung["seeds"]), tuple(cells))
