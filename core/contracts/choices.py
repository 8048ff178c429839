"""Options that methods share: how unequal classes count, and which of equally good settings is taken."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..metrics.class_balance import class_weights, log_priors
from .adapter import Adapter
from .features import FeatureSet
from .options import option

AUTO = "auto"
"""Not given: our default, or what is published where published settings (a preset) are asked for."""
BALANCED, NONE = "balanced", "none"
PLATEAU, PUBLISHED = "plateau", "published"


@dataclass(eq=False, kw_only=True)
class ClassWeighted(Adapter):
    """Base of methods in which each class counts alike, however many images it has.

    Published methods are made for equally many images per class; where they are, the option changes nothing. Built,
    `class_weight` is "balanced" or "none".
    """

    class_weight: str = option(
        AUTO,
        "of unequal classes each counts alike, or (none) each image; auto: none with a preset, else balanced",
        choices=(AUTO, BALANCED, NONE),
    )

    def __post_init__(self):
        super().__post_init__()
        if self.class_weight == AUTO:
            self.class_weight = NONE if self.as_published else BALANCED

    @property
    def balanced(self) -> bool:
        """Whether each class counts alike."""
        return self.class_weight == BALANCED

    def priors_of(self, labels: Tensor, num_classes: int) -> Tensor | None:
        """What a trained head adds to its logits in training: `log_priors` where classes count alike, else None."""
        return log_priors(labels, num_classes) if self.balanced else None

    def counts_unequal(self, support: FeatureSet, num_classes: int) -> bool:
        """Whether each class counts alike and has another number of images than others."""
        return self.balanced and not support.multilabel and class_weights(support.labels, num_classes) is not None


@dataclass(eq=False, kw_only=True)
class Tied(Adapter):
    """Base of methods that choose one of several settings on val. Built, `ties` is "plateau" or "published"."""

    ties: str = option(
        AUTO,
        "of settings alike on val: their plateau's middle, or the first; auto: published with a preset",
        choices=(AUTO, PLATEAU, PUBLISHED),
    )

    def __post_init__(self):
        super().__post_init__()
        if self.ties == AUTO:
            self.ties = PUBLISHED if self.as_published else PLATEAU


@dataclass(eq=False, kw_only=True)
class Searched(Tied, ClassWeighted):
    """Base of methods that search settings on val: by balanced accuracy where classes count alike."""
