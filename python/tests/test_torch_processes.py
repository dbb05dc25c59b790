"""Two processes over gloo: DTensor, DDP and FSDP2 have the numbers of one process."""

import pathlib
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch", reason="SKIPPED: PyTorch is not installed")


@pytest.mark.parametrize("case", ["dtensors", "steps"])
def test_two_processes_are_one(case, tmp_path):
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("SKIPPED: PyTorch has no gloo")
    script = pathlib.Path(__file__).with_name("two_processes.py")
    command = [sys.executable, "-X", "faulthandler", script]  # that aborts in gloo's threads say where
    runs = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "store"), case], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    try:
        errors = [run.communicate(timeout=120)[1] for run in runs]
    finally:
        for run in runs:
            run.kill()
    assert [run.returncode for run in runs] == [0, 0], "\n".join(errors)
