"""LVIS's fixed AP: so many detections per class over the whole set, and no limit per image.

Evaluating Large-Vocabulary Object Detectors: The Devil is in the Details, 2021, arXiv 2102.01066. Where so many count
per image, a detection of a rare class competes with those of frequent ones for a place, and AP of the rare classes
depends on how scores of different classes compare. Here the 10,000 surest detections of each class count, wherever they
are; then LVIS's rules hold, as in `detection`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .detection import FREQUENCIES, Detected, Truth, check_labels, class_precisions, evaluated
from .means import known, mean_of_known

MOST_PER_CLASS = 10_000


def fixed_average_precision(
    truths: Sequence[Truth],
    detected: Sequence[Detected],
    class_names: Sequence[str],
    *,
    frequency: Sequence[str] | None = None,
    outlines: bool = False,
    most: int = MOST_PER_CLASS,
) -> dict[str, float]:
    """Fixed AP over a set of images.

    Args:
        truths: of N images.
        detected: of the same images, in the same order; as many of each as the detector gives.
        class_names: what labels index.
        frequency: of each class "r", "c" or "f".
        outlines: compare outlines, not boxes.
        most: detections per class that count, the surest.

    Returns:
        fixed_AP and, with frequencies, fixed_AP_rare, fixed_AP_common, fixed_AP_frequent, in 0..1; what no object can
        tell is left out.

    Raises:
        ConfigError, CapabilityError: as `score_detections`.
    """
    check_labels(truths, detected, class_names)
    surest = surest_of_class(detected, most)
    longest = max((len(one.labels) for one in surest), default=0)
    of_class = class_precisions(evaluated(truths, surest, len(class_names), outlines, max(1, longest)))  # (K,)
    groups = {} if frequency is None else {name: np.array(frequency) == key for key, name in FREQUENCIES.items()}
    means = {"fixed_AP": of_class, **{f"fixed_{name}": of_class[of] for name, of in groups.items()}}
    return known({name: mean_of_known(values) for name, values in means.items()})


def surest_of_class(detected: Sequence[Detected], most: int) -> list[Detected]:
    """The detections without those that are not among the surest of their class in all images together; of equally
    sure ones the first stay."""
    sizes = [len(one.labels) for one in detected]
    labels = np.concatenate([np.asarray(one.labels, dtype=np.int64) for one in detected] or [np.zeros(0, np.int64)])
    scores = np.concatenate([np.asarray(one.scores, dtype=np.float64) for one in detected] or [np.zeros(0)])
    order = np.lexsort((-scores, labels))  # by class, the surest first
    first = np.searchsorted(labels[order], labels[order])  # where the class of each begins
    kept = np.zeros(len(order), dtype=bool)
    kept[order] = np.arange(len(order)) - first < most
    parts = np.split(kept, np.cumsum(sizes)[:-1]) if sizes else []
    return [one.chosen(np.flatnonzero(part)) for one, part in zip(detected, parts, strict=True)]
