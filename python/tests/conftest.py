"""What the tests share, and what they skip where it is missing."""

import json
import pathlib
import re

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


_LARGE_PAGES = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
large_pages = pytest.mark.skipif(
    not _LARGE_PAGES.exists() or "[never]" in _LARGE_PAGES.read_text(),
    reason="SKIPPED: this system has no large pages to ask for",
)


def flags_of(tensor):
    """Of the memory in the midst of a tensor of PyTorch's: hg is what large pages were asked for."""
    address, here = tensor.data_ptr() + tensor.numel() * tensor.element_size() // 2, False
    for line in pathlib.Path("/proc/self/smaps").read_text().splitlines():
        if span := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            here = int(span[1], 16) <= address < int(span[2], 16)
        elif here and line.startswith("VmFlags:"):
            return line.split()[1:]
    raise AssertionError(f"{address:x} is in no mapping")
