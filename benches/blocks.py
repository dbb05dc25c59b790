#!/usr/bin/env python3
"""The blocks of a network in PyTorch: batch normalisation and ReLU, with and without a residual, forward and backward.

    python3 benches/blocks.py [--compiled] [--quick] [--json FILE]

It takes PyTorch and the Python package, and runs on the CPU. Each block is measured as PyTorch's own operations one by one
("eager"), as this package's module ("module"), and with --compiled, of some layers, as torch.compile of PyTorch's own
("compiled") and of Drop-Activation composed of them ("composed"). All take turns, round after round in another order; the
figures are medians of seconds. Before, each way's result is looked at. FILE holds, at any time, what has been measured.
`cargo bench --bench ratios -- --blocks` measures the passes without PyTorch around them.
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
#: Channels, height and width, batch, and whether it is compiled too, which takes longer than all rounds.
LAYERS = {
    "WideResNet-28-10, 160 x 32 x 32, batch 128": (160, 32, 128, True),
    "ResNet-50, 2048 x 7 x 7, batch 128": (2048, 7, 128, True),
    "WideResNet-28-10, 640 x 8 x 8, batch 128": (640, 8, 128, False),
    "ResNet-50, 256 x 56 x 56, batch 32": (256, 56, 32, False),
    "WideResNet-28-10, 160 x 32 x 32, batch 2": (160, 32, 2, False),
    "ResNet-50, 2048 x 7 x 7, batch 2": (2048, 7, 2, False),
}
QUICK = ["ResNet-50, 2048 x 7 x 7, batch 2"]
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
MEMORY = {"channels first": torch.contiguous_format, "channels last": torch.channels_last}


class Plain(nn.Module):
    """As networks write it: what can be done in place is."""

    def __init__(self, channels):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x, residual=None):
        z = self.norm(x)
        if residual is not None:
            z += residual
        return F.relu(z, inplace=True)


class Composed(Plain):
    def forward(self, x, residual=None):
        z = self.norm(x)
        z = z if residual is None else z + residual
        return torch.where(torch.rand_like(z) < P, F.relu(z), z)


def step(module, x, residual, dy):
    x.grad = None
    if residual is not None:
        residual.grad = None
    y = module(x, residual)
    y.backward(dy)
    return y


def check(way, module, x, residual, dy):
    """That it computes what it is named after: y is that of PyTorch's batch normalisation, with as many negative elements
    as p says."""
    y = step(module, x, residual, dy).detach().float()
    z = F.batch_norm(x.detach().float(), None, None, training=True)
    z = z if residual is None else z + residual.detach().float()
    kept = 0 if way in ("eager", "compiled") else 1 - P
    share = (y < 0).float().mean() / (z < 0).float().mean()
    assert abs(share - kept) < 0.01, f"{way}: {share:.3f} of the negative elements passed, not {kept:.3f}"
    error = (y - z).where((y < 0) | (z > 0), torch.zeros(())).abs().max()
    assert error < 0.05, f"{way}: y is {error} away from the batch normalisation of x"


def measure(layer, dtype, memory, with_residual, compiled):
    channels, extent, batch, is_compiled = LAYERS[layer]
    make = lambda: torch.randn(batch, channels, extent, extent).to(DTYPES[dtype]).contiguous(memory_format=MEMORY[memory])
    x, residual, dy = make().requires_grad_(), make().requires_grad_() if with_residual else None, make()
    ways = {"eager": Plain(channels), "module": BatchNormDropActivation2d(channels, p=P)}
    if compiled and is_compiled:
        torch._dynamo.reset()
        ways |= {"compiled": torch.compile(Plain(channels)), "composed": torch.compile(Composed(channels))}
    for way, module in ways.items():
        check(way, module, x, residual, dy)
    calls, rounds = (5, 11) if is_warm(layer) else (1, 7)
    times = {way: [] for way in ways}
    for i in range(rounds + 1):
        for way in random.sample(list(ways), len(ways)):
            start = time.perf_counter()
            for _ in range(calls):
                step(ways[way], x, residual, dy)
            if i:  # the first round warms up
                times[way].append((time.perf_counter() - start) / calls)
    return {way: statistics.median(of) for way, of in times.items()}


def is_warm(layer):
    """Whether a cache holds the tensors."""
    return layer.endswith("batch 2")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    random.seed(0)
    torch.manual_seed(0)
    results = {"pytorch": torch.__version__, "threads": torch.get_num_threads(), "pytorch_blocks": []}
    for layer in QUICK if options.quick else LAYERS:
        for dtype in DTYPES:
            for memory in MEMORY:
                for block in ("norm", "norm_residual"):
                    seconds = measure(layer, dtype, memory, block == "norm_residual", options.compiled)
                    row = {"layer": layer, "memory": memory, "dtype": dtype, "block": block, "warm": is_warm(layer)}
                    results["pytorch_blocks"].append(row | {"seconds": seconds})
                    figures = ", ".join(f"{way} {1e3 * of:.2f} ms" for way, of in seconds.items())
                    ratio = seconds["module"] / seconds["eager"]
                    print(f"{dtype:4} {memory:14} {block:13} {layer:45} {figures}; of eager {ratio:.3f}", flush=True)
                    if options.json:
                        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
