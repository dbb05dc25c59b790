#!/usr/bin/env python3
"""scripts/gpu-run, on stand-ins for all that a GPU machine has: what passes, fails, is skipped, hangs, lacks, does not
fit or is cut short must show in the exit status, in results.json and in the table.

    python3 tests/gpu_run_test.py
"""

import importlib.machinery
import importlib.util
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOOLS = ["memcheck", "racecheck", "initcheck", "synccheck"]
STEPS = [
    *("smoke", "prebuilt", "fused", "suite", "gpu", "crate", "headline", "compiled", "probes"),
    *("memcheck", "initcheck", "racecheck", "synccheck", "module", "calls", "blocks", "candle", "experiment"),
    *("ratios", *(f"suite-{tool}" for tool in TOOLS), "python", "pytorch", "passes"),
]
# All that fits, for tests in which something else is to be seen.
ALL = ("--minutes", "60")

# A test executable: each filter stands for a test of that name.
TESTS = """
needed="gpu::lengths::f32 batch_norm::layers_are_the_composition network::gradients_are_central_differences
    composition::training_is_the_composition_with_the_same_mask a_graph_draws_fresh_masks_at_every_replay
    beyond_2_to_the_32_elements"
for filter in $needed "$@"; do
    case $filter in --*) ;; *) echo "test $filter ... ok" ;; esac
done
echo "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s"
"""

# tests/smoke: two entry points, of the device code that is asked for.
SMOKE = """
[ -n "$SMOKE_IMAGES" ] && [ "$*" = "--exact every_entry_point --test-threads=1" ] || exit 3
echo "test every_entry_point ... device Fake 0"
for name in da_relu_forward_f32 da_advance; do echo "entry $SMOKE_IMAGES $name: ok"; done
echo ok
echo "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s"
"""

# The module that is run, as pytest: what it says at its end with the option -rfEs, and its exit status.
PYTEST = """
import os, sys
assert "-rfEs" in sys.argv and sys.argv[-1].endswith(("/bundle/python/tests", "/test_gpu.py")), sys.argv
assert os.environ["DROP_ACTIVATION_REQUIRE_GPU"] == "1"
import drop_activation
print({text!r})
sys.exit({code})
"""

# It runs the program that stands after its options, all of which have values.
SANITIZER = """
[ "$1" = --version ] && { echo "Version 2025.3.1"; exit; }
tool=$2
while case $1 in --*) true ;; *) false ;; esac; do shift 2; done
"$@" || exit
case $tool in
racecheck) echo "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)" ;;
memcheck) printf "========= LEAK SUMMARY: 0 bytes leaked in 0 allocations\\n========= ERROR SUMMARY: 0 errors\\n" ;;
*) echo "========= ERROR SUMMARY: 0 errors" ;;
esac
"""

SECONDS = {"copy": 4e-6, "drop_forward": 5e-6, "drop_backward": 4e-6, "drop_step": 8e-6, "relu_step": 1e-5}
SECONDS |= {"torch_relu_step": 1.6e-5, "eager_step": 4e-5, "compiled_step": 2e-5}
ROWS = {"device": "Fake 0", "rows": [{"dtype": "f32", "n": 1048576, "p": 0.95, "cold": True, "seconds": SECONDS}]}

# A program that measures: what stands after --json is the file.
MEASURES = f"""
while [ "$1" != --json ]; do shift; done
echo '{json.dumps(ROWS)}' >"$2"
"""
PYTHON_MEASURES = f"import sys\nopen(sys.argv[sys.argv.index('--json') + 1], 'w').write({json.dumps(ROWS)!r})"
FIGURES = ["crate", "headline", "compiled", "probes", "calls", "blocks", "experiment", "ratios", "pytorch"]

CRITERION = """
folder="$CRITERION_HOME/group/name/new"
/bin/mkdir -p "$folder"
echo '{"full_id": "group/name"}' >"$folder/benchmark.json"
echo '{"median": {"point_estimate": 2.5, "confidence_interval": {"lower_bound": 2, "upper_bound": 3}}}' \\
    >"$folder/estimates.json"
"""


