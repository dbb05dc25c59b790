#!/usr/bin/env python3
"""What a call costs in PyTorch where the tensor is small: Drop-Activation's module beside torch.relu and dropout.

    python3 benches/calls.py [--device cuda|cpu] [--json FILE]

The time is the clock's, of many calls one after the other and of waiting for the last, divided by their number; the
functions take turns, and the figures are medians. FILE gets a row for each size, with the seconds of

    relu_*, dropout_*, drop_*     forward, that is without autograd, and step: a forward and a backward pass
"""

import argparse
import json
import pathlib
import statistics
import sys
import time

import torch

import drop_activation.torch

SIZES = (1 << 10, 1 << 14, 1 << 18)
CALLS = 200
ROUNDS = 7


def cases(x):
    leaf, dy = x.clone().requires_grad_(), torch.ones_like(x)
    functions = {
        "relu": torch.relu,
        "dropout": lambda x: torch.nn.functional.dropout(x, 0.05),
        "drop": drop_activation.torch.DropActivation(0.95),
    }
    for name, f in functions.items():
        yield f"{name}_forward", lambda f=f: f(x)
        yield f"{name}_step", lambda f=f: torch.autograd.grad(f(leaf), leaf, dy)


def measure(x):
    wait = torch.cuda.synchronize if x.is_cuda else lambda: None
    measured = dict(cases(x))
    times = {name: [] for name in measured}
    for round in range(ROUNDS + 1):
        for name, case in measured.items():
            wait()
            start = time.perf_counter()
            for _ in range(CALLS):
                case()
            wait()
            if round > 0:
                times[name].append((time.perf_counter() - start) / CALLS)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--json", type=pathlib.Path, help="file for the figures")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("PyTorch sees no CUDA device")
    name = torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu"
    results = {"device": name, "torch": torch.__version__, "rows": []}
    for n in SIZES:
        seconds = measure(torch.randn(n, device=arguments.device))
        results["rows"].append({"dtype": "f32", "n": n, "seconds": seconds})
        line = "  ".join(f"{name} {1e6 * each:7.1f} us" for name, each in seconds.items())
        print(f"2^{n.bit_length() - 1:<3} {line}", flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
