"""What a GPU has shown beside what was predicted for it: tables for scripts/report out of the results.json of
scripts/gpu-run and the page docs/gpu-prediction.md."""

import math
import re

SIZES = {"f32": 4, "bf16": 2, "f16": 2}
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

# A step: bytes that must move for each element of s bytes.
STEP_BYTES = {
    "drop_step": lambda s: 4 * s + 1 / 4,
    "relu_step": lambda s: 5 * s,
    "torch_relu_step": lambda s: 5 * s,
    "eager_step": lambda s: 17 * s + 4,
    "compiled_step": lambda s: 4 * s + 4,
}
STEPS = {
    "relu_step": "step / plain ReLU's",
    "torch_relu_step": "step / PyTorch's ReLU's",
    "eager_step": "step / the operation composed in PyTorch",
    "compiled_step": "step / that through torch.compile",
}


def table(head, rows, texts=1):
    """In Markdown; the first columns are text."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---|" * (texts - 1) + "--:|" * (len(head) - texts)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def cells(line):
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def markdown_tables(text):
    """Each table as its head and its rows."""
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
        head, _, *rows = map(cells, block.splitlines())
        yield head, rows


def numbers(text):
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", text)]


class Prediction:
    """What the page says for a GPU: ranges of numbers."""

    def __init__(self, page, gpu):
        tables = list(markdown_tables(page))
        self.of_copy, self.step = {}, {}
        for head, rows in tables:
            columns = [i for i, name in enumerate(head) if "of the copy's speed" in name]
            if head[:2] == ["pass", "type"] and columns:
                # A page of several GPUs names each in its column's head.
                model = [i for i in columns if any(word in gpu for word in re.findall(r"\b[A-Z]+\d{2,}\b", head[i]))]
                column = (model or columns)[0]
                for row in rows:
                    if (found := numbers(row[column])) and row[0].startswith("Drop-Activation, "):
                        self.of_copy[row[0].removeprefix("Drop-Activation, "), row[1]] = (min(found), max(found))
            if head[:2] == ["type", "by bytes"]:
                for row in rows:
                    if found := numbers(" ".join(row[1:])):
                        self.step[row[0]] = (min(found), max(found))
        if not self.of_copy or not self.step:
            raise ValueError("docs/gpu-prediction.md has no table of passes by type, or none of steps")


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


def beside_prediction(rows, prediction):
    """Of each type the largest tensors."""
    for dtype, size in SIZES.items():
        mine = [row for row in rows if row["dtype"] == dtype]
        if not mine:
            continue
        row = max(mine, key=lambda row: row["n"])
        seconds, log = row["seconds"], int(math.log2(row["n"]))
        what = f"{dtype}, 2^{log}"
        for figure, name in NAMES.items():
            measured = (2 * size + 1 / 8) / (2 * size) * seconds["copy"] / seconds[f"drop_{figure}"]
            predicted = prediction.of_copy[name, dtype]
            yield (f"{name}, of the copy's bytes a second", what, *verdicts(figure, dtype, measured, predicted))
        for other, name in STEPS.items():
            if other not in seconds:
                continue
            measured = seconds["drop_step"] / seconds[other]
            by_bytes = STEP_BYTES["drop_step"](size) / STEP_BYTES[other](size)
            low, high = prediction.step[dtype]
            # Of others' steps the bytes are known, and that ours may be slower than its bytes.
            predicted = (low, high) if other.endswith("relu_step") else (by_bytes, by_bytes * high / low)
            yield (name, what, *verdicts(other, dtype, measured, predicted))


def all_sizes(rows):
    for row in rows:
        size, seconds = SIZES[row["dtype"]], row["seconds"]
        of_copy = lambda work, bytes: f"{bytes / (2 * size) * seconds['copy'] / seconds[work]:.3f}"
        yield (
            f"{row['dtype']}, 2^{int(math.log2(row['n']))}",
            f"{2 * size * row['n'] / seconds['copy'] / 1e9:.0f}",
            of_copy("drop_forward", 2 * size + 1 / 8),
            of_copy("drop_backward", 2 * size + 1 / 8),
            of_copy("relu_forward", 2 * size),
            f"{1e6 * seconds['drop_step']:.1f}",
            *(f"{seconds['drop_step'] / seconds[other]:.3f}" if other in seconds else "" for other in STEPS),
        )


def probes(rows):
    names = dict.fromkeys(row["probe"] for row in rows)
    of_copy = {(row["probe"], row["dtype"]): row["of_copy"] for row in rows}
    dtypes = [dtype for dtype in SIZES if any(row["dtype"] == dtype for row in rows)]
    shown = lambda name, dtype: f"{of_copy[name, dtype]:.3f}" if (name, dtype) in of_copy else ""
    lines = ((name, *(shown(name, dtype) for dtype in dtypes)) for name in names)
    return table(("of the copy's bytes a second", *dtypes), lines)


def calls(rows):
    names = list(rows[0]["seconds"])
    shown = lambda row: (f"2^{int(math.log2(row['n']))}", *(f"{1e6 * row['seconds'][name]:.1f}" for name in names))
    return table(("a call in PyTorch, in microseconds", *(name.replace("_", ", ") for name in names)), map(shown, rows))


def page(data, prediction_page):
    """The lines for one results.json of a GPU."""
    return list(_page(data, Prediction(prediction_page, data["machine"]["gpu"])))


def _page(data, prediction):
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
        yield from table(head, beside_prediction(rows, prediction), 2)
        yield ""
        columns = ("copy, GB/s", "forward of copy", "backward of copy", "ReLU of copy", "step, µs", *STEPS.values())
        yield from table(("", *columns), all_sizes(rows))
    for probe, make in (("probes", probes), ("calls", calls)):
        if rows := figures.get(probe, {}).get("rows"):
            yield ""
            yield from make(rows)
