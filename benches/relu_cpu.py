"""PyTorch's ReLU on a CPU beside this library's ReLU and Drop-Activation, on tensors that are there: for
`benches/pytorch.py --device cpu`.

    torch_relu_*   clamp_min(out=) and threshold_backward(grad_input=), the kernels of torch.relu
    relu_*, drop_* the library's, through its C interface
    torch_mask     bernoulli_ into a tensor of bool, as native_dropout draws its mask
    mask           the library's keep bits by themselves, through its C interface

A step is a forward pass and the backward pass that goes with it. A mask does not depend on the type of the elements, so
it is drawn in the configurations of warm f32 alone. Both sides are called from Python, which takes about a microsecond a
call for PyTorch and half of one for the C interface.

They are measured with one thread, which is the calling one, and with all, in two ways each:

    apart  in processes of their own, which take turns, the one when the other's threads are asleep
    one    in one process, on the very same tensors. Before each timed call all of PyTorch's threads have had something
           to do, as in a network, so that they may still wait for more of it, spinning

Tensors are PyTorch's in all processes, so that they lie alike. What is computed is looked at before it is timed.
"""

import ctypes
import functools
import gc
import itertools
import json
import math
import os
import pathlib
import random
import statistics
import subprocess
import sys
import time

P = 0.95
ROTATION_BYTES = 1 << 30
MOST_SETS = 1024
# Seconds after which threads that wait for more to do, spinning, have gone to sleep: before that, another process could
# not use their cores.
UNTIL_ASLEEP = 0.02
# Seconds of calls before those that are timed, for threads that sleep to wake.
UNTIL_AWAKE = 0.0005
# Keys of the masks, one after the other: a processor learns by heart what is left of one to be drawn again.
KEYS = 1024
DTYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}
PARTS = ("forward", "backward", "step")
BYTES = json.loads(pathlib.Path(__file__).with_name("bytes.json").read_text())

# What the processes of each way measure.
WAYS = {"apart": (("torch_relu",), ("relu", "drop")), "one": (("torch_relu", "relu", "drop"),)}


# ----------------------------------------------------------------------------------------------------------------------
# In a process that measures


def steps(forward, backward):
    def step():
        forward()
        backward()

    return dict(zip(PARTS, (forward, backward, step)))


@functools.cache
def passes(kind):
    """The structures of a pass, over and over, each with a key of its own."""
    from drop_activation import _library as library

    made = [library.Pass(kind, p=P, key=library.Key(1, offset)) for offset in range(KEYS)]
    return itertools.cycle([ctypes.byref(pass_) for pass_ in made])


@functools.cache
def keys():
    """The keys of masks drawn by themselves, over and over."""
    from drop_activation import _library as library

    made = [library.Key(1, offset) for offset in range(KEYS)]
    return itertools.cycle([ctypes.byref(key) for key in made])


