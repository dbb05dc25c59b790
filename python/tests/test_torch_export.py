"""A trained model leaves without this package: exported, traced or folded it runs where that cannot be imported."""

import os
import shutil
import subprocess
import sys
import textwrap

import pytest

torch = pytest.importorskip("torch", reason="SKIPPED: PyTorch is not installed")

import torch.nn.functional as F
from torch import nn

import drop_activation as da
import drop_activation.torch as dt


class Net(nn.Module):
    """ReLUs that were swapped, as modules and functions, beside modules of this package."""

    def __init__(self, functional=True):
        super().__init__()
        self.conv, self.relu, self.functional = nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), functional
        self.act = nn.Sequential(*(dt.DropActivation(0.8, name) for name in da.ACTIVATIONS), dt.RReLU())
        edges = ((1.0, "relu"), (0.0, "gelu"), (1.0, "silu"))
        self.edges = nn.Sequential(*(dt.DropActivation(p, name) for p, name in edges))
        self.linear = nn.Linear(4 * 36, 5)

    def forward(self, x):
        x = self.relu(self.conv(x))
        x = sum(act(x) for act in self.act) - 1.5
        if self.functional:
            x = F.relu(x, inplace=True)
        return self.linear(sum(edge(x) for edge in self.edges).flatten(1))


def swapped(functional=True):
    torch.manual_seed(0)
    model = Net(functional).eval()
    dt.replace_relu(model, 0.9)
    return model


def images(batch=2):
    return torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def elsewhere(code, folder):
    """Runs code in a process that cannot import this package; it prints the largest difference."""
    head = "import sys; sys.modules['drop_activation'] = None; import torch; torch.set_num_threads(1)\n"
    head += "x, expected = torch.load('data.pt')\n"
    tail = "\nassert y.shape == expected.shape\nprint(float((y - expected).abs().max()))"
    run = [sys.executable, "-c", head + textwrap.dedent(code) + tail]
    done = subprocess.run(run, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return float(done.stdout.strip().splitlines()[-1])


def stored(model, x, folder):
    with torch.no_grad():
        y = model(x)
    assert y.std(0).min() > 0.01, "what does not depend on x shows nothing"
    torch.save((x, y), folder / "data.pt")


@pytest.mark.parametrize("strict", [True, False])
def test_an_exported_program_has_standard_operators(strict, tmp_path):
    model, x = swapped(), images(3)
    stored(model, x, tmp_path)
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(model, (images(2),), dynamic_shapes=shapes, strict=strict)
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert not [target for target in targets if not target.startswith("aten.")]
    torch.export.save(program, tmp_path / "model.pt2")
    assert elsewhere("y = torch.export.load('model.pt2').module()(x)", tmp_path) < 1e-6


def test_compiled_ahead_of_time_it_runs_by_itself(tmp_path):
    if not shutil.which(os.environ.get("CXX", "g++")):
        pytest.skip("SKIPPED: AOTInductor needs a C++ compiler")
    model, x = swapped(), images()
    stored(model, x, tmp_path)
    program = torch.export.export(model, (x,))
    torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "model.pt2"))
    code = """
        import torch._inductor.codecache  # PyTorch 2.10 does not import what it uses
        y = torch._inductor.aoti_load_package("model.pt2")(x)
    """
    assert elsewhere(code, tmp_path) < 1e-5


@pytest.mark.parametrize("training", [False, True])
def test_a_trace_of_what_is_swapped_in_place_can_be_stored(training, tmp_path):
    """In training it draws a mask each time, by an operator of this package."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)).train(training)
    dt.replace_relu(model, 0.5)
    x, path = images(), tmp_path / "model.pt"
    torch.jit.trace(model, (x,), check_trace=False).save(path)
    loaded = torch.jit.load(path)
    torch.manual_seed(1)
    y = loaded(x)
    torch.manual_seed(1)
    torch.testing.assert_close(model(x), y)
    assert torch.equal(loaded(x), y) == (not training)


def test_a_trace_has_standard_operators(tmp_path):
    model, x = swapped(), images()
    stored(model, x, tmp_path)
    torch.jit.trace(model, (x,)).save(tmp_path / "model.pt")
    assert elsewhere("y = torch.jit.load('model.pt')(x)", tmp_path) < 1e-6


@pytest.mark.parametrize("layer", [dt.DropActivation(0.5), dt.DropActivation(0.5, "gelu"), dt.RReLU()])
def test_training_is_exported_with_a_dynamic_batch(layer):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), layer, nn.Flatten(), nn.Linear(4 * 36, 5))
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(model, (images(4),), dynamic_shapes=shapes, strict=False)
    for batch in (1, 3, 7, 32):
        torch.manual_seed(batch)
        got = program.module()(images(batch))
        torch.manual_seed(batch)
        assert torch.equal(got, model(images(batch)))


def test_folded_it_is_pytorch_s_own(tmp_path):
    model, x = swapped(functional=False), images()
    stored(model, x, tmp_path)
    with pytest.raises(ValueError, match="must have run since replace_relu"):
        dt.fold(swapped(functional=False))
    expected = model(x)
    folded = dt.fold(model)
    torch.testing.assert_close(model(x), expected)
    assert folded is model and type(model) is Net and type(model.relu) is nn.LeakyReLU and model.relu.inplace
    assert [type(module) for module in model.act][-1] is nn.LeakyReLU
    assert not [m for m in model.modules() if type(m).__module__.startswith("drop_activation")]
    # The classes that are loaded are PyTorch's; the model's own is this file's, and so stays here.
    body = nn.Sequential(model.conv, model.relu, model.act, nn.Flatten(), model.linear)
    stored(body, x, tmp_path)
    torch.save(body, tmp_path / "model.pt")
    assert elsewhere("y = torch.load('model.pt', weights_only=False)(x)", tmp_path) == 0
    scripted = torch.jit.script(body)
    assert torch.equal(scripted(x), body(x))


def test_what_code_calls_is_folded_through_a_graph(tmp_path):
    model, x = swapped(), images()
    model(x)
    with pytest.raises(ValueError, match=r"symbolic_trace.*module '' \(a Net\), whose code calls ReLU"):
        dt.fold(model)
    assert isinstance(model.relu, dt.DropActivation)
    stored(model, x, tmp_path)
    folded = dt.fold(torch.fx.symbolic_trace(model))
    torch.save(folded, tmp_path / "model.pt")
    assert elsewhere("y = torch.load('model.pt', weights_only=False)(x)", tmp_path) < 1e-6


def test_what_is_trained_is_not_folded():
    model = nn.Sequential(dt.DropActivation(0.5).eval(), dt.DropActivation(0.5))
    with pytest.raises(TypeError, match="training mode"):
        dt.fold(model)
    assert isinstance(model[0], dt.DropActivation)
    assert type(dt.fold(dt.DropActivation(0.75).eval())) is nn.LeakyReLU
    assert dt.fold(dt.DropActivation(0.75).eval()).negative_slope == 0.25
    with pytest.raises(TypeError, match="model must be a module, got a float"):
        dt.fold(0.5)
