"""Offsets of classes by which trained heads keep rare classes on images that they did not learn from.

Logits of a class of few images fall behind on images that a head did not learn from, the more so the fewer it has.
Where classes count alike (`class_weight`) and their numbers are unequal, offsets make up for it: `linear-probe`,
`lp-plus-plus`, `tip-adapter-f` and `ape-t` add them to their logits. They come from five fits at the settings that were
chosen, each of which leaves out a fifth of the support. The val score of a fit is the score with its offsets.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..contracts.choices import ClassWeighted
from ..contracts.features import FeatureSet
from ..data.sampling import folds
from ..metrics.selection import balancing_offsets

FOLDS = 5
"""Into which a support is split where offsets are learned."""


def cross_fitted_offsets(
    adapter: ClassWeighted,
    support: FeatureSet,
    num_classes: int,
    seed: int,
    logits_of: Callable[[FeatureSet, FeatureSet], Tensor],
    count: int | None = None,
) -> Tensor | None:
    """(C,) what a trained head adds to its logits: `balancing_offsets` of cross-fitted logits.

    A trained head memorises the few images of a rare class, so that priors added in training no longer help it on
    others.

    Args:
        adapter: whose options say whether each class counts alike.
        support: what the head learned from.
        seed: fixes the folds.
        logits_of: (images to learn from, others) -> (n, C) logits of these.
        count: of the folds; None: `FOLDS`.

    Returns:
        None where classes have equally many images or do not count alike, and where most of them have a single image.
    """
    if not adapter.counts_unequal(support, num_classes):
        return None
    parts = folds(support, count or FOLDS, seed)
    if not parts:
        return None
    logits = []
    for held in parts:
        kept = torch.ones(len(support), dtype=torch.bool)
        kept[held] = False
        logits.append(logits_of(support.select(kept.to(support.features.device)), support.select(held)))
    return balancing_offsets(torch.cat(logits), support.labels[torch.cat(parts).to(support.labels.device)])
