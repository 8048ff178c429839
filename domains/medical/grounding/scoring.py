"""How well phrases are found in images: each finding counts alike, patients are what intervals count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ....core.contracts import DomainData, Item
from ....core.data import check_tolerated
from ....core.errors import DataError
from ....core.metrics import drawn_weights, intervals_of
from ....core.runtime import Reporter
from ....core.tasks import ExchangeComparison
from .locating import Located, Locator
from .maps import NEAREST, unit_range
from .phrases import Sought
from .reading import asked_of, grounded
from .scores import chance, inside_boxes, phrase_scores

POINTING, MIOU = "pointing", "miou"
SHARES = (POINTING, MIOU)
CONTRASTS = ("cnr", "absolute_cnr", "union_cnr")
AS_IS, UNIT = SCALES = ("none", "unit")
SIDE_RATIO = 0.02
"""How far the proportions of a smaller copy of an image may be off, by rounding of its sides."""


@dataclass(frozen=True)
class Judging:
    """How a map is compared with boxes.

    Args:
        interpolation: from patches to pixels.
        clamp: values below 0 count as 0.
        scale: what thresholds are compared with: the map as it is, or brought to 0..1 ("unit").
    """

    interpolation: str = NEAREST
    clamp: bool = True
    scale: str = AS_IS

    def heat(self, located: Located) -> Tensor:
        """(H, W) that is judged."""
        heat = located.heat(self.interpolation)
        return unit_range(heat) if self.scale == UNIT else heat


@dataclass(frozen=True)
class JudgedPhrase:
    """A phrase that was looked for in an image whose boxes are known.

    Args:
        item: the image.
        label: index of the finding.
        boxes: x0, y0, x1, y1 in pixels of the image that was read.
    """

    item: Item
    located: Located
    label: int
    boxes: tuple[tuple[float, float, float, float], ...]
    scores: Mapping[str, float]
    guessed: Mapping[str, float]


@dataclass
class GroundingScores:
    """Phrases found by one model.

    Attributes:
        judged: Q phrases.
        class_names: of findings.
        skipped: (id, reason) of images left out, with their phrases.
    """

    judged: list[JudgedPhrase]
    class_names: tuple[str, ...]
    skipped: list[tuple[str, str]] = field(default_factory=list)

    @property
    def labels(self) -> Tensor:
        """(Q,) the finding of each phrase, from 0 without gaps, in the order of `findings`."""
        return torch.tensor([each.label for each in self.judged]).unique(return_inverse=True)[1]

    @property
    def findings(self) -> list[str]:
        """Those that phrases are about."""
        return [self.class_names[label] for label in sorted({each.label for each in self.judged})]

    @property
    def patients(self) -> list[str]:
        """Q keys; an image of nobody known stands for itself."""
        return [each.item.group or f"image {each.item.id}" for each in self.judged]

    def values(self, guessed: bool = False) -> dict[str, Tensor]:
        """Metric -> (Q,)."""
        rows = [each.guessed if guessed else each.scores for each in self.judged]
        names = [name for name in (*CONTRASTS, *SHARES) if name in rows[0]]
        return {name: torch.tensor([row[name] for row in rows], dtype=torch.float64) for name in names}

    def metrics(self, guessed: bool = False) -> dict[str, float]:
        """Means over findings of the means over their phrases."""
        return {name: float(self._means(of)[0].mean()) for name, of in self.values(guessed).items()}

    def by_finding(self) -> dict[str, dict[str, Any]]:
        """Finding -> "phrases", its metrics, and "intervals" of these where there are two patients."""
        values, labels, scores = self.values(), self.labels, {}
        for place, name in enumerate(self.findings):
            of = labels == place
            own = {metric: each[of] for metric, each in values.items()}
            patients = [patient for patient, shown in zip(self.patients, of.tolist()) if shown]
            scores[name] = {
                "phrases": int(of.sum()),
                **{metric: float(each.mean()) for metric, each in own.items()},
                "intervals": _intervals(own, torch.zeros(len(patients), dtype=torch.int64), patients),
            }
        return scores

    def intervals(self) -> dict[str, list[float]]:
        """Metric -> its 95 % interval by draws of patients; none of a single patient."""
        return _intervals(self.values(), self.labels, self.patients)

    def shares(self) -> dict[str, Tensor]:
        """Metric in 0..1 -> (Q,) whose plain mean is the metric: findings with fewer phrases weigh more."""
        labels = self.labels
        counts = labels.bincount()
        weight = len(labels) / (len(counts) * counts[labels].double())
        return {name: of * weight for name, of in self.values().items() if name in SHARES}

    def _means(self, values: Tensor) -> Tensor:
        return _finding_means(values, self.labels, torch.ones(1, len(values)))


def evaluate_grounding(
    locator: Locator,
    data: DomainData,
    items: Sequence[Item],
    sought: Mapping[tuple[str, str], Sought],
    judging: Judging,
    *,
    reporter: Reporter | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
) -> GroundingScores:
    """Look for the phrases of images, and compare the maps with their boxes.

    Args:
        items: images with phrases.
        sought: of `sought_about`; a phrase that is not in it has no score.

    Raises:
        DataError: too many images cannot be used, or none has a phrase that asks for something.
    """
    known = {
        item.id: {place: pair for place, pair in enumerate(asked_of(item, data.class_names)) if pair in sought}
        for item in items
    }
    asked = [(item, [sought[pair] for pair in known[item.id].values()]) for item in items if known[item.id]]
    judged, skipped = [], []
    for item, located in locator.located(data, asked, reporter or Reporter(quiet=True), batch_size, workers):
        factor = located if isinstance(located, str) else _factor(item, located)
        if isinstance(located, str) or isinstance(factor, str):
            skipped.append((item.id, str(factor)))
            continue
        target = grounded(item)
        for place, each in zip(known[item.id], located, strict=True):
            boxes = tuple(tuple(side * by for side, by in zip(box, factor * 2)) for box in target.boxes[place])
            judged.append(_judged(item, each, target.labels[place], boxes, judging))
    check_tolerated(replace(data, items=list(items), skipped=[]), skipped)
    if not judged:
        reason = f"; {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        raise DataError(f"{data.name}: no phrase is left to look for{reason}")
    return GroundingScores(judged, data.class_names, skipped)


def flat_scores(before: GroundingScores | None, after: GroundingScores) -> dict[str, Any]:
    """Both scores in the shape of metrics.json.

    Returns:
        {"zero_shot": metrics or None, "adapted": metrics, "guessing": metrics of a map that says nothing, "intervals":
        {"adapted": {metric: [low, high]}, ...}, "findings": of `GroundingScores.by_finding`, "test_images",
        "test_phrases", "test_groups": patients, "denied": phrases that deny their finding, "exchange": {metric:
        {"difference", "p_value"}} of a permutation test that exchanges whole patients, or None}.
    """
    sides, exchange = {"adapted": after}, None
    if before is not None:
        sides["zero_shot"] = before
        exchange = ExchangeComparison.tests(before.shares(), after.shares(), SHARES, after.patients)
    return {
        "zero_shot": None if before is None else before.metrics(),
        "adapted": after.metrics(),
        "guessing": after.metrics(guessed=True),
        "intervals": {side: of.intervals() for side, of in sides.items()},
        "findings": after.by_finding(),
        "test_images": len({each.item.id for each in after.judged}),
        "test_phrases": len(after.judged),
        "test_groups": len(set(after.patients)),
        "denied": sum(each.located.sought.denied for each in after.judged),
        "exchange": exchange,
    }


def _factor(item: Item, located: Sequence[Located]) -> tuple[float, float] | str:
    """(x, y) from the pixels of the boxes to those of the image; or why they disagree."""
    size = grounded(item).size
    if size is None or not located:
        return 1.0, 1.0
    read = located[0].region.width, located[0].region.height
    factor = read[0] / size[0], read[1] / size[1]
    if abs(factor[0] / factor[1] - 1) > SIDE_RATIO:
        return f"is {read[0]} x {read[1]}, its boxes are on {size[0]} x {size[1]}; give the image they were drawn on"
    return factor


def _judged(item: Item, located: Located, label: int, boxes: Any, judging: Judging) -> JudgedPhrase:
    heat = judging.heat(located)
    masks = inside_boxes(boxes, tuple(heat.shape))
    scores = phrase_scores(heat, masks, judging.clamp)
    return JudgedPhrase(item, located, label, boxes, scores, chance(masks, heat.isfinite()))


def _finding_means(values: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    """(s, F) means of (Q,) values per finding, by (s, Q) weights; NaN where a draw has none of it."""
    of = torch.nn.functional.one_hot(labels).double()  # (Q, F)
    weight = weight.double()
    return (weight @ (of * values[:, None])) / (weight @ of)


def _intervals(values: Mapping[str, Tensor], labels: Tensor, patients: Sequence[str]) -> dict[str, list[float]]:
    if (units := len(set(patients))) < 2:
        return {}
    draws: dict[str, list[Tensor]] = {name: [] for name in values}
    for weight in drawn_weights(len(labels), patients):
        for name, of in values.items():
            draws[name].append(_finding_means(of, labels, weight).nanmean(dim=1))
    drawn = {name: torch.cat(some) for name, some in draws.items()}
    means = {name: float(_finding_means(values[name], labels, torch.ones(1, len(labels))).mean()) for name in SHARES}
    shares = intervals_of({name: drawn[name] for name in SHARES}, units=units, values=means)
    return {**intervals_of({name: drawn[name] for name in CONTRASTS}), **shares}
