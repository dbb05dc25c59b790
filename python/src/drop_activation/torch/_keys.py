"""Keys, drawn by PyTorch's generator for a tensor's device.

On a GPU whoever makes a call, Python or what torch.compile has made, knows the seed and the offset of the generator,
which are all that PyTorch's kernel would go by: it computes the same key on the CPU, moves the offset on as that kernel
would, and launches nothing. So `torch.manual_seed`, `fork_rng` and checkpoints, which set seed and offset, mean the
same for both.

While a CUDA graph is captured both numbers lie on the GPU, and change from replay to replay. There the pass itself reads
them and computes the key, so that it is one kernel then too. A call that is recorded or transformed, or of a PyTorch
that does not tell where its generators are, has its key drawn by `randint`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import _operators as operators
from ._plain import is_plain

_BOUND = 2**63 - 1
#: By how much `randint` for one number moves the offset of a GPU's generator.
_INCREMENT = 4
#: Whether this PyTorch tells where its generators are; older ones do not.
_TELLS = hasattr(torch.Generator, "philox_state")


def recomputes() -> bool:
    """Whether torch.compile has a memory budget, for which it computes again in the backward pass what is large. It draws
    again too, whatever operators say of themselves, and the passes would have different masks."""
    return torch.compiler.is_compiling() and torch._functorch.config.activation_memory_budget < 1


def draw_key(x: Tensor) -> Tensor:
    """A key on x's device, or on the CPU."""
    if recomputes():
        return _draw_key_outside(x)
    key = key_on_cpu(x) if x.is_cuda else None
    return torch.randint(_BOUND, (1,), dtype=torch.int64, device=x.device) if key is None else key


@torch.compiler.disable(reason="with a memory budget, masks would be drawn again in the backward pass")
def _draw_key_outside(x: Tensor) -> Tensor:
    """Between two compiled parts, so that it is an argument of the second."""
    return draw_key(x)


def _draw_forward_on_cuda(x, *parameters):
    """What compiled code calls, and a graph's capture."""
    place = place_in_graph(x)
    if place is not None:
        return operators.forward_at(x, *place, *parameters)
    return operators.forward(x, draw_key(x), *parameters)


def _draw_rrelu_forward_on_cuda(x, *parameters):
    """It returns the key on the GPU, where a graph's backward pass finds it: the kernel stores it there."""
    place = place_in_graph(x)
    if place is not None:
        return operators.rrelu_forward_at(x, *place, *parameters)
    key = draw_key(x)
    if key.device == x.device:
        return *operators.rrelu_forward(x, key, *parameters), key
    return operators.rrelu_forward_storing_key(x, key, *parameters)


operators.LIBRARY.impl(operators.draw_forward, _draw_forward_on_cuda, "CUDA")
operators.LIBRARY.impl(operators.draw_rrelu_forward, _draw_rrelu_forward_on_cuda, "CUDA")


def draw_forward_(x: Tensor, mask: Tensor, p: float, first: int, layout: int) -> None:
    """`operators.forward_` with a key that is drawn for it."""
    place = place_in_graph(x)
    if place is not None:
        operators.forward_at_(x, mask, *place, p, first, layout)
    else:
        operators.forward_(x, mask, draw_key(x), p, first, layout)


def key_on_cpu(x: Tensor) -> Tensor | None:
    """The key of a tensor on a GPU without a kernel. None where one must draw it, or a graph is captured."""
    if not _generator_tells(x) or torch.cuda.is_current_stream_capturing() or not _pytorch_agrees(x.device):
        return None
    return key_at(torch.cuda.default_generators[x.device.index])


def place_in_graph(x: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """While a graph is captured: where the seed and the offset of x's generator will be on the GPU, and by how much the
    graph has moved the offset on. None where a kernel must draw the key, or no graph is captured."""
    if not _AGREES.get(x.device, False):  # a capture does not allow to wait for the GPU and try it
        return None
    if not _generator_tells(x) or not torch.cuda.is_current_stream_capturing():
        return None
    return torch.cuda.default_generators[x.device.index].philox_state(_INCREMENT)


def _generator_tells(x: Tensor) -> bool:
    if torch.compiler.is_compiling() or not _TELLS or not is_plain(x):
        return False
    # If not, the call is recorded, to run again.
    return not torch._C._len_torch_dispatch_stack() and torch._C._get_tracing_state() is None


def key_at(generator: torch.Generator) -> Tensor | None:
    """The key that `randint` would draw now. None while a graph is captured: what the generator knows is on the GPU."""
    seed, offset, _ = generator.philox_state(_INCREMENT)
    return operators.philox_key(seed, offset) if seed.device.type == "cpu" else None


_AGREES: dict[torch.device, bool] = {}


def _pytorch_agrees(device: torch.device) -> bool:
    """Whether this PyTorch draws such keys. It is tried at the first call, which waits for the GPU."""
    if device not in _AGREES:
        if torch.cuda.get_sync_debug_mode():
            return False  # not now
        _AGREES[device] = agree(*(torch.Generator(device).manual_seed(0x0123456789ABCDEF) for _ in range(2)))
    return _AGREES[device]


def agree(ours: torch.Generator, pytorch_s: torch.Generator) -> bool:
    """Whether `key_at` and PyTorch's own `randint` draw the same from two generators in the same state."""
    for _ in range(2):
        key = key_at(ours)
        expected = torch.randint(_BOUND, (1,), dtype=torch.int64, device=pytorch_s.device, generator=pytorch_s)
        if key is None or key.item() != expected.item():
            return False
    return ours.get_offset() == pytorch_s.get_offset()
