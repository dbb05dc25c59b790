#!/usr/bin/env python3
"""The figures that the aims speak of, all in one run: Drop-Activation, plain ReLU, PyTorch's ReLU, the operation
composed in PyTorch, and a copy, over the same tensors.

    python3 benches/headline.py [--device cuda|cpu] [--compiled] [--sizes 28,24,20] [--json FILE]

It takes PyTorch and the Python package. Tensors are made on the device. All cases of a configuration take turns, round
after round in another order, and the figures are medians over the rounds. On a GPU a batch of calls is enqueued behind
a kernel that sleeps until all are there, between two events: so their time is the GPU's alone, whatever Python takes
to enqueue them. Each call gets other inputs out of a rotation that is larger than any cache. FILE holds, at any time,
the rows that have been measured, each with these cases:

    copy           the device's own copy
    relu_*, drop_* plain ReLU and Drop-Activation of this library, into tensors that are there
    torch_relu_*   torch.relu and its backward, aten::threshold_backward
    module_*       drop_activation.torch, through autograd
    eager_*        where(rand_like(x) < p, relu(x), x), operation by operation, and autograd's backward
    compiled_*     the same through torch.compile, with --compiled

A step is a forward pass and the backward pass that goes with it. What each computes is looked at before it is timed.
"""

import argparse
import json
import pathlib
import random
import statistics
import sys
import time

import torch

import drop_activation.torch
from drop_activation import _library as library

P = 0.95
ROTATION_BYTES = 1 << 30
ROUNDS = 21
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
LIBRARY_DTYPES = {torch.float32: 1, torch.bfloat16: 3}
# Of each case, for each element: how many tensors move, and how many bytes besides.
BYTES = json.loads(pathlib.Path(__file__).with_name("bytes.json").read_text())
CYCLES_A_SECOND = 2e9
# PyTorch's random numbers of 16 bits have few digits, so its p is not quite p.
COMPOSITION_SLACK = 0.01


class Library:
    """Passes of this library on the device's current stream."""

    def __init__(self, device):
        self.device = device
        self.kernels = library.Cuda(torch.cuda.current_device()) if device == "cuda" else None
        self.offset = 0

    def run(self, kind, input, output, saved=None, mask=None, p=P):
        # Another mask for each call.
        self.offset += 1
        pass_ = library.Pass(kind, p=p, key=library.Key(1, self.offset))
        address = lambda tensor: 0 if tensor is None else tensor.data_ptr()
        addresses = map(address, (input, output, saved, mask))
        tensors = library.Tensors(LIBRARY_DTYPES[input.dtype], input.numel(), *addresses)
        if self.kernels:
            self.kernels.run(torch.cuda.current_stream().cuda_stream, pass_, tensors)
        else:
            library.cpu_run(pass_, tensors)


def composition(x):
    return torch.where(torch.rand_like(x) < P, torch.relu(x), x)


def through_autograd(f, x, dy, slack=0.0):
    leaf = x.detach().requires_grad_()
    graph = f(leaf)
    (gradient,) = torch.autograd.grad(graph, leaf, dy, retain_graph=True)
    check(x, dy, graph.detach(), gradient, slack=slack)
    return {
        "forward": lambda: f(leaf),
        "backward": lambda: torch.autograd.grad(graph, leaf, dy, retain_graph=True),
        "step": lambda: torch.autograd.grad(f(leaf), leaf, dy),
    }


def check(x, dy, y, dx, p=P, slack=0.0):
    """What was kept and is negative is zero, as is its gradient; all else is itself. A part p of it was kept, but for
    the slack."""
    blocked = (y == 0) & (x < 0)
    negative, kept = int((x < 0).sum()), int(blocked.sum())
    # Of a zero the gradient tells whether it was kept, the result does not.
    wrong = (y != x) & ~blocked | (dx != torch.where(blocked, torch.zeros_like(dy), dy)) & (x != 0)
    if bool(wrong.any()):
        raise AssertionError(f"{int(wrong.sum())} of {x.numel()} results are not Drop-Activation's")
    if abs(kept - p * negative) > 6 * (p * (1 - p) * negative) ** 0.5 + slack * negative:
        raise AssertionError(f"{kept} of {negative} negative elements were kept, p is {p}")


