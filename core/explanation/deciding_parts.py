"""Which part of a sample an answer rests on: the slice, view or frame without which its class loses most."""

from __future__ import annotations

import torch
from torch import Tensor

from ..contracts.adapter import Adapter
from ..contracts.features import Batch, FeatureSet, mean_of_parts

SEEN = frozenset({"features", "parts", "text_encoder"})
"""What a method may ask for at prediction, to be asked again without a part."""
AT_ONCE = 4096
"""Samples, each without one of its parts, that are scored at once."""


@torch.no_grad()
def deciding_parts(adapter: Adapter, features: FeatureSet, called: Tensor) -> Tensor | None:
    """Of each sample the part without which the logit of the class that is named falls most: where one class excludes
    the others, that logit above the mean of theirs. Parts are left out one by one, however the method reads them.

    Args:
        features: N samples with parts.
        called: (N,) class indices.

    Returns:
        (N,) indices, -1 for samples of a single part; None where the method reads no parts, or more than these, and of
        stored bags, which have too many to leave out each.
    """
    if "parts" not in adapter.at_predict or not adapter.at_predict <= SEEN or features.part_views is not None:
        return None
    parts, mask = features.parts, features.parts_mask
    if parts is None or mask is None:
        return None
    of_sample, left_out = (mask & (mask.sum(dim=1, keepdim=True) > 1)).nonzero(as_tuple=True)  # (M,) each
    without = torch.full(mask.shape, torch.inf, device=parts.device)
    for some in torch.arange(len(of_sample), device=parts.device).split(AT_ONCE):
        rows, part = of_sample[some], left_out[some]
        rest = mask[rows].clone()
        rest[torch.arange(len(rows), device=parts.device), part] = False
        others = parts[rows] * rest[..., None]
        batch = Batch(features=mean_of_parts(others, rest), parts=others, parts_mask=rest)
        without[rows, part] = _height(adapter, batch, called.to(parts.device)[rows])
    return torch.where(mask.sum(dim=1) > 1, without.argmin(dim=1), -1)


def _height(adapter: Adapter, batch: Batch, called: Tensor) -> Tensor:
    """(B,) logit of a class, above the mean of the others where only one is right."""
    logits = adapter.logits(batch).float()
    own = logits.gather(1, called[:, None]).squeeze(1)
    if adapter.multilabel_ or logits.shape[1] < 2:
        return own
    return own - (logits.sum(dim=1) - own) / (logits.shape[1] - 1)
