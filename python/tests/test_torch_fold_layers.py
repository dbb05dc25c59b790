"""Models with layers that have a batch normalisation or a bias in them, folded: PyTorch's modules alone, with the same
results, keys and, saved, no need of this package."""

import copy
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch", reason="SKIPPED: PyTorch is not installed")

import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrize import register_parametrization

import drop_activation.torch as dt


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.bn2, self.bn1, self.relu = nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False), nn.ReLU()
        self.conv, self.rows, self.linear = nn.Conv2d(3, 4, 3), nn.BatchNorm1d(4), nn.Linear(4, 2)

    def forward(self, x):
        x = self.relu(self.bn1(self.conv(x)))
        x = F.relu(self.bn2(x) + x)
        return self.linear(F.relu(self.rows(x.mean((2, 3)))))


class Layers(nn.Module):
    """Calls layers with and without a residual, by keyword too."""

    def __init__(self):
        super().__init__()
        self.bias, self.conv = dt.BiasDropActivation(4, 0.8, "silu"), nn.Conv2d(3, 4, 1, bias=False)
        self.rows, self.bn = (
            dt.BiasDropActivation(4, 0.5, dim=-1),
            dt.BatchNormDropActivation2d(4, p=0.3, activation="gelu"),
        )
        nn.init.normal_(self.bias.bias), nn.init.normal_(self.rows.bias)

    def forward(self, x):
        x = self.bias(self.conv(x))
        x = self.bn(self.bias(x, x), residual=x)
        return self.rows(x.mean((2, 3)))


def elsewhere(program, folder):
    """Runs a program in which this package cannot be imported."""
    hidden = "import sys; sys.modules['drop_activation'] = None; import torch; x = torch.load('x.pt'); "
    return subprocess.run([sys.executable, "-c", hidden + program], cwd=folder, check=True, timeout=300)


def saved(model, x, folder):
    torch.save(model, folder / "model.pt"), torch.save(x, folder / "x.pt"), torch.save(model(x), folder / "y.pt")
    elsewhere(
        "model = torch.load('model.pt', weights_only=False); torch.testing.assert_close(model(x), torch.load('y.pt'))",
        folder,
    )


def test_a_fused_model_is_folded(tmp_path):
    fused, x = dt.fuse_batch_norm(Block(), p=0.8).model, torch.randn(5, 3, 8, 8)
    for _ in range(3):
        fused(x)
    with pytest.raises(TypeError, match="must be in evaluation mode"):
        dt.fold(fused)
    expected, keys = fused.eval()(x), list(fused.state_dict())
    folded = dt.fold(fused)
    assert folded is fused and list(folded.state_dict()) == keys and not folded.training
    torch.testing.assert_close(folded(x), expected)
    assert not [m for m in folded.modules() if type(m).__module__.startswith("drop_activation")]
    assert type(folded.bn1) is type(folded.bn2) is nn.BatchNorm2d and type(folded.rows) is nn.BatchNorm1d
    saved(folded, x, tmp_path)
    torch.testing.assert_close(torch.jit.script(folded)(x), expected)
    torch.testing.assert_close(copy.deepcopy(folded)(x), expected)


def test_a_summand_of_any_shape_is_folded():
    class Of(Block):
        def forward(self, x):
            return F.relu(self.bn2(self.conv(x)) + self.linear.bias.sum() + x.size(0)) + F.relu(
                self.bn1(self.conv(x)) + x.size(0)
            )

    fused, x = dt.fuse_batch_norm(Of(), p=0.8).model.eval(), torch.randn(5, 3, 8, 8)
    expected = fused(x)
    torch.testing.assert_close(dt.fold(fused)(x), expected)


def test_layers_that_code_calls_are_folded_through_a_graph(tmp_path):
    model, x = Layers().eval(), torch.randn(5, 3, 8, 8)
    expected = model(x)
    with pytest.raises(ValueError, match=r"symbolic_trace\(model\)\), got '.*' \(a B"):
        dt.fold(model)
    assert type(model.bn) is dt.BatchNormDropActivation2d
    keys = set(model.state_dict())
    folded = dt.fold(torch.fx.symbolic_trace(model))
    torch.testing.assert_close(folded(x), expected)
    assert set(folded.state_dict()) == keys
    assert not [m for m in folded.modules() if type(m).__module__.startswith("drop_activation")]
    saved(folded, x, tmp_path)
    torch.testing.assert_close(torch.fx.symbolic_trace(nn.Sequential(Layers().eval()))(x).shape, expected.shape)


