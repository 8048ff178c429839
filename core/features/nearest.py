"""Nearest neighbours by cosine without an (N, N) matrix, and the library that finds them among millions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import CapabilityError

CHUNK_ELEMENTS = 2**24  # of a (rows, N) block of cosines: 64 MiB
GROUP = 32  # keys whose best cosine is found first


def nearest_rows(rows: Tensor, keys: Tensor, count: int, *, skip_self: bool = False) -> tuple[Tensor, Tensor]:
    """Cosines and indices of the `count` keys nearest to each row, the nearest first; all keys where there are fewer.

    Args:
        rows: (B, D) unit rows.
        keys: (N, D) unit rows.
        count: how many.
        skip_self: row i is key i, and is not a neighbour of itself.

    Returns:
        cosines (B, K) and indices (B, K).
    """
    count = max(0, min(count, len(keys) - int(skip_self)))
    if not count or not len(rows):
        return rows.new_zeros(len(rows), count), torch.zeros(len(rows), count, dtype=torch.long, device=rows.device)
    group = max(1, min(GROUP, len(keys) // (GROUP * count)))
    width = -(-len(keys) // group) * group
    step = max(1, min(len(rows), CHUNK_ELEMENTS // width))
    buffer = rows.new_full((step, width), -torch.inf)  # columns beyond the keys stay -inf
    parts = []
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        cosines = buffer[: len(block)]
        torch.mm(block, keys.T, out=cosines[:, : len(keys)])
        if skip_self:
            cosines[:, start : start + len(block)].fill_diagonal_(-torch.inf)
        parts.append(_largest(cosines, count, group))
    cosines, index = zip(*parts)
    return torch.cat(cosines), torch.cat(index)


def _largest(values: Tensor, count: int, group: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of each row: they lie in the `count` groups of columns with the largest maxima.

    Maxima of groups are one fast sweep; only 1 / `group` of the columns, and then a few groups, are ranked.
    """
    groups = values.shape[1] // group
    best = values.view(len(values), group, groups).amax(dim=1)  # (B, N / group)
    chosen = best.topk(count, dim=1).indices  # (B, K)
    members = torch.arange(group, device=values.device) * groups
    columns = (chosen[:, :, None] + members).flatten(1)  # (B, K * group)
    largest, place = values.gather(1, columns).topk(count, dim=1)
    return largest, columns.gather(1, place)


def faiss_library() -> Any:
    """The module faiss.

    Raises:
        CapabilityError: it is not installed.
    """
    try:
        import faiss
    except ModuleNotFoundError as error:
        raise CapabilityError(
            "indexing and searching need the package 'faiss-cpu'; install it with: pip install 'vladapt[retrieval]'"
        ) from error
    return faiss
