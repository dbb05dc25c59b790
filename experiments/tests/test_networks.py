"""The networks are those of the sources, and the activations are everywhere."""

import pytest
import torch
from conftest import ACTIVATIONS, SMALL
from drop_activation.torch import DropActivation
from torch import nn

from experiments import activations, networks

#: Parameters for CIFAR-10. Exact where they are known to the last one, else in millions as the source gives them.
PUBLISHED = [
    ({"kind": "resnet", "depth": 110}, "1.7"),
    ({"kind": "resnet", "depth": 164, "bottleneck": True}, "1.7"),
    ({"kind": "resnet18"}, 11_173_962),
    ({"kind": "preresnet", "depth": 164}, "1.7"),
    ({"kind": "wide", "depth": 28, "factor": 10, "dropout": 0.3}, 36_479_194),
    ({"kind": "wide", "depth": 16, "factor": 8}, "11.0"),
    ({"kind": "densenet", "depth": 100, "growth": 12}, 769_162),
    ({"kind": "densenet", "depth": 190, "growth": 40}, "25.6"),
    ({"kind": "resnext", "depth": 29, "groups": 8, "group_width": 64}, "34.4"),
]


@pytest.mark.parametrize("shape,count", PUBLISHED, ids=str)
def test_parameter_counts_are_the_sources(shape, count):
    with torch.device("meta"):
        found = networks.parameters(networks.build(channels=3, classes=10, side=32, **shape))
    assert (f"{found / 1e6:.1f}" if isinstance(count, str) else found) == count


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_parameter_of_every_small_network_has_a_finite_gradient(kind, activation):
    torch.manual_seed(1)
    network = activations.replace(networks.build(channels=1, classes=7, side=12, **SMALL[kind]), activation)
    y = network(torch.randn(4, 1, 12, 12))
    assert y.shape == (4, 7)
    y.logsumexp(1).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("kind", SMALL)
def test_no_nonlinearity_is_left_out(kind):
    """With p = 0 every place is the identity, so that what is computed in evaluation mode is affine in x."""
    torch.manual_seed(1)
    network = activations.replace(networks.build(channels=1, classes=7, side=12, **SMALL[kind]), "drop-activation 0")
    assert not any(type(module) is nn.ReLU for module in network.modules())
    network.double().eval()
    a, b = torch.randn(2, 3, 1, 12, 12, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(network((a + b) / 2), (network(a) + network(b)) / 2)


def test_a_shared_activation_draws_a_mask_for_each_call():
    """torchvision's blocks call one module twice."""
    layer = activations.make("drop-activation 0.5")
    assert isinstance(layer, DropActivation)
    x = -torch.ones(1000)
    assert not torch.equal(layer(x), layer(x))


@pytest.mark.parametrize(
    "call,text",
    [
        (lambda: networks.build("alexnet", 3, 10, 32), "kind must be one of simple.*, got 'alexnet'"),
        (lambda: networks.build("preresnet", 3, 10, 32, depth=165), "depth of PreResNet must be 2 \\+ 9 n.*, got 165"),
        (lambda: activations.make("gelu"), "activation must be relu.*, got 'gelu'"),
        (lambda: activations.make("drop-activation 2"), "2"),
    ],
)
def test_what_is_wrong_is_named_with_what_is_allowed(call, text):
    with pytest.raises(ValueError, match=text):
        call()
