#!/usr/bin/env python3
"""scripts/report: on results of a GPU, that measured stands beside predicted, and each figure under the GPU that gave
it; on those of a CPU, that the baseline is the fastest ReLU; and that no page can differ from its figures.

    python3 tests/report_test.py
"""

import copy
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "scripts"))
import report_blocks  # noqa: E402
import report_cpu  # noqa: E402
import report_gpu  # noqa: E402
import report_markdown  # noqa: E402
import report_prediction  # noqa: E402
import report_pytorch  # noqa: E402

# Two passes and a copy that take as long as their bytes do, but for forward, which takes 1.25 times as long.
SECONDS = {"copy": 8e-4, "relu_forward": 8e-4, "drop_forward": 8.125e-4 * 1.25, "drop_backward": 8.125e-4}
SECONDS |= {"drop_step": 1.7e-3, "relu_step": 2e-3, "torch_relu_step": 2.5e-3, "eager_step": 7.2e-3}
RESULTS = {
    "format": 2,
    "bundle": {"commit": "0123456789abcdef", "with_changes": False},
    "machine": {"gpu": "NVIDIA H200", "pytorch": "2.11.0", "nvidia_smi": {"driver_version": "580.82.07"}},
    "complete": False,
    "steps": {"smoke": {"status": "passed"}, "compiled": {"status": "timed out"}},
    "figures": {
        "headline": {
            "rows": [
                {"dtype": "f32", "n": n, "p": 0.95, "cold": True, "seconds": SECONDS} for n in (1 << 20, 1 << 28)
            ]
        },
        "probes": {"rows": [{"dtype": "f32", "n": 1 << 28, "probe": "identity", "seconds": 8e-4, "of_copy": 0.987}]},
        "calls": {"rows": [{"dtype": "f32", "n": 1024, "seconds": {"relu_step": 2e-5, "drop_step": 4e-5}}]},
    },
}

# Of instructions that take a quarter of the bytes' time on an H200, and so a sixth of it on an H100.
RECORD = """
# a comment
pass,dtype,instructions,at_most,next_tile,alu,registers,warps,bytes_in_flight,calls,two_calls,one_call,no_calls
train_forward_relu,f32,15.7776,15,13,7.5,63,32,131072,3.2,12,10,8
train_backward_relu,f32,0,5,4,3,48,40,163840,,,,
relu_forward,f32,0,,4,2,39,48,98304,,,,
relu_backward,f32,0,,8,4,59,32,131072,,,,
"""


def prediction():
    return report_prediction.Prediction(RECORD.strip().splitlines())


def lines(gpu="NVIDIA H200", **changes):
    data = copy.deepcopy(RESULTS)
    data["machine"]["gpu"] = gpu
    data |= changes
    return report_gpu.lines(data, prediction())


