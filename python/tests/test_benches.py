"""The benches that take PyTorch, on the CPU and small: what they measure is looked at, and what they write is whole."""

import importlib.util
import itertools
import json
import pathlib
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch", reason="SKIPPED: PyTorch is not installed")

HERE = pathlib.Path(__file__).resolve().parents[2]


def load(name):
    """From the repository, or from the bundle for a GPU."""
    path = next(folder / name for folder in (HERE / "benches", HERE) if (folder / name).exists())
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def headline(monkeypatch):
    module = load("headline.py")
    monkeypatch.setattr(module, "ROUNDS", 2)
    return module


def run(module, monkeypatch, tmp_path, *options):
    file = tmp_path / "figures.json"
    monkeypatch.setattr(sys, "argv", ["bench", "--device", "cpu", "--json", str(file), *options])
    module.main()
    return json.loads(file.read_text())


def test_the_headline_has_every_case_of_every_configuration(headline, monkeypatch, tmp_path, capsys):
    rows = run(headline, monkeypatch, tmp_path, "--sizes", "13,12")["rows"]
    assert [(row["n"], row["dtype"]) for row in rows] == [(n, d) for n in (1 << 13, 1 << 12) for d in ("f32", "bf16")]
    families = ("relu", "drop", "torch_relu", "module", "eager")
    names = {"copy", *(f"{family}_{part}" for family in families for part in ("forward", "backward", "step"))}
    for row in rows:
        assert (row["p"], row["cold"]) == (0.95, True)
        assert row["seconds"].keys() == names
        assert all(seconds > 0 for seconds in row["seconds"].values())
    assert len(capsys.readouterr().out.splitlines()) == len(rows)


@pytest.mark.parametrize("p", [0.94, 0.96])
def test_the_headline_does_not_time_another_p(headline, p):
    ours, run = headline.Library("cpu"), headline.Library.run
    x, dy = torch.randn(1 << 18), torch.randn(1 << 18)
    headline.cases(ours, None, x, dy)
    ours.run = lambda *arguments, **named: run(ours, *arguments, **named, p=p)
    with pytest.raises(AssertionError, match="negative elements were kept, p is 0.95"):
        headline.cases(ours, None, x, dy)


def test_the_headline_does_not_time_another_result(headline):
    ours, run = headline.Library("cpu"), headline.Library.run
    x, dy = torch.randn(1 << 12), torch.randn(1 << 12)

    def off_by_one(kind, input, output, **named):
        run(ours, kind, input, output, **named)
        output[17] += 1

    ours.run = off_by_one
    with pytest.raises(AssertionError, match="1 of 4096 results"):
        headline.cases(ours, None, x, dy)


class FakeGpu:
    """The part of torch.cuda that the timer takes: a clock that the sleep and the work move on."""

    def __init__(self):
        self.now, self.slept = 0.0, []

    def _sleep(self, cycles):
        self.slept.append(cycles)
        self.now += cycles / 2e9

    def synchronize(self):
        pass

    def Event(self, enable_timing):
        assert enable_timing
        gpu = self

        class Event:
            def record(self):
                self.at = gpu.now

            def synchronize(self):
                pass

            def elapsed_time(self, end):
                return (end.at - self.at) * 1e3

        return Event()


def test_the_timer_counts_the_work_and_not_the_sleep(headline, monkeypatch):
    gpu = FakeGpu()
    monkeypatch.setattr(torch, "cuda", gpu)
    clock = iter([0, 0.25, 1, 1.5, 2, 2.125])
    monkeypatch.setattr(headline.time, "perf_counter", lambda: next(clock))
    timer = headline.GpuTimer()

    def batch():
        gpu.now += 0.5

    assert [timer("name", batch) for _ in range(3)] == pytest.approx([0.5] * 3)
    # Half as long again as the quickest enqueueing so far; a slow one does not make it longer.
    assert gpu.slept == [50_000, 750_050_000, 750_050_000]
    assert timer.enqueueing == {"name": 0.125}


