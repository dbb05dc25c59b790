"""Whole models of torchvision and timm, and a Transformer: swapped they are the original, or the composition."""

import copy

import pytest

torch = pytest.importorskip("torch", reason="SKIPPED: PyTorch is not installed")

from conftest import unpacked
from functorch.compile import make_boxed_func
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

import drop_activation as da
import drop_activation.torch as dt


class CountRelus(TorchFunctionMode):
    """How often ReLU is called, by any name; nn.ReLU calls one of them."""

    names = ("relu", "relu_")
    count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.count += getattr(function, "__name__", "") in self.names
        return function(*args, **(kwargs or {}))


def unfused(x, p, key):
    """The composition, from framework operations, with the mask of a call."""
    memory = torch.empty_like(x, dtype=torch.bool)
    bits = torch.from_numpy(unpacked(da.keep_mask(x.numel(), p, 0, key.item()), x.numel()))
    memory.as_strided((x.numel(),), (1,)).copy_(bits)
    return torch.where(memory & (x <= 0), torch.zeros_like(x), x)


def resnet():
    return pytest.importorskip("torchvision").models.resnet18(num_classes=10)


def wide_resnet():
    models = pytest.importorskip("torchvision").models
    return models.ResNet(models.resnet.Bottleneck, [1, 1, 1, 1], num_classes=10, width_per_group=128)


def resnext():
    models = pytest.importorskip("torchvision").models
    return models.ResNet(models.resnet.Bottleneck, [1, 1, 1, 1], num_classes=10, groups=32, width_per_group=4)


def densenet():
    models = pytest.importorskip("torchvision").models
    return models.DenseNet(growth_rate=8, block_config=(2, 2), num_init_features=16, num_classes=10)


def preresnet():
    timm = pytest.importorskip("timm")
    return timm.models.resnetv2.ResNetV2(
        layers=[1, 1, 1],
        channels=[32, 64, 128],
        num_classes=10,
        stem_type="same",
        norm_layer=timm.layers.BatchNormAct2d,
    )


