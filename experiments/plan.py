"""The rungs of plan.toml: what is compared, with how many seeds, decided before the runs."""

import dataclasses
import pathlib
import tomllib
from collections.abc import Iterator
from typing import Any

from .config import Run

FILE = pathlib.Path(__file__).with_name("plan.toml")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One place of a rung's table: runs that differ in activation and seed alone."""

    label: str
    #: The fields of a run that all have.
    run: dict[str, Any]
    activations: tuple[str, ...]
    seeds: range

    def of(self, activation: str, seed: int) -> Run:
        return Run.of(**self.run, activation=activation, seed=seed)


@dataclasses.dataclass(frozen=True)
class Rung:
    name: str
    title: str
    #: What else is to be said of it.
    about: str
    #: "search" and "pilot" choose schedules and the number of seeds, on validation images. The others count: "cpu",
    #: "larger" (hours of a GPU), "gpu" (minutes of one), "full" (the paper's).
    level: str
    #: What a run is thought to take, in words, until one has.
    expected: str
    cells: tuple[Cell, ...]

    def runs(self) -> Iterator[tuple[Cell, Run]]:
        """Seed by seed, so that what was measured when it is interrupted can be compared."""
        for i in range(max(len(cell.seeds) for cell in self.cells)):
            for cell in self.cells:
                for activation in cell.activations if i < len(cell.seeds) else ():
                    yield cell, cell.of(activation, cell.seeds[i])


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
        first, seeds = cell.get("first_seed", 0), cell.get("seeds", rung.get("seeds"))
        cells.append(Cell(cell["label"], fields, tuple(rung["activations"]), range(first, first + seeds)))
    about, expected = rung.get("about", ""), rung.get("expected", "")
    return Rung(rung["name"], rung["title"], about, rung["level"], expected, tuple(cells))