def test_a_compiler_that_fails_costs_its_own_columns(headline, monkeypatch, tmp_path):
    def broken(*_, **__):
        raise RuntimeError("no compiler\nbecause")

    monkeypatch.setattr(headline.torch, "compile", broken)
    with pytest.raises(SystemExit, match="without torch.compile, which failed: RuntimeError: no compiler$"):
        run(headline, monkeypatch, tmp_path, "--sizes", "12", "--compiled")
    rows = json.loads((tmp_path / "figures.json").read_text())["rows"]
    assert [row["dtype"] for row in rows] == ["f32", "bf16"]
    assert "eager_step" in rows[1]["seconds"] and "compiled_step" not in rows[1]["seconds"]


def test_calls(monkeypatch, tmp_path):
    module = load("calls.py")
    monkeypatch.setattr(module, "CALLS", 2)
    monkeypatch.setattr(module, "ROUNDS", 1)
    rows = run(module, monkeypatch, tmp_path)["rows"]
    assert [row["n"] for row in rows] == list(module.SIZES)
    names = {f"{name}_{part}" for name in ("relu", "dropout", "drop") for part in ("forward", "step")}
    assert all(row["seconds"].keys() == names for row in rows)


@pytest.fixture
def relu_cpu(monkeypatch):
    folder = HERE / "benches"
    if not folder.exists():
        pytest.skip("SKIPPED: benches of a CPU are not in the bundle for a GPU")
    monkeypatch.syspath_prepend(str(folder))
    return load("relu_cpu.py")


def test_relu_on_a_cpu_is_measured_in_processes_of_their_own_and_in_one(relu_cpu, monkeypatch):
    monkeypatch.setattr(relu_cpu, "DTYPES", {"bf16": "bfloat16"})
    rows = list(relu_cpu.measure([10], 2, [1]))
    assert [(row["n"], row["cold"], row["threads"], row["processes"]) for row in rows] == [
        (1024, cold, 1, way) for way in ("apart", "one") for cold in (False, True)
    ]
    families = ("torch_relu", "relu", "drop")
    cases = {f"{family}_{part}" for family in families for part in ("forward", "backward", "step")}
    for row in rows:
        assert row["seconds"].keys() == row["spread"].keys() == cases
        assert all(0 < low <= row["seconds"][case] <= high for case, (low, high) in row["spread"].items())


def test_each_process_has_its_threads_and_its_cases(relu_cpu, monkeypatch):
    monkeypatch.setattr(relu_cpu, "UNTIL_AWAKE", 0)
    worker = relu_cpu.Worker(["relu"], 2, "apart")
    assert torch.get_num_threads() == 1
    assert worker.configure("f32", 64, 3) == ["relu_forward", "relu_backward", "relu_step"]
    assert len({cases.x.data_ptr() for cases in worker.rotation}) == 3
    assert worker.seconds("relu_step", 4) > 0 and worker.turn == 4


@pytest.mark.parametrize(("family", "other"), [("drop", "relu"), ("relu", "drop")])
def test_relu_on_a_cpu_is_not_timed_if_it_is_another_operation(relu_cpu, family, other):
    cases = relu_cpu.Cases([family], torch.float32, 1 << 16, with_masks=False)
    with pytest.raises(AssertionError, match=rf"{family}: \d+ of \d+ were kept"):
        cases.check(family, getattr(cases, other)()["step"])


def test_relu_on_a_cpu_is_not_timed_if_a_result_is_wrong(relu_cpu):
    cases = relu_cpu.Cases(["torch_relu"], torch.float32, 1 << 12, with_masks=False)

    def off_by_one():
        cases.by_name["torch_relu_step"]()
        cases.dx[17] += 1

    with pytest.raises(AssertionError, match="torch_relu: 1 of 4096 results are wrong"):
        cases.check("torch_relu", off_by_one)


def test_a_process_that_ends_is_told(relu_cpu):
    process = relu_cpu.Process(["relu"], 1, "apart")
    with pytest.raises(RuntimeError, match="ended with status 1"):
        process.ask("configure", dtype="f99", n=64, sets=1)
    process.end()


@pytest.fixture
def blocks(monkeypatch):
    module = load("blocks.py")
    monkeypatch.setattr(module, "LAYERS", {"a layer, batch 2": (16, 16, 64, False)})
    return module