def plan():
    """The steps of scripts/gpu-run as they are."""
    loader = importlib.machinery.SourceFileLoader("gpu_run", str(ROOT / "scripts" / "gpu-run"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("gpu_run", loader))
    sys.dont_write_bytecode = True
    loader.exec_module(module)
    return module, list(module.steps(pathlib.Path("out")))


def compile_driver(folder):
    source = ROOT / "tests" / "fake_driver" / "libcuda.c"
    command = ["cc", "-shared", "-fPIC", "-I", str(ROOT / "kernels"), "-o", str(folder / "libcuda.so.1"), str(source)]
    subprocess.run(command, check=True)


class GpuRun(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.shared = tempfile.TemporaryDirectory()
        compile_driver(pathlib.Path(cls.shared.name))

    @classmethod
    def tearDownClass(cls):
        cls.shared.cleanup()

    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = pathlib.Path(temporary.name)
        self.bundle, self.tools, self.out = (self.folder / name for name in ("bundle", "tools", "out"))
        for folder in (*(self.bundle / name for name in ("bin", "benches", "python", "pytest")), self.tools):
            folder.mkdir(parents=True)
        shutil.copy(ROOT / "scripts" / "gpu-run", self.bundle / "run")
        (self.bundle / "about.json").write_text('{"commit": "c0ffee", "with_changes": false, "rustc": "rustc 1"}')
        self.script(self.bundle / "bin/smoke", SMOKE)
        self.script(self.bundle / "bin/suite", TESTS)
        self.script(self.bundle / "bin/gpu", TESTS)
        (self.bundle / "bin/candle").mkdir()
        self.script(self.bundle / "bin/candle/suite", TESTS)
        for name in ("ratios", "probes"):
            self.script(self.bundle / "benches" / name, MEASURES)
        self.script(self.bundle / "benches/passes", CRITERION)
        (self.bundle / "python/drop_activation.py").write_text("")
        self.pytest("....... [100%]\n7 passed in 1.50s", 0)
        for name in ("headline.py", "gpu_blocks.py", "calls.py", "pytorch.py", "experiments.py"):
            (self.bundle / name).write_text(PYTHON_MEASURES)
        self.script(self.tools / "compute-sanitizer", SANITIZER)
        self.script(self.tools / "nvidia-smi", "echo '580.82.07, 143771 MiB, 1980 MHz, 3201 MHz, 700.00 W, Disabled'")
        self.environment = {"PATH": str(self.tools), "LD_LIBRARY_PATH": self.shared.name}

    def script(self, path, text):
        path.write_text("#!/bin/sh\n" + text)
        path.chmod(0o755)

    def pytest(self, text, code):
        (self.bundle / "pytest/pytest.py").write_text(PYTEST.format(text=text, code=code))

    def start(self, *arguments):
        command = [sys.executable, str(self.bundle / "run"), str(self.out), *arguments]
        return subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=self.folder
        )

    def results(self):
        return json.loads((self.out / "results.json").read_text())

    def status(self, name):
        return self.results()["steps"][name]["status"]

    def ends(self, code, *arguments):
        child = self.start(*arguments)
        table, _ = child.communicate(timeout=300)
        self.assertEqual(child.returncode, code, table)
        return table

    def only_one_is(self, name, status, reason, *arguments):
        """All steps pass but this one, which is told with its reason; and the call fails."""
        self.only_these_are([name], status, reason, *arguments)

    def only_these_are(self, names, status, reason, *arguments):
        table = self.ends(1, *(arguments or ALL))
        steps = self.results()["steps"]
        self.assertFalse(self.results()["complete"])
        for name in names:
            self.assertEqual(steps[name]["status"], status, steps[name])
            self.assertIn(reason, steps[name]["reason"])
            line = next(line for line in table.splitlines() if line.startswith(name + " ") and "..." not in line[:40])
            self.assertIn(status, line)
            self.assertIn(reason, line)
        others = {other: step["status"] for other, step in steps.items() if other not in names}
        self.assertEqual(set(others.values()), {"passed"}, others)

    def test_candle_has_the_machines_libraries_before_those_of_the_bundle(self):
        """A stand-in's functions do nothing."""
        toolkit = self.folder / "toolkit"
        self.environment |= {"CUDA_HOME": str(toolkit), "LD_LIBRARY_PATH": f"{self.shared.name}:/given"}
        self.script(self.bundle / "bin/candle/suite", f'echo "folders $LD_LIBRARY_PATH"\n{TESTS}')
        self.ends(0, "--only", "candle")
        folders = re.search(r"folders (.*)", (self.out / "candle.log").read_text())[1].split(":")
        self.assertEqual(folders[:3], [self.shared.name, "/given", str(toolkit / "lib64")])
        self.assertEqual(folders[-1], str(self.bundle / "bin/candle/lib"))

    def test_all_pass(self):
        before = {path: path.stat().st_mtime_ns for path in self.bundle.rglob("*")}
        table = self.ends(0, *ALL)
        results = self.results()
        self.assertTrue(results["complete"])
        self.assertEqual({step["status"] for step in results["steps"].values()}, {"passed"})
        self.assertEqual(list(results["steps"]), ["machine", *STEPS])
        self.assertEqual(results["bundle"]["commit"], "c0ffee")
        machine = results["machine"]
        self.assertEqual((machine["gpu"], machine["compute_capability"]), ("Fake 0", "9.0"))
        self.assertEqual(machine["driver_supports_cuda"], "13.0")
        self.assertEqual(machine["nvidia_smi"]["driver_version"], "580.82.07")
        self.assertEqual(machine["compute_sanitizer"], "Version 2025.3.1")
        self.assertEqual({name: results["figures"][name] for name in FIGURES}, dict.fromkeys(FIGURES, ROWS))
        self.assertEqual(results["figures"]["passes"], {"group/name": {"median_ns": 2.5, "interval_ns": [2, 3]}})
        for name, image in (("smoke", "embedded"), ("prebuilt", "prebuilt")):
            entries = {image: {"da_relu_forward_f32": "ok", "da_advance": "ok"}}
            self.assertEqual(results["figures"][name], {"device": "Fake 0", "entries": entries})
        for name in STEPS:
            self.assertIn(name, table)
            self.assertTrue((self.out / f"{name}.log").exists())
        self.assertIn("Fake 0, compiled: ", table)
        passes = r"f32 +2\^20 +forward 0\.812 +backward 1\.016"
        others = r"relu_step 0\.800 +torch_relu_step 0\.500 +eager_step 0\.200 +compiled_step 0\.400"
        self.assertRegex(table, f"{passes} +{others}")
        # The bundle may lie on a disk that cannot be written to.
        self.assertEqual(before, {path: path.stat().st_mtime_ns for path in self.bundle.rglob("*")})

    def test_the_plan_adds_up(self):
        module, steps = plan()
        self.assertEqual([step.name for step in steps], STEPS)
        self.assertEqual(list(dict.fromkeys(step.part for step in steps)), list(module.PARTS))
        self.assertTrue(all(0 < step.estimate <= step.limit for step in steps))
        first_run = sum(step.estimate for step in steps if step.part != "rest")
        self.assertLess(module.START_SECONDS + first_run, 8 * 60 - 60, "a minute is left over for what takes longer")
        # What a second, shorter call has to have time for.
        most_needed = ("smoke", "correctness", "headline")
        self.assertLess(sum(step.estimate for step in steps if step.part in most_needed), 4 * 60)

    def test_the_plan_is_the_documented_one(self):
        _, steps = plan()
        text = (ROOT / "docs/testing.md").read_text()
        section = text[text.index("## On a machine with a GPU") :]
        documented = {line.split()[1]: line for line in section.splitlines() if line.startswith("| ")}
        for part in dict.fromkeys(step.part for step in steps):
            mine = [step for step in steps if step.part == part]
            self.assertTrue(documented[part].endswith(f"| {sum(step.estimate for step in mine)} s |"), documented[part])
            for step in mine:
                # Of those over a part of the suite one stands for all.
                self.assertTrue(f"`{step.name}`" in documented[part] or step.name[:6] == "suite-", step.name)

    def test_the_plan_is_shown_and_not_done(self):
        self.environment["LD_LIBRARY_PATH"] = str(self.folder)
        table = self.ends(0, "--plan", "--minutes", "2")
        self.assertFalse(self.out.exists())
        lines = {line.split()[1]: line for line in table.splitlines()}
        self.assertEqual(list(lines)[1:], STEPS)
        self.assertTrue(lines["compiled"].endswith("does not fit"))
        self.assertRegex(lines["smoke"], r"smoke +smoke +5 s +30 s +10 s")
        self.assertRegex(lines["probes"], r" s$", "what is short fits after what is long does not")

    def test_what_does_not_fit_is_named_and_a_later_call_goes_on(self):
        _, steps = plan()
        self.script(self.bundle / "bin/gpu", "echo 'test streams ... FAILED'; exit 101")
        table = self.ends(1, "--minutes", "1")
        long = [step.name for step in steps if step.estimate >= 60]
        self.assertEqual(long[:2], ["compiled", "module"])
        for name in STEPS:
            expected = "failed" if name == "gpu" else "did not fit" if name in long else "passed"
            self.assertEqual(self.status(name), expected, self.results()["steps"][name])
        self.assertRegex(self.results()["steps"]["compiled"]["reason"], r"it takes about 80 s, and \d+ s are left")
        self.assertRegex(table, r"compiled +did not fit .* it takes about 80 s")
        self.assertNotIn("compiled", self.results()["figures"])

        # What was never done first, then what did not pass.
        self.script(self.bundle / "bin/gpu", TESTS)
        table = self.ends(0, "--resume", *ALL)
        done = [line.removesuffix(" ...") for line in table.splitlines() if line.endswith(" ...")]
        self.assertEqual(done, [*long, "gpu"])
        self.assertTrue(self.results()["complete"])

    def test_nothing_failed_but_not_everything_fitted(self):
        self.assertIn("not complete", self.ends(3, "--minutes", "1"))

    def test_the_minutes_end_amid_a_step(self):
        self.script(self.bundle / "bin/smoke", "exec /bin/sleep 60")
        start = time.monotonic()
        table = self.ends(1, "--minutes", "0.15")
        self.assertLess(time.monotonic() - start, 30)
        self.assertEqual(self.status("smoke"), "cut short")
        self.assertIn("which were all that were left", table)
        self.assertEqual({self.status(name) for name in STEPS[1:]}, {"did not fit"})

    def test_an_entry_point_is_wrong(self):
        wrong = SMOKE.replace("echo ok\n", "echo entry $SMOKE_IMAGES da_x: FAILED: y; exit 1\n")
        self.script(self.bundle / "bin/smoke", wrong)
        self.only_these_are(["smoke", "prebuilt"], "failed", "1 entry points: da_x (", *ALL[:2], "--only", "smoke")
        self.assertEqual(self.results()["figures"]["smoke"]["entries"]["embedded"]["da_x"], "FAILED: y")
        self.assertTrue(self.results()["figures"]["smoke"]["partial"])
        self.assertIn("entry embedded da_x: FAILED: y", self.results()["steps"]["smoke"]["log"])

    def test_an_entry_point_takes_the_process_with_it(self):
        self.script(self.bundle / "bin/smoke", "printf 'entry embedded da_x: '; kill -SEGV $$")
        self.only_these_are(["smoke", "prebuilt"], "failed", "da_x (embedded): begun and not ended", "--only", "smoke")

    def test_an_entry_point_hangs(self):
        self.script(self.bundle / "bin/smoke", "printf 'entry embedded da_x: '; exec /bin/sleep 60")
        self.ends(1, "--only", "smoke,suite", "--limit", "2")
        step = self.results()["steps"]["smoke"]
        self.assertEqual(step["status"], "timed out")
        self.assertIn("not done after 2 seconds; da_x (embedded): begun and not ended", step["reason"])
        self.assertEqual(self.status("suite"), "passed", "the plan goes on")

    def test_a_test_fails(self):
        failed = "echo 'test a ... ok'; echo 'test streams ... FAILED'; echo 'test result: FAILED. 1 passed;'; exit 101"
        self.script(self.bundle / "bin/gpu", failed)
        self.only_one_is("gpu", "failed", "streams")

    def test_a_test_that_fails_amid_other_lines(self):
        failed = "printf 'test streams ... noise\\nFAILED\\n\\nfailures:\\n\\nfailures:\\n    streams\\n\\n'; exit 101"
        self.script(self.bundle / "bin/gpu", failed)
        self.only_one_is("gpu", "failed", "1 failed: streams")

    def test_a_test_is_skipped(self):
        # As one thread prints it: the test's name first.
        self.script(self.bundle / "bin/gpu", "echo 'test a ... SKIPPED: streams: no GPU'\n" + TESTS)
        self.only_one_is("gpu", "skipped", "SKIPPED: streams: no GPU")

    def test_no_test_runs(self):
        self.script(self.bundle / "bin/gpu", "echo 'test result: ok. 0 passed; 0 failed; 0 ignored'")
        self.only_one_is("gpu", "failed", "no test ran")

    def test_a_test_that_matters_is_gone(self):
        self.script(self.bundle / "bin/gpu", "echo 'test a ... ok'; echo 'test result: ok. 1 passed; 0 failed;'")
        self.only_one_is("gpu", "failed", "never ran: a_graph_draws_fresh_masks_at_every_replay")

    def test_a_crash(self):
        self.script(self.bundle / "bin/gpu", "echo here; kill -SEGV $$")
        self.only_one_is("gpu", "failed", "SIGSEGV: here")

    def test_a_crash_is_no_list_of_tests(self):
        self.script(self.bundle / "bin/gpu", "echo '    main'; echo here; kill -SEGV $$")
        self.only_one_is("gpu", "failed", "SIGSEGV: here")

    def test_a_python_test_fails(self):
        said = """.F                                                                       [100%]
=================================== FAILURES ===================================
    pass
=========================== short test summary info ============================
FAILED ../bundle/python/tests/test_gpu.py::test_streams[f32] - assert 1 == 2
1 failed, 1 passed in 0.04s"""
        self.pytest(said, 1)
        name = "../bundle/python/tests/test_gpu.py::test_streams[f32]"
        self.only_these_are(["module", "python"], "failed", f"1 failed: {name}")

    def test_a_python_test_cannot_be_read(self):
        said = """=========================== short test summary info ============================
ERROR ../bundle/python/tests/test_numpy.py
!!!!!!!!!!!!!!!!!!!! Interrupted: 1 error during collection !!!!!!!!!!!!!!!!!!!!
1 error in 0.16s"""
        self.pytest(said, 2)
        self.only_these_are(["module", "python"], "failed", "1 failed: ../bundle/python/tests/test_numpy.py")

    def test_a_python_test_is_skipped(self):
        said = """.s                                                                       [100%]
=========================== short test summary info ============================
SKIPPED [1] ../bundle/python/tests/test_torch.py:320: could not import 'timm'
1 passed, 1 skipped in 0.04s"""
        self.pytest(said, 0)
        self.only_these_are(["module", "python"], "skipped", "could not import 'timm'")

    def test_python_has_no_pytorch(self):
        said = """.                                                                        [100%]
=========================== short test summary info ============================
SKIPPED [1] ../bundle/python/tests/test_gpu.py:8: SKIPPED: PyTorch is not installed
1 passed, 1 skipped in 0.04s"""
        self.pytest(said, 0)
        self.only_these_are(["module", "python"], "skipped", "PyTorch is not installed")

    def test_no_python_test_runs(self):
        self.pytest("no tests ran in 0.00s", 5)
        self.only_these_are(["module", "python"], "failed", "exit status 5: no tests ran")

    def test_pytest_ends_well_and_says_nothing(self):
        self.pytest("", 0)
        self.only_these_are(["module", "python"], "failed", "no test ran")

    def test_an_executable_is_gone(self):
        (self.bundle / "bin/gpu").unlink()
        self.only_one_is("gpu", "missing", "bin/gpu")

    def test_the_sanitizer_finds_an_error(self):
        found = """[ "$2" = synccheck ] && {
            for kernel in da_x da_x "da_y(da_args)"; do echo "=========     at $kernel+0x5d0"; done
            echo "========= ERROR SUMMARY: 2 errors"; echo "test every_entry_point ... FAILED"; exit 9; }\n"""
        self.script(self.tools / "compute-sanitizer", found + SANITIZER)
        self.only_these_are(["synccheck", "suite-synccheck"], "failed", "ERROR SUMMARY: 2 errors, da_x, da_y")

    def test_the_sanitizer_did_not_attach(self):
        silent = """[ "$2" = racecheck ] && { shift 4; exec "$@"; }\n"""
        self.script(self.tools / "compute-sanitizer", silent + SANITIZER)
        self.only_these_are(["racecheck", "suite-racecheck"], "failed", "no summary")

    def test_a_test_fails_under_the_sanitizer(self):
        failed = """case "$*" in *test-threads=1*) echo 'test gpu::shards::f32 ... FAILED'; exit 101 ;; esac\n"""
        self.script(self.bundle / "bin/suite", failed + TESTS)
        tools = [f"suite-{tool}" for tool in ("memcheck", "racecheck", "initcheck", "synccheck")]
        self.only_these_are(tools, "failed", "1 failed: gpu::shards::f32")

    def test_the_sanitizer_is_missing(self):
        places = (f"/usr/local/cuda/{folder}/compute-sanitizer" for folder in ("bin", "compute-sanitizer"))
        if any(os.access(place, os.X_OK) for place in places):
            self.skipTest("compute-sanitizer is where it is looked for")
        (self.tools / "compute-sanitizer").unlink()
        self.ends(1)
        step = self.results()["steps"]["memcheck"]
        self.assertEqual(step["status"], "missing")
        self.assertIn("compute-sanitizer", step["reason"])
        self.assertEqual((self.status("gpu"), self.status("crate")), ("passed", "passed"))

    def test_nvidia_smi_is_missing(self):
        (self.tools / "nvidia-smi").unlink()
        self.only_one_is("machine", "missing", "nvidia-smi")

    def test_a_measurement_panics(self):
        advice = "note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace"
        self.script(self.bundle / "benches/ratios", f"echo 'no symbol'; echo '{advice}'; exit 101")
        self.only_these_are(["crate", "ratios"], "failed", "exit status 101: no symbol")

    def test_figures_are_missing(self):
        self.script(self.bundle / "benches/ratios", "echo measured")
        self.script(self.bundle / "benches/passes", "echo measured")
        self.only_these_are(["crate", "ratios", "passes"], "failed", "its figures: ")

    def test_pytorch_is_missing(self):
        (self.bundle / "headline.py").write_text("import no_such_module")
        self.only_these_are(["headline", "compiled"], "failed", "ModuleNotFoundError")

    def test_a_step_hangs(self):
        mark = self.folder / "mark"
        hang = f"(/bin/sleep 60; echo late >{mark}) & echo $! >{self.folder}/pid; wait"
        self.script(self.bundle / "bin/gpu", hang)
        self.ends(1, "--only", "gpu,crate", "--limit", "2")
        self.assertEqual((self.status("gpu"), self.status("crate")), ("timed out", "passed"))
        self.assertIn("2", self.results()["steps"]["gpu"]["reason"])
        # What the step started has ended with it.
        child = int((self.folder / "pid").read_text())
        state = pathlib.Path(f"/proc/{child}/stat")
        self.assertTrue(not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z")

    def test_a_measurement_hangs_after_a_row(self):
        self.script(self.bundle / "benches/ratios", MEASURES + "exec /bin/sleep 60")
        self.ends(1, "--only", "crate", "--limit", "2")
        self.assertEqual(self.status("crate"), "timed out")
        self.assertEqual(self.results()["figures"]["crate"], ROWS | {"partial": True})

    def test_a_row_is_there_although_the_call_is_killed(self):
        started = f"echo $$ >{self.folder}/started\n"
        self.script(self.bundle / "benches/ratios", started + MEASURES + "exec /bin/sleep 60")
        child = self.start("--only", "crate")
        while not (self.out / "results.json").exists() or "crate" not in self.results()["figures"]:
            self.assertIsNone(child.poll())
            time.sleep(0.05)
        child.kill()
        child.communicate()
        os.kill(int((self.folder / "started").read_text()), signal.SIGKILL)
        self.assertEqual(self.results()["figures"]["crate"], ROWS | {"partial": True})
        self.assertEqual(self.status("crate"), "cut short")

    def test_no_driver(self):
        broken = self.folder / "no-driver"
        broken.mkdir()
        (broken / "libcuda.so.1").write_text("no library")
        self.environment["LD_LIBRARY_PATH"] = str(broken)
        table = self.ends(1)
        results = self.results()
        self.assertIn("no CUDA driver", results["steps"]["machine"]["reason"])
        self.assertEqual([self.status(name) for name in STEPS], ["skipped"] * len(STEPS))
        self.assertIn("no CUDA driver", results["steps"]["suite"]["reason"])
        self.assertIn("no CUDA driver", table)

    def test_part_by_part(self):
        self.ends(0, "--only", "sanitizer,crate")
        sanitizer = {"memcheck", "racecheck", "initcheck", "synccheck"}
        self.assertEqual(set(self.results()["steps"]), {"machine", "crate", *sanitizer})
        self.assertFalse(self.results()["complete"])
        self.assertIn("not run", self.ends(0, "--only", "smoke,correctness"))
        self.ends(0, "--only", "headline,probes,pytorch,rest", *ALL)
        self.assertTrue(self.results()["complete"])
        self.assertEqual(set(self.results()["figures"]), {"smoke", "prebuilt", "fused", "passes", *FIGURES})

    def test_resumed_after_being_cut(self):
        for number in (signal.SIGTERM, signal.SIGKILL):
            with self.subTest(number.name):
                shutil.rmtree(self.out, ignore_errors=True)
                self.script(self.bundle / "bin/suite", TESTS)
                self.script(self.bundle / "bin/gpu", f"echo $$ >{self.folder}/started; exec /bin/sleep 60")
                child = self.start()
                while not (self.folder / "started").exists():
                    time.sleep(0.05)
                child.send_signal(number)
                child.communicate(timeout=60)
                self.assertNotEqual(child.returncode, 0)
                self.assertEqual((self.status("suite"), self.status("gpu")), ("passed", "cut short"))
                self.assertNotIn("crate", self.results()["steps"])
                if number == signal.SIGKILL:
                    os.kill(int((self.folder / "started").read_text()), signal.SIGKILL)
                (self.folder / "started").unlink()

                self.script(self.bundle / "bin/gpu", TESTS)
                self.script(self.bundle / "bin/suite", "echo again; " + TESTS)
                self.ends(0, "--resume", *ALL)
                self.assertTrue(self.results()["complete"])
                self.assertNotIn("again", (self.out / "suite.log").read_text())

    def test_a_step_that_passed_once_and_fails_now(self):
        self.ends(0, *ALL)
        self.script(self.bundle / "benches/probes", "exit 1")
        self.only_one_is("probes", "failed", "exit status 1", "--only", "probes")
        self.assertNotIn("probes", self.results()["figures"])

    def test_results_of_another_bundle(self):
        self.ends(0, "--only", "gpu")
        (self.bundle / "about.json").write_text('{"commit": "another"}')
        self.assertIn("another bundle", self.ends(1, "--only", "gpu"))
        self.assertEqual(self.results()["bundle"]["commit"], "c0ffee")

    def test_unknown_part(self):
        self.assertIn("racechek", self.ends(2, "--only", "racechek"))


if __name__ == "__main__":
    if shutil.which("cc") is None:
        print("SKIPPED: scripts/gpu-run on stand-ins: no C compiler", file=sys.stderr)
    else:
        unittest.main()
