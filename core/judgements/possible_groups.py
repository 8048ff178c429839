"""How much of a score may rest on images that belong together, where names and pixels suggest groups that nobody named.

A linear probe is scored on the features of the images of the fit, held out in folds, once image by image and once whole
groups at a time. If the groups are patients, the second number is the true one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ..contracts.features import FeatureSet, TextClassifier
from ..contracts.judgement import FIT, JudgedClassifier, Judgement, Place, Scores
from ..contracts.prepared import Shots
from ..contracts.run_info import Record
from ..errors import CapabilityError
from ..metrics.classification import metrics_of
from ..registry import build_adapter
from ..runs.sections import MEASURES, Cell, TableSection
from .baselines import compared

FOLDS = 5
NOTE = (
    "A linear probe, cross-validated on the labelled and the test images, with as many labelled images per class as in "
    "the fit. If the groups are patients or things, the lower number is the one to expect of new ones."
)


@dataclass(frozen=True, eq=False)
class IfGrouped(Record):
    """A linear probe, image by image and whole groups at a time.

    Attributes:
        option: what `--group-column` would be.
        groups, images: their numbers.
        deciding: the metric of the scores.
        by_image, by_group: the scores.
        tone: of the verdict by group: "good" where it is better than its baselines beyond chance.
    """

    key: ClassVar[str] = "possible_groups"
    option: str
    groups: int
    images: int
    deciding: str
    by_image: float
    by_group: float
    tone: str

    def section(self) -> TableSection:
        """Both scores."""
        measure = MEASURES[self.deciding]
        whole = f"Whole groups at a time: {self.groups}, as of --group-column {self.option}"
        rows = [("Image by image", Cell(measure.text(self.by_image))), (whole, Cell(measure.text(self.by_group)))]
        return TableSection("If images belong together", ("Held out", measure.name), rows, NOTE, sub=True)


@dataclass(eq=False, kw_only=True)
class GroupProbe(Judgement):
    """A linear probe on the features of the fit, by image and by group."""

    record: ClassVar = IfGrouped
    at: ClassVar = frozenset({FIT})
    needs: ClassVar = frozenset({"labelled", "shots", "possible_groups"})
    place: ClassVar = Place.SCORES

    def compute(self, fit: JudgedClassifier) -> IfGrouped | None:
        possible, shots = fit.possible_groups, fit.shots
        if possible is None or shots is None:
            return None
        loose = _pool(shots)
        whole = replace(loose, groups=tuple(possible.groups.get(name, "") for name in loose.ids or ()))
        per_class = int(shots.support.memberships().sum(axis=0).max(initial=0))
        classifier, of = fit.prepared.classifier, (fit.prepared.classifier, per_class, fit.seed)
        try:
            one_by_one, in_groups = _held_out(loose, *of), _held_out(whole, *of)
        except CapabilityError:  # one class only in a fold
            return None
        if one_by_one is None or in_groups is None:
            return None
        (rows, logits), (rows_by_group, logits_by_group) = one_by_one, in_groups
        seen = whole.select(rows_by_group)
        comparison = compared(_scores(seen, logits_by_group, classifier), fit.class_names, fit.deciding)
        by_image = metrics_of(logits, loose.select(rows).to("cpu").labels, fit.class_names)[comparison.deciding]
        by_group = comparison.adapted[comparison.deciding]
        if by_image is None or by_group is None:
            return None
        section = comparison.section()
        tone = "open" if section is None else section.tone
        return IfGrouped(possible.option, possible.count, len(loose), comparison.deciding, by_image, by_group, tone)


def _pool(shots: Shots) -> FeatureSet:
    """All images of the fit, as one view without parts or groups."""
    sets = [each.one_view().without_parts() for each in (shots.support, shots.val, shots.test) if each is not None]
    sets = [each for each in sets if len(each)]
    return FeatureSet(
        torch.cat([each.features for each in sets]),
        torch.cat([each.labels for each in sets]),
        shots.test.class_names,
        ids=tuple(name for each in sets for name in each.ids or ()),
        backbone=shots.test.backbone,
        raw_norms=shots.test.raw_norms,
    )


def _held_out(pool: FeatureSet, classifier: TextClassifier, per_class: int, seed: int) -> tuple[Tensor, Tensor] | None:
    """(M,) rows and (M, C) their logits, each by a probe on other folds; None where there are no folds."""
    folds = pool.folds(FOLDS, seed)
    logits = []
    for held in folds:
        probe = build_adapter("linear-probe")
        probe.fit(pool.select(_drawn(pool, held, per_class, seed)), classifier, seed=seed)
        logits.append(probe.logits(pool.select(held)).float().cpu())
    return (torch.cat(folds), torch.cat(logits)) if folds else None


def _drawn(pool: FeatureSet, held: Tensor, per_class: int, seed: int) -> Sequence[int]:
    """Rows outside a fold, so many of each class at random."""
    member, chosen = pool.memberships(), set()
    left = set(range(len(pool))) - set(held.tolist())
    shuffled = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed)).tolist()
    for label in range(member.shape[1]):
        chosen.update([row for row in shuffled if row in left and member[row, label]][:per_class])
    return sorted(chosen)


def _scores(seen: FeatureSet, logits: Tensor, classifier: TextClassifier) -> Scores:
    """Of the probe beside zero-shot, where there are texts."""
    labels, names = seen.to("cpu").labels, seen.class_names
    metrics = {"adapted": metrics_of(logits, labels, names), "test_images": len(seen)}
    if not classifier.has_texts:
        return Scores(labels, None, logits, metrics, seen.groups)
    zero_shot = build_adapter("zero-shot")
    zero_shot.fit(seen, classifier)
    before = zero_shot.logits(seen).float().cpu()
    return Scores(labels, before, logits, {**metrics, "zero_shot": metrics_of(before, labels, names)}, seen.groups)
