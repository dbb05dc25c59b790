"""Trains residual blocks whose batch normalisations have Drop-Activation in them, and stores them for nn.BatchNorm2d.

pip install ./python torch && python python/examples/04_batch_norm.py
"""

import torch
from torch import nn

from drop_activation.torch import BatchNormDropActivation2d

torch.manual_seed(0)


class Block(nn.Module):
    """A block of a ResNet: its second activation stands behind the sum."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = BatchNormDropActivation2d(channels, p=0.95)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = BatchNormDropActivation2d(channels, p=0.95)

    def forward(self, x):
        return self.bn2(self.conv2(self.bn1(self.conv1(x))), x)  # x is added before the activation


class WideBlock(Block):
    """A block of a WideResNet: both activations stand before their convolutions."""

    def forward(self, x):
        return x + self.conv2(self.bn2(self.conv1(self.bn1(x))))


model = nn.Sequential(
    nn.Conv2d(1, 8, 3, padding=1, bias=False),
    BatchNormDropActivation2d(8),
    Block(8),
    WideBlock(8),
    nn.Flatten(),
    nn.Linear(8 * 64, 2),
).to(memory_format=torch.channels_last)

x = torch.randn(128, 1, 8, 8)
labels = (x[:, 0, :4].mean((1, 2)) > x[:, 0, 4:].mean((1, 2))).long()
optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
for _ in range(40):
    loss = nn.functional.cross_entropy(model(x), labels)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()

model.eval()
accuracy = (model(x).argmax(1) == labels).float().mean()
print(f"accuracy {accuracy:.3f}")
assert accuracy > 0.9

# Parameters and buffers are those of nn.BatchNorm2d.
nn.BatchNorm2d(8).load_state_dict(model[1].state_dict())
