"""What a fine-tuned detector still knows of the names to remember: mixed on val, told before and after on test."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from ....core.contracts import DomainData, Evaluation, Item
from ....core.runs import TableSection
from ..data.remembered import without_boxes
from ..hub_models.growing import by_name
from ..inference.predictions import PredictedBoxes
from ..scores.detection import Truth, score_detections, truth_of
from .boxes import found_boxes, with_found
from .weights import ALPHAS, DEFAULT_ALPHA, Scores, best_alpha, put_between, state_of

Progress = Callable[[int, int], None]
COLUMNS = ("Name", "AP before", "AP after", "Agreement AP50", "Objects")
LEAST = 64
"""Images on which alpha is chosen: where val has fewer, training images are added as they were learned."""
NOTE = "Agreement is AP50 with the boxes of the earlier detector, not the annotated ones, taken as the truth."


@dataclass
class Memory:
    """The detector before a training, and how what it knew is kept.

    Args:
        before: frozen, with names of its own.
        names: to remember, as in the data.
        score: from which on what it finds is taken for an object.
        chosen: a sentence on the weights that were taken.
    """

    before: nn.Module
    names: tuple[str, ...]
    score: float
    chosen: str = ""

    def mix(self, model: nn.Module, data: DomainData, alpha: float | None, progress: Progress) -> None:
        """Put a trained model's weights between those before and its own, in place.

        Args:
            data: whose val split chooses alpha, with training images where it has few.
            alpha: that is taken; None chooses it.
        """
        after = state_of(model)
        before = by_name(self.before, state_of(self.before), model, after)
        if alpha is not None:
            put_between(model, before, after, alpha)
            self.chosen = f"Weights are {alpha:.0%} those of the training and else those before it, as given."
            return
        of_val = self._with_boxes_before(data, "val", data.split("val"))
        of_train = self._with_boxes_before(data, "train", _spread(data.split("train"), LEAST - len(of_val)))
        items = [*of_val, *of_train]
        if not items:
            put_between(model, before, after, DEFAULT_ALPHA)
            self.chosen = f"Weights are {DEFAULT_ALPHA:.0%} those of the training, for want of images to choose on."
            return
        new = [name for name in data.class_names if name not in self.names]
        done = 0

        def score(at: float) -> Scores:
            nonlocal done
            put_between(model, before, after, at)
            detected = [boxes for _, boxes in found_boxes(model, data, items, data.class_names)]
            of_class = _scored([truth_of(item) for item in items], detected, data.class_names)
            done += 1
            progress(done, len(ALPHAS))
            return mean_of(of_class, self.names), mean_of(of_class, new)

        alpha, _ = best_alpha(score)
        put_between(model, before, after, alpha)
        count = len(of_train)
        both = ["val"] * bool(of_val) + [f"{count} training image{'s' * (count > 1)}"] * bool(count)
        share, images = f"{alpha:.0%}", " and ".join(both)
        self.chosen = f"Weights are {share} those of the training and else those before it, chosen on {images}."

    def told(
        self, evaluation: Evaluation, of_class: Mapping[str, Mapping[str, Any]], data: DomainData, predicted: Sequence
    ) -> Evaluation:
        """An evaluation on the test split with what was before: AP of the old names where the split has boxes of them,
        else how far the detector agrees with the one before.

        Args:
            of_class: class name -> its AP now.
            predicted: what the model finds, `PredictedBoxes` per image of the test split.
        """
        items = data.split("test")
        missing = without_boxes(data, "test", self.names)
        found = [boxes for _, boxes in found_boxes(self.before, data, items, self.names)]
        earlier = _scored([truth_of(item) for item in items], found, data.class_names)
        taken = [with_found(item.with_(target=None), boxes, self.score) for item, boxes in zip(items, found)]
        agreed = _scored([truth_of(item) for item in taken], predicted, data.class_names)
        metrics = {
            "remembered_AP_before": mean_of(earlier, self.names),
            "agreement_AP50": mean_of(agreed, missing, "AP50"),
        }
        rows = [
            [name, earlier[name]["AP"], of_class[name]["AP"], agreed[name]["AP50"], of_class[name]["objects"]]
            for name in self.names
        ]
        section = TableSection("What it remembers", COLUMNS, rows, f"{NOTE} {self.chosen}".strip())
        told = {name: value for name, value in metrics.items() if value is not None}
        return replace(
            evaluation,
            metrics={**evaluation.metrics, **told},
            sections=[section, *evaluation.sections],
            notes=[*evaluation.notes, self.chosen, *_on_missing(missing)],
        )

    def _with_boxes_before(self, data: DomainData, split: str, items: list[Item]) -> list[Item]:
        """Items of a split with what the detector before finds of the names that the split has no boxes of."""
        missing = without_boxes(data, split, self.names)
        if not missing:
            return items
        found = found_boxes(self.before, data, items, missing)
        return [with_found(item, boxes, self.score) for item, boxes in found]


def old_and_new(of_class: Mapping[str, Mapping[str, Any]], remembered: Sequence[str]) -> dict[str, float]:
    """AP of the names to remember and of the others; {} without any."""
    if not remembered:
        return {}
    means = {
        "remembered_AP": mean_of(of_class, remembered),
        "new_AP": mean_of(of_class, [name for name in of_class if name not in remembered]),
    }
    return {name: value for name, value in means.items() if value is not None}


def mean_of(of_class: Mapping[str, Mapping[str, Any]], names: Sequence[str], metric: str = "AP") -> float | None:
    """The mean over those of the names that have objects; None without any."""
    values = [of_class[name][metric] for name in names if of_class[name][metric] is not None]
    return float(np.mean(values)) if values else None


def _spread(items: list[Item], most: int) -> list[Item]:
    """At most so many, from all over the list."""
    return items if len(items) <= most else [items[place * len(items) // most] for place in range(max(0, most))]


def _scored(truths: Sequence[Truth], found: Sequence[PredictedBoxes], names: Sequence[str]):
    return score_detections(truths, found, names).per_class


def _on_missing(missing: Sequence[str]) -> list[str]:
    if not missing:
        return []
    return [
        f"No test image has boxes of {', '.join(missing)}: AP50 against the boxes of the earlier detector shows how "
        "far the two agree, not whether either is right."
    ]
