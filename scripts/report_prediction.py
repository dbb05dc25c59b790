"""What the compiled code lets one expect of a GPU: the tables of docs/gpu-prediction.md, out of the facts that
tests/compiled_code records."""

import csv
import pathlib

import report_bytes
from report_markdown import table

ROOT = pathlib.Path(__file__).resolve().parent.parent
RECORD = ROOT / "tests" / "data" / "compiled-passes.csv"
FUSED_RECORD = ROOT / "tests" / "data" / "fused-passes.csv"

# As the page calls the passes, and the cases of the benches that they are.
PASSES = {
    "train_forward_relu": ("Drop-Activation, training forward", "drop_forward"),
    "train_backward_relu": ("Drop-Activation, backward", "drop_backward"),
    "infer_forward_relu": ("Drop-Activation, inference", "drop_infer"),
    "relu_forward": ("ReLU, forward", "relu_forward"),
    "relu_backward": ("ReLU, backward", "relu_backward"),
}
# Of a block with a batch normalisation, the tensors that a pass moves and the bytes of its mask.
FUSED_PASSES = {
    "statistics": ("statistics", 1, 0),
    "forward": ("forward", 2, 1 / 8),
    "forward_plain": ("forward, plain ReLU", 2, 1 / 8),
    "sums": ("sums of the backward pass", 2, 1 / 8),
    "backward": ("backward", 3, 1 / 8),
}
BLOCK = ("statistics", "forward", "sums", "backward")
PLAIN_BLOCK = ("statistics", "forward_plain", "sums", "backward")
LAYOUTS = {"rows": "channels last", "planes": "channels first"}
# Tensors that PyTorch's eager batch_norm and relu move forward and backward, and a compiler that fuses the two.
EAGER, COMPILED = 13, 8
# By how much a pipe is slower than instructions are issued.
PIPES = {"issue": ("instructions", 1), "ALU": ("alu", 2), "FMA": ("fma", 1), "MUFU": ("mufu", 8), "LSU": ("lsu", 4)}
OURS = ("train_forward_relu", "train_backward_relu")
RELU = ("relu_forward", "relu_backward")

# 132 multiprocessors with 4 schedulers at 1.98 GHz issue so many lane slots in a second.
SLOTS_A_SECOND = 33.4e12
# Bytes a second of a copy, reads and writes.
GPUS = {"H200": 4.3e12, "H100": 3.0e12}


class Row:
    """One pass over one type; figures are for each element."""

    def __init__(self, facts):
        self.name, self.dtype, self.at_most = facts["pass"], facts["dtype"], facts["at_most"]
        self.title, case = PASSES[self.name]
        self.bytes = report_bytes.per_element(case, self.dtype)
        self.instructions, self.next_tile, self.alu = (
            float(facts[column]) for column in ("instructions", "next_tile", "alu")
        )
        self.registers, self.warps, self.in_flight = (
            int(facts[column]) for column in ("registers", "warps", "bytes_in_flight")
        )
        # For a pass that draws keep bits: calls of Philox on average, and instructions where there are 2, 1 and 0.
        self.calls = facts["calls"] and float(facts["calls"])
        self.few_calls = [facts[column] and float(facts[column]) for column in ("two_calls", "one_call", "no_calls")]

    def slots(self, gpu):
        """Issue slots that there are while the element's bytes move."""
        return SLOTS_A_SECOND / GPUS[gpu] * self.bytes

    def without_overlap(self, gpu):
        """Its time if no instruction is issued while bytes move, in the time of one byte."""
        return self.bytes + self.instructions / (SLOTS_A_SECOND / GPUS[gpu])

    def of_copy(self, gpu):
        """From no overlap to a perfect one."""
        return self.bytes / self.without_overlap(gpu), 1.0


class FusedRow:
    """One pass over channels, in one layout and type; figures are for each element."""

    def __init__(self, facts):
        self.facts, self.dtype, self.layout = facts, facts["dtype"], facts["layout"]
        self.title, tensors, mask = FUSED_PASSES[facts["pass"]]
        self.bytes = tensors * report_bytes.SIZES[self.dtype] + mask

    def busy(self, pipe, gpu):
        """The share of the copy's time in which a pipe is busy."""
        column, slower = PIPES[pipe]
        return slower * float(self.facts[column]) / (SLOTS_A_SECOND / GPUS[gpu] * self.bytes)

    def at_best(self, gpu):
        """Its time if all overlaps, in the time of one byte: of the memory, or of a pipe that takes longer."""
        return self.bytes * max(1.0, *(self.busy(pipe, gpu) for pipe in PIPES))

    def at_worst(self, gpu):
        """If nothing is issued while bytes move."""
        return max(self.at_best(gpu), self.bytes * (1 + self.busy("issue", gpu)))


