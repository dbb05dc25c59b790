"""Drop-Activation: each nonlinearity is kept with probability p in training, and replaced by the identity else.

    y, mask = forward(x, 0.95, seed=42, offset=0)   # training; another offset for each call
    dx = backward(dy, mask)                         # one bit per element is all that ReLU needs
    y = infer(x, 0.95)                              # the mean of the training outputs

Arrays are numpy arrays of float16, float32, float64 or bfloat16 (ml_dtypes), or objects with DLPack on the CPU. They
are read and written where they lie: they must be C-contiguous, and are never copied. Results are new numpy arrays, or
`out`, which may be the input (in place) and, but for the passes over channels, the saved tensor. `out` must be known to
be writable: DLPack says so from 1.0 on, as PyTorch's tensors do, while JAX's arrays never change.

A mask is an array of uint32, ceil(n / 32) long: element i is bit i % 32, least significant first, of word i / 32. The
bits are a function of (seed, offset, first + i) and p alone, the same on every machine and device. `first` is the
global index of the array's element 0, a multiple of 32, for an array that is a shard of a larger one.

TypeError and ValueError name the argument, what it must be and what was given; nothing was written then. Work is done
without the interpreter's lock, by as many threads as RAYON_NUM_THREADS says or the machine has.

`drop_activation.torch` is the same for PyTorch, with gradients and on CUDA.
"""

from ._activations import ACTIVATIONS
from ._channels import fused_backward, fused_forward, fused_infer, fused_sums, statistics
from ._library import version as _version
from ._operations import (
    backward,
    backward_from_output,
    forward,
    forward_without_mask,
    infer,
    infer_backward,
    keep_mask,
    relu_backward,
    relu_forward,
    rrelu_backward,
    rrelu_forward,
    rrelu_infer,
    rrelu_infer_backward,
)

__version__ = _version()

__all__ = [
    "ACTIVATIONS",
    "backward",
    "backward_from_output",
    "forward",
    "forward_without_mask",
    "fused_backward",
    "fused_forward",
    "fused_infer",
    "fused_sums",
    "infer",
    "infer_backward",
    "keep_mask",
    "relu_backward",
    "relu_forward",
    "rrelu_backward",
    "rrelu_forward",
    "rrelu_infer",
    "rrelu_infer_backward",
    "statistics",
]
