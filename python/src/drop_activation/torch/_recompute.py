"""Checkpointing: a part that is computed again in the backward pass is watched as it was in the forward pass.

Whoever calls `torch.utils.checkpoint.checkpoint` holds that function already, so what it keeps for the backward pass is
where this can be added. Outside of watched modules nothing changes.
"""

from __future__ import annotations

import functools

from torch.utils import checkpoint

from ._intercept import current_owner, resumed


def _keep_owner() -> None:
    frame_init = checkpoint._CheckpointFrame.__init__

    @functools.wraps(frame_init)
    def init(self, recompute_fn, *args, **kwargs):
        owner = current_owner()
        frame_init(self, resumed(owner, recompute_fn) if owner is not None else recompute_fn, *args, **kwargs)

    checkpoint._CheckpointFrame.__init__ = init

    reentrant_forward = checkpoint.CheckpointFunction.forward

    @staticmethod
    @functools.wraps(reentrant_forward)
    def forward(ctx, run_function, *args):
        owner = current_owner()
        return reentrant_forward(ctx, resumed(owner, run_function) if owner is not None else run_function, *args)

    checkpoint.CheckpointFunction.forward = forward


_keep_owner()
