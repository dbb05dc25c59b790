"""What code may change around what it computes, and a graph does not: gradients, autocast, checkpoints, random numbers."""

from __future__ import annotations

import contextlib
import random
from typing import Iterator

import numpy as np
import torch

_DEVICES = ("cpu", "cuda")


def contexts() -> dict[str, object]:
    """By what they are called."""
    now: dict[str, object] = {
        "whether gradients are computed": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "the hooks of what is kept for gradients, as a checkpoint does": _hooks(),
        "the state of random numbers": _random_numbers(),
    }
    for device in _DEVICES:
        now[f"autocast on {device}"] = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
    return now


def _hooks() -> tuple | None:
    return torch._C._autograd._top_saved_tensors_default_hooks(True)


def _random_numbers() -> tuple:
    generators = [torch.default_generator, *(torch.cuda.default_generators if torch.cuda.is_initialized() else ())]
    states = (generator.get_state().numpy().tobytes() for generator in generators)
    _, words, position, *normal = np.random.get_state()
    return *states, random.getstate(), words.tobytes(), position, *normal


@contextlib.contextmanager
def surroundings(common: bool) -> Iterator[None]:
    """With gradients and without autocast, or the other way about: what code sets, it changes in one of the two."""
    before = [torch.is_autocast_enabled(device) for device in _DEVICES]
    with torch.inference_mode(False), torch.set_grad_enabled(common):
        try:
            for device in _DEVICES:
                torch.set_autocast_enabled(device, not common)
            yield
        finally:
            for device, enabled in zip(_DEVICES, before):
                torch.set_autocast_enabled(device, enabled)
