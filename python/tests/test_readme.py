"""The examples in the two READMEs run as they are printed, each by itself."""

import pathlib
import re

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="SKIPPED: PyTorch is not installed")

PYTHON = pathlib.Path(__file__).parents[1]


def examples():
    for readme in [PYTHON / "README.md", PYTHON.parent / "README.md"]:
        for i, code in enumerate(re.findall(r"^```python\n(.*?)^```$", readme.read_text(), re.DOTALL | re.MULTILINE)):
            yield pytest.param(code, id=f"{readme.relative_to(PYTHON.parent)}-{i}")


def given(code):
    """What the text around an example speaks of."""
    if "drop_activation.forward(" in code or "drop_activation.jax" in code:
        x = np.linspace(-1, 1, 100, dtype=np.float32)
    else:
        x = torch.randn(2, 64, 5, 5)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU())
    return {"x": x, "dy": x, "residual": x, "step": 7, "model": model, "batch": torch.randn(2, 3, 8, 8)}


@pytest.mark.parametrize("code", list(examples()))
def test_an_example_runs(code):
    if "drop_activation.jax" in code:
        pytest.importorskip("jax", reason="SKIPPED: JAX is not installed")
        pytest.importorskip("jax_tvm_ffi", reason="SKIPPED: jax-tvm-ffi is not installed")
    exec(code, names := given(code))
    results = [name for name in re.findall(r"^(\w+)(?:, \w+)* = ", code, re.MULTILINE) if name in names]
    assert results
    if "fold(" in code:
        assert type(names["model"][2]) is torch.nn.LeakyReLU
    if "fuse_batch_norm(" in code:
        assert len(names["fused"]) == 1
