"""The blocks of networks on a CPU, batch normalisation or bias and activation: tables for scripts/report out of what
`cargo bench --bench ratios -- --blocks --json FILE` and `benches/blocks.py --json FILE` wrote."""

from report_cpu import spread
from report_markdown import table

BLOCKS = {
    "norm": "batch normalisation, activation",
    "norm_residual": "batch normalisation, + residual, activation",
    "bias": "bias, activation",
}


class Block:
    """The medians of one block of one layer."""

    def __init__(self, row):
        self.layer, self.memory, self.dtype, self.block = (row[key] for key in ("layer", "memory", "dtype", "block"))
        self.warm, self.seconds, self.tensors = row["warm"], row["seconds"], row.get("tensors")
        self.kept = row.get("memory_kept", False)

    def ratio(self, other, one):
        """None where one of them was not measured."""
        return self.seconds[one] / self.seconds[other] if {one, other} <= self.seconds.keys() else None

    def of_copy(self):
        """Bytes a second, in those of a copy, which moves two tensors."""
        return self.tensors / 2 * self.seconds["copy"] / self.seconds["fused"]

    def names(self):
        return BLOCKS[self.block], self.layer, self.memory + (", memory kept" if self.kept else ""), self.dtype

    def size(self):
        return "in cache" if self.warm else "large, memory kept" if self.kept else "large"

    def milliseconds(self, way):
        return f"{1e3 * self.seconds[way]:.2f}" if way in self.seconds else ""


def rows_of(results):
    """Those of the passes, and those of PyTorch."""
    return [Block(row) for row in results.get("blocks", [])], [Block(row) for row in results.get("pytorch_blocks", [])]


def _kinds(rows):
    """By block, type, whether a cache holds the tensors, and whether the allocator keeps their memory."""
    for block in BLOCKS:
        for size in ("large", "large, memory kept", "in cache"):
            for dtype in ("f32", "bf16"):
                if mine := [row for row in rows if (row.block, row.size(), row.dtype) == (block, size, dtype)]:
                    yield (BLOCKS[block], size, dtype), mine


def _shown(ratio):
    return "" if ratio is None else f"{ratio:.2f}"


#: Of the passes: what is measured, in what, and the heading.
_OF_PASSES = (("fused_relu", "fused", "fused / fused plain ReLU"), ("unfused", "fused", "fused / unfused"))
#: Of PyTorch.
_OF_PYTORCH = (
    ("eager", "module", "module / eager"),
    ("compiled", "module", "module / torch.compile"),
    ("composed", "module", "module / torch.compile of the composition"),
)


def _spread(rows, other, one):
    return spread([row for row in rows if row.ratio(other, one) is not None], lambda row: row.ratio(other, one))


def summary(passes, pytorch):
    """From the least to the greatest of the layers."""
    if passes:
        yield from table(
            ("block", "tensors", "", *(heading for *_, heading in _OF_PASSES), "bytes a second of the copy's"),
            (
                (*names, *(_spread(rows, other, one) for other, one, _ in _OF_PASSES), spread(rows, Block.of_copy))
                for names, rows in _kinds(passes)
            ),
            3,
        )
    if pytorch:
        if passes:
            yield ""
        yield from table(
            ("block", "tensors", "", *(heading for *_, heading in _OF_PYTORCH)),
            (
                (*names, *(_spread(rows, other, one) for other, one, _ in _OF_PYTORCH))
                for names, rows in _kinds(pytorch)
            ),
            3,
        )


def tables(passes, pytorch):
    """All figures, times in milliseconds."""
    names = ("block", "layer", "memory", "")
    if passes:
        ways = ("fused", "fused_relu", "unfused", "copy")
        yield from table(
            (*names, "fused, ms", "fused plain ReLU", "unfused", "a copy", *(heading for *_, heading in _OF_PASSES),
             "bytes a second of the copy's"),
            (
                (
                    *row.names(),
                    *map(row.milliseconds, ways),
                    *(_shown(row.ratio(other, one)) for other, one, _ in _OF_PASSES),
                    _shown(row.of_copy()),
                )
                for row in passes
            ),
            4,
        )
    if pytorch:
        if passes:
            yield ""
        ways = ("module", "eager", "compiled", "composed")
        yield from table(
            (*names, "module, ms", "eager", "torch.compile", "torch.compile of the composition",
             *(heading for *_, heading in _OF_PYTORCH)),
            (
                (
                    *row.names(),
                    *map(row.milliseconds, ways),
                    *(_shown(row.ratio(other, one)) for other, one, _ in _OF_PYTORCH),
                )
                for row in pytorch
            ),
            4,
        )