@pytest.mark.parametrize("make", [resnet, wide_resnet, resnext, densenet, preresnet])
def test_a_training_step_of_a_model_is_that_of_the_composition(make, monkeypatch):
    torch.manual_seed(0)
    model = make().double()
    relus = [name for name, module in model.named_modules() if type(module) is nn.ReLU]
    images, labels = torch.randn(2, 3, 64, 64, dtype=torch.float64), torch.tensor([1, 7])
    with CountRelus() as called, torch.no_grad():
        copy.deepcopy(model)(images)
    swapped = dt.replace_relu(model, 0.9)
    assert set(relus) <= set(swapped.modules) and not [m for m in model.modules() if type(m) is nn.ReLU]

    def step():
        stepped = copy.deepcopy(model)
        torch.manual_seed(1)
        loss = nn.functional.cross_entropy(stepped(images), labels)
        loss.backward()
        torch.optim.SGD(stepped.parameters(), lr=0.1).step()
        return loss.detach(), stepped

    loss, fused = step()
    calls = []

    def composed(x, p, activation, training, inplace, *, fused):
        assert training and fused and activation == "relu"
        calls.append(x.numel())
        return unfused(x, p, torch.randint(2**63 - 1, (1,), dtype=torch.int64))

    monkeypatch.setattr("drop_activation.torch._modules.drawn", lambda *arguments: None)
    monkeypatch.setattr("drop_activation.torch._modules.drop_activation", composed)
    monkeypatch.setattr("drop_activation.torch._intercept.drop_activation", composed)
    expected_loss, expected = step()
    assert not swapped.left
    assert len(calls) == called.count >= len(relus)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-12, atol=0)
    for (name, a), b in zip(fused.named_parameters(), expected.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")


def quantizable_resnet():
    return pytest.importorskip("torchvision").models.quantization.resnet18(weights=None, quantize=False, num_classes=10)


def googlenet():
    return pytest.importorskip("torchvision").models.googlenet(
        weights=None, aux_logits=False, init_weights=False, num_classes=10
    )


def vgg():
    """Its published classifier is a hundred million numbers, and tests nothing more."""
    models = pytest.importorskip("torchvision").models
    features = models.vgg.make_layers([16, "M", 32, "M", 32, 32], batch_norm=False)
    model = models.VGG.__new__(models.VGG)
    nn.Module.__init__(model)
    model.features, model.avgpool = features, nn.AdaptiveAvgPool2d(2)
    model.classifier = nn.Sequential(nn.Linear(128, 64), nn.ReLU(True), nn.Linear(64, 10))
    return model


def mobilenet():
    return pytest.importorskip("torchvision").models.mobilenet_v2(weights=None, num_classes=10, dropout=0.0)


def transformer():
    layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
    return nn.Sequential(nn.Flatten(2), nn.Linear(32 * 32, 32), nn.TransformerEncoder(layer, 2))


class NoRelu(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts what reaches the kernels as ReLU."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        name = str(operator)
        self.count += name.startswith(("aten.relu", "aten.threshold", "aten.clamp_min", "aten._transformer"))
        return operator(*args, **(kwargs or {}))


SWAPPED = [
    resnet,
    wide_resnet,
    resnext,
    densenet,
    preresnet,
    quantizable_resnet,
    googlenet,
    vgg,
    mobilenet,
    transformer,
]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("make", SWAPPED)
def test_with_p_1_it_is_the_original_to_the_last_bit_and_with_p_0_it_has_no_relu(make, training):
    torch.manual_seed(0)
    model, images = make().train(training), torch.randn(2, 3, 32, 32)
    states = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def step(model):
        torch.manual_seed(2)  # GoogLeNet has dropout, whose masks stay the same
        model.load_state_dict(states)
        model.zero_grad()
        y = model(images)
        y.square().sum().backward()
        return [y.detach(), *(p.grad.clone() for p in model.parameters()), *map(torch.clone, model.buffers())]

    expected = step(model)
    swapped = dt.replace_relu(model, 1.0)
    assert all(map(torch.equal, step(model), expected))
    left = {name: reason for name, reason in swapped.left}
    if make is mobilenet:
        assert len(left) == 35 and all("ReLU6" in reason for reason in left.values())
        assert swapped.modules == swapped.functional == ()
        return
    assert not left and swapped.modules + swapped.functional
    assert bool(swapped.functional) == (make in (densenet, quantizable_resnet, googlenet)), swapped.functional
    dt.replace_relu(model, 0.0)
    with NoRelu() as mode:
        step(model)
    assert mode.count == 0
    dt.restore_relu(model)
    assert all(map(torch.equal, step(model), expected))


def small_resnet():
    models = pytest.importorskip("torchvision").models
    return models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=10)


def small_quantizable_resnet():
    models = pytest.importorskip("torchvision").models.quantization.resnet
    return models.QuantizableResNet(models.QuantizableBasicBlock, [1, 1, 1, 1], num_classes=10)


def memory_efficient_densenet():
    """It checkpoints its layers by itself."""
    model = densenet()
    for module in model.modules():
        if hasattr(module, "memory_efficient"):
            module.memory_efficient = True
    return model


def checkpointing_preresnet():
    model = preresnet()
    model.set_grad_checkpointing(True)
    return model


def small_googlenet():
    model = googlenet()
    inception = type(model.inception3a)
    model.inception3a = inception(192, 128, 128, 192, 32, 96, 64)
    model.inception4a = inception(480, 256, 160, 320, 32, 128, 128)
    for name in ("3b", "4b", "4c", "4d", "4e", "5a"):
        setattr(model, f"inception{name}", nn.Identity())
    return model


def small_mobilenet():
    """MobileNetV2 with one block for each stride and expansion."""
    setting = [[1, 16, 1, 1], [6, 24, 2, 2]]
    models = pytest.importorskip("torchvision").models
    return models.MobileNetV2(num_classes=10, inverted_residual_setting=setting, dropout=0.0)


#: Whole, but with a block where the published ones have several: each is compiled and exported.
SMALL = [
    small_resnet,
    wide_resnet,
    resnext,
    densenet,
    preresnet,
    small_quantizable_resnet,
    small_googlenet,
    vgg,
    transformer,
]


def is_relu(target):
    return str(target).startswith(("aten.relu", "aten.threshold", "aten.clamp_min", "aten._transformer"))


class Recorded:
    """A backend of torch.compile that keeps the names of what it would compile, and runs that."""

    def __init__(self):
        self.targets = []
        self.backend = aot_autograd(fw_compiler=self.compiler)

    def compiler(self, graph, example):
        self.targets += [node.target for node in graph.graph.nodes if node.op == "call_function"]
        return make_boxed_func(graph.forward)


def stepped(model, call, states, images):
    torch.manual_seed(2)
    model.load_state_dict(states)
    model.zero_grad()
    y = call(images)
    y.square().sum().backward()
    return [y.detach(), *(p.grad.clone() for p in model.parameters()), *map(torch.clone, model.buffers())]


def originals(make, training):
    torch.manual_seed(0)
    model = make().train(training)
    return model, {name: tensor.clone() for name, tensor in model.state_dict().items()}, torch.randn(2, 3, 32, 32)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("make", SMALL)
def test_compiled_it_is_the_original_or_has_no_relu(make, training):
    model, states, images = originals(make, training)
    torch._dynamo.reset()
    expected = stepped(model, torch.compile(model, backend=Recorded().backend), states, images)
    for p in (1.0, 0.0):
        dt.replace_relu(model, p)
        recorded = Recorded()
        torch._dynamo.reset()
        got = stepped(model, torch.compile(model, backend=recorded.backend), states, images)
        assert recorded.targets and any(map(is_relu, recorded.targets)) == (p == 1.0)
        assert not [target for target in recorded.targets if "drop_activation" in str(target)]
        assert all(map(torch.equal, got, expected)) == (p == 1.0)
        if p == 0.0:
            for a, b in zip(got, stepped(model, model, states, images)):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make, training", [(vgg, True), (small_resnet, False)])
def test_by_inductor_it_is_the_original_to_the_last_bit(make, training):
    model, states, images = originals(make, training)
    torch._dynamo.reset()
    expected = stepped(model, torch.compile(model), states, images)
    dt.replace_relu(model, 1.0)
    torch._dynamo.reset()
    assert all(map(torch.equal, stepped(model, torch.compile(model), states, images), expected))


@pytest.mark.parametrize("reentrant, training", [(False, True), (False, False), (True, False)])
@pytest.mark.parametrize("make", [*SMALL, memory_efficient_densenet, checkpointing_preresnet])
def test_checkpointed_it_is_the_original_or_has_no_relu(make, reentrant, training):
    model, states, images = originals(make, training)
    images.requires_grad_()  # or a reentrant checkpoint has no gradients
    own = make in (memory_efficient_densenet, checkpointing_preresnet)

    def call(images):
        return model(images) if own else checkpoint(model, images, use_reentrant=reentrant)

    # A reentrant checkpoint's forward pass has no gradients, in which case a Transformer takes a fused path of its own.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        expected = stepped(model, call, states, images)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    dt.replace_relu(model, 1.0)
    assert all(map(torch.equal, stepped(model, call, states, images), expected))
    dt.replace_relu(model, 0.0)
    with NoRelu() as mode:
        stepped(model, call, states, images)
    assert mode.count == 0
    # With masks, what is computed again has those of the first time.
    dt.replace_relu(model, 0.7)
    if not own:
        results = 1 + len(list(model.parameters()))  # statistics are gathered twice
        plain, again = stepped(model, model, states, images), stepped(model, call, states, images)
        for a, b in zip(again[:results], plain[:results], strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("make", SMALL)
def test_exported_it_is_the_original_or_has_no_relu(make, training):
    model, states, images = originals(make, training)
    with torch.no_grad():
        for p in (None, 1.0, 0.0, 0.7):
            model.load_state_dict(states)
            if p is not None:
                dt.replace_relu(model, p)
            program = torch.export.export(model, (images,), strict=False)
            targets = [node.target for node in program.graph.nodes if node.op == "call_function"]
            torch.manual_seed(2)
            y = program.module()(images)
            if p is None:
                relus, expected = sum(map(is_relu, targets)), y
                continue
            assert sum(map(is_relu, targets)) == (relus if p == 1.0 else 0)
            assert torch.equal(y, expected) == (p == 1.0)
            names = [str(target) for target in targets]
            ours = sum(name.startswith("drop_activation.draw_forward") for name in names)
            leaky = sum(name.startswith("aten.leaky_relu") for name in names)  # in place, with p = 0, it has slope 1
            if p == 0.7:
                assert (ours, leaky) == ((relus, 0) if training else (0, relus))
            else:
                assert ours == 0 and (leaky == 0 or p == 0.0)


@pytest.mark.parametrize("training", [True, False])
def test_what_has_relu6_alone_stays_the_original_whatever_p_is(training):
    """Compiled, checkpointed and exported: MobileNetV2."""
    model, states, images = originals(small_mobilenet, training)

    def results():
        torch._dynamo.reset()
        calls = torch.compile(model, backend=Recorded().backend), lambda x: checkpoint(model, x, use_reentrant=False)
        steps = [stepped(model, call, states, images) for call in calls]
        model.load_state_dict(states)
        with torch.no_grad():
            program = torch.export.export(model, (images,), strict=False)
            names = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
            return [*steps, [program.module()(images)]], names

    expected, names = results()
    swapped = dt.replace_relu(model, 0.0)
    got, names_then = results()
    assert all(all(map(torch.equal, a, b)) for a, b in zip(expected, got)) and names == names_then
    assert swapped.modules == swapped.functional == ()
    assert {name for name, _ in swapped.left} == {n for n, m in model.named_modules() if type(m) is nn.ReLU6}
