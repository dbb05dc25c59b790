"""Paired differences, and tables of Markdown."""

from collections.abc import Iterable
from typing import Any

from scripts import report_markdown

from .plan import Cell
from .results import Results
from .stats import Interval


def markdown(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    return "\n".join(report_markdown.table(head, rows, texts=len(head))) + "\n"


def pairs(results: Results, cell: Cell, a: str, b: str, figure: str = "test_error"):
    """A figure of both activations, for each seed that has both."""
    found = [(results.of(cell.of(a, seed)), results.of(cell.of(b, seed))) for seed in cell.seeds]
    return [(x[figure], y[figure]) for x, y in found if x and y]


def difference(results: Results, cell: Cell, a: str, b: str, figure: str = "test_error") -> Interval | None:
    """That of a less that of b, seed by seed."""
    found = pairs(results, cell, a, b, figure)
    return Interval.of([x - y for x, y in found]) if found else None


def values(results: Results, cell: Cell, activation: str, figure: str = "test_error") -> list[Any]:
    found = (results.of(cell.of(activation, seed)) for seed in cell.seeds)
    return [result[figure] for result in found if result]
