"""Plain ReLU and Drop-Activation beside PyTorch's ReLU on a CPU: tables for scripts/report out of what
`benches/pytorch.py --device cpu --json FILE` wrote."""

from report_cpu import DTYPES, Row, is_cached, is_large, spread
from report_markdown import table

PROCESSES = {"apart": "processes of their own", "one": "one process"}


class PytorchRow(Row):
    """One configuration, by so many threads, in one process or in two."""

    def __init__(self, row, table=None):
        super().__init__(row, table)
        self.threads, self.processes = row["threads"], row["processes"]

    def best_relu(self, part="step"):
        """The baseline: the faster of PyTorch's and our plain ReLU."""
        return min(self.seconds[f"torch_relu_{part}"], self.seconds[f"relu_{part}"])

    def step(self):
        return self.seconds["drop_step"] / self.best_relu()

    def relu(self):
        return self.ratio("relu_step", "torch_relu_step")


def rows_of(results):
    kernels = results.get("kernels", {})
    return [PytorchRow(row, kernels.get("bytes")) for row in kernels.get("rows", [])]


def summary(rows, cache):
    """From the least to the greatest: large tensors, those in cache, and small ones."""
    kinds = (
        lambda row: is_large(row, cache),
        is_cached,
        lambda row: not row.cold and row.log < 16,
    )
    ways = dict.fromkeys((row.threads, row.processes) for row in rows)
    figures = (PytorchRow.step, PytorchRow.relu)
    return table(
        ("", "threads", "", "step / the best ReLU's, large", "in cache", "small",
         "our ReLU's step / PyTorch's, large", "in cache", "small"),
        (
            (
                dtype,
                f"{threads}",
                PROCESSES[processes],
                *(spread(filter(kind, mine), figure) for figure in figures for kind in kinds),
            )
            for dtype in DTYPES
            for threads, processes in ways
            if (mine := [row for row in rows if (row.dtype, row.threads, row.processes) == (dtype, threads, processes)])
        ),
        3,
    )


def in_short(rows):
    """For README: steps by one thread in processes of their own, of rows with the caches of their machines."""
    kinds = {
        "larger than the cache": is_large,
        "2^16 to 2^20 elements, in the cache": lambda row, _: is_cached(row),
        "2^12 to 2^14 elements, in the cache": lambda row, _: not row.cold and 12 <= row.log < 16,
        "2^12 to 2^20 elements, not in the cache": lambda row, _: row.cold and 12 <= row.log <= 20,
    }
    types = {"f32": ("f32",), "f16 and bf16": ("f16", "bf16")}
    step = lambda row: row.ratio("drop_step", "torch_relu_step")
    baselines = {"the best ReLU's": PytorchRow.step, "PyTorch's": step}
    mine = [(row, cache) for row, cache in rows if row.threads == 1 and row.processes == "apart"]
    chosen = lambda kind, dtypes: [row for row, cache in mine if row.dtype in dtypes and kind(row, cache)]
    return table(
        ("tensors", *(f"{dtype}, of {name}" for dtype in types for name in baselines)),
        (
            (name, *(spread(chosen(kind, of), figure) for of in types.values() for figure in baselines.values()))
            for name, kind in kinds.items()
        ),
    )


def masks(rows):
    """Masks by themselves: PyTorch's take a byte for each element, ours a bit."""
    return table(
        ("elements", "threads", "", "PyTorch's mask, us", "ours, us", "PyTorch's / ours"),
        (
            (
                f"2^{row.log}",
                f"{row.threads}",
                PROCESSES[row.processes],
                *(f"{1e6 * row.seconds[case]:.1f}" for case in ("torch_mask", "mask")),
                f"{row.ratio('torch_mask', 'mask'):.1f}",
            )
            for row in rows
            if row.has("torch_mask", "mask")
        ),
        3,
    )


def tables(rows):
    """All figures, times in microseconds."""
    ours = lambda row, part: f"{row.ratio(f'relu_{part}', f'torch_relu_{part}'):.2f}"
    drop = lambda row, part: f"{row.seconds[f'drop_{part}'] / row.best_relu(part):.2f}"
    parts = ("forward", "backward", "step")
    return table(
        ("", "threads", "", "PyTorch's ReLU, step", "our ReLU / PyTorch's, forward", "backward", "step",
         "Drop-Activation, step", "forward / the best ReLU's", "backward", "step"),
        (
            (
                row.name(),
                f"{row.threads}",
                PROCESSES[row.processes],
                f"{1e6 * row.seconds['torch_relu_step']:.1f}",
                *(ours(row, part) for part in parts),
                f"{1e6 * row.seconds['drop_step']:.1f}",
                *(drop(row, part) for part in parts),
            )
            for row in rows
        ),
        3,
    )
