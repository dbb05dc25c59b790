"""What a GPU has shown beside what was predicted for it: tables for scripts/report out of the results.json of
scripts/gpu-run, and what report_prediction.py predicts."""

import math

import report_bytes
from report_markdown import table
from report_prediction import GPUS

DTYPES = ("f32", "bf16", "f16")
NAMES = {"forward": "training forward", "backward": "backward"}

# What is aimed at on whichever GPU: at most, or at least.
AIMS = {
    ("forward", "f32"): (">=", 0.96),
    ("forward", "bf16"): (">=", 0.95),
    ("backward", "f32"): (">=", 0.97),
    ("backward", "bf16"): (">=", 0.97),
    ("relu_step", "f32"): ("<=", 0.85),
    ("relu_step", "bf16"): ("<=", 0.85),
    ("torch_relu_step", "f32"): ("<=", 0.85),
    ("torch_relu_step", "bf16"): ("<=", 0.85),
    ("eager_step", "f32"): ("<=", 0.25),
    ("eager_step", "bf16"): ("<=", 0.25),
}

STEPS = {
    "relu_step": "step / plain ReLU's",
    "torch_relu_step": "step / PyTorch's ReLU's",
    "eager_step": "step / the operation composed in PyTorch",
    "compiled_step": "step / that through torch.compile",
}


def best_rows(figures):
    """The rows of the step that has measured most, and its name."""
    for name in ("compiled", "headline", "crate"):
        if rows := figures.get(name, {}).get("rows"):
            return name, rows
    return None, []


def spread(low, high):
    return f"{low:.3f} to {high:.3f}" if low < high else f"{low:.3f}"


def verdicts(figure, dtype, measured, predicted):
    low, high = predicted
    # Both have two or three digits.
    within = low - 0.005 <= measured <= high + 0.005
    aim = AIMS.get((figure, dtype))
    met = "" if aim is None else "met" if (measured >= aim[1] if aim[0] == ">=" else measured <= aim[1]) else "missed"
    return (
        spread(low, high),
        f"{measured:.3f}",
        "as predicted" if within else "better" if (measured > high) == (figure in NAMES) else "worse",
        "" if aim is None else f"{'at least' if aim[0] == '>=' else 'at most'} {aim[1]}",
        met,
    )


def of_copy(row, case):
    """The case's bytes a second in the copy's."""
    speed = lambda case: report_bytes.per_element(case, row["dtype"]) / row["seconds"][case]
    return speed(case) / speed("copy")


def beside_prediction(rows, prediction, gpu):
    """Of each type the largest tensors."""
    # What is predicted of one that the page does not name is what it says of the first.
    model = next((name for name in GPUS if name in gpu), next(iter(GPUS)))
    for dtype in DTYPES:
        mine = [row for row in rows if row["dtype"] == dtype]
        if not mine:
            continue
        row = max(mine, key=lambda row: row["n"])
        seconds, log = row["seconds"], int(math.log2(row["n"]))
        what = f"{dtype}, 2^{log}"
        for figure, name in NAMES.items():
            predicted = prediction.rows[f"train_{figure}_relu", dtype].of_copy(model)
            measured = of_copy(row, f"drop_{figure}")
            yield (f"{name}, of the copy's bytes a second", what, *verdicts(figure, dtype, measured, predicted))
        for other, name in STEPS.items():
            if other not in seconds:
                continue
            measured = seconds["drop_step"] / seconds[other]
            by_bytes = report_bytes.per_element("drop_step", dtype) / report_bytes.per_element(other, dtype)
            steps = prediction.step(dtype, model)
            low, high = min(steps), max(steps)
            # Of others' steps the bytes are known, and that ours may be slower than its bytes.
            predicted = (low, high) if other.endswith("relu_step") else (by_bytes, by_bytes * high / low)
            yield (name, what, *verdicts(other, dtype, measured, predicted))


def all_sizes(rows):
    for row in rows:
        seconds = row["seconds"]
        yield (
            f"{row['dtype']}, 2^{int(math.log2(row['n']))}",
            f"{report_bytes.per_element('copy', row['dtype']) * row['n'] / seconds['copy'] / 1e9:.0f}",
            *(f"{of_copy(row, case):.3f}" for case in ("drop_forward", "drop_backward", "relu_forward")),
            f"{1e6 * seconds['drop_step']:.1f}",
            *(f"{seconds['drop_step'] / seconds[other]:.3f}" if other in seconds else "" for other in STEPS),
        )


def probes(rows):
    names = dict.fromkeys(row["probe"] for row in rows)
    of_copy = {(row["probe"], row["dtype"]): row["of_copy"] for row in rows}
    dtypes = [dtype for dtype in DTYPES if any(row["dtype"] == dtype for row in rows)]
    shown = lambda name, dtype: f"{of_copy[name, dtype]:.3f}" if (name, dtype) in of_copy else ""
    lines = ((name, *(shown(name, dtype) for dtype in dtypes)) for name in names)
    return table(("of the copy's bytes a second", *dtypes), lines)


def calls(rows):
    names = list(rows[0]["seconds"])
    shown = lambda row: (f"2^{int(math.log2(row['n']))}", *(f"{1e6 * row['seconds'][name]:.1f}" for name in names))
    return table(("a call in PyTorch, in microseconds", *(name.replace("_", ", ") for name in names)), map(shown, rows))


def lines(data, prediction):
    """Those for one results.json of a GPU.

    Raises:
        ValueError: It is of a rehearsal.
    """
    return list(_lines(data, prediction))


def _lines(data, prediction):
    machine, figures, steps = data["machine"], data["figures"], data["steps"]
    if data["bundle"].get("rehearsal"):
        raise ValueError("these are the results of a rehearsal on a stand-in driver")
    gpu = machine["gpu"]
    driver = machine.get("nvidia_smi", {}).get("driver_version", "unknown")
    commit, pytorch = data["bundle"]["commit"][:12], machine.get("pytorch")
    yield f"Measured on **{gpu}**, driver {driver}, PyTorch {pytorch}, of commit {commit}."
    not_passed = [f"{name} ({step['status']})" for name, step in steps.items() if step["status"] != "passed"]
    if not_passed:
        yield f"Not passed: {', '.join(not_passed)}."
    name, rows = best_rows(figures)
    if rows:
        cut = ", which was cut short" if figures[name].get("partial") else ""
        yield f"Of the step `{name}`{cut}, tensors cold, p = 0.95:"
        yield ""
        head = ("", "", "predicted", "measured", "", "aim", "")
        yield from table(head, beside_prediction(rows, prediction, gpu), 2)
        yield ""
        columns = ("copy, GB/s", "forward of copy", "backward of copy", "ReLU of copy", "step, µs", *STEPS.values())
        yield from table(("", *columns), all_sizes(rows))
    for probe, make in (("probes", probes), ("calls", calls)):
        if rows := figures.get(probe, {}).get("rows"):
            yield ""
            yield from make(rows)
