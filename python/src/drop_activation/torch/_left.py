"""What was found in a model and stays as it was."""

from __future__ import annotations

from typing import NamedTuple


class Left(NamedTuple):
    """What was found and not replaced."""

    #: The name of the module, or of the module whose code made the call.
    name: str
    reason: str
