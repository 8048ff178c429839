"""The score from which on boxes are taken for objects: the one with the best F1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .detection import Detected, Truth, evaluated

DIGITS = 5
"""Of a score, as rows of predictions have them."""
MOST_BOXES = 1000
"""Per image and class, the surest."""


@dataclass(frozen=True)
class Confidence:
    """A score, and how well the boxes of that score or more agree with those of people.

    Args:
        score: in 0..1.
        f1: harmonic mean of precision and recall, over all classes together, at an overlap of 50 %.
        images: that it was chosen on.
    """

    score: float
    f1: float
    images: int


def best_confidence(truths: Sequence[Truth], detected: Sequence[Detected], num_classes: int) -> Confidence | None:
    """The score with the best F1, the highest of several; boxes are matched by pycocotools' rule, the surest first.

    Objects and boxes that are ignored count neither way. None where there is no object, or none is met.

    Args:
        truths: of N images.
        detected: of the same images.

    Raises:
        CapabilityError: pycocotools is not installed.
    """
    evaluation = evaluated(truths, detected, num_classes, outlines=False, most=MOST_BOXES)
    seen = [each for each in evaluation.evalImgs if each is not None and each["aRng"] == evaluation.params.areaRng[0]]
    objects = sum(int((~np.asarray(each["gtIgnore"], bool)).sum()) for each in seen)
    counted = [~np.asarray(each["dtIgnore"][0], bool) for each in seen]
    scores = np.concatenate([np.asarray(each["dtScores"], float)[keep] for each, keep in zip(seen, counted)] or [[]])
    right = np.concatenate([(each["dtMatches"][0] > 0)[keep] for each, keep in zip(seen, counted)] or [[]])
    if not objects or not right.any():
        return None
    scores = scores.round(DIGITS)
    order = np.argsort(-scores, kind="stable")
    scores, met = scores[order], np.cumsum(right[order])
    f1 = 2 * met / (np.arange(1, len(met) + 1) + objects)
    last = np.flatnonzero(np.append(scores[1:] < scores[:-1], True))  # boxes of one score come and go together
    best = last[np.argmax(f1[last])]
    return Confidence(float(scores[best]), float(f1[best]), len(truths))
