"""What a CPU has shown: tables and pictures for scripts/report out of what `cargo bench --bench ratios -- --json FILE`
wrote."""

import math

import report_bytes
from report_markdown import table

DTYPES = ("f32", "bf16", "f16")
P = 0.95
SHOWN = (10, 12, 14, 16, 17, 18, 19, 20, 22, 24, 26, 28)
# As older files call them. The step by one thread was then one in a pool that was made for each batch of calls.
OLD_NAMES = {"ndarray_relu": "ndarray_relu_forward", "drop_step_alone": "drop_step_one_thread"}


class Row:
    """The medians of one configuration."""

    def __init__(self, row, table=None):
        self.dtype, self.n, self.p, self.cold = (row[key] for key in ("dtype", "n", "p", "cold"))
        self.seconds = {OLD_NAMES.get(name, name): seconds for name, seconds in row["seconds"].items()}
        self.log = int(math.log2(self.n))
        self.table = table

    def name(self):
        return f"{self.dtype}, 2^{self.log}, {'cold' if self.cold else 'warm'}"

    def has(self, *cases):
        return all(case in self.seconds for case in cases)

    def ratio(self, case, other):
        return self.seconds[case] / self.seconds[other]

    def in_relus(self, case, part):
        """In the time of the baseline, which is the faster of our plain ReLU and an outsider's."""
        outsider = self.seconds.get(f"ndarray_relu_{part}", math.inf)
        return self.seconds[case] / min(self.seconds[f"relu_{part}"], outsider)

    def speed(self, case):
        """Bytes a second."""
        return report_bytes.per_element(case, self.dtype, self.table) * self.n / self.seconds[case]

    def of_copy(self, case):
        return self.speed(case) / self.speed("copy")

    def mask(self):
        """10^9 bits a second."""
        return self.n / self.seconds["draw"] / 1e9


def rows_of(results):
    """Those rows that have what the tables are about."""
    rows = [Row(row, results.get("bytes")) for row in results.get("rows", [])]
    return [row for row in rows if row.has("drop_step", "relu_step", "copy")]


def spread(rows, figure):
    """From the least to the greatest of those that there are."""
    figures = [figure(row) for row in rows]
    return f"{min(figures):.2f} to {max(figures):.2f}" if figures else ""


def is_large(row, cache):
    """Whether four last-level caches would not hold a tensor of it."""
    bytes = row.n * report_bytes.SIZES[row.dtype]
    return bytes >= 4 * cache if cache else row.log >= 26


def is_cached(row):
    return not row.cold and 16 <= row.log <= 20


def summary(rows, cache):
    """What the aims of the page speak of."""
    return table(
        ("", "step / ReLU's, large", "forward of copy, large", "backward of copy, large",
         "forward of streamed copy, large", "step / ReLU's, in cache", "mask, one thread, Gbit/s"),
        (_summary(dtype, rows, cache) for dtype in DTYPES),
    )


def _summary(dtype, rows, cache):
    mine = [row for row in rows if row.dtype == dtype and row.p == P]
    large = [row for row in mine if is_large(row, cache)]
    streamed = [row for row in large if row.has("streamed_copy")]
    # No more elements than one thread takes alone.
    one_thread = [row for row in mine if row.has("draw") and row.log == 16 and not row.cold]
    return (
        dtype,
        spread(large, lambda row: row.in_relus("drop_step", "step")),
        *(spread(large, lambda row: row.of_copy(case)) for case in ("drop_forward", "drop_backward")),
        spread(streamed, lambda row: row.speed("drop_forward") / row.speed("streamed_copy")),
        spread(filter(is_cached, mine), lambda row: row.in_relus("drop_step", "step")),
        f"{one_thread[0].mask():.1f}" if one_thread else "",
    )