def test_the_blocks_have_every_way_of_every_configuration(blocks, monkeypatch, tmp_path):
    file = tmp_path / "figures.json"
    monkeypatch.setattr(sys, "argv", ["blocks.py", "--json", str(file)])
    blocks.main()
    rows = json.loads(file.read_text())["pytorch_blocks"]
    configurations = {(row["memory"], row["dtype"], row["block"]) for row in rows}
    assert len(rows) == len(configurations) == 2 * 2 * 3
    for row in rows:
        assert row["warm"] and not row["memory_kept"] and row["seconds"].keys() == {"eager", "module"}
        assert row["page_faults"].keys() == {"eager", "module"}
        assert all(seconds > 0 for seconds in row["seconds"].values())


def test_the_blocks_do_not_time_another_operation(blocks, monkeypatch):
    right, measure = blocks.BatchNormDropActivation2d, ("a layer, batch 2", "f32", "channels last", "norm_residual", False)
    monkeypatch.setattr(blocks, "BatchNormDropActivation2d", lambda channels, p: right(channels, p=p - 0.02))
    with pytest.raises(AssertionError, match="module: 0.0[67][0-9] of the negative elements passed, not 0.050"):
        blocks.measure(*measure)
    monkeypatch.setattr(blocks, "BatchNormDropActivation2d", lambda channels, p: right(channels, eps=1.0, p=p))
    with pytest.raises(AssertionError, match="away from the batch normalisation of x"):
        blocks.measure(*measure)
    bias = blocks.BiasDropActivation
    monkeypatch.setattr(blocks, "BiasDropActivation", lambda channels, p: bias(channels, p=p - 0.02))
    with pytest.raises(AssertionError, match="module: 0.0[67][0-9] of the negative elements passed, not 0.050"):
        blocks.measure("a layer, batch 2", "bf16", "channels last", "bias", False)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="SKIPPED: what keeps memory is glibc's")
def test_kept_memory_is_asked_for_once(blocks, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["blocks.py", "--keep-memory"])
    for name in blocks.KEEPING:
        monkeypatch.delenv(name, raising=False)

    def begun_anew(program, arguments, environment):
        raise InterruptedError(environment)

    monkeypatch.setattr(blocks.os, "execve", begun_anew)
    with pytest.raises(InterruptedError) as begun:
        blocks.main()
    (environment,) = begun.value.args
    tensor = (
        "import numpy as np, resource; x = np.ones(20 << 20, np.float32); del x\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "before = faults(); x = np.ones(20 << 20, np.float32); print(faults() - before)"
    )
    faults = [
        int(subprocess.run([sys.executable, "-c", tensor], env=env, check=True, capture_output=True, text=True).stdout)
        for env in (environment, {name: value for name, value in environment.items() if name not in blocks.KEEPING})
    ]
    assert faults[0] < 10 < faults[1]


@pytest.fixture
def gpu_blocks(monkeypatch):
    path = next(folder for folder in (HERE / "benches", HERE) if (folder / "gpu_blocks.py").exists())
    monkeypatch.syspath_prepend(str(path))
    return load("gpu_blocks.py")


def test_the_blocks_of_a_gpu_have_every_way_of_every_configuration(gpu_blocks, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gpu_blocks, "ROUNDS", 2)
    rows = run(gpu_blocks, monkeypatch, tmp_path, "--quick")["rows"]
    given = [(row["layer"], row["dtype"], row["memory"], row["block"]) for row in rows]
    every = itertools.product(
        gpu_blocks.QUICK, ("f32", "bf16"), ("channels first", "channels last"), ("norm", "norm_residual")
    )
    assert given == list(every)
    for row in rows:
        assert row["p"] == 0.95
        assert row["seconds"].keys() == {"eager", "module", "copy"}
        assert all(seconds > 0 for seconds in row["seconds"].values())
    assert len(capsys.readouterr().out.splitlines()) == len(rows)


def test_the_blocks_of_a_gpu_do_not_time_another_operation(gpu_blocks, monkeypatch):
    right, measure = (
        gpu_blocks.blocks.BatchNormDropActivation2d,
        ("cpu", (9, 244, 2), "f32", "channels last", False, False),
    )
    monkeypatch.setattr(gpu_blocks, "ROUNDS", 1)
    monkeypatch.setattr(gpu_blocks.blocks, "BatchNormDropActivation2d", lambda channels, p: right(channels, p=p - 0.05))
    with pytest.raises(AssertionError, match="negative elements passed"):
        gpu_blocks.measure(*measure)