def test_layers_that_other_code_may_call_too_are_not_folded():
    class Of(nn.Module):
        def __init__(self):
            super().__init__()
            self.graph = dt.fuse_batch_norm(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU())).model
            self.also = getattr(self.graph, "0")

        def forward(self, x):
            return self.graph(x) + self.also(x)

    model = Of().eval()
    for of in (model, model.also):
        with pytest.raises(ValueError, match="must be called by a graph alone, .* got '.*' .a BatchNormDropActivation2d"):
            dt.fold(of)
    assert type(model.also) is dt.BatchNormDropActivation2d
    del model.also
    assert type(getattr(dt.fold(model).graph, "0")) is nn.BatchNorm2d


def test_arguments_are_taken_by_their_names():
    class Of(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = dt.BatchNormDropActivation2d(3, p=0.5)

        def forward(self, x):
            return self.layer(2 * x, x)

    model, x = torch.fx.symbolic_trace(Of().eval()), torch.randn(5, 3, 8, 8)
    model.layer.running_var.fill_(9)
    (call,) = (node for node in model.graph.nodes if node.op == "call_module")
    call.args, call.kwargs = (), {"residual": call.args[1], "x": call.args[0]}
    model.recompile()
    expected = model(x)
    torch.testing.assert_close(dt.fold(model)(x), expected)


def test_layers_with_hooks_are_not_folded():
    fused = dt.fuse_batch_norm(Block()).model.eval()
    fused.bn1.register_forward_hook(lambda *given: None)
    with pytest.raises(ValueError, match="must have no hooks or parametrizations, got 'bn1' with some"):
        dt.fold(fused)
    assert isinstance(fused.bn1, dt.BatchNormDropActivation2d)


class Twice(nn.Module):
    def forward(self, weight):
        return 2 * weight


@pytest.mark.parametrize("layer", [dt.BatchNormDropActivation2d(3), dt.BiasDropActivation(3)], ids=["norm", "bias"])
def test_layers_with_parametrizations_are_not_folded(layer):
    model = torch.fx.symbolic_trace(nn.Sequential(layer)).eval()
    register_parametrization(layer, "bias", Twice())
    with pytest.raises(ValueError, match="must have no hooks or parametrizations, got '0' with some"):
        dt.fold(model)


def added(kind):
    class Added(kind):
        def forward(self, x):
            return super().forward(x) + 1

    return Added


KINDS = [
    (dt.DropActivation, ()),
    (dt.RReLU, ()),
    (dt.BiasDropActivation, (3,)),
    (dt.BatchNormDropActivation1d, (3,)),
    (dt.BatchNormDropActivation2d, (3,)),
]


@pytest.mark.parametrize("kind, arguments", KINDS, ids=[kind.__name__ for kind, _ in KINDS])
def test_another_forward_around_a_module_s_is_not_lost(kind, arguments):
    changed = kind(*arguments)
    changed.forward = lambda x, plain=changed.forward: plain(x) + 1
    for layer in (added(kind)(*arguments), changed):
        model = nn.Sequential(layer).eval()
        with pytest.raises(ValueError, match="must have this package's forward, got .* with its own"):
            torch.fx.symbolic_trace(model)
        graph = torch.fx.Graph()
        graph.output(graph.call_module("0", (graph.placeholder("x"),)))
        for of in (model, torch.fx.GraphModule(model, graph)):
            with pytest.raises(ValueError, match="this package's forward, got|called by a graph alone"):
                dt.fold(of)
    Named = type("Named", (kind,), {})
    x = torch.randn(2, 3, 4) if kind is dt.BatchNormDropActivation1d else torch.randn(2, 3, 4, 4)
    model = torch.fx.symbolic_trace(nn.Sequential(Named(*arguments)).eval())
    expected = model(x)
    torch.testing.assert_close(dt.fold(model)(x), expected)


@pytest.mark.parametrize("kind", [dt.DropActivation, dt.RReLU])
def test_another_forward_is_not_lost_in_a_script(kind):
    with pytest.raises(ValueError, match="must have this package's forward"):
        torch.jit.script(added(kind)().eval())


def test_a_fused_model_s_layers_keep_their_p():
    fused = dt.fuse_batch_norm(Block(), p=0.9).model
    replaced = dt.replace_relu(fused, p=0.3)
    assert replaced.modules == replaced.functional == ()
    assert [(left.name, left.reason) for left in replaced.left] == [
        (name, f"{kind} has an activation in it, which keeps its p of 0.9")
        for name, kind in (
            ("bn2", "BatchNormDropActivation2d"),
            ("bn1", "BatchNormDropActivation2d"),
            ("rows", "BatchNormDropActivation1d"),
        )
    ]
    assert fused.bn1.p == 0.9 and type(fused.bn1) is dt.BatchNormDropActivation2d
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    fused = dt.fuse_batch_norm(model, p=0.9).model
    assert (
        dt.replace_relu(fused, p=0.3).modules == ("1",) and getattr(fused, "1").p == 0.3 and type(model[1]) is nn.ReLU
    )
    dt.restore_relu(fused)
    assert type(getattr(fused, "1")) is nn.ReLU
