"""A trained model whose ReLUs were swapped is quantized as what it is: with a Leaky ReLU, and never with ReLU."""

import pytest

torch = pytest.importorskip("torch", reason="SKIPPED: PyTorch is not installed")

from torch import nn
from torch.ao import quantization
from torch.ao.quantization import quantize_fx

import drop_activation.torch as dt

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
    pytest.mark.skipif(
        "x86" not in torch.backends.quantized.supported_engines, reason="SKIPPED: PyTorch has no x86 quantization"
    ),
]


def images():
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.quant, self.dequant = quantization.QuantStub(), quantization.DeQuantStub()
        self.conv, self.relu = nn.Conv2d(3, 8, 3), nn.ReLU()

    def forward(self, x):
        return self.dequant(self.relu(self.conv(self.quant(x))))


def swapped(p=0.5):
    torch.manual_seed(0)
    model = Net().eval()
    dt.replace_relu(model, p)
    return model


def check(quantized, model, x):
    """They are as close as eight bits are, and have the negative numbers that ReLU would not have."""
    with torch.no_grad():
        y, expected = quantized(x), model(x)
    assert expected.min() < -0.1
    assert (y - expected).abs().max() < 0.05 * expected.abs().max(), (y - expected).abs().max()
    assert (y - expected.relu()).abs().max() > 0.1 * expected.abs().max()


def test_folded_it_is_quantized_eagerly():
    model, x = swapped(), images()
    folded = dt.fold(swapped(), x)
    folded.qconfig = quantization.get_default_qconfig("x86")
    prepared = quantization.prepare(folded)
    prepared(x)
    quantized = quantization.convert(prepared)
    assert isinstance(quantized.relu, torch.ao.nn.quantized.LeakyReLU)
    check(quantized, model, x)


@pytest.mark.parametrize("residual", [False, True])
def test_a_quantizable_resnet_is_folded_through_a_graph(residual):
    """Its shortcuts end in FloatFunctional.add_relu."""
    models = pytest.importorskip("torchvision").models.quantization.resnet
    torch.manual_seed(0)
    model = models.QuantizableResNet(models.QuantizableBasicBlock, [1, 1, 1, 1], num_classes=10).eval()
    dt.replace_relu(model, 0.5)
    x = images()
    body = nn.Sequential(model.conv1, model.bn1, model.relu, model.layer1) if residual else model
    if residual:
        dt.replace_relu(body, 0.5)
    folded = dt.fold(torch.fx.symbolic_trace(body))
    assert not [m for m in folded.modules() if type(m).__module__.startswith("drop_activation")]
    assert [type(m) for m in folded.modules()].count(nn.LeakyReLU) == (3 if residual else 9)
    prepared = quantize_fx.prepare_fx(folded, quantization.get_default_qconfig_mapping("x86"), (x,))
    prepared(x)
    quantized = quantize_fx.convert_fx(prepared)
    assert not [name for name in map(repr, quantized.modules()) if "ReLU" in name and "Leaky" not in name]
    if residual:
        check(quantized, body, x)


def test_an_exported_model_is_quantized():
    pt2e = pytest.importorskip("torchao.quantization.pt2e.quantize_pt2e", reason="SKIPPED: torchao is not installed")
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    model, x = swapped(), images()
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = pt2e.prepare_pt2e(torch.export.export(model, (x,)).module(), quantizer)
    prepared(x)
    quantized = pt2e.convert_pt2e(prepared)
    names = {str(node.target) for node in quantized.graph.nodes}
    assert "aten.leaky_relu.default" in names and any("quantize_per" in name for name in names)
    check(quantized, model, x)


def test_what_quantization_would_make_relu_again_is_named_and_not_folded():
    fused = quantization.fuse_modules(Net().eval(), [["conv", "relu"]])
    replaced = dt.replace_relu(fused, 0.5)
    ((name, reason),) = replaced.left
    assert name == "conv" and "fold the model before" in reason and isinstance(fused.conv[1], dt.DropActivation)
    with pytest.raises(ValueError, match=r"'conv' \(a ConvReLU2d\), which is fused for quantization"):
        dt.fold(fused, images())
    assert isinstance(fused.conv[1], dt.DropActivation)
    # And in the other order PyTorch has no such module.
    with pytest.raises(AssertionError, match="fuser"):
        quantization.fuse_modules(swapped(), [["conv", "relu"]])
    with pytest.raises(AssertionError, match="fuser"):
        quantization.fuse_modules(dt.fold(swapped(), images()), [["conv", "relu"]])
