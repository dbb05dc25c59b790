"""The CUDA half of the package on the stand-in for the driver that scripts/test makes."""

import os
import pathlib
import subprocess
import sys

import pytest

pytest.importorskip("torch", reason="SKIPPED: PyTorch is not installed")


@pytest.mark.parametrize("script", ["on_the_stand_in.py", "operators_on_the_stand_in.py"])
def test_operators_on_cuda_are_the_cpu_s(script):
    folder = os.environ.get("DROP_ACTIVATION_STAND_IN")
    if not folder:
        pytest.skip("SKIPPED: DROP_ACTIVATION_STAND_IN names no folder with a stand-in driver and its kernels")
    environment = os.environ | {"LD_LIBRARY_PATH": folder, "FAKE_DRIVER_KERNELS": os.path.join(folder, "kernels.so")}
    script = pathlib.Path(__file__).with_name(script)
    run = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.endswith("as on the CPU\n")
