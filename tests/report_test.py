#!/usr/bin/env python3
"""scripts/report on results of a GPU: measured stands beside predicted, and each figure under the GPU that gave it.

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
import gpu_figures  # noqa: E402

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

PASSES = """
| pass | type | bytes | of the copy's speed, H100 | of the copy's speed, H200 |
|---|---|--:|--:|--:|
| Drop-Activation, training forward | f32 | 8.125 | 0.95 to 1 | 0.75 to 0.85 |
| Drop-Activation, backward | f32 | 8.125 | 0.98 | 0.97 to 1 |
| ReLU, forward | f32 | 8 | 0.5 | 0.5 |
"""
STEPS = """
| type | by bytes | if nothing overlaps |
|---|--:|--:|
| f32 | 0.812 | 0.87 |
"""


def lines(gpu="NVIDIA H200", page=PASSES + STEPS, **changes):
    data = copy.deepcopy(RESULTS)
    data["machine"]["gpu"] = gpu
    data |= changes
    return gpu_figures.page(data, page)


class Report(unittest.TestCase):
    def row(self, text, start):
        found = [line for line in text if line.startswith(f"| {start} |")]
        self.assertEqual(len(found), 1, text)
        return [cell.strip() for cell in found[0].strip("|").split("|")][2:]

    def test_the_page_of_predictions_is_understood(self):
        page = (ROOT / "docs" / "gpu-prediction.md").read_text()
        for gpu in ("NVIDIA H200", "NVIDIA H100 80GB HBM3"):
            prediction = gpu_figures.Prediction(page, gpu)
            for dtype in ("f32", "bf16"):
                for low, high in (
                    *(prediction.of_copy[name, dtype] for name in gpu_figures.NAMES.values()),
                    prediction.step[dtype],
                ):
                    self.assertTrue(0.2 < low <= high < 1.5, (gpu, dtype, low, high))

    def test_measured_stands_beside_predicted(self):
        text = lines()
        forward = self.row(text, "training forward, of the copy's bytes a second")
        self.assertEqual(forward, ["0.750 to 0.850", "0.800", "as predicted", "at least 0.96", "missed"])
        backward = self.row(text, "backward, of the copy's bytes a second")
        self.assertEqual(backward, ["0.970 to 1.000", "1.000", "as predicted", "at least 0.97", "met"])
        step = self.row(text, "step / plain ReLU's")
        self.assertEqual(step, ["0.812 to 0.870", "0.850", "as predicted", "at most 0.85", "met"])
        self.assertEqual(self.row(text, "step / PyTorch's ReLU's")[1:3], ["0.680", "better"])
        composed = self.row(text, "step / the operation composed in PyTorch")
        self.assertEqual(composed, ["0.226 to 0.242", "0.236", "as predicted", "at most 0.25", "met"])
        self.assertFalse([line for line in text if line.startswith("| step / that through torch.compile |")])
        self.assertIn("| f32, 2^28 | 2684 | 0.800 | 1.000 | 1.000 | 1700.0 | 0.850 | 0.680 | 0.236 |  |", text)
        self.assertIn("| identity | 0.987 |", text)
        self.assertIn("| 2^10 | 20.0 | 40.0 |", text)

    def test_each_gpu_has_its_own_prediction_and_name(self):
        text = lines("NVIDIA H100 80GB HBM3")
        self.assertTrue(text[0].startswith("Measured on **NVIDIA H100 80GB HBM3**, driver 580.82.07, PyTorch 2.11.0"))
        self.assertIn("of commit 0123456789ab.", text[0])
        self.assertEqual(self.row(text, "training forward, of the copy's bytes a second")[2], "worse")
        self.assertEqual(self.row(text, "backward, of the copy's bytes a second")[2], "better")

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
        with self.assertRaisesRegex(ValueError, "gpu-prediction.md has no table"):
            lines(page=STEPS)

    def test_a_file_of_results_makes_the_page_stale_until_it_is_in_it(self):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            for name in ("scripts", "docs"):
                shutil.copytree(ROOT / name, root / name)
            (root / "benches/results").mkdir(parents=True)
            report = lambda *options: subprocess.run(
                [sys.executable, str(root / "scripts/report"), *options], capture_output=True, text=True
            )
            self.assertEqual(report().returncode, 0)
            self.assertEqual(report("--check").returncode, 0)
            (root / "benches/results/2026-12-01-h200.json").write_text(json.dumps(RESULTS))
            stale = report("--check")
            self.assertEqual((stale.returncode, "run scripts/report" in stale.stderr), (1, True), stale)
            self.assertEqual(report().returncode, 0)
            self.assertEqual(report("--check").returncode, 0)
            page = (root / "docs/performance.md").read_text()
            self.assertIn("### h200\n\n`benches/results/2026-12-01-h200.json`\n\nMeasured on **NVIDIA H200**", page)
            shown = report("--show", str(root / "benches/results/2026-12-01-h200.json"))
            self.assertIn(shown.stdout.strip(), page)


if __name__ == "__main__":
    unittest.main()
