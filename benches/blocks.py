#!/usr/bin/env python3
"""The blocks of a network in PyTorch: batch normalisation and ReLU, with and without a residual, forward and backward.

    python3 benches/blocks.py [--compiled] [--quick] [--json FILE]

It takes PyTorch and the Python package, and runs on the CPU. Each block is measured as PyTorch's own operations one by one
("eager"), as this package's module ("module"), and with --compiled as torch.compile of PyTorch's own ("compiled") and of
Drop-Activation composed of them ("composed"). All take turns, round after round in another order; the figures are medians
of seconds. `benches/blocks.rs` measures the passes without PyTorch around them.
"""

import argparse
import json
import pathlib
import random
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn

from drop_activation.torch import BatchNormDropActivation2d

P = 0.95
ROUNDS = 11
#: Channels, height and width, batch.
LAYERS = {
    "WideResNet-28-10, 160 x 32 x 32, batch 128": (160, 32, 128),
    "WideResNet-28-10, 640 x 8 x 8, batch 128": (640, 8, 128),
    "ResNet-50, 256 x 56 x 56, batch 32": (256, 56, 32),
    "ResNet-50, 2048 x 7 x 7, batch 128": (2048, 7, 128),
    "ResNet-50, 2048 x 7 x 7, batch 2": (2048, 7, 2),
}
QUICK = ["WideResNet-28-10, 160 x 32 x 32, batch 128", "ResNet-50, 2048 x 7 x 7, batch 2"]


class Plain(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x, residual=None):
        z = self.norm(x)
        return F.relu(z if residual is None else z + residual)


class Composed(Plain):
    def forward(self, x, residual=None):
        z = self.norm(x)
        z = z if residual is None else z + residual
        return torch.where(torch.rand_like(z) < P, F.relu(z), z)


def step(module, x, residual, dy):
    x.grad = None
    if residual is not None:
        residual.grad = None
    module(x, residual).backward(dy)


def measure(name, dtype, memory_format, with_residual, compiled):
    channels, extent, batch = LAYERS[name]
    make = lambda: torch.randn(batch, channels, extent, extent).to(dtype).contiguous(memory_format=memory_format)
    x, residual, dy = make().requires_grad_(), make().requires_grad_() if with_residual else None, make()
    ways = {"eager": Plain(channels), "module": BatchNormDropActivation2d(channels, p=P)}
    if compiled:
        ways |= {"compiled": torch.compile(Plain(channels)), "composed": torch.compile(Composed(channels))}
    times = {way: [] for way in ways}
    for i in range(ROUNDS + 1):
        for way in random.sample(list(ways), len(ways)):
            start = time.perf_counter()
            step(ways[way], x, residual, dy)
            if i:  # the first round warms up
                times[way].append(time.perf_counter() - start)
    return {way: statistics.median(of) for way, of in times.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    random.seed(0)
    rows = []
    for name in QUICK if options.quick else LAYERS:
        for dtype in (torch.float32, torch.bfloat16):
            for layout, memory_format in (("first", torch.contiguous_format), ("last", torch.channels_last)):
                for with_residual in (False, True):
                    seconds = measure(name, dtype, memory_format, with_residual, options.compiled)
                    row = {"layer": name, "dtype": str(dtype), "channels": layout, "residual": with_residual, **seconds}
                    rows.append(row)
                    figures = ", ".join(f"{way} {1e3 * of:.2f} ms" for way, of in seconds.items())
                    ratio = seconds["module"] / seconds["eager"]
                    residual = "residual" if with_residual else "none"
                    print(f"{row['dtype']:15} {layout:5} {residual:8} {name:45} {figures}; of eager {ratio:.3f}", flush=True)
                    if options.json:
                        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
