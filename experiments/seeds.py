"""Random numbers by name: what is drawn for one purpose does not move what is drawn for another.

So runs that differ in the activation alone have the same initial weights, training images, wrong labels, order and
augmentations; and an epoch's numbers do not depend on whether the epochs before it were computed by this process.
"""

import hashlib

import torch


def seed(*purpose) -> int:
    """A seed for a purpose, of which (run's seed, "order", epoch) is an example."""
    return int.from_bytes(hashlib.sha256(repr(purpose).encode()).digest()[:8], "little") >> 1


def generator(*purpose) -> torch.Generator:
    return torch.Generator().manual_seed(seed(*purpose))
