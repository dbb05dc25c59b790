"""Whether a call is made by the forward pass of an autograd.Function, which has a backward pass of its own: that
belongs to ReLU, and nothing else may be put in ReLU's place."""

from __future__ import annotations

import functools
import sys
from types import CodeType
from typing import Iterator

import torch

REASON = "an autograd.Function computes its derivative"


def inside_function(end: CodeType, compiled: bool = False) -> bool:
    """Looks through the calls that are in progress, or those that torch.compile looks through, up to one of the code
    `end`."""
    for code in _codes_in_compiled_code() if compiled else _codes():
        if code is end:
            return False
        if _is_forward(code):
            return True
    return False


def _codes() -> Iterator[CodeType]:
    frame = sys._getframe(1)
    while frame is not None:
        yield frame.f_code
        frame = frame.f_back


def _codes_in_compiled_code() -> Iterator[CodeType]:
    """What torch.compile looks through, innermost first: its own frames hold that."""
    from torch._dynamo.symbolic_convert import InstructionTranslatorBase

    frame, last = sys._getframe(1), None
    while frame is not None:
        translator = frame.f_locals.get("self")
        if isinstance(translator, InstructionTranslatorBase) and translator is not last:
            last = translator
            yield translator.f_code
        frame = frame.f_back


@functools.lru_cache(maxsize=4096)
def _is_forward(code: CodeType) -> bool:
    """Whether it is the forward pass of a Function."""
    classes = [torch.autograd.Function]
    while classes:
        cls = classes.pop()
        classes += cls.__subclasses__()
        forward = vars(cls).get("forward")
        forward = getattr(forward, "__func__", forward)
        while hasattr(forward, "__wrapped__"):
            forward = forward.__wrapped__
        if getattr(forward, "__code__", None) is code:
            return True
    return False