class Cases:
    """The cases of these families on one set of tensors, by name. Calls of the library know no more of the tensors than
    their addresses: they are good as long as this is."""

    def __init__(self, families, dtype, n, with_masks):
        import torch

        self.x, self.dy = (torch.randn(n).to(dtype) for _ in range(2))
        self.y, self.dx = torch.empty_like(self.x), torch.empty_like(self.x)
        self.mask = torch.empty((n + 31) // 32, dtype=torch.int32)
        make = {"torch_relu": self.torch_relu, "relu": self.relu, "drop": self.drop}
        self.by_name = {}
        for family in families:
            parts = make[family]()
            self.check(family, parts["step"])
            self.by_name.update((f"{family}_{part}", case) for part, case in parts.items())
        if with_masks and "torch_relu" in families:
            self.by_name["torch_mask"] = self.torch_mask()
        if with_masks and "drop" in families:
            self.by_name["mask"] = self.keep_mask()

    def torch_relu(self):
        import torch

        forward, backward = torch.clamp_min, torch.ops.aten.threshold_backward.grad_input
        x, y, dy, dx = self.x, self.y, self.dy, self.dx
        return steps(lambda: forward(x, 0, out=y), lambda: backward(dy, y, 0, grad_input=dx))

    def relu(self):
        from drop_activation import _library as library

        forward = self.library(library.RELU_FORWARD, self.x, self.y)
        return steps(forward, self.library(library.RELU_BACKWARD, self.dy, self.dx, saved=self.y))

    def drop(self):
        from drop_activation import _library as library

        forward = self.library(library.FORWARD, self.x, self.y, mask=self.mask)
        return steps(forward, self.library(library.BACKWARD, self.dy, self.dx, mask=self.mask))

    def torch_mask(self):
        import torch

        mask = torch.zeros(self.x.numel(), dtype=torch.bool)
        case = lambda: mask.bernoulli_(P)
        case()
        self.check_share("torch_mask", int(mask.sum()), mask.numel())
        return case

    def keep_mask(self):
        from drop_activation import _library as library

        error, n, draw, turns = ctypes.c_void_p(), self.x.numel(), library._c.dact_cpu_keep_mask, keys()
        words, error_at = self.mask.data_ptr(), ctypes.byref(error)

        def case():
            if draw(P, next(turns), n, words, error_at):
                raise RuntimeError(library._c.dact_error_message(error).decode())

        case()
        bits = self.mask.numpy().view("uint8")
        self.check_share("mask", int.from_bytes(bits.tobytes(), "little").bit_count(), n)
        return case

    def library(self, kind, input, output, saved=None, mask=None):
        """A call of the C interface, with its structures ready."""
        from drop_activation import _library as library

        address = lambda tensor: 0 if tensor is None else tensor.data_ptr()
        dtype = library.DTYPES[str(input.dtype).removeprefix("torch.")]
        tensors = library.Tensors(dtype, input.numel(), address(input), address(output), address(saved), address(mask))
        error = ctypes.c_void_p()
        run, turns = library._c.dact_cpu_run, passes(kind)
        others = (ctypes.byref(tensors), ctypes.byref(error))

        def call():
            if run(next(turns), *others):
                raise RuntimeError(library._c.dact_error_message(error).decode())

        return call

    def check(self, family, step):
        """What is blocked is zero, as is its gradient; all else is itself. ReLU blocks all that is negative,
        Drop-Activation a part p of it."""
        x, y, dy, dx = self.x, self.y, self.dy, self.dx
        y.fill_(7), dx.fill_(7)
        step()
        blocked = (y == 0) & (x < 0)
        negative, kept = int((x < 0).sum()), int(blocked.sum())
        # Of a zero the gradient tells whether it was kept, the result does not.
        wrong = int(((y != x) & ~blocked | (dx != dy.masked_fill(blocked, 0)) & (x != 0)).sum())
        if wrong:
            raise AssertionError(f"{family}: {wrong} of {x.numel()} results are wrong")
        self.check_share(family, kept, negative, P if family == "drop" else 1)

    def check_share(self, name, kept, of, p=P):
        if abs(kept - p * of) > 6 * math.sqrt(p * (1 - p) * of):
            raise AssertionError(f"{name}: {kept} of {of} were kept")


class Worker:
    """What a process does that measures: it makes the tensors of a configuration, or times calls."""

    def __init__(self, families, threads, way):
        import torch

        # PyTorch's threads would wait beside the library's, spinning, which is what the other way measures.
        torch.set_num_threads(threads if "torch_relu" in families else 1)
        self.families, self.rotation, self.turn = families, [], 0
        # Large enough for PyTorch to share it out, and so little memory that it leaves the caches to the others.
        self.busy = torch.zeros(1 << 16, dtype=torch.uint8) if way == "one" else None
        gc.disable()

    def configure(self, dtype, n, sets):
        import torch

        self.rotation, self.turn = None, 0
        with_masks = dtype == "f32" and sets == 1
        self.rotation = [Cases(self.families, getattr(torch, DTYPES[dtype]), n, with_masks) for _ in range(sets)]
        return list(self.rotation[0].by_name)

    def seconds(self, case, calls):
        """Of one call, on average."""
        clock = time.perf_counter
        awake = clock() + UNTIL_AWAKE
        while clock() < awake:
            self.next_turns(case, 1)[0]()
        turns = self.next_turns(case, calls)
        if self.busy is None:
            start = clock()
            for call in turns:
                call()
            return (clock() - start) / calls
        total = 0.0
        for call in turns:
            self.busy.add_(1)
            start = clock()
            call()
            total += clock() - start
        return total / calls

    def next_turns(self, case, calls):
        turns = [self.rotation[(self.turn + call) % len(self.rotation)].by_name[case] for call in range(calls)]
        self.turn += calls
        return turns

    def serve(self):
        """Answers questions, one a line, until there are no more."""
        for question in map(json.loads, sys.stdin):
            print(json.dumps(getattr(self, question.pop("do"))(**question)), flush=True)


# ----------------------------------------------------------------------------------------------------------------------
# In the process that asks


class Process:
    """Another process, and what it measures."""

    def __init__(self, families, threads, way):
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "RAYON_NUM_THREADS": str(threads)}
        command = [sys.executable, str(pathlib.Path(__file__).resolve()), ",".join(families), str(threads), way]
        self.child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, do, **question):
        print(json.dumps({"do": do, **question}), file=self.child.stdin, flush=True)
        if not (answer := self.child.stdout.readline()):
            raise RuntimeError(f"the process that measures ended with status {self.child.wait()}")
        return json.loads(answer)

    def end(self):
        self.child.stdin.close()
        self.child.wait()


