"""Options that methods share: how unequal classes count, and which of equally good settings is taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.sampling import folds
from ..metrics.class_balance import balancing_offsets, class_weights, log_priors
from .adapter import Adapter
from .features import FeatureSet
from .options import option

BALANCED, NONE = "balanced", "none"
PLATEAU, PUBLISHED = "plateau", "published"
FOLDS = 5
"""Into which a support is split where offsets of classes are learned."""


@dataclass(eq=False, kw_only=True)
class ClassWeighted(Adapter):
    """Base of methods in which each class counts alike, however many images it has.

    Published methods are made for equally many images per class; where they are, the option changes nothing.
    """

    class_weight: str = option(
        BALANCED,
        "where classes have unequal numbers of images: each class counts alike, or (none) each image",
        choices=(BALANCED, NONE),
    )

    @property
    def balanced(self) -> bool:
        """Whether each class counts alike."""
        return self.class_weight == BALANCED and not self.as_published

    def priors_of(self, labels: Tensor, num_classes: int) -> Tensor | None:
        """What a trained head adds to its logits in training: `log_priors` where classes count alike, else None."""
        return log_priors(labels, num_classes) if self.balanced else None

    def offsets_of(
        self,
        support: FeatureSet,
        num_classes: int,
        seed: int,
        logits_of: Callable[[FeatureSet, FeatureSet], Tensor],
        count: int = FOLDS,
    ) -> Tensor | None:
        """(C,) what a trained head adds to its logits, so that rare classes do not fall behind on images that it did
        not learn from: `balancing_offsets` of cross-fitted logits. None where classes have equally many images or do
        not count alike, and where most of them have a single image.

        Args:
            support: what the head learned from.
            seed: fixes the folds.
            logits_of: (images to learn from, others) -> (n, C) logits of these.
            count: of the folds.
        """
        if support.multilabel or not self.balanced or class_weights(support.labels, num_classes) is None:
            return None
        parts = folds(support, count, seed)
        if not parts:
            return None
        logits = []
        for held in parts:
            kept = torch.ones(len(support), dtype=torch.bool)
            kept[held] = False
            logits.append(logits_of(support.select(kept.to(support.features.device)), support.select(held)))
        return balancing_offsets(torch.cat(logits), support.labels[torch.cat(parts).to(support.labels.device)])


@dataclass(eq=False, kw_only=True)
class Searched(ClassWeighted):
    """Base of methods that search settings on val: by balanced accuracy where classes count alike."""

    ties: str = option(
        PLATEAU,
        "of settings that score alike on val: the middle of their plateau, or the first one",
        choices=(PLATEAU, PUBLISHED),
    )

    @property
    def ties_(self) -> str:
        """`ties`, or that of the published settings asked for."""
        return PUBLISHED if self.as_published else self.ties
