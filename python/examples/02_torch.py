"""Trains a small network with Drop-Activation in the place of its ReLUs, and shows what a seed fixes.

pip install ./python torch && python python/examples/02_torch.py
"""

import torch
from torch import nn

from drop_activation.torch import BiasDropActivation, DropActivation, replace_relu

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
x = torch.randn(512, 2, device=device)
labels = (x[:, 0] * x[:, 1] > 0).long()

model = nn.Sequential(
    nn.Linear(2, 64),
    DropActivation(p=0.95),
    nn.Linear(64, 64, bias=False),
    BiasDropActivation(64, p=0.95),  # with the bias, in fewer passes over memory
    nn.Linear(64, 64),
    nn.ReLU(),
    nn.Linear(64, 2),
).to(device)
print(replace_relu(model, p=0.95))  # the one ReLU that is left

optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
for _ in range(200):
    loss = nn.functional.cross_entropy(model(x), labels)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()

model.eval()
accuracy = (model(x).argmax(1) == labels).float().mean()
print(f"accuracy {accuracy:.3f}")
assert accuracy > 0.9

model.train()
torch.manual_seed(7)
first = model(x)
torch.manual_seed(7)
assert torch.equal(model(x), first), "the same seed, the same masks"
