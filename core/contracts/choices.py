"""Options that methods share: how unequal classes count, which of equally good settings is taken, whether shots are
looked at."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..metrics.class_balance import class_weights, log_priors
from .adapter import Adapter
from .features import FeatureSet
from .options import option

BALANCED, NONE = "balanced", "none"
FEW_SHOT, ZERO_SHOT = "few-shot", "zero-shot"
PLATEAU, PUBLISHED = "plateau", "published"


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

    def counts_unequal(self, support: FeatureSet, num_classes: int) -> bool:
        """Whether each class counts alike and has another number of images than others."""
        return self.balanced and not support.multilabel and class_weights(support.labels, num_classes) is not None


@dataclass(eq=False, kw_only=True)
class Tied(Adapter):
    """Base of methods that choose one of several settings on val."""

    ties: str = option(
        PLATEAU,
        "of settings that score alike on val: the middle of their plateau, or the first one",
        choices=(PLATEAU, PUBLISHED),
    )

    @property
    def ties_(self) -> str:
        """`ties`, or that of the published settings asked for."""
        return PUBLISHED if self.as_published else self.ties


@dataclass(eq=False, kw_only=True)
class FewOrZeroShot(Adapter):
    """Base of methods that learn from shots, or else from the text alone."""

    mode: str = option(FEW_SHOT, "zero-shot does not look at the support", choices=(FEW_SHOT, ZERO_SHOT))

    def __post_init__(self):
        super().__post_init__()
        self.label_free = self.mode == ZERO_SHOT


@dataclass(eq=False, kw_only=True)
class Searched(Tied, ClassWeighted):
    """Base of methods that search settings on val: by balanced accuracy where classes count alike."""
