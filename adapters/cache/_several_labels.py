"""Caches of images with several labels: what the keys add to each label, and the grid search by macro AUROC."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.metrics import macro_auroc
from ..published_sets import MOST_SHOTS


def signed_shares(labels: Tensor, num_classes: int) -> Tensor:
    """(N, C): of each label 1/n for its n positives and -1/m for its m negatives, times the mean number of positives,
    16 at most.

    A weighted sum of images is then a mean of positives less a mean of negatives, of the size that a sum over a few
    shots has: it stays comparable with zero-shot however many images there are. Labels without one of the two are 0,
    and so is whatever is unknown.

    Args:
        labels: (N, L) of 0, 1 and NaN, with L up to C.
        num_classes: C.
    """
    positive, negative = (labels == 1).float(), (labels == 0).float()
    n, m = positive.sum(dim=0), negative.sum(dim=0)
    both = (n > 0) & (m > 0)
    shares = torch.where(both, positive / n.clamp(min=1) - negative / m.clamp(min=1), 0.0)
    mean_positives = (n.sum() / (n > 0).sum().clamp(min=1)).clamp(max=MOST_SHOTS)
    return F.pad(shares * mean_positives, (0, num_classes - labels.shape[1]))


def sweep_auroc(sums, queries: Tensor, labels: Tensor, zero_shot: Tensor, betas, alphas) -> np.ndarray:
    """(B, A, G) macro AUROCs.

    Args:
        sums: `ClassSums` of the cache.
        queries: (V, D), of `labels` (V, C) with (V, C) `zero_shot` logits.
    """
    base, truth = zero_shot.T, labels.T  # (C, V)
    several = torch.tensor(alphas, dtype=zero_shot.dtype, device=queries.device)[:, None, None, None]  # (A, 1, 1, 1)
    scores = []
    for cache in _whole_sums(sums, queries, betas):
        cache = cache.transpose(0, 1)  # (G, C, V)
        for some in several.split(max(1, sums.BLOCK // cache.numel())):
            logits = torch.addcmul(base, cache, some)  # (A', G, C, V)
            scores.append(macro_auroc(logits.flatten(0, 1), truth))
    return torch.cat(scores).view(len(betas), len(alphas), -1).cpu().numpy()


def _whole_sums(sums, queries: Tensor, betas: Sequence[float]) -> Iterator[Tensor]:
    """(C, G, V) of each beta; the affinity is kept where it fits the budget, else made again block by block."""
    blocks = queries.split(sums.rows_at_once())
    kept = sums.affinity(queries) if len(blocks) == 1 else None
    for beta in betas:
        parts = [kept] if kept is not None else (sums.affinity(block) for block in blocks)
        yield torch.cat([sums.at(part, beta, torch.empty_like(part)) for part in parts], dim=-1)
