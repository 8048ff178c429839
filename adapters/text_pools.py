"""Texts that methods search in, ready to be compared."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..core.contracts import TextPool
from ..core.errors import DataError


def unit_captions(pool: TextPool, features: Tensor, whose: str) -> Tensor:
    """(N, D) unit rows of captions, on the device of the features that they are compared with.

    Args:
        features: (M, D).
        whose: these are, in words.

    Raises:
        DataError: the pool is empty, or of another width.
    """
    if not len(pool):
        raise DataError("captions: the pool is empty; give a file with at least one caption")
    width = features.shape[1]
    if pool.features.shape[1] != width:
        widths = f"captions: features are {pool.features.shape[1]} wide, {whose} {width}"
        raise DataError(f"{widths}; both must come from one backbone")
    return F.normalize(pool.features.to(features.device).float(), dim=-1)
