#!/usr/bin/env python3
"""What PyTorch takes for the same tensors: plain ReLU, Drop-Activation composed of its operations, and this package's.

    python3 benches/pytorch.py [--device cuda|cpu] [--only kernels|norm|modules] [--quick] [--sizes 18,20] [--json FILE]

It has three parts, all of which are measured unless `--only` names one:

kernels  On a CPU: PyTorch's ReLU, the library's ReLU and Drop-Activation into tensors that are there, without autograd,
         in processes of their own and in one (`"kernels"` in FILE; see `relu_cpu.py`).
norm     A training step of a batch normalisation with an activation behind it, through torch.compile, which fuses the
         composition with the normalisation and cannot look into an operator of ours (`"behind_norm"` in FILE).
modules  What a network calls (`"rows"` in FILE, like those of `ratios --json`), with these cases:

    relu_*       torch.relu and its backward, aten::threshold_backward
    eager_*      where(rand_like(x) < p, relu(x), x), operation by operation, and autograd's backward
    compiled_*   the same through torch.compile
    ours_*       drop_activation.torch, and ours_compiled_* through torch.compile

A step is a forward pass and the backward pass that goes with it. As in `benches/ratios`, all cases of a configuration
take turns, round after round, and the figures are medians over the rounds; on a GPU the time is that between two CUDA
events around a batch of calls. Results of modules are allocated by PyTorch for each call, as in a network; cold means
that each call gets other inputs out of a rotation larger than any cache. What a call costs on small tensors is in
`calls.py`.
"""

import argparse
import json
import os
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


def cases(compiled, ours_compiled, x, dy):
    """The cases on these tensors, by name."""
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
    return {f"{family}_{part}": case for family, parts in families.items() for part, case in parts.items()}


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
    rotation = [cases(compiled, ours_compiled, x, dy) for x, dy in tensors]
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


def in_turns(device, cases, rounds, batch):
    """Median seconds of each."""
    timer, times = Events if device == "cuda" else Clock, {name: [] for name in cases}
    for round in range(rounds + 1):
        for name, case in cases.items():
            with timer() as timed:
                for _ in range(batch):
                    case()
            if round > 0:
                times[name].append(timed.seconds / batch)
    return {name: statistics.median(measured) for name, measured in times.items()}


def behind_norm(device, rounds):
    """Seconds of a training step of a compiled normalisation and activation, on an activation map of a ResNet."""
    x = torch.randn(64 if device == "cuda" else 8, 64, 56, 56, device=device).requires_grad_()
    activations = {"relu": torch.relu, "composed": drop_activation, "ours": ours}
    cases = {}
    for name, activation in activations.items():
        norm = torch.nn.BatchNorm2d(64, device=device)
        block = torch.compile(lambda x, norm=norm, activation=activation: activation(norm(x)), dynamic=False)
        dy = torch.ones_like(x)
        cases[name] = lambda block=block, norm=norm, dy=dy: torch.autograd.grad(block(x), [x, *norm.parameters()], dy)
    torch._dynamo.reset()
    return in_turns(device, cases, rounds, 10 if device == "cuda" else 1)


class Results:
    """What has been measured, in a file at any time."""

    def __init__(self, device, path):
        name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
        self.data = {"device": name, "torch": torch.__version__, "cuda": torch.version.cuda, "rows": []}
        self.path = path

    def save(self):
        if self.path:
            self.path.write_text(json.dumps(self.data, indent=1) + "\n")


def kernels(results, sizes, rounds):
    import relu_cpu

    cpus = len(os.sched_getaffinity(0))
    results.data["kernels"] = {"cache": relu_cpu.last_level_cache(), "bytes": relu_cpu.BYTES, "rows": []}
    for row in relu_cpu.measure(sizes, rounds, dict.fromkeys((1, cpus))):
        results.data["kernels"]["rows"].append(row)
        results.save()
        seconds = row["seconds"]
        ratio = lambda case: f"{seconds[case] / seconds['torch_relu_step']:.2f} {case.removesuffix('_step')}"
        config = f"{row['dtype']:<5}2^{row['n'].bit_length() - 1:<3}{'cold' if row['cold'] else 'warm'}"
        step = f"PyTorch's ReLU, step {1e6 * seconds['torch_relu_step']:9.1f} us"
        print(
            f"{config}  {row['threads']} threads, {row['processes']:<6} {step}; in its time "
            f"{ratio('relu_step')}  {ratio('drop_step')}",
            flush=True,
        )


def norm(results, device, rounds):
    results.data["behind_norm"] = behind_norm(device, rounds)
    results.save()
    line = "  ".join(f"{name} {1e3 * t:.2f} ms" for name, t in results.data["behind_norm"].items())
    print(f"behind a batch normalisation  {line}", flush=True)


def modules(results, device, sizes, rounds):
    for dtype, short in ((torch.float32, "f32"), (torch.bfloat16, "bf16"), (torch.float16, "f16")):
        for n in (1 << size for size in sizes):
            for cold in (False, True):
                seconds = measure(device, dtype, n, cold, rounds)
                results.data["rows"].append({"dtype": short, "n": n, "p": P, "cold": cold, "seconds": seconds})
                results.save()
                steps = "  ".join(f"{name} {1e6 * t:9.1f} us" for name, t in seconds.items() if name.endswith("step"))
                print(f"{short:<5}2^{n.bit_length() - 1} {'cold' if cold else 'warm'}  {steps}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--only", choices=("kernels", "norm", "modules"), help="one part")
    parser.add_argument("--quick", action="store_true", help="two sizes, few rounds")
    parser.add_argument("--sizes", help="binary logarithms of the numbers of elements")
    parser.add_argument("--json", type=pathlib.Path, help="file for the figures")
    arguments = parser.parse_args()
    device = arguments.device
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("PyTorch sees no CUDA device")
    if device == "cuda" and arguments.only == "kernels":
        sys.exit("kernels are measured on a CPU; for a GPU's see headline.py")

    def sizes(all):
        if arguments.sizes:
            return [int(size) for size in arguments.sizes.split(",")]
        return (16, 20) if arguments.quick else all

    rounds = 3 if arguments.quick else 21
    results = Results(device, arguments.json)
    parts = {
        "kernels": lambda: kernels(results, sizes((10, 12, 14, 16, 17, 18, 19, 20, 22, 24, 26)), rounds),
        "norm": lambda: norm(results, device, rounds),
        "modules": lambda: modules(results, device, sizes((18, 20, 22, 24, 26, 28)), rounds),
    }
    for part, run in parts.items():
        if arguments.only in (None, part) and (part, device) != ("kernels", "cuda"):
            run()


if __name__ == "__main__":
    main()
