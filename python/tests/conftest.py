"""What the tests share, and what they skip where it is missing."""

import json
import pathlib

import numpy as np
import pytest

VECTORS = pathlib.Path(__file__).parents[2] / "tests" / "data" / "mask-vectors.json"


@pytest.fixture(scope="session")
def vectors():
    if not VECTORS.is_file():
        pytest.skip(f"SKIPPED: the vectors, {VECTORS}, are not beside the package")
    return json.loads(VECTORS.read_text())


def unpacked(words, n):
    """The bits of a mask."""
    return np.unpackbits(words.astype("<u4").view(np.uint8), bitorder="little", count=n).astype(bool)