def tables(rows):
    """All figures."""
    shown = [row for row in rows if row.p == P and row.log in SHOWN]
    yield from table(
        ("", "forward / ReLU's", "backward / ReLU's", "step / ReLU's", "forward of copy", "backward of copy",
         "ReLU forward of copy", "streamed copy of copy", "copy, GB/s"),
        (
            (
                row.name(),
                *(f"{row.in_relus(f'drop_{part}', part):.2f}" for part in ("forward", "backward", "step")),
                *(f"{row.of_copy(case):.2f}" for case in ("drop_forward", "drop_backward", "relu_forward")),
                f"{row.of_copy('streamed_copy'):.2f}" if row.has("streamed_copy") else "",
                f"{row.speed('copy') / 1e9:.1f}",
            )
            for row in shown
        ),
    )
    yield ""
    ratio = lambda row, case, other: f"{row.ratio(case, other):.2f}" if row.has(case, other) else ""
    yield from table(
        ("", "inference / ReLU's forward", "RReLU step / ReLU's step", "mask alone, Gbit/s",
         "one thread's step / the step", "ndarray's ReLU / ours, forward", "ndarray's ReLU / ours, step"),
        (
            (
                row.name(),
                f"{row.in_relus('drop_infer', 'forward'):.2f}",
                f"{row.in_relus('rrelu_step', 'step'):.2f}",
                f"{row.mask():.1f}" if row.has("draw") else "",
                ratio(row, "drop_step_one_thread", "drop_step"),
                *(ratio(row, f"ndarray_relu_{part}", f"relu_{part}") for part in ("forward", "step")),
            )
            for row in shown
        ),
    )
    if others := [row for row in rows if row.p != P]:
        yield ""
        yield from table(
            ("", "p", "forward / ReLU's", "step / ReLU's", "forward of copy"),
            (
                (
                    row.name(),
                    f"{row.p}",
                    *(f"{row.in_relus(f'drop_{part}', part):.2f}" for part in ("forward", "step")),
                    f"{row.of_copy('drop_forward'):.2f}",
                )
                for row in others
            ),
        )


def draw(path, rows):
    """For each type three pictures side by side: bytes a second, of the copy's, and time in plain ReLU's."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    # The same figures give the same file.
    matplotlib.rcParams.update({"svg.hashsalt": "drop-activation", "svg.fonttype": "none", "font.size": 8})
    dtypes = [dtype for dtype in DTYPES if any(row.dtype == dtype for row in rows)]
    figure, grid = plt.subplots(len(dtypes), 3, figsize=(13, 3.6 * len(dtypes)), squeeze=False)
    colours = {"forward": "#0072b2", "backward": "#009e73", "step": "#d55e00", "copy": "#555555"}
    speeds = (("copy", "copy"), ("step", "drop_step"), ("ReLU's step", "relu_step"))
    for dtype, (speed, copy, relu) in zip(dtypes, grid):
        for cold, style in ((False, "-"), (True, "--")):
            chosen = sorted(
                (row for row in rows if (row.dtype, row.cold, row.p) == (dtype, cold, P)), key=lambda row: row.n
            )
            sizes = [row.n for row in chosen]
            warm = "cold" if cold else "warm"
            for (name, case), colour in zip(speeds, (colours["copy"], colours["step"], "#cc79a7")):
                line = [row.speed(case) / 1e9 for row in chosen]
                speed.plot(sizes, line, style, color=colour, label=f"{name}, {warm}")
            for part in ("forward", "backward"):
                line = [row.of_copy(f"drop_{part}") for row in chosen]
                copy.plot(sizes, line, style, color=colours[part], label=f"{part}, {warm}")
            for part in ("forward", "backward", "step"):
                line = [row.in_relus(f"drop_{part}", part) for row in chosen]
                relu.plot(sizes, line, style, color=colours[part], label=f"{part}, {warm}")
        for axes, title in (
            (speed, f"{dtype}: GB/s"),
            (copy, f"{dtype}: bytes/s in the copy's"),
            (relu, f"{dtype}: time in plain ReLU's"),
        ):
            axes.set_xscale("log", base=2)
            axes.set_xlabel("elements")
            axes.set_title(title)
            axes.set_ylim(bottom=0)
            axes.grid(alpha=0.3)
            axes.legend(frameon=False, fontsize=6)
        copy.axhline(1, color="grey", linewidth=0.8)
        relu.axhline(1, color="grey", linewidth=0.8)
    figure.tight_layout()
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    plt.close(figure)
