"""The paper's claims, measured.

    python -m experiments list                          # the rungs, what they take and how far they are
    python -m experiments run simple --data DIR         # a rung, from where it was
    python -m experiments run --data DIR                # all that a CPU can do, in the plan's order
    python -m experiments run --full --device cuda --data DIR      # the paper's sizes
    python -m experiments run gpu --device cuda --minutes 4 --data DIR
    python -m experiments search simple-search          # what a search for schedules, or a pilot, says
    python -m experiments page                          # results into docs/paper.md; --check: are they there?

DIR is what scripts/get-fashion-mnist prints, or a folder with the files of the rung's data set; nothing is downloaded.
A run that was interrupted goes on where it was, and one that is finished is not repeated.
"""

import argparse
import importlib
import json
import pathlib
import sys
import time

import torch
from tqdm import tqdm

from . import plan, results
from .train import train

ROOT = pathlib.Path(__file__).parent.parent
#: What is not a rung of networks. Loaded when asked for, as all that needs more than PyTorch's packages.
OTHERS = ("theory", "regression")


def main(arguments=None) -> int:
    options = parser().parse_args(arguments)
    try:
        return options.command(options)
    except (FileNotFoundError, ValueError) as why:
        sys.exit(str(why))


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)

    def command(name, function, help):
        made = commands.add_parser(name, help=help)
        made.add_argument("--plan", type=pathlib.Path, default=plan.FILE, help="the rungs (experiments/plan.toml)")
        made.add_argument("--results", type=pathlib.Path, default=results.FOLDER, help="the results' folder")
        made.set_defaults(command=function)
        return made

    command("list", show, "the rungs and how far they are")
    run = command("run", run_rungs, "train what has no result yet")
    run.add_argument("rungs", nargs="*", help="of the list, or theory or regression; all of a CPU's if left out")
    run.add_argument("--full", action="store_true", help="if no rungs are named, all of the paper's sizes")
    run.add_argument("--device", default="cpu", help="cpu or cuda")
    run.add_argument("--data", default="", help="the folder of the data set")
    run.add_argument("--threads", type=int, help="of the CPU (1 for each of several processes is fastest)")
    run.add_argument("--workers", type=int, default=0, help="processes that augment images")
    run.add_argument("--json", type=pathlib.Path, help="a file for the results of the last rung, run by run")
    run.add_argument("--minutes", type=float, default=float("inf"), help="begin no run that would end later")
    searched = command("search", tell_search, "what a pilot or a search for schedules says")
    searched.add_argument("rung")
    paged = command("page", write_page, "put the results into docs/paper.md")
    paged.add_argument("--check", action="store_true", help="write nothing; fail where page and results differ")
    return parser


def run_rungs(options) -> int:
    end = time.monotonic() + 60 * options.minutes
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    known = plan.rungs(options.plan)
    level = "full" if options.full else "cpu"
    names = options.rungs or [*OTHERS, *(rung.name for rung in known.values() if rung.level == level)]
    for name in names:
        if name not in OTHERS:
            _known(name, known, *OTHERS)
    for name in names:
        with results.alone(options.results, name):
            if name in OTHERS and (options.results / f"{name}.json").exists():
                continue
            if name in OTHERS:
                importlib.import_module(f".{name}", __package__).measure(options.results)
            elif (left := run_rung(known[name], options, device, end)) is not None:
                print(f"{name}: the minutes are over", file=sys.stderr)
                return 0 if left else 3
    return 0


def _known(name: str, rungs: dict[str, plan.Rung], *others: str) -> plan.Rung:
    if name not in rungs:
        raise ValueError(f"rung must be one of {', '.join([*others, *rungs])}, got {name!r}")
    return rungs[name]


def run_rung(rung: plan.Rung, options, device: torch.device, end: float) -> int | None:
    """Trains what has no result. Where the minutes do not allow all, returns how many seeds are complete."""
    stored = results.Results(options.results, rung.name)
    todo = [(cell, run) for cell, run in rung.runs() if stored.of(run) is None]
    # The rung that measures speed has the fastest convolutions, the others those that give the same bits again.
    torch.backends.cudnn.benchmark = rung.level == "gpu"
    torch.backends.cudnn.deterministic = rung.level != "gpu"
    checkpoints = options.results / "checkpoints"
    checkpoints.mkdir(exist_ok=True)
    took = {}
    bar = tqdm(todo, rung.name, disable=None, file=sys.stderr)
    for cell, run in bar:
        bar.set_postfix_str(f"{cell.label}, {run.activation}, seed {run.seed}")
        start = time.monotonic()
        if start + took.get((cell.label, run.activation), 0) > end:
            return run.seed - cell.seeds[0]
        result = train(run, options.data, device, options.workers, checkpoints / f"{run.name}.pt")
        seconds = time.monotonic() - start
        took[cell.label, run.activation] = seconds
        stored.add(run, result, seconds, device)
        if options.json:
            options.json.write_text(json.dumps({"rows": [stored.by_name.get(run.name) for _, run in rung.runs()]}))
    return None


def show(options) -> int:
    for rung in plan.rungs(options.plan).values():
        stored = results.Results(options.results, rung.name)
        entries = [stored.by_name.get(run.name) for _, run in rung.runs()]
        done = [entry for entry in entries if entry]
        each = f", {sum(entry['seconds'] for entry in done) / len(done):.0f} s each" if done else ""
        print(f"{rung.name:<22} {rung.level:<7} {len(done):4} of {len(entries):4} runs{each:<14}  {rung.title}")
    return 0


def tell_search(options) -> int:
    from . import search

    rung = _known(options.rung, plan.rungs(options.plan))
    print(search.report(rung, results.Results(options.results, rung.name)))
    return 0


def write_page(options) -> int:
    from . import page

    path = ROOT / "docs" / "paper.md"
    old = path.read_text()
    new = page.page(old, options.results, options.plan)
    if options.check:
        return int(old != new)
    path.write_text(new)
    page.draw(options.results, options.plan)
    return 0


if __name__ == "__main__":
    sys.exit(main())
