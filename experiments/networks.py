"""The paper's networks, of any depth and width: torchvision's and timm's, and blocks of theirs put together for images
of 28 or 32 pixels.

All begin with a 3 x 3 convolution at full resolution and have nn.ReLU modules wherever they have a nonlinearity, which
`activations.replace` then replaces.
"""

from timm.layers import BatchNormAct2d, create_conv2d
from timm.models.resnetv2 import ResNetV2
from torch import nn
from torch.nn import functional as F
from torchvision.models import DenseNet
from torchvision.models.resnet import BasicBlock, Bottleneck


def build(kind: str, channels: int, classes: int, side: int, **shape) -> nn.Module:
    """A network by its kind and what `shape` says of its depth and width, for images of channels x side x side."""
    if kind not in KINDS:
        raise ValueError(f"network kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if kind == "simple":
        shape["side"] = side
    return KINDS[kind](channels, classes, **shape)


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def simple(channels, classes, side, widths=(32, 64, 128), hidden=64):
    """The network of Figure 2: three blocks of convolution, batch normalisation, ReLU and average pooling, and two
    fully connected layers. The paper gives no widths."""
    layers = []
    for width in widths:
        layers += [_conv3(channels, width), nn.BatchNorm2d(width), nn.ReLU(), nn.AvgPool2d(2)]
        channels = width
    features = channels * (side // 2 ** len(widths)) ** 2
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, classes)
    ).apply(_initialise)


def resnet(channels, classes, depth, width=16, bottleneck=False):
    """ResNet for CIFAR (He et al., 2015): three stages of basic blocks, whose shortcuts have no parameters; or of
    bottlenecks with projections, as ResNet-164 has (He et al., 2016)."""
    block, shortcut = (Bottleneck, _projection) if bottleneck else (BasicBlock, _Padding)
    return _residual(channels, classes, block, shortcut, _blocks("ResNet", depth, 3 if bottleneck else 2, 2), width)


def resnet18(channels, classes):
    """ImageNet's ResNet-18 behind a 3 x 3 convolution, as DeVries and Taylor (2017) use it."""
    return _residual(channels, classes, BasicBlock, _projection, (2, 2, 2, 2), 64)


def resnext(channels, classes, depth, groups, group_width, width=64):
    """ResNeXt for CIFAR (Xie et al., 2017); `group_width` is that of the first stage."""
    # torchvision's width of a group is that at 64 channels.
    options = {"groups": groups, "base_width": group_width * 64 // width}
    return _residual(channels, classes, Bottleneck, _projection, _blocks("ResNeXt", depth, 3, 2), width, **options)


def preresnet(channels, classes, depth, width=16):
    """PreResNet with bottlenecks (He et al., 2016)."""
    blocks = _blocks("PreResNet", depth, 3, 2)
    return _preactivated(channels, classes, blocks, width, [4 * width << stage for stage in range(3)], 0.25)


def wide(channels, classes, depth, factor, width=16, dropout=0.0):
    """Wide-ResNet (Zagoruyko and Komodakis, 2016), with dropout between a block's convolutions."""
    blocks = _blocks("WideResNet", depth, 2, 4)
    network = _preactivated(channels, classes, blocks, width, [factor * width << stage for stage in range(3)], 1)
    if dropout:
        for stage in network.stages:
            for block in stage.blocks:
                block.conv2 = nn.Sequential(nn.Dropout(dropout), block.conv2)
    return network


def densenet(channels, classes, depth, growth, dropout=0.0):
    """DenseNet-BC for CIFAR (Huang et al., 2017)."""
    whole = DenseNet(growth, _blocks("DenseNet-BC", depth, 2, 4), 2 * growth, drop_rate=dropout, num_classes=classes)
    whole.features.conv0 = _conv3(channels, 2 * growth)
    nn.init.kaiming_normal_(whole.features.conv0.weight)
    for name in ("norm0", "relu0", "pool0"):
        delattr(whole.features, name)
    # torchvision calls the last ReLU as a function.
    return nn.Sequential(whole.features, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), whole.classifier)


KINDS = {
    "simple": simple,
    "resnet": resnet,
    "resnet18": resnet18,
    "preresnet": preresnet,
    "wide": wide,
    "densenet": densenet,
    "resnext": resnext,
}


def _blocks(name, depth, layers_per_block, others):
    """How many blocks each of three equal stages has."""
    blocks, rest = divmod(depth - others, 3 * layers_per_block)
    if rest or blocks < 1:
        raise ValueError(f"depth of {name} must be {others} + {3 * layers_per_block} n, n from 1, got {depth}")
    return (blocks,) * 3


def _conv3(inputs, outputs):
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)


def _initialise(module):
    """He et al.'s, for all but timm's and torchvision's whole networks, which do it themselves."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.zeros_(module.bias)


def _projection(inputs, outputs, stride):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class _Padding(nn.Module):
    """A shortcut of every other pixel, and zeros for the channels that are more."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.added, self.stride = outputs - inputs, stride

    def forward(self, x):
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.added))


def _residual(channels, classes, block, shortcut, blocks, width, **options):
    """Stages of torchvision's blocks, whose nonlinearity comes after the addition."""
    network = nn.Sequential()
    network.stem = nn.Sequential(_conv3(channels, width), nn.BatchNorm2d(width), nn.ReLU())
    network.stages, inputs = nn.Sequential(), width
    for stage, count in enumerate(blocks):
        planes, stage_blocks = width << stage, nn.Sequential()
        for i in range(count):
            stride = 2 if stage and not i else 1
            outputs = planes * block.expansion
            changes = stride > 1 or inputs != outputs
            around = shortcut(inputs, outputs, stride) if changes else None
            stage_blocks.append(block(inputs, planes, stride, around, **options))
            inputs = outputs
        network.stages.append(stage_blocks)
    network.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))
    return network.apply(_initialise)


def _preactivated(channels, classes, blocks, width, outputs, bottle_ratio):
    """timm's network, whose blocks begin with normalisation and nonlinearity."""
    network = ResNetV2(
        blocks,
        outputs,
        num_classes=classes,
        stem_chs=width,
        basic=bottle_ratio == 1,
        bottle_ratio=bottle_ratio,
        conv_layer=create_conv2d,
        norm_layer=BatchNormAct2d,
    )
    network.stem = _conv3(channels, width)
    nn.init.kaiming_normal_(network.stem.weight, mode="fan_out", nonlinearity="relu")
    return network
