#!/usr/bin/env python3
"""What PyTorch takes for the same tensors: plain ReLU, Drop-Activation composed of its operations, and this package's.

    python3 benches/pytorch.py [--device cuda|cpu] [--quick] [--json FILE]

As in `benches/ratios`, all works of a configuration take turns, round after round, and the figures are medians
over the rounds; on a GPU the time is that between two CUDA events around a batch of calls. Results are
allocated by PyTorch for each call, as in a network; cold means that each call gets other inputs out of a
rotation larger than any cache. FILE gets rows like those of `ratios --json`, with these works:

    relu_*       torch.relu and its backward, aten::threshold_backward
    eager_*      where(rand_like(x) < p, relu(x), x), operation by operation, and autograd's backward
    compiled_*   the same through torch.compile
    ours_*       drop_activation.torch, and ours_compiled_* through torch.compile

A step is a forward pass and the backward pass that goes with it.

Before them comes a training step of a batch normalisation with an activation behind it, through torch.compile, which
fuses the composition with the normalisation and cannot look into an operator of ours (`"behind_norm"` in FILE). What a
call costs on small tensors is in `calls.py`.
"""

import argparse
import json
import pathlib
import statistics
import sys
import time

import torch

import drop_activation.torch as dt

P = 0.95
ROTATION_BYTES = 2 << 30


def drop_activation(x):
    return torch.where(torch.rand_like(x) < P, torch.relu(x), x)


def ours(x):
    return dt.drop_activation(x, P)


def works(compiled, ours_compiled, x, dy):
    """The works on these tensors, by name."""
    leaf = x.detach().requires_grad_()
    y = torch.relu(x)

    def forward_and_backward(f):
        graph = f(leaf)
        # Kept or dropped, an element is itself or zero.
        assert bool(((graph == leaf) | ((graph == 0) & (leaf < 0))).all())
        return {
            "forward": lambda: f(leaf),
            "backward": lambda: torch.autograd.grad(graph, leaf, dy, retain_graph=True),
            "step": lambda: torch.autograd.grad(f(leaf), leaf, dy),
        }

    relu_backward = torch.ops.aten.threshold_backward
    families = {
        "relu": {
            "forward": lambda: torch.relu(x),
            "backward": lambda: relu_backward(dy, y, 0),
            "step": lambda: relu_backward(dy, torch.relu(x), 0),
        },
        "eager": forward_and_backward(drop_activation),
        "compiled": forward_and_backward(compiled),
        "ours": forward_and_backward(ours),
        "ours_compiled": forward_and_backward(ours_compiled),
    }
    return {f"{family}_{name}": work for family, works in families.items() for name, work in works.items()}


class Events:
    """Seconds between two events on the current stream."""

    def __init__(self):
        self.start, self.end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def __enter__(self):
        self.start.record()
        return self

    def __exit__(self, *_):
        self.end.record()
        self.end.synchronize()
        self.seconds = self.start.elapsed_time(self.end) / 1e3


class Clock:
    """The same for a CPU."""

    def __enter__(self):
        self.start = time.perf_counter()
        return self

    def __exit__(self, *_):
        self.seconds = time.perf_counter() - self.start


def measure(device, dtype, n, cold, rounds):
    # A compiled function is given up after some shapes; each configuration gets a new one.
    torch._dynamo.reset()
    compiled, ours_compiled = (torch.compile(f, fullgraph=True, dynamic=False) for f in (drop_activation, ours))
    count = min(max(ROTATION_BYTES // (4 * n * dtype.itemsize), 2), 64) if cold else 1
    tensors = [(torch.randn(n, device=device).to(dtype), torch.randn(n, device=device).to(dtype)) for _ in range(count)]
    rotation = [works(compiled, ours_compiled, x, dy) for x, dy in tensors]
    batch = max(1, min(64, (1 << 25) // n))
    timer = Events if device == "cuda" else Clock
    times = {name: [] for name in rotation[0]}
    turn = 0
    for round in range(rounds + 1):
        for name, measured in times.items():
            with timer() as timed:
                for _ in range(batch):
                    rotation[turn % count][name]()
                    turn += 1
            if round > 0:
                measured.append(timed.seconds / batch)
    return {name: statistics.median(measured) for name, measured in times.items()}


def in_turns(device, works, rounds, batch):
    """Median seconds of each."""
    timer, times = Events if device == "cuda" else Clock, {name: [] for name in works}
    for round in range(rounds + 1):
        for name, work in works.items():
            with timer() as timed:
                for _ in range(batch):
                    work()
            if round > 0:
                times[name].append(timed.seconds / batch)
    return {name: statistics.median(measured) for name, measured in times.items()}


def behind_norm(device, rounds):
    """Seconds of a training step of a compiled normalisation and activation, on an activation map of a ResNet."""
    x = torch.randn(64 if device == "cuda" else 8, 64, 56, 56, device=device).requires_grad_()
    activations = {"relu": torch.relu, "composed": drop_activation, "ours": ours}
    works = {}
    for name, activation in activations.items():
        norm = torch.nn.BatchNorm2d(64, device=device)
        block = torch.compile(lambda x, norm=norm, activation=activation: activation(norm(x)), dynamic=False)
        dy = torch.ones_like(x)
        works[name] = lambda block=block, norm=norm, dy=dy: torch.autograd.grad(block(x), [x, *norm.parameters()], dy)
    torch._dynamo.reset()
    return in_turns(device, works, rounds, 10 if device == "cuda" else 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="two sizes, few rounds")
    parser.add_argument("--json", type=pathlib.Path, help="file for the figures")
    arguments = parser.parse_args()
    device = arguments.device
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("PyTorch sees no CUDA device")

    sizes, rounds = ((16, 20), 3) if arguments.quick else ((18, 20, 22, 24, 26, 28), 21)
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    results = {"device": name, "torch": torch.__version__, "cuda": torch.version.cuda, "rows": []}
    results["behind_norm"] = behind_norm(device, rounds)
    told = "  ".join(f"{name} {1e3 * t:.2f} ms" for name, t in results["behind_norm"].items())
    print(f"behind a batch normalisation  {told}", flush=True)
    for dtype, short in ((torch.float32, "f32"), (torch.bfloat16, "bf16"), (torch.float16, "f16")):
        for n in (1 << size for size in sizes):
            for cold in (False, True):
                seconds = measure(device, dtype, n, cold, rounds)
                results["rows"].append({"dtype": short, "n": n, "p": P, "cold": cold, "seconds": seconds})
                steps = "  ".join(f"{name} {1e6 * t:9.1f} us" for name, t in seconds.items() if name.endswith("step"))
                print(f"{short:<5}2^{n.bit_length() - 1} {'cold' if cold else 'warm'}  {steps}", flush=True)
                if arguments.json:
                    arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
