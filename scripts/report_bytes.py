"""Bytes that the cases of the benches move, out of benches/bytes.json, where they are written."""

import json
import pathlib

TABLE = json.loads((pathlib.Path(__file__).resolve().parent.parent / "benches" / "bytes.json").read_text())
SIZES = {"f32": 4, "bf16": 2, "f16": 2, "f64": 8}


def per_element(case, dtype, table=None):
    """Bytes for each element, by the table of a file of results if it has one. PyTorch's, ndarray's and one thread's
    passes move what ours do."""
    name = case.removeprefix("torch_").removeprefix("ndarray_").removesuffix("_one_thread")
    tensors, besides = (table or TABLE)[name]
    return tensors * SIZES[dtype] + besides