class FusedPrediction:
    """Of a block with a batch normalisation, from the passes that a record has."""

    def __init__(self, lines):
        rows = csv.DictReader(line for line in lines if not line.startswith("#"))
        self.rows = {(row["pass"], row["layout"], row["dtype"]): FusedRow(row) for row in rows}

    def block(self, layout, dtype, names, time):
        return sum(time(self.rows[name, layout, dtype]) for name in names)

    def tables(self):
        """The lines of the page."""
        yield from table(
            ("pass", "memory", "type", "bytes", "instructions", *PIPES, "registers", "warps",
             *(f"of the copy's speed, {gpu}" for gpu in GPUS)),
            map(self._pass, self.rows.values()),
            3,
        )
        yield ""
        yield from table(
            ("memory", "type", "GPU", "bytes", "of PyTorch's eager batch_norm + relu", "of a compiler's",
             "of the same passes with plain ReLU"),
            (self._block(layout, dtype, gpu) for layout in LAYOUTS for dtype in ("f32", "f16", "bf16") for gpu in GPUS),
            3,
        )

    @staticmethod
    def _pass(row):
        of_copy = (f"{row.bytes / row.at_worst(gpu):.2f} to {row.bytes / row.at_best(gpu):.2f}" for gpu in GPUS)
        return (
            row.title,
            LAYOUTS[row.layout],
            row.dtype,
            f"{row.bytes:g}",
            f"{float(row.facts['instructions']):.1f}",
            *(f"{100 * row.busy(pipe, 'H200'):.0f} %" for pipe in PIPES),
            row.facts["registers"],
            row.facts["warps"],
            *of_copy,
        )

    def _block(self, layout, dtype, gpu):
        of = lambda names, time: self.block(layout, dtype, names, time)
        best, worst = (lambda row: row.at_best(gpu)), (lambda row: row.at_worst(gpu))
        size = report_bytes.SIZES[dtype]
        between = lambda others: f"{of(BLOCK, best) / others:.2f} to {of(BLOCK, worst) / others:.2f}"
        return (
            LAYOUTS[layout],
            dtype,
            gpu,
            f"{of(BLOCK, lambda row: row.bytes):g}",
            between(EAGER * size),
            between(COMPILED * size),
            f"{of(BLOCK, best) / of(PLAIN_BLOCK, best):.2f} to {of(BLOCK, worst) / of(PLAIN_BLOCK, worst):.2f}",
        )


class Prediction:
    """Of the passes that a record has."""

    def __init__(self, lines):
        rows = csv.DictReader(line for line in lines if not line.startswith("#"))
        self.rows = {(row["pass"], row["dtype"]): Row(row) for row in rows}
        self.dtypes = list(dict.fromkeys(dtype for _, dtype in self.rows))

    def step(self, dtype, gpu):
        """A step's time in plain ReLU's: by bytes, if nothing overlaps in either, if only ReLU's overlaps."""
        total = lambda names, time: sum(time(self.rows[name, dtype]) for name in names)
        by_bytes, none = (lambda row: row.bytes), (lambda row: row.without_overlap(gpu))
        return (
            total(OURS, by_bytes) / total(RELU, by_bytes),
            total(OURS, none) / total(RELU, none),
            total(OURS, none) / total(RELU, by_bytes),
        )

    def tables(self):
        """The lines of the page."""
        yield from table(
            ("pass", "type", "bytes", "instructions", "at most", "next tile", "issue", "ALU", "registers", "warps",
             "KiB in flight", *(f"of the copy's speed, {gpu}" for gpu in GPUS)),
            map(self._pass, self.rows.values()),
            2,
        )
        yield ""
        yield from table(
            ("type", "by bytes", "if nothing overlaps, in either", "if only ReLU's overlaps"),
            (
                (dtype, f"{by_bytes:.3f}", f"{neither:.2f}", f"{relu_alone:.2f}")
                for dtype in self.dtypes
                for by_bytes, neither, relu_alone in [self.step(dtype, "H200")]
            ),
        )
        yield ""
        forward = [self.rows[OURS[0], dtype] for dtype in self.dtypes]
        few = (("k/256", "2"), ("k/16", "1"), ("0 and 1", "0"))
        yield from table(
            ("p", "calls for 32 elements", *self.dtypes),
            [
                ("any", f"{forward[0].calls:.2f}", *(f"{row.instructions:.1f}" for row in forward)),
                *((*names, *(f"{row.few_calls[i]:.1f}" for row in forward)) for i, names in enumerate(few)),
            ],
        )

    @staticmethod
    def _pass(row):
        slots = row.slots("H200")
        return (
            row.title,
            row.dtype,
            f"{row.bytes:g}",
            f"{row.instructions:.1f}",
            row.at_most,
            f"{row.next_tile:.1f}",
            f"{100 * row.instructions / slots:.0f} %",
            # The ALU pipe takes half of what is issued.
            f"{100 * 2 * row.alu / slots:.0f} %",
            f"{row.registers}",
            f"{row.warps}",
            f"{row.in_flight // 1024}",
            *(f"{row.of_copy(gpu)[0]:.2f} to 1" for gpu in GPUS),
        )


def recorded():
    return Prediction(RECORD.read_text().splitlines())


def fused():
    return FusedPrediction(FUSED_RECORD.read_text().splitlines())