def cases(ours, compiled, x, dy):
    """The cases on these tensors, by name."""
    y, dx = torch.empty_like(x), torch.empty_like(x)
    mask = torch.empty((x.numel() + 31) // 32, dtype=torch.int32, device=x.device)

    def forward():
        ours.run(library.FORWARD, x, y, mask=mask)

    def backward():
        ours.run(library.BACKWARD, dy, dx, mask=mask)

    def relu_forward():
        ours.run(library.RELU_FORWARD, x, y)

    def relu_backward(saved=x):
        # x has the signs of y, and stays in place.
        ours.run(library.RELU_BACKWARD, dy, dx, saved=saved)

    relu_forward(), relu_backward(y)
    check(x, dy, y, dx, p=1)
    forward(), backward()
    check(x, dy, y, dx)
    torch_backward = torch.ops.aten.threshold_backward
    relu_step = lambda: (relu_forward(), relu_backward(y))
    families = {
        "relu": {"forward": relu_forward, "backward": relu_backward, "step": relu_step},
        "drop": {"forward": forward, "backward": backward, "step": lambda: (forward(), backward())},
        "torch_relu": {
            "forward": lambda: torch.relu(x),
            "backward": lambda: torch_backward(dy, x, 0),
            "step": lambda: torch_backward(dy, torch.relu(x), 0),
        },
        "module": through_autograd(drop_activation.torch.DropActivation(P), x, dy),
        "eager": through_autograd(composition, x, dy, COMPOSITION_SLACK),
    }
    if compiled:
        families["compiled"] = through_autograd(compiled, x, dy, COMPOSITION_SLACK)
    named = {f"{family}_{part}": case for family, parts in families.items() for part, case in parts.items()}
    return {"copy": lambda: y.copy_(x), **named}


class GpuTimer:
    """Seconds of a batch of calls on the GPU."""

    def __init__(self):
        self.start, self.end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.enqueueing = {}

    def __call__(self, name, batch):
        torch.cuda.synchronize()
        # The first time nothing is known; that round does not count.
        torch.cuda._sleep(int(CYCLES_A_SECOND * 1.5 * self.enqueueing.get(name, 0.0)) + 50_000)
        self.start.record()
        before = time.perf_counter()
        batch()
        # The least: a call that waits for the GPU must not make the next sleep longer.
        self.enqueueing[name] = min(time.perf_counter() - before, self.enqueueing.get(name, 1.0))
        self.end.record()
        self.end.synchronize()
        return self.start.elapsed_time(self.end) / 1e3


def cpu_timer(_, batch):
    before = time.perf_counter()
    batch()
    return time.perf_counter() - before


def measure(ours, dtype, n, compile_it):
    """Median seconds of each case."""
    compiled = None
    if compile_it:
        # A compiled function is given up after some shapes; each configuration gets a new one.
        torch._dynamo.reset()
        compiled = torch.compile(composition, fullgraph=True, dynamic=False)
    count = min(max(ROTATION_BYTES // (4 * n * dtype.itemsize), 2), 32)
    make = lambda: torch.randn(n, device=ours.device, dtype=dtype)
    rotation = [cases(ours, compiled, make(), make()) for _ in range(count)]
    calls = max(2, min(32, (1 << 27) // n))
    timer = GpuTimer() if ours.device == "cuda" else cpu_timer
    names = list(rotation[0])
    times = {name: [] for name in names}
    turn = 0
    shuffled = random.Random(1)
    for round in range(ROUNDS + 1):
        shuffled.shuffle(names)
        for name in names:

            def batch():
                for call in range(calls):
                    rotation[(turn + call) % count][name]()

            seconds = timer(name, batch) / calls
            turn += calls
            if round > 0:
                times[name].append(seconds)
    return {name: statistics.median(times[name]) for name in rotation[0]}


def line(short, n, seconds):
    """What is printed of a configuration."""
    size = DTYPES[short].itemsize

    def speed(case):
        tensors, besides = BYTES[case]
        return (tensors * size + besides) * n / seconds[case]

    of_copy = lambda case: speed(case) / speed("copy")
    step = seconds["drop_step"]
    others = ("relu_step", "torch_relu_step", "eager_step", "compiled_step")
    return (
        f"{short:<5}2^{n.bit_length() - 1:<3} copy {speed('copy') / 1e9:6.0f} GB/s, of it: forward "
        f"{of_copy('drop_forward'):.3f} backward {of_copy('drop_backward'):.3f} "
        f"relu {of_copy('relu_forward'):.3f}   step {step * 1e6:8.1f} us = "
        + "  ".join(f"{step / seconds[name]:.3f} {name}" for name in others if name in seconds)
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--compiled", action="store_true", help="torch.compile too; it takes some seconds a row")
    parser.add_argument("--sizes", default="28,24,20", help="binary logarithms of the numbers of elements")
    parser.add_argument("--json", type=pathlib.Path, help="file for the figures")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("PyTorch sees no CUDA device")

    name = torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu"
    results = {"device": name, "torch": torch.__version__, "cuda": torch.version.cuda, "rows": []}
    ours = Library(arguments.device)
    reason = None
    for size in arguments.sizes.split(","):
        for short, dtype in DTYPES.items():
            n = 1 << int(size)
            try:
                seconds = measure(ours, dtype, n, arguments.compiled and not reason)
            except AssertionError:
                raise
            except Exception as error:
                if not arguments.compiled or reason:
                    raise
                # The other cases do not have to suffer for the compiler.
                reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
                seconds = measure(ours, dtype, n, False)
            results["rows"].append({"dtype": short, "n": n, "p": P, "cold": True, "seconds": seconds})
            print(line(short, n, seconds), flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    if reason:
        sys.exit(f"without torch.compile, which failed: {reason}")


if __name__ == "__main__":
    main()
