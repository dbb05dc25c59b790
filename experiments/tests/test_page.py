"""Verdicts come from results, and are said when the plan's seeds are there; docs/paper.md is what results say."""

import json
import pathlib

import pytest
import torch

from experiments import __main__ as command
from experiments import networks, page, plan
from experiments.results import FOLDER, Results, alone

ROOT = pathlib.Path(__file__).parents[2]
CPU = torch.device("cpu")


def put(rung, folder, errors):
    """Made-up results: errors by activation, a list by seed."""
    stored = Results(folder, rung.name)
    for _, run in rung.runs():
        if run.seed < len(errors[run.activation]):
            test = errors[run.activation][run.seed]
            stored.add(run, {"test_error": test, "train_error": 0.1, "running_error": 0.2}, 30.0, CPU)
    return stored


def test_verdicts_follow_the_results(tiny_rung, tmp_path):
    equal = {"rrelu": [11.0, 12.0]}
    for ours, verdict in (([9.0, 10.01], "better"), ([11.0, 12.01], "worse"), ([9.0, 13.0], "not told apart")):
        folder = tmp_path / verdict
        stored = put(tiny_rung, folder, {"relu": [10.0, 11.0], "drop-activation 0.95": ours} | equal)
        found = [c for c in page.comparisons(tiny_rung, stored) if c.a == "drop-activation 0.95"]
        assert [c.verdict() for c in found] == [verdict] * 2
        assert page.report(tiny_rung, stored).count(f": {verdict}") >= 2


def test_there_is_no_verdict_before_the_plans_seeds(tiny_rung, tmp_path):
    stored = put(tiny_rung, tmp_path, {"relu": [10.0, 11.0], "rrelu": [], "drop-activation 0.95": [9.0]})
    (c, _) = (c for c in page.comparisons(tiny_rung, stored) if c.a == "drop-activation 0.95")
    assert c.verdict() == "1 of 2 pairs" and c.text() == "-1.00: 1 of 2 pairs"
    report = page.report(tiny_rung, stored)
    assert "better" not in report and "1 of 2 pairs" in report and "Runs: 6 of 12" in report


def test_the_summary_counts_a_comparison_once_and_by_its_verdict(tiny_plan, tiny_rung, tmp_path):
    errors = {"relu": [10.0, 11.0], "rrelu": [8.0, 9.01], "drop-activation 0.95": [9.0, 10.02]}
    put(tiny_rung, tmp_path, errors)
    twice = tiny_plan.read_text()
    tiny_plan.write_text(twice + twice[twice.index("[[rung]]") :].replace('"tiny"', '"again"'))
    block = "<!-- generated from experiments/results: summary -->\n<!-- end -->\n"
    found = page.page(block, tmp_path, tiny_plan)
    assert found.count("plain: Drop-Activation(0.95) less ReLU -0.99 ± 0.13: better") == 1
    assert found.count("plain: Drop-Activation(0.95) less RReLU 1.00") == 1
    assert "of the 2 that have all their pairs: 2 better" in found
    assert "of the 2 that have all their pairs: 2 not told apart" in found, "equal running errors"
    assert "Figure 3: it predicts better than ReLU\n  - no results yet" in found


def test_results_of_another_configuration_do_not_count(tiny_rung, tmp_path):
    stored = put(tiny_rung, tmp_path, {a: [1.0, 2.0] for a in tiny_rung.cells[0].activations})
    changed = dict(tiny_rung.cells[0].run, train_images=65)
    cell = plan.Cell("plain", changed, tiny_rung.cells[0].activations, range(2))
    assert page.compare(stored, cell, "rrelu", "relu").interval is None


def test_a_block_that_nothing_fills_is_an_error(tmp_path, tiny_plan):
    assert page.page("no blocks\n", tmp_path, tiny_plan) == "no blocks\n"
    block = "<!-- generated from experiments/results: tables -->\n<!-- end -->\n"
    with pytest.raises(ValueError, match="tables of the page is no rung"):
        page.page(block, tmp_path, tiny_plan)


def test_a_line_that_was_cut_off_is_as_if_it_were_not_there(tiny_rung, tmp_path):
    stored = put(tiny_rung, tmp_path, {a: [1.0, 2.0] for a in tiny_rung.cells[0].activations})
    whole = stored.path.read_text()
    assert all(json.loads(line) for line in whole.splitlines())
    stored.path.write_text(whole[:-20])
    torn = Results(tmp_path, tiny_rung.name)
    missing = [run for _, run in tiny_rung.runs() if torn.of(run) is None]
    assert len(missing) == 1
    torn.add(missing[0], {"test_error": 5.0}, 1.0, CPU)
    assert Results(tmp_path, tiny_rung.name).of(missing[0]) == {"test_error": 5.0}


def test_the_command_runs_a_rung_once_and_by_its_minutes(tiny_plan, tiny_rung, tmp_path, capsys):
    places = ["--plan", str(tiny_plan), "--results", str(tmp_path)]
    rows = tmp_path / "rows.json"
    run = ["run", "tiny", *places, "--threads", "1", "--json", str(rows)]
    assert command.main([*run, "--minutes", "0"]) == 3
    assert not (tmp_path / "tiny.jsonl").exists()
    assert command.main(run) == 0
    lines = (tmp_path / "tiny.jsonl").read_text()
    assert lines.count("\n") == 12
    assert [row["name"] for row in json.loads(rows.read_text())["rows"]] == [run.name for _, run in tiny_rung.runs()]
    assert command.main(run) == 0 and (tmp_path / "tiny.jsonl").read_text() == lines
    assert command.main(["list", *places]) == 0
    assert "12 of   12 runs" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="rung is 'big'; allowed are theory, regression, tiny"):
        command.main(["run", "big", *places])
    with pytest.raises(SystemExit, match="rung is 'big'; allowed are tiny"):
        command.main(["search", "big", *places])


def test_two_processes_do_not_add_to_one_rung(tmp_path):
    with alone(tmp_path, "a"), alone(tmp_path, "b"):
        with pytest.raises(SystemExit, match="another process adds to the results of a"), alone(tmp_path, "a"):
            pass


def test_the_plan_can_be_run():
    """Every rung's networks, activations and recipes are such, and no search's seed counts."""
    searched, counted = set(), set()
    for rung in plan.rungs().values():
        for cell in rung.cells:
            run = cell.of(cell.activations[0], cell.seeds[0])
            with torch.device("meta"):
                networks.build(channels=3, classes=10, side=32, **run.network)
            assert "relu" in cell.activations and run.recipe.rate > 0
        names = [run.name for _, run in rung.runs()]
        assert len(set(names)) == len(names)
        if rung.level in ("pilot", "search"):
            searched |= {seed for cell in rung.cells for seed in cell.seeds}
            assert all(run.measured_on == "validation" for _, run in rung.runs())
        else:
            counted |= {seed for cell in rung.cells for seed in cell.seeds}
            assert all(run.measured_on == "test" for _, run in rung.runs())
    assert not searched & counted


def test_docs_paper_md_is_what_the_results_say():
    """After new results: python -m experiments page"""
    text = (ROOT / "docs" / "paper.md").read_text()
    assert page.page(text, FOLDER) == text
