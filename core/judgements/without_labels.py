"""Is a fit that learned from no labels better than zero-shot, by what the images say of it?

The evidence is that of `core/confidence/without_labels.py`. A run keeps the method where it speaks for it; where it
does not, the run's model is zero-shot, and the method is turned down.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from ..confidence.without_labels import Evidence
from ..contracts.features import FeatureSet
from ..contracts.judgement import FIT, JudgedClassifier, Judgement, Scores
from ..contracts.run_info import Record, beside
from .calibration import logits_on

if TYPE_CHECKING:
    from typing_extensions import Self

MOST_LABELLED = 100
"""Labelled images, at most, that have a say."""


@dataclass(frozen=True, eq=False)
class WithoutLabels(Record):
    """Whether a method is kept.

    Attributes:
        adapter: the method.
        scores: of a method that is turned down, where the test images have labels, and the interval of its gain over
            zero-shot; else none.
        evidence: for and against it.
        val: labelled val images that had a say, or None.
        zero_shot: accuracy of zero-shot, where it and `scores` have one.
    """

    key: ClassVar[str] = "turned_down"
    adapter: str
    scores: Mapping[str, Any] = field(default_factory=dict)
    evidence: Evidence | None = beside()
    val: FeatureSet | None = beside()
    zero_shot: float | None = beside()

    def values_by_key(self) -> dict[str, Any]:
        return {"adapter": self.adapter, **self.scores}

    def to_json(self) -> dict[str, Any]:
        return super().to_json() if self.scores else {}

    @classmethod
    def from_json(cls, metrics: Mapping[str, Any]) -> Self:
        scores = dict(metrics[cls.key])
        return cls(scores.pop("adapter"), scores)

    def turned_down(self, scores: Scores) -> Self:
        """With the scores of the method."""
        if scores.labels is None:
            return self
        gain = {"interval": scores.metrics["baselines"]["zero_shot"]["interval"]}
        return replace(self, scores={**scores.adapted, **gain}, zero_shot=(scores.zero_shot or {}).get("accuracy"))

    def facts(self) -> dict[str, Any]:
        chosen = self.adapter if self.evidence.better else "zero-shot"
        return {"judge": {"method": self.adapter, "kept": chosen, **self.evidence.facts()}}

    def note(self) -> str:
        name, probability, words = self.adapter, self.evidence.probability, self.evidence.words
        if self.evidence.better:
            return f"{name} is kept: better than zero-shot with a probability of {probability:.0%}: {words}"
        return (
            f"This run's model is zero-shot: {name} is not shown to be better (probability {probability:.0%}): "
            f"{words}; --set judge=no keeps {name} anyway"
        )

    @property
    def by_labels(self) -> str:
        """A sentence on a method that is turned down, where its score is known; "" where it is not."""
        if self.zero_shot is None:
            return ""
        return (
            f"By the labels of the test images, which no choice was based on: {self.adapter} "
            f"{self.scores['accuracy']:.1%}, zero-shot {self.zero_shot:.1%}"
        )


@dataclass(eq=False, kw_only=True)
class KeptWithoutLabels(Judgement):
    """Of fits that changed the answers of zero-shot, by test images and labelled val images that taught nothing."""

    record: ClassVar = WithoutLabels
    at: ClassVar = frozenset({FIT})
    needs: ClassVar = frozenset({"untaught"})

    def compute(self, fit: JudgedClassifier) -> WithoutLabels | None:
        scores, test = fit.scores, fit.test
        if fit.judge_views is None or scores.zero_shot_logits is None or not len(test) or test.multilabel:
            return None
        sides = test.unit.cpu(), scores.zero_shot_logits, scores.adapted_logits
        evidence = Evidence.of(*sides, halves=_by_halves(fit), witnesses=_witnesses(fit))
        if not evidence.changed:
            return None
        if (val := _labelled(fit)) is not None:
            adapted, _ = logits_on(fit.prepared, fit.adapter, val)
            evidence = evidence.with_labels(fit.prepared.classifier.logits(val.unit), adapted, val.labels)
        return WithoutLabels(fit.adapter.name, evidence=evidence, val=val)


def _by_halves(fit: JudgedClassifier) -> list[tuple[Tensor, Tensor]]:
    """Answers by halves of the prompts, of a method that read the test images and nothing else."""
    adapter = fit.adapter
    read = adapter.transductive or adapter.transductive_unlabelled
    if not read and ("unlabeled" not in adapter.needs or fit.prepared.data.split("train")):
        return []
    halves = Evidence.answers_by_halves(adapter, fit.prepared.classifier, fit.test.without_labels(), fit.seed)
    return [(before.cpu(), after.cpu()) for before, after in halves]


def _witnesses(fit: JudgedClassifier) -> list[Tensor]:
    """(N, C) zero-shot probabilities of the test images by each further backbone, and the mean over augmented views."""
    prepared, ids = fit.prepared, fit.test.ids
    seen = [(other.classifier, other.of_ids(ids).unit[:, None]) for other in prepared.resources.further]
    if fit.judge_views:
        by_id = {item.id: item for item in prepared.data.items}
        items = [by_id[name] for name in ids]
        views = prepared.features(items, "views of test images", fit.judge_views, fit.seed).views
        seen.append((prepared.classifier, F.normalize(views, dim=-1)))
    return [classifier.logits(views.flatten(0, 1)).softmax(dim=1).unflatten(0, views.shape[:2]).mean(dim=1).cpu()
            for classifier, views in seen]  # fmt: skip


def _labelled(fit: JudgedClassifier) -> FeatureSet | None:
    """Labelled val images: those of the draw; else half of the split, which leaves the others to calibrate on. None for
    a method that answers those that it read together otherwise than any other image."""
    if fit.adapter.transductive or fit.shots.val is not None:
        return None if fit.adapter.transductive else fit.shots.val
    val = [item for item in fit.prepared.data.split("val") if item.target is not None]
    some = sorted(val, key=lambda item: item.rank(fit.seed))[: min(MOST_LABELLED, len(val) // 2)]
    ids = [item.id for item in some]
    return fit.prepared.of_ids(ids, parts="parts" in fit.adapter.at_predict) if ids else None