class Report(unittest.TestCase):
    def row(self, text, start):
        found = [line for line in text if line.startswith(f"| {start} |")]
        self.assertEqual(len(found), 1, text)
        return [cell.strip() for cell in found[0].strip("|").split("|")][2:]

    def test_predictions_bracket_the_speed(self):
        recorded = report_prediction.recorded()
        for gpu in report_prediction.GPUS:
            for row in recorded.rows.values():
                low, high = row.of_copy(gpu)
                self.assertTrue(0.2 < low < high == 1, (gpu, row.name, row.dtype, low))
            for dtype in ("f32", "bf16"):
                by_bytes, neither, one = recorded.step(dtype, gpu)
                self.assertTrue(0.8 < by_bytes < neither < one < 1.5, (gpu, dtype))

    def test_predictions_follow_from_instructions(self):
        forward = prediction().rows["train_forward_relu", "f32"]
        # 33.4e12 slots a second are 7.767 for each of an H200's bytes and 11.13 for an H100's, so that the instructions
        # take the time of 2.031 bytes and of 1.417.
        self.assertAlmostEqual(forward.of_copy("H200")[0], 8.125 / (8.125 + 2.0313), 4)
        self.assertAlmostEqual(forward.of_copy("H100")[0], 8.125 / (8.125 + 1.4171), 4)
        by_bytes, neither, one = prediction().step("f32", "H200")
        self.assertAlmostEqual(by_bytes, 16.25 / 20)
        self.assertAlmostEqual(neither, (16.25 + 2.0313) / 20, 4)
        self.assertAlmostEqual(one, neither)
        table = list(prediction().tables())
        self.assertIn(
            "| Drop-Activation, training forward | f32 | 8.125 | 15.8 | 15 | 13.0 | 25 % | 24 % | 63 | 32 | 128 "
            "| 0.80 to 1 | 0.85 to 1 |",
            table,
        )
        self.assertIn("| f32 | 0.812 | 0.91 | 0.91 |", table)
        self.assertIn("| k/16 | 1 | 10.0 |", table)

    def test_blocks_follow_from_instructions(self):
        # Of 4 bytes an H200 leaves time for 31.07 slots. Statistics issue half of them, and the accesses among these
        # keep their pipe busy for 1.2 times as long; the other passes issue nothing.
        passes = [(name, layout, 15.535 if name == "statistics" else 0) for name in report_prediction.FUSED_PASSES
                  for layout in report_prediction.LAYOUTS]
        record = [f"{name},{layout},{dtype},{count},0,0,0,{0.6 * count},40,48"
                  for name, layout, count in passes for dtype in ("f32", "f16", "bf16")]
        head = "pass,layout,dtype,instructions,alu,fma,mufu,lsu,registers,warps"
        prediction = report_prediction.FusedPrediction(["# a comment", head, *record])
        row = prediction.rows["statistics", "rows", "f32"]
        self.assertEqual(row.bytes, 4)
        self.assertAlmostEqual(row.at_worst("H200"), 6, 3)
        self.assertAlmostEqual(row.at_best("H200"), 4.8, 3)
        text = list(prediction.tables())
        # 32.375 bytes, and the time of 0.8 more, or of 2 if nothing overlaps; of 52 and of 32.
        block = self.row(text, "channels last | f32 | H200")
        self.assertEqual(block[1:], ["32.375", "0.64 to 0.66", "1.04 to 1.07", "1.00 to 1.00"])

    def test_recorded_blocks_are_plausible(self):
        prediction = report_prediction.fused()
        names = report_prediction.FUSED_PASSES
        self.assertEqual(len(prediction.rows), 6 * len(names))
        for row in prediction.rows.values():
            self.assertTrue(0 < row.busy("issue", "H200") < 3, (row.title, row.layout, row.dtype))
        for layout in report_prediction.LAYOUTS:
            for dtype in ("f32", "bf16"):
                plain, drops = (prediction.rows[name, layout, dtype].facts for name in ("forward_plain", "forward"))
                self.assertLess(float(plain["instructions"]), float(drops["instructions"]))

    def test_measured_stands_beside_predicted(self):
        text = lines()
        forward = self.row(text, "training forward, of the copy's bytes a second")
        self.assertEqual(forward, ["0.800 to 1.000", "0.800", "as predicted", "at least 0.96", "missed"])
        backward = self.row(text, "backward, of the copy's bytes a second")
        self.assertEqual(backward, ["1.000", "1.000", "as predicted", "at least 0.97", "met"])
        step = self.row(text, "step / plain ReLU's")
        self.assertEqual(step, ["0.812 to 0.914", "0.850", "as predicted", "at most 0.85", "met"])
        self.assertEqual(self.row(text, "step / PyTorch's ReLU's")[1:3], ["0.680", "better"])
        composed = self.row(text, "step / the operation composed in PyTorch")
        self.assertEqual(composed, ["0.226 to 0.254", "0.236", "as predicted", "at most 0.25", "met"])
        self.assertFalse([line for line in text if line.startswith("| step / that through torch.compile |")])
        self.assertIn("| f32, 2^28 | 2684 | 0.800 | 1.000 | 1.000 | 1700.0 | 0.850 | 0.680 | 0.236 |  |", text)
        self.assertIn("| identity | 0.987 |", text)
        self.assertIn("| 2^10 | 20.0 | 40.0 |", text)

    def test_each_gpu_has_its_own_prediction_and_name(self):
        text = lines("NVIDIA H100 80GB HBM3")
        self.assertTrue(text[0].startswith("Measured on **NVIDIA H100 80GB HBM3**, driver 580.82.07, PyTorch 2.11.0"))
        self.assertIn("of commit 0123456789ab.", text[0])
        self.assertEqual(
            self.row(text, "training forward, of the copy's bytes a second")[:3],
            ["0.851 to 1.000", "0.800", "worse"],
        )

    def test_what_did_not_pass_is_told(self):
        self.assertIn("Not passed: compiled (timed out).", lines())
        figures = copy.deepcopy(RESULTS["figures"])
        figures["compiled"] = {"rows": figures["headline"]["rows"][:1], "partial": True}
        self.assertIn("Of the step `compiled`, which was cut short, tensors cold, p = 0.95:", lines(figures=figures))

    def test_no_figures_yet(self):
        self.assertEqual(len(lines(figures={})), 2)

    def test_what_is_refused(self):
        with self.assertRaisesRegex(ValueError, "rehearsal"):
            lines(bundle={"commit": "c0ffee", "rehearsal": True})
        with self.assertRaisesRegex(ValueError, r"blocks \['b'\], there are figures for \['a'\]"):
            report_markdown.filled("<!-- generated by scripts/report: b -->\n<!-- end -->\n", {"a": []})

    def test_a_block_is_replaced_and_nothing_else(self):
        page = "one\n<!-- generated by scripts/report: a -->\nold\n<!-- end -->\ntwo\n"
        new = page.replace("old\n", "\nnew | 1\\0 |\n\n")
        self.assertEqual(report_markdown.filled(page, {"a": ["new | 1\\0 |"]}), new)
        self.assertEqual(report_markdown.filled(new, {"a": ["new | 1\\0 |"]}), new)

    def test_the_baseline_is_the_faster_relu(self):
        seconds = {"copy": 1.0, "drop_step": 3.0, "relu_step": 4.0, "ndarray_relu_step": 2.0, "draw": 1.0}
        row = {"dtype": "f32", "n": 1 << 16, "p": 0.95, "cold": False}
        faster, slower = (
            report_cpu.rows_of({"rows": [row | {"seconds": seconds | {"ndarray_relu_step": time}}]})[0]
            for time in (2.0, 5.0)
        )
        self.assertEqual((faster.in_relus("drop_step", "step"), slower.in_relus("drop_step", "step")), (1.5, 0.75))
        # Files of before name the forward pass alone.
        old = report_cpu.Row(row | {"seconds": {"ndarray_relu": 1.0, "relu_forward": 2.0, "drop_forward": 3.0}})
        self.assertEqual(old.in_relus("drop_forward", "forward"), 3)

    def test_the_bytes_of_a_file_are_its_own(self):
        row = {"dtype": "f32", "n": 1000, "p": 0.95, "cold": True, "seconds": {"copy": 2.0, "drop_step": 1.0}}
        self.assertEqual(report_cpu.Row(row).speed("drop_step"), 16250)
        self.assertEqual(report_cpu.Row(row, {"drop_step": [1, 1]}).speed("drop_step"), 5000)

    def test_beside_pytorch(self):
        parts = {"torch_relu": 4e-6, "relu": 5e-6, "drop": 6e-6}
        seconds = {f"{name}_{part}": t for name, t in parts.items() for part in ("forward", "backward", "step")}
        row = {"dtype": "f32", "n": 1 << 18, "p": 0.95, "cold": False, "threads": 2, "processes": "one"}
        rows = report_pytorch.rows_of({"kernels": {"rows": [row | {"seconds": seconds}]}})
        self.assertIn(
            "| f32, 2^18, warm | 2 | one process | 4.0 | 1.25 | 1.25 | 1.25 | 6.0 | 1.50 | 1.50 | 1.50 |",
            report_pytorch.tables(rows),
        )
        self.assertIn(
            "| f32 | 2 | one process |  | 1.50 to 1.50 |  |  | 1.25 to 1.25 |  |", report_pytorch.summary(rows, 1 << 25)
        )

    def test_blocks(self):
        layer = {"layer": "8 x 7 x 7", "memory": "channels last", "dtype": "bf16", "block": "norm", "warm": False}
        seconds = {"fused": 2e-3, "fused_relu": 1.6e-3, "unfused": 4e-3, "copy": 3e-4}
        ours = {"blocks": [layer | {"tensors": 8.0, "seconds": seconds}]}
        rows = report_blocks.rows_of(ours)
        names = "batch normalisation, activation | 8 x 7 x 7 | channels last | bf16"
        self.assertIn(f"| {names} | 2.00 | 1.60 | 4.00 | 0.30 | 1.25 | 0.50 | 0.60 |", list(report_blocks.tables(*rows)))
        # Of two layers, from the least to the greatest.
        slow = layer | {"tensors": 8.0, "seconds": seconds | {"fused": 4e-3}}
        summary = list(report_blocks.summary(*report_blocks.rows_of({"blocks": ours["blocks"] + [slow]})))
        names = "batch normalisation, activation | large | bf16"
        self.assertIn(f"| {names} | 1.25 to 2.50 | 0.50 to 1.00 | 0.30 to 0.60 |", summary)
        # What was not compiled is left out.
        theirs = [layer | {"seconds": {"module": 1e-3, "eager": 4e-3}}]
        theirs.append(layer | {"seconds": {"module": 1e-3, "eager": 2e-3, "compiled": 5e-4, "composed": 8e-4}})
        rows = report_blocks.rows_of({"pytorch_blocks": theirs})
        self.assertIn(f"| {names} | 0.25 to 0.50 | 2.00 to 2.00 | 1.25 to 1.25 |", list(report_blocks.summary(*rows)))
        self.assertTrue(any(line.endswith("| 1.00 | 4.00 |  |  | 0.25 |  |  |") for line in report_blocks.tables(*rows)))

    def test_masks_beside_pytorch(self):
        seconds = {"torch_mask": 5e-4, "mask": 8e-6}
        row = {"dtype": "f32", "n": 1 << 17, "p": 0.95, "cold": False, "threads": 1, "processes": "apart"}
        rows = report_pytorch.rows_of({"kernels": {"rows": [row | {"seconds": seconds}, row | {"seconds": {}}]}})
        masks = report_pytorch.masks(rows)
        self.assertEqual(masks[2:], ["| 2^17 | 1 | processes of their own | 500.0 | 8.0 | 62.5 |"])

    def test_steps_in_short(self):
        seconds = {"torch_relu_step": 5e-6, "relu_step": 4e-6, "drop_step": 3e-6}
        row = {"dtype": "bf16", "n": 1 << 16, "p": 0.95, "cold": False, "threads": 1, "processes": "apart"}
        others = ({"threads": 2}, {"processes": "one"}, {"cold": True, "n": 1 << 12}, {"n": 1 << 26, "cold": True})
        rows = [row | {"seconds": seconds}] + [
            row | other | {"seconds": seconds | {"drop_step": (i + 1) * 1e-6}} for i, other in enumerate(others)
        ]
        rows = report_pytorch.rows_of({"kernels": {"rows": rows}})
        self.assertEqual(
            report_pytorch.in_short([(row, 1 << 25) for row in rows])[2:],
            [
                "| larger than the cache |  |  | 1.00 to 1.00 | 0.80 to 0.80 |",
                "| 2^16 to 2^20 elements, in the cache |  |  | 0.75 to 0.75 | 0.60 to 0.60 |",
                "| 2^12 to 2^14 elements, in the cache |  |  |  |  |",
                "| 2^12 to 2^20 elements, not in the cache |  |  | 0.75 to 0.75 | 0.60 to 0.60 |",
            ],
        )

    def test_a_file_of_results_makes_the_page_stale_until_it_is_in_it(self):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            for name in ("scripts", "docs"):
                shutil.copytree(ROOT / name, root / name)
            (root / "benches/results").mkdir(parents=True)
            (root / "tests/data").mkdir(parents=True)
            records = ("tests/data/compiled-passes.csv", "tests/data/fused-passes.csv")
            for name in ("README.md", "benches/bytes.json", *records):
                shutil.copy(ROOT / name, root / name)
            report = lambda *options: subprocess.run(
                [sys.executable, str(root / "scripts/report"), *options], capture_output=True, text=True
            )
            self.assertEqual(report().returncode, 0)
            self.assertEqual(report("--check").returncode, 0)
            # Too old to say anything of today's code.
            (root / "benches/results/2026-11-27z-h200.json").write_text(json.dumps(RESULTS))
            self.assertEqual(report("--check").returncode, 0)
            (root / "benches/results/2026-12-01-h200.json").write_text(json.dumps(RESULTS))
            stale = report("--check")
            self.assertEqual(stale.stderr, "not of the figures: docs/performance.md; run scripts/report\n")
            self.assertEqual(stale.returncode, 1)
            self.assertEqual(report().returncode, 0)
            self.assertEqual(report("--check").returncode, 0)
            page = (root / "docs/performance.md").read_text()
            self.assertIn("### h200\n\n`benches/results/2026-12-01-h200.json`\n\nMeasured on **NVIDIA H200**", page)
            shown = report("--show", str(root / "benches/results/2026-12-01-h200.json"))
            self.assertIn(shown.stdout.strip(), page)
            record = root / "tests/data/compiled-passes.csv"
            record.write_text(record.read_text().replace("train_forward_relu,f32,14.", "train_forward_relu,f32,24."))
            stale = report("--check")
            pages = "docs/performance.md, docs/gpu-prediction.md"
            self.assertEqual(stale.stderr, f"not of the figures: {pages}; run scripts/report\n")


if __name__ == "__main__":
    unittest.main()