def in_turns(processes, dtype, n, cold, rounds):
    """The seconds of each case, round by round, each round in another order."""
    size = {"f32": 4}.get(dtype, 2)
    sets = min(max(ROTATION_BYTES // (4 * n * size), 2), MOST_SETS) if cold else 1
    cases = [(process, process.ask("configure", dtype=dtype, n=n, sets=sets)) for process in processes]
    times = {case: [] for _, of_process in cases for case in of_process}
    calls = max(1, min(1000, (1 << 22) // n))
    shuffled = random.Random(1)
    for round in range(rounds + 1):
        shuffled.shuffle(cases)
        for process, of_process in cases:
            shuffled.shuffle(of_process)
            for case in of_process:
                seconds = process.ask("seconds", case=case, calls=calls)
                # The first round warms up.
                if round > 0:
                    times[case].append(seconds)
            if len(cases) > 1:
                time.sleep(UNTIL_ASLEEP)
    return dict(sorted(times.items()))


def measure(sizes, rounds, threads):
    """The rows, one after the other. The spread of a case is the middle half of its rounds.

    `threads` are their numbers to measure with."""
    for number in threads:
        for way, of_process in WAYS.items():
            processes = [Process(families, number, way) for families in of_process]
            try:
                for dtype in DTYPES:
                    for n in (1 << size for size in sizes):
                        for cold in (False, True):
                            times = in_turns(processes, dtype, n, cold, rounds)
                            yield {
                                "dtype": dtype, "n": n, "p": P, "cold": cold, "threads": number, "processes": way,
                                "seconds": {case: statistics.median(all) for case, all in times.items()},
                                "spread": {case: middle_half(all) for case, all in times.items()},
                            }
            finally:
                for process in processes:
                    process.end()


def last_level_cache():
    """Its bytes, if the system tells."""
    sizes = sorted(pathlib.Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"))
    return int(sizes[-1].read_text().removesuffix("K\n")) << 10 if sizes else None


def middle_half(times):
    times = sorted(times)
    return [times[len(times) // 4], times[-1 - len(times) // 4]]


if __name__ == "__main__":
    Worker(sys.argv[1].split(","), int(sys.argv[2]), sys.argv[3]).serve()
