"""Activations recomputed in the backward pass: a tower's blocks hold only what goes into them."""

from __future__ import annotations

import re
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from ..contracts.backbone import Backbone
from ..contracts.errors import CapabilityError

BLOCK_LISTS = re.compile(r"(resblocks|blocks|layers|layer\d*)$")


def checkpoint_blocks(backbone: Backbone) -> int:
    """Checkpoint every block of the towers, in the library's own forward pass and in ours.

    Returns:
        How many.

    Raises:
        CapabilityError: the towers have no lists of blocks.
    """
    blocks = [
        block
        for name, module in backbone.model.named_modules()
        if isinstance(module, (nn.ModuleList, nn.Sequential)) and BLOCK_LISTS.search(name)
        for block in module
    ]
    if not blocks:
        raise CapabilityError(
            f"backbone '{backbone.spec}' has no list of blocks to checkpoint; leave checkpointing off"
        )
    for block in blocks:
        block.forward = partial(_recomputed, block, block.forward)
    if hasattr(backbone, "checkpoint_blocks"):
        backbone.checkpoint_blocks()
    return len(blocks)


def _recomputed(block: nn.Module, forward, *args, **kwargs):
    if not block.training:
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)
