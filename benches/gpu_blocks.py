#!/usr/bin/env python3
"""The blocks of a network on a GPU: batch normalisation and ReLU, with and without a residual, forward and backward.

    python3 benches/gpu_blocks.py [--device cuda|cpu] [--compiled] [--quick] [--json FILE]

The ways are those of blocks.py, which says what they are and looks at their results; calls are timed as headline.py does, by
events behind a kernel that sleeps until all are enqueued. The layers are large, so that no cache holds their tensors.
With --compiled, 16-bit blocks of the first layer are measured through torch.compile too, which takes longer than all rounds.
FILE holds, at any time, what has been measured; a row has medians of seconds for a step, of each way.
"""

import argparse
import json
import pathlib
import random
import statistics
import sys

import torch

import blocks
import headline

#: Channels, height and width, batch.
LAYERS = {
    "WideResNet-28-10, 160 x 32 x 32, batch 128": (160, 32, 128),
    "ResNet-50, 256 x 56 x 56, batch 128": (256, 56, 128),
    "ResNet-50, 2048 x 7 x 7, batch 128": (2048, 7, 128),
}
QUICK = {"2 x 3 x 3, batch 2": (2, 3, 2), "8 x 4 x 4, batch 4": (8, 4, 4)}
ROUNDS, CALLS = 11, 4


def ways(channels, compiled):
    modules = {"eager": blocks.Plain(channels), "module": blocks.BatchNormDropActivation2d(channels, p=blocks.P)}
    if compiled:
        torch._dynamo.reset()
        modules["compiled"] = torch.compile(blocks.Plain(channels))
        modules["composed"] = torch.compile(blocks.Composed(channels))
    return modules


def measure(device, layer, dtype, memory, with_residual, compiled):
    """Median seconds of a step, of each way, and of a copy of x."""
    channels, extent, batch = layer

    def make():
        tensor = torch.randn(batch, channels, extent, extent, device=device).to(blocks.DTYPES[dtype])
        return tensor.contiguous(memory_format=blocks.MEMORY[memory])

    x, residual, dy = make().requires_grad_(), make().requires_grad_() if with_residual else None, make()
    modules = {way: module.to(device) for way, module in ways(channels, compiled).items()}
    # Of few elements, the share that passes is any.
    if x.numel() > 1 << 20:
        for way, module in modules.items():
            blocks.check(way, module, x, residual, dy)
    cases = {way: lambda module=module: blocks.step(module, x, residual, dy) for way, module in modules.items()}
    to = torch.empty_like(dy)
    cases["copy"] = lambda: to.copy_(dy)
    timer = headline.GpuTimer() if device == "cuda" else headline.cpu_timer
    times = {name: [] for name in cases}
    for i in range(ROUNDS + 1):
        for name in random.sample(list(cases), len(cases)):
            seconds = timer(name, lambda: [cases[name]() for _ in range(CALLS)]) / CALLS
            if i:  # the first round warms up
                times[name].append(seconds)
    return {name: statistics.median(of) for name, of in times.items()}


def line(row):
    seconds = row["seconds"]
    module = seconds["module"]
    others = "  ".join(f"{module / of:.3f} {way}" for way, of in seconds.items() if way != "module")
    return f"{row['dtype']:<5}{row['memory']:<15}{row['block']:<14}{row['layer']:<45}step {1e6 * module:8.1f} us = {others}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--compiled", action="store_true", help="torch.compile too, of some blocks")
    parser.add_argument("--quick", action="store_true", help="small layers, in no time")
    parser.add_argument("--json", type=pathlib.Path, help="file for the figures")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("PyTorch sees no CUDA device")
    random.seed(0)
    torch.manual_seed(0)
    name = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    results = {"device": name, "torch": torch.__version__, "rows": []}
    for i, (layer, shape) in enumerate((QUICK if options.quick else LAYERS).items()):
        for dtype in blocks.DTYPES:
            for memory in blocks.MEMORY:
                for block in ("norm", "norm_residual"):
                    compiled = options.compiled and i == 0 and dtype == "bf16"
                    seconds = measure(options.device, shape, dtype, memory, block == "norm_residual", compiled)
                    row = {"layer": layer, "memory": memory, "dtype": dtype, "block": block, "p": blocks.P}
                    results["rows"].append(row | {"seconds": seconds})
                    print(line(results["rows"][-1]), flush=True)
                    if options.json:
                        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
